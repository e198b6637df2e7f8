"""Protected heads: small networks that try to predict the concept during training.

Weights are a flat dict of float32 arrays, `protected_<adversary>_<layer>_kernel` and `..._bias`,
stored in one dict with the model's own weights.
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from fedgru.core.types import AnyArray, AnyWeights, Weights
from fedgru.models.dense import apply_stack, init_stack

PREFIX = "protected_"

T = TypeVar("T")


def init_heads(
    rng: np.random.Generator,
    num_adversaries: int,
    in_dim: int,
    hidden_dims: tuple[int, ...],
    num_values: int,
) -> Weights:
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
    weights: Weights = {}
    for adversary in range(num_adversaries):
        weights |= init_stack(rng, _prefix(adversary), (in_dim, *hidden_dims, num_values))
    return weights


def apply_head(
    weights: AnyWeights,
    adversary: int,
    representation: AnyArray,
    dropout: float = 0.0,
    key: AnyArray | None = None,
) -> AnyArray:
    """Return float32 [..., num_values], one adversary's scores.

    Args:
        weights: dict that contains the weights of `init_heads`.
        adversary: index of the head.
        representation: float32 [..., in_dim].
        dropout, key: as for `fedgru.models.dense.apply_stack`.
    """
    return apply_stack(weights, _prefix(adversary), representation, dropout, key)


def split_heads(weights: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """Return (the model's own weights, the heads' weights); together they are `weights`."""
    own = {name: w for name, w in weights.items() if not name.startswith(PREFIX)}
    return own, {name: w for name, w in weights.items() if name.startswith(PREFIX)}


def reset_head(weights: Mapping[str, T], adversary: int, fresh: Mapping[str, T]) -> dict[str, T]:
    """Return `weights` with one adversary's arrays taken from `fresh`."""
    prefix = _prefix(adversary)
    return {name: fresh[name] if name.startswith(prefix) else w for name, w in weights.items()}


def _prefix(adversary: int) -> str:
    return f"{PREFIX}{adversary}_"
