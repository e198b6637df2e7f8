"""The loss that a method adds to the target loss, for a batch of any representation. JAX."""

from fedgru.agnostic import independence, objective
from fedgru.agnostic.pooled import KernelMeans
from fedgru.config.methods import Method
from fedgru.core.types import AnyArray, AnyWeights
from fedgru.models import heads


def protected_loss(
    method: Method,
    weights: AnyWeights,
    representation: AnyArray,
    labels: AnyArray,
    num_values: int,
    counts: AnyArray,
    alpha: AnyArray,
    means: KernelMeans | None = None,
) -> tuple[AnyArray, tuple[AnyArray, AnyArray]]:
    """Return the part of a step's loss that hides the concept, and the first head's success.

    Gradients by the heads' weights train the heads, at their full rate. Gradients by the
    representation hide the concept, scaled by alpha.

    Args:
        method: Method.
        weights: dict that contains the heads' weights.
        representation: float32 [n, dim], the heads' input.
        labels: int32 [n].
        num_values: values of the concept.
        counts: float32 [n], not negative; 0 leaves an example out.
        alpha: float [], 0 to 1.
        means: None to measure dependence within the batch (HSIC). If a batch holds only one
            client's examples: (frequencies, phases, mean) of Fourier features, with the mean over
            all clients.

    Returns:
        (loss, (head_loss, num_correct)): the first head's loss in nats, and the total weight of
        its correct answers; zeros if the method has no head.
    """
    import jax
    import jax.numpy as jnp

    loss = jnp.zeros(())
    head_loss = num_correct = jnp.zeros(())
    for adversary in range(method.adversaries):
        if method.confusion:
            seen = jax.lax.stop_gradient(representation)
            frozen = {name: jax.lax.stop_gradient(w) for name, w in weights.items()}
            fooled = heads.apply_head(frozen, adversary, representation)
            loss = loss + alpha * objective.mean_confusion(fooled, counts) / method.adversaries
        else:
            seen = objective.reverse_gradient(representation, alpha / method.adversaries)
        scores = heads.apply_head(weights, adversary, seen)
        this_loss = objective.mean_cross_entropy(scores, labels, counts)
        loss = loss + this_loss
        if adversary == 0:
            head_loss = this_loss
            num_correct = ((scores.argmax(-1) == labels) * counts).sum()
    if method.dependence:
        if means is None:
            share = independence.hsic(representation, labels, num_values, counts)
        else:
            frequencies, phases, mean = means
            features = independence.fourier_features(representation, frequencies, phases)
            share = independence.explained_share(features, labels, num_values, mean, counts)
        loss = loss + alpha * method.dependence * share
    return loss, (head_loss, num_correct)
