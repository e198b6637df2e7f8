"""Protected heads: small networks that try to read the concept during training.

Weights are a flat dict of float32 arrays, `protected_<adversary>_<layer>_kernel` and `..._bias`,
so that they travel beside a model's own weights.
"""

import numpy as np

PREFIX = "protected_"


def init_heads(rng, num_adversaries, in_dim, hidden_dims, num_values):
    """Draw start weights: Glorot uniform kernels, zero biases.

    Args:
        rng: numpy Generator.
        num_adversaries: how many independent heads.
        in_dim: columns of the representation.
        hidden_dims: tuple, units of the ReLU layers of each head.
        num_values: values of the concept.

    Returns:
        dict of float32 arrays.
    """
    dims = (in_dim, *hidden_dims, num_values)
    weights = {}
    for adversary in range(num_adversaries):
        for layer, (fan_in, fan_out) in enumerate(zip(dims[:-1], dims[1:], strict=True)):
            limit = np.sqrt(6.0 / (fan_in + fan_out))
            kernel = rng.uniform(-limit, limit, (fan_in, fan_out)).astype(np.float32)
            weights[_name(adversary, layer, "kernel")] = kernel
            weights[_name(adversary, layer, "bias")] = np.zeros(fan_out, np.float32)
    return weights


def apply_head(weights, adversary, representation):
    """Return float32 [..., num_values], one adversary's scores.

    Args:
        weights: dict that holds those of `init_heads`.
        adversary: which head.
        representation: float32 [..., in_dim].
    """
    import jax

    scores, layer = representation, 0
    while True:
        kernel = weights[_name(adversary, layer, "kernel")]
        scores = scores @ kernel + weights[_name(adversary, layer, "bias")]
        layer += 1
        if _name(adversary, layer, "kernel") not in weights:
            return scores
        scores = jax.nn.relu(scores)


def split_heads(weights):
    """Return (model's own, heads'): two dicts that together are `weights`."""
    own = {name: w for name, w in weights.items() if not name.startswith(PREFIX)}
    return own, {name: w for name, w in weights.items() if name.startswith(PREFIX)}


def reset_head(weights, adversary, fresh):
    """Return `weights` with one adversary's arrays taken from `fresh`."""
    prefix = f"{PREFIX}{adversary}_"
    return {name: fresh[name] if name.startswith(prefix) else w for name, w in weights.items()}


def _name(adversary, layer, what):
    return f"{PREFIX}{adversary}_{layer}_{what}"
