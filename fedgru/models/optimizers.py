"""Local optimizers as pure functions over a tree of weights. JAX; the formulas are Keras'."""

from typing import Any

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
