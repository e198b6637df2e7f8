"""The objective of agnostic training, for any extractor: reversal, its weights, confusion.

Everything here is JAX. With representation z, loss L_y of the target head and loss L_p of the
protected head, a step minimises

    target_weight * L_y(z) + L_p(reverse_gradient(z, reversal))

So the protected head learns at its full rate, and the extractor learns against it with weight
`reversal`. The saddle point is the one of the paper's equations (2) and (3). In the paper's
equation (1) the head's own gradient also has the factor alpha. That leaves the head untrained at
alpha 0, where its accuracy is most informative; so here it has no such factor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Literal

from fedgru.core.errors import ConfigError
from fedgru.core.types import AnyArray, AnyInts, Floats


@cache
def _reversal() -> Callable[[AnyArray, AnyArray], AnyArray]:
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def reverse(x: AnyArray, weight: AnyArray) -> AnyArray:
        return x

    def forward(x: AnyArray, weight: AnyArray) -> tuple[AnyArray, AnyArray]:
        return x, weight

    def backward(weight: AnyArray, cotangent: AnyArray) -> tuple[AnyArray, AnyArray]:
        return -weight * cotangent, jnp.zeros_like(weight)

    reverse.defvjp(forward, backward)
    return reverse


def reverse_gradient(x: AnyArray, weight: AnyArray) -> AnyArray:
    """Return x unchanged; in the backward pass its gradient is multiplied by -weight.

    Args:
        x: float array of any shape.
        weight: float or float array [], at least 0.

    Source: Ganin et al. 2016 (arXiv:1505.07818), equations (16) and (17).
    """
    import jax.numpy as jnp

    return _reversal()(x, jnp.asarray(weight, x.dtype))


@dataclass(frozen=True)
class TradeOff:
    """The final weight of hiding the protected concept against predicting the target.

    Attributes:
        kind: "alpha" (the paper's) or "lambda" (Ganin et al.), see `loss_weights`.
        value: alpha, 0 to 1, or lambda, at least 0.

    Raises:
        ConfigError: if the value is out of range.
    """

    kind: Literal["alpha", "lambda"]
    value: float

    def __post_init__(self) -> None:
        if self.kind == "alpha" and not 0 <= self.value <= 1:
            raise ConfigError(f"alpha is {self.value}, expected 0 to 1.")
        if self.kind == "lambda" and not 0 <= self.value < inf:
            raise ConfigError(f"lambda is {self.value}, expected 0 or more.")

    def at(self, share: float) -> float:
        """Return alpha, or lambda, at a point of training: a share (0 to 1) of the final one."""
        return self.value * share

    def loss_weights(self, strength: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Return (target_weight, reversal) for an alpha, or lambda; see `loss_weights`."""
        return loss_weights(self.kind, strength)


def loss_weights(kind: str, strength: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return (target_weight, reversal).

    Args:
        kind: "alpha" gives (1 - alpha, alpha); "lambda" gives (1, lambda). Both are equal at
            lambda = alpha / (1 - alpha), up to the learning rate of the target.
        strength: the current alpha or lambda, float or float array [].

    Source: Jia et al. 2018, equation (1), for alpha; Ganin et al. 2016 for lambda.

    >>> loss_weights("alpha", 0.25), loss_weights("lambda", 0.25)
    ((0.75, 0.25), (1.0, 0.25))
    """
    return (1.0 - strength if kind == "alpha" else 1.0), strength


def mean_cross_entropy(scores: AnyArray, labels: AnyArray, weights: AnyArray) -> AnyArray:
    """Return the weighted mean of -log softmax(scores)[label], nats; 0 if all weights are 0.

    Args:
        scores: float32 [..., num_values].
        labels: int32 [...]; any value where the weight is 0.
        weights: float32 [...], not negative.
    """
    import jax
    import jax.numpy as jnp

    log_probs = jax.nn.log_softmax(scores)
    at_label = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[..., None], -1)[..., 0]
    return -(at_label * weights).sum() / jnp.maximum(weights.sum(), 1e-9)


def mean_confusion(scores: AnyArray, weights: AnyArray) -> AnyArray:
    """Return the weighted mean cross-entropy to the uniform answer, minus its minimum, nats.

    The extractor minimises it with the head fixed. It is 0 when every answer is uniform. A head
    that is always wrong would be as informative as one that is always right; the uniform answer
    is not.

    Args:
        scores: float32 [..., num_values].
        weights: float32 [...], not negative.

    Source: Tzeng et al. 2015 (arXiv:1510.02192), equation (3).
    """
    import jax
    import jax.numpy as jnp

    log_probs = jax.nn.log_softmax(scores)
    divergence = -log_probs.mean(-1) - jnp.log(scores.shape[-1])
    return (divergence * weights).sum() / jnp.maximum(weights.sum(), 1e-9)


def decorrelating_weights(
    targets: AnyInts, protected: AnyInts, num_targets: int, num_values: int
) -> Floats:
    """Return weights that make target and concept independent: p(y) p(c) / p(y, c).

    If concept and target match in 95 % of the examples, a representation of the target reveals the
    concept in 95 %. Independence would then cost the target. Under these weights target and
    concept are not correlated, so it costs nothing.

    Args:
        targets, protected: int [n], labels.
        num_targets, num_values: number of values of each.

    Returns:
        float32 [n], mean 1 if all pairs of values occur. A pair that does not occur cannot get a
        weight; then independence is impossible.

    >>> import numpy as np
    >>> decorrelating_weights(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 2, 2)
    array([0.75, 0.75, 1.5 , 0.5 ], dtype=float32)
    """
    import numpy as np

    joint = np.zeros((num_targets, num_values))
    np.add.at(joint, (targets, protected), 1.0 / len(targets))
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    ratio = np.divide(product, joint, out=np.zeros_like(joint), where=joint > 0)
    return ratio[targets, protected].astype(np.float32)
