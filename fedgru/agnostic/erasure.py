"""Concept erasure in closed form: the affine map after which no linear classifier beats chance.

The authors' library, concept-erasure, needs PyTorch, a gigabyte for forty lines. So it is
implemented here, from sums that clients can add up. A test compares it with the solution of the
constrained least-squares problem.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedgru.core.types import AnyFloats, AnyInts, Doubles, Floats

TOLERANCE = 1e-6  # smaller singular values, as a share of the largest, are rounding errors


@dataclass(frozen=True)
class Moments:
    """Sums over examples that determine an eraser; the sums of two clients can be added.

    Attributes:
        count: int, examples.
        value_counts: float64 [num_values], examples of each value of the concept.
        sums: float64 [num_values, dim], sum of their representations.
        products: float64 [dim, dim], sum of the outer products of all representations.
    """

    count: int
    value_counts: Doubles
    sums: Doubles
    products: Doubles

    @classmethod
    def of(cls, representation: npt.ArrayLike, labels: AnyInts, num_values: int) -> "Moments":
        """Sum up float [n, dim] representations with int [n] labels; label -1 is left out."""
        known = labels >= 0
        x, labels = np.asarray(representation, np.float64)[known], labels[known]
        sums = np.zeros((num_values, x.shape[1]))
        np.add.at(sums, labels, x)
        return cls(
            len(x), np.bincount(labels, minlength=num_values).astype(np.float64), sums, x.T @ x
        )

    def __add__(self, other: "Moments") -> "Moments":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Moments(*(a + b for a, b in pairs))


@dataclass(frozen=True)
class Eraser:
    """x -> x - (x - mean) @ removed, with float64 mean [dim], removed [dim, dim]."""

    mean: Doubles
    removed: Doubles

    def __call__(self, x: AnyFloats) -> Floats:
        """Return float32 [..., dim], the representation without its linear trace of the concept."""
        return (x - (x - self.mean) @ self.removed).astype(np.float32)


def fit_eraser(moments: Moments) -> Eraser:
    """Return the Eraser that changes a representation least and leaves no linear trace.

    Args:
        moments: Moments of the representation with the concept's labels.

    Returns:
        Eraser. After it, on the examples of the moments, every value of the concept has the same
        mean representation.

    Source: Belrose et al. 2023, LEACE (arXiv:2306.03819), theorem 4.3: with W the whitening
        (Sigma_xx^(-1/2)), P the orthogonal projection on the columns of W Sigma_xz,
        r(x) = x - W^+ P W (x - mean).
    """
    n = max(moments.count, 1)
    mean = moments.sums.sum(0) / n
    covariance = moments.products / n - np.outer(mean, mean)
    shares = moments.value_counts / n
    cross = (moments.sums / n - shares[:, None] * mean).T  # Sigma_xz, z one-hot
    values, vectors = np.linalg.eigh(covariance)
    kept = values > max(values.max(), 0) * np.finfo(np.float64).eps * len(values)
    root = np.sqrt(np.where(kept, values, 1.0))
    whiten = (vectors * np.where(kept, 1.0 / root, 0.0)) @ vectors.T
    unwhiten = (vectors * np.where(kept, root, 0.0)) @ vectors.T
    directions, strengths, _ = np.linalg.svd(whiten @ cross, full_matrices=False)
    directions = directions[:, strengths > TOLERANCE * max(strengths.max(), 1e-30)]
    removed = unwhiten @ directions @ directions.T @ whiten
    return Eraser(mean, removed.T)
