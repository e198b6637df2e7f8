"""Correlated noise for cohorts that are not sampled: banded square-root factorisation.

Weights after round t are a sum of t updates, so noise that cancels in later rounds disturbs them
less than independent noise. Write the sums as A x = B C x, with A lower triangular of ones. Noise z
is added to C x: what is released is x + C^-1 z, and its sums have the noise B z. C is the square
root of A, a lower triangular Toeplitz matrix with the coefficients 1, 1/2, 3/8, 5/16 ..., cut after
`bands` of them. If a client takes part at most every `bands` rounds, no two of its rounds touch
the same row of C x, so the squares of the columns' norms add up to its sensitivity.

Source: Choquette-Choo et al. 2023 (arXiv:2306.08153), section 4, banded matrices; the coefficients
    are those of Kalinin and Lampert 2024 (arXiv:2405.13763), which need no optimisation.
"""

import numpy as np

from fedgru.core.types import Doubles


def coefficients(bands: int) -> Doubles:
    """Return float64 [bands], the first column of C, scaled to norm 1.

    >>> first = coefficients(4)
    >>> first / first[0]
    array([1.    , 0.5   , 0.375 , 0.3125])
    """
    k = np.arange(1, bands)
    found = np.cumprod(np.concatenate([[1.0], (2 * k - 1) / (2 * k)]))
    return found / np.linalg.norm(found)


def sensitivity(bands: int, separation: int, rounds: int) -> float:
    """Return the largest norm of C x over the rounds so far, of a client with updates of norm 1.

    Args:
        bands: of C, at most `separation`.
        separation: rounds from one in which a client takes part to its next one, at least.
        rounds: how many were done.

    Four rounds, every second one, coefficients c, d with c^2 + d^2 = 1: rounds 1 and 3 have whole
    columns, so the norm is sqrt(2). After three rounds the second column is cut to c = sqrt(0.8).

    >>> [round(sensitivity(2, 2, rounds) ** 2, 6) for rounds in (4, 3)]
    [2.0, 1.8]
    """
    squares = np.cumsum(coefficients(bands) ** 2)
    left = rounds - np.arange(0, rounds, separation)  # rounds from each one of the client's on
    return float(np.sqrt(np.round(squares[np.minimum(left, bands) - 1].sum(), 12)))
