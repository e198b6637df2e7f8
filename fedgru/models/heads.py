"""Protected heads: small networks that try to read the concept during training.

Weights are a flat dict of float32 arrays, `protected_<adversary>_<layer>_kernel` and `..._bias`,
so that they travel beside a model's own weights.
"""

from fedgru.models.dense import apply_stack, init_stack

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
    weights = {}
    for adversary in range(num_adversaries):
        weights |= init_stack(rng, _prefix(adversary), (in_dim, *hidden_dims, num_values))
    return weights


def apply_head(weights, adversary, representation, dropout=0.0, key=None):
    """Return float32 [..., num_values], one adversary's scores.

    Args:
        weights: dict that holds those of `init_heads`.
        adversary: which head.
        representation: float32 [..., in_dim].
        dropout, key: as for `fedgru.models.dense.apply_stack`.
    """
    return apply_stack(weights, _prefix(adversary), representation, dropout, key)


def split_heads(weights):
    """Return (model's own, heads'): two dicts that together are `weights`."""
    own = {name: w for name, w in weights.items() if not name.startswith(PREFIX)}
    return own, {name: w for name, w in weights.items() if name.startswith(PREFIX)}


def reset_head(weights, adversary, fresh):
    """Return `weights` with one adversary's arrays taken from `fresh`."""
    prefix = _prefix(adversary)
    return {name: fresh[name] if name.startswith(prefix) else w for name, w in weights.items()}


def _prefix(adversary):
    return f"{PREFIX}{adversary}_"
