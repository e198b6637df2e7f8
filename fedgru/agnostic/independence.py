"""Kernel measures of how much a representation depends on a concept, to be descended.

No head is trained, so none can be fooled or lag behind. JAX.
"""


def hsic(representation, labels, num_values, weights):
    """Return the normalised HSIC of a batch, 0 (independent) to 1, float32 [].

    Gaussian kernel on the representation, its width the batch's root mean square distance, so
    that shrinking the representation gains nothing; on the concept the kernel that is 1 for
    equal values.

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

    def centred(k):
        row = k @ share
        return k - row[:, None] - row + share @ row

    def inner(a, b):
        return share @ (a * b) @ share

    kernel, concept = centred(kernel), centred(concept)
    # the squares are floored: all of one value, or all at one point, is independence
    return inner(kernel, concept) / jnp.sqrt(
        jnp.maximum(inner(kernel, kernel) * inner(concept, concept), 1e-12)
    )


def conditional_hsic(representation, labels, num_values, targets, num_targets, weights):
    """Return the mean over target classes of `hsic` within the class, float32 [].

    A representation that tells the target may tell what the target tells of the concept; what
    it knows beyond that is measured.

    Args:
        targets: int32 [n], target classes.
        num_targets: how many there are.
        others: as for `hsic`.
    """
    import jax.numpy as jnp

    total = jnp.maximum(weights.sum(), 1e-9)
    parts = []
    for target in range(num_targets):
        chosen = weights * (targets == target)
        parts.append(chosen.sum() / total * hsic(representation, labels, num_values, chosen))
    return sum(parts)


def fourier_features(representation, frequencies, phases):
    """Return float32 [..., num_features]: random features of the Gaussian kernel.

    Their means are a kernel mean embedding that clients can add up, where a kernel matrix would
    need all clients' representations in one place.

    Args:
        representation: float32 [..., dim].
        frequencies: float32 [dim, num_features], normal, of deviation 1 / width.
        phases: float32 [num_features], uniform in 0 to 2 pi.

    Source: Rahimi and Recht 2007, Random Features for Large-Scale Kernel Machines, algorithm 1.
    """
    import jax.numpy as jnp

    scale = jnp.sqrt(2.0 / frequencies.shape[1])
    return scale * jnp.cos(representation @ frequencies + phases)


def explained_share(features, labels, num_values, mean, weights):
    """Return the share of the features' variance that the concept explains, 0 to 1, float32 [].

    sum_v n_v |mean of v - mean|^2 / sum_i |x_i - mean|^2, with the mean given: a client that
    holds one value alone measures how far it stands from everybody's mean. On Fourier features
    the numerator is the squared distance of kernel means that HSIC adds up for a one-hot concept.

    Args:
        features: float32 [n, dim].
        labels: int32 [n].
        num_values: values of the concept.
        mean: float32 [dim], of everybody's features.
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
