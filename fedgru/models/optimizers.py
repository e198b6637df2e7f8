"""Local optimizers as pure functions over a tree of weights. JAX.

`local_step` computes as Keras does, for check-ins; `descend` as Kingma and Ba do, for images.
"""

from typing import Any, TypeAlias

Optimizer: TypeAlias = tuple[str, float, float]  # kind, momentum, weight decay

ADAM_BETA_1, ADAM_BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-7  # Keras' defaults


def init_slots(optimizer: str, weights: Any) -> tuple[Any, ...]:
    """Return an optimizer's start state: zeros (m, v) for Adam, nothing for SGD."""
    import jax

    zeros = jax.tree.map(jax.numpy.zeros_like, weights)
    return (zeros, zeros) if optimizer == "adam" else ()


def local_step(
    optimizer: str, lr: float, step: Any, weights: Any, slots: tuple[Any, ...], gradient: Any
) -> tuple[Any, tuple[Any, ...]]:
    """Return (weights, slots) after one step.

    Args:
        optimizer: "adam" or "sgd".
        lr: learning rate.
        step: int [], the first is 1.
        weights, gradient: trees of float32 arrays of the same shapes.
        slots: from `init_slots` or the step before.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), end of section 2, as Keras computes it.
    """
    import jax
    import jax.numpy as jnp

    if optimizer == "sgd":
        return jax.tree.map(lambda w, g: w - lr * g, weights, gradient), slots
    m, v = slots
    step = jnp.asarray(step, jnp.float32)
    rate = lr * jnp.sqrt(1.0 - ADAM_BETA_2**step) / (1.0 - ADAM_BETA_1**step)
    m = jax.tree.map(lambda m, g: m + (1.0 - ADAM_BETA_1) * (g - m), m, gradient)
    v = jax.tree.map(lambda v, g: v + (1.0 - ADAM_BETA_2) * (g * g - v), v, gradient)
    weights = jax.tree.map(
        lambda w, m, v: w - rate * m / (jnp.sqrt(v) + ADAM_EPSILON), weights, m, v
    )
    return weights, (m, v)


def descend(
    optimizer: Optimizer,
    weights: Any,
    gradients: Any,
    slots: tuple[Any, Any],
    lr: Any,
    count: Any,
) -> tuple[Any, tuple[Any, Any]]:
    """Return (weights, slots) after one step with momentum and weight decay.

    Optax has both formulas, but its Adam rounds differently: trainings would not repeat the
    results of earlier versions.

    Args:
        optimizer: (kind, momentum, weight_decay). The kind is "sgd" or "adam"; for adam, momentum
            is the decay of the mean.
        weights, gradients: trees of float32 arrays of the same shapes.
        slots: (first, second) moments, trees like the weights; sgd does not use the second.
        lr: learning rate.
        count: int [], the first step is 1; several steps of the heads can have the same count.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), Algorithm 1, with beta_2 = 0.999 and its epsilon.
        Weight decay is added to the gradient, not to the step.
    """
    import jax
    import jax.numpy as jnp

    kind, momentum, weight_decay = optimizer
    if weight_decay:
        gradients = jax.tree.map(lambda g, w: g + weight_decay * w, gradients, weights)
    first, second = slots
    if kind == "sgd":
        first = jax.tree.map(lambda m, g: momentum * m + g, first, gradients)
        return jax.tree.map(lambda w, m: w - lr * m, weights, first), (first, second)
    first = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    first_scale = 1 / (1 - momentum**count)
    second_scale = 1 / (1 - 0.999 ** jnp.asarray(count, jnp.float32))
    weights = jax.tree.map(
        lambda w, m, v: w - lr * first_scale * m / (jnp.sqrt(second_scale * v) + 1e-8),
        weights,
        first,
        second,
    )
    return weights, (first, second)
