"""Kernel measures of how much a representation depends on a concept, to be minimised.

There is no head that could be fooled or lag behind. JAX.
"""

from fedgru.core.types import AnyArray


def hsic(
    representation: AnyArray, labels: AnyArray, num_values: int, weights: AnyArray
) -> AnyArray:
    """Return the normalised HSIC of a batch, 0 (independent) to 1, float32 [].

    The kernel on the representation is Gaussian. Its width is the batch's root mean square
    distance, so that shrinking the representation gains nothing. The kernel on the concept is 1
    for equal values, else 0.

    Args:
        representation: float32 [n, dim].
        labels: int32 [n].
        num_values: values of the concept.
        weights: float32 [n], not negative; 0 leaves an example out.

    Source: Gretton et al. 2005 (HSIC), biased estimate, with weights for counts; normalised as
        centred kernel alignment by Cortes et al. 2012 (arXiv:1203.0550).
    """
    import jax
    import jax.numpy as jnp

    share = weights / jnp.maximum(weights.sum(), 1e-9)
    square = (representation**2).sum(-1)
    distance = jnp.maximum(square[:, None] + square - 2 * representation @ representation.T, 0.0)
    width = jax.lax.stop_gradient(share @ distance @ share)
    kernel = jnp.exp(-distance / jnp.maximum(width, 1e-9))
    one_hot = jax.nn.one_hot(labels, num_values)
    concept = one_hot @ one_hot.T

    def centred(k: AnyArray) -> AnyArray:
        row = k @ share
        return k - row[:, None] - row + share @ row

    def inner(a: AnyArray, b: AnyArray) -> AnyArray:
        return share @ (a * b) @ share

    kernel, concept = centred(kernel), centred(concept)
    # the lower bound: examples of one value, or all at one point, count as independent
    return inner(kernel, concept) / jnp.sqrt(
        jnp.maximum(inner(kernel, kernel) * inner(concept, concept), 1e-12)
    )


def conditional_hsic(
    representation: AnyArray,
    labels: AnyArray,
    num_values: int,
    targets: AnyArray,
    num_targets: int,
    weights: AnyArray,
) -> AnyArray:
    """Return the mean over target classes of `hsic` within the class, float32 [].

    A representation of the target also reveals what the target reveals about the concept. This
    measures only what it reveals beyond that.

    Args:
        targets: int32 [n], target classes.
        num_targets: number of target classes.
        others: as for `hsic`.
    """
    import jax.numpy as jnp

    total = jnp.maximum(weights.sum(), 1e-9)
    parts = []
    for target in range(num_targets):
        chosen = weights * (targets == target)
        parts.append(chosen.sum() / total * hsic(representation, labels, num_values, chosen))
    return sum(parts)


def fourier_features(representation: AnyArray, frequencies: AnyArray, phases: AnyArray) -> AnyArray:
    """Return float32 [..., num_features]: random features of the Gaussian kernel.

    Their means are a kernel mean embedding, which clients can add up. A kernel matrix would need
    all clients' representations in one place.

    Args:
        representation: float32 [..., dim].
        frequencies: float32 [dim, num_features], normal, with standard deviation 1 / width.
        phases: float32 [num_features], uniform in 0 to 2 pi.

    Source: Rahimi and Recht 2007, Random Features for Large-Scale Kernel Machines, algorithm 1.
    """
    import jax.numpy as jnp

    scale = jnp.sqrt(2.0 / frequencies.shape[1])
    return scale * jnp.cos(representation @ frequencies + phases)


def explained_share(
    features: AnyArray, labels: AnyArray, num_values: int, mean: AnyArray, weights: AnyArray
) -> AnyArray:
    """Return the share of the features' variance that the concept explains, 0 to 1, float32 [].

    sum_v n_v |mean of v - mean|^2 / sum_i |x_i - mean|^2, with a given mean, so that a client with
    only one value measures its distance from the mean of all clients. On Fourier features the
    numerator is the squared distance of kernel means that HSIC sums for a one-hot concept.

    Args:
        features: float32 [n, dim].
        labels: int32 [n].
        num_values: values of the concept.
        mean: float32 [dim], mean of all clients' features.
        weights: float32 [n], not negative.
    """
    import jax
    import jax.numpy as jnp

    centred = features - mean
    one_hot = jax.nn.one_hot(labels, num_values) * weights[:, None]
    counts = one_hot.sum(0)
    sums = one_hot.T @ centred
    between = ((sums**2).sum(-1) / jnp.maximum(counts, 1e-9)).sum()
    total = (weights * (centred**2).sum(-1)).sum()
    return between / jnp.maximum(total, 1e-9)
