"""Stacks of fully connected layers as pure functions of a dict of weights.

Layer i of a stack is `<prefix><i>_kernel` [in, out] and `<prefix><i>_bias` [out]. Between layers
come ReLU and, in training, dropout.
"""

from collections.abc import Sequence

import numpy as np

from fedgru.core.types import AnyArray, AnyWeights, Floats, Weights


def glorot_uniform(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> Floats:
    """Return float32 start weights, Keras' default: uniform of variance 2 / (fan_in + fan_out)."""
    limit = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def init_stack(rng: np.random.Generator, prefix: str, dims: Sequence[int]) -> Weights:
    """Draw start weights of a stack: Glorot uniform kernels, zero biases.

    Args:
        rng: numpy Generator.
        prefix: start of the weights' names.
        dims: ints: columns of the input, units of each layer, columns of the output.

    Returns:
        dict of float32 arrays.
    """
    weights = {}
    for layer, (fan_in, fan_out) in enumerate(zip(dims[:-1], dims[1:], strict=True)):
        kernel = glorot_uniform(rng, (fan_in, fan_out), fan_in, fan_out)
        weights[f"{prefix}{layer}_kernel"] = kernel
        weights[f"{prefix}{layer}_bias"] = np.zeros(fan_out, np.float32)
    return weights


def apply_stack(
    weights: AnyWeights, prefix: str, x: AnyArray, dropout: float = 0.0, key: AnyArray | None = None
) -> AnyArray:
    """Return float32 [..., out], the last layer's output, without an activation.

    Args:
        weights: dict that contains the weights of `init_stack`.
        prefix: start of the weights' names.
        x: float32 [..., in].
        dropout: share of each hidden layer's units that is set to 0; the others are scaled up.
        key: JAX random key for the dropout; None for no dropout.
    """
    import jax
    import jax.numpy as jnp

    layer = 0
    while True:
        x = x @ weights[f"{prefix}{layer}_kernel"] + weights[f"{prefix}{layer}_bias"]
        layer += 1
        if f"{prefix}{layer}_kernel" not in weights:
            return x
        x = jax.nn.relu(x)
        if dropout and key is not None:
            kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - dropout, x.shape)
            x = jnp.where(kept, x / (1 - dropout), 0.0)
