"""The objective of agnostic training, for any extractor: reversal, its weights, confusion.

Everything here is JAX. With z the representation, L_y the target head's loss and L_p the protected
head's, a step descends

    target_weight * L_y(z) + L_p(reverse_gradient(z, reversal))

so the protected head learns at its full rate, and the extractor is pushed against it by
`reversal`. The saddle point is that of the paper's equations (2) and (3). In its equation (1) the
head's own gradient carries the factor alpha too, which leaves it untrained at alpha 0, where its
accuracy says the most; here it does not.
"""

from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Literal

from fedgru.core.errors import ConfigError


@cache
def _reversal():
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def reverse(x, weight):
        return x

    def forward(x, weight):
        return x, weight

    def backward(weight, cotangent):
        return -weight * cotangent, jnp.zeros_like(weight)

    reverse.defvjp(forward, backward)
    return reverse


def reverse_gradient(x, weight):
    """Return x as it is; on the way back its gradient is multiplied by -weight.

    Args:
        x: float array of any shape.
        weight: float or float array [], at least 0.

    Source: Ganin et al. 2016 (arXiv:1505.07818), equations (16) and (17).
    """
    import jax.numpy as jnp

    return _reversal()(x, jnp.asarray(weight, x.dtype))


@dataclass(frozen=True)
class TradeOff:
    """How much the protected concept counts against the target, once training has risen to it.

    Attributes:
        kind: "alpha" (of the paper) or "lambda" (of Ganin et al.), see `loss_weights`.
        value: alpha, 0 to 1, or lambda, at least 0.

    Raises:
        ConfigError: if the value is out of range.
    """

    kind: Literal["alpha", "lambda"]
    value: float

    def __post_init__(self):
        if self.kind == "alpha" and not 0 <= self.value <= 1:
            raise ConfigError(f"alpha is {self.value}, expected 0 to 1.")
        if self.kind == "lambda" and not 0 <= self.value < inf:
            raise ConfigError(f"lambda is {self.value}, expected 0 or more.")

    def at(self, share: float) -> float:
        """Return the alpha, or the lambda, of a moment: a share (0 to 1) of the final one."""
        return self.value * share

    def loss_weights(self, strength):
        """Return (target_weight, reversal) under the strength of a moment; see `loss_weights`."""
        return loss_weights(self.kind, strength)


def loss_weights(kind: str, strength):
    """Return (target_weight, reversal).

    Args:
        kind: "alpha" gives (1 - alpha, alpha); "lambda" gives (1, lambda), which is equal to it at
            lambda = alpha / (1 - alpha), up to the learning rate of the target.
        strength: alpha or lambda of the moment, float or float array [].

    Source: Jia et al. 2018, equation (1), for alpha; Ganin et al. 2016 for lambda.

    >>> loss_weights("alpha", 0.25), loss_weights("lambda", 0.25)
    ((0.75, 0.25), (1.0, 0.25))
    """
    return (1.0 - strength if kind == "alpha" else 1.0), strength


def mean_cross_entropy(scores, labels, weights):
    """Return the weighted mean of -log softmax(scores)[label], nats; 0 if all weights are 0.

    Args:
        scores: float32 [..., num_values].
        labels: int32 [...]; what stands where the weight is 0 does not matter.
        weights: float32 [...], not negative.
    """
    import jax
    import jax.numpy as jnp

    log_probs = jax.nn.log_softmax(scores)
    at_label = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[..., None], -1)[..., 0]
    return -(at_label * weights).sum() / jnp.maximum(weights.sum(), 1e-9)


def mean_confusion(scores, weights):
    """Return the weighted mean cross-entropy to the uniform answer, above its minimum, nats.

    The extractor descends it with the head held still: a head that is wrong is as informative as
    one that is right, and this one is to know nothing. 0 when every answer is uniform.

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


def decorrelating_weights(targets, protected, num_targets, num_values):
    """Weights under which target and protected concept are independent: p(y) p(c) / p(y, c).

    Where the two go together in 95 % of the examples, a representation that tells the target
    tells the concept in 95 %: to ask for independence there is to ask for the target's loss.
    Under these weights the two do not go together, and it is not.

    Args:
        targets, protected: int [n], labels.
        num_targets, num_values: how many values each has.

    Returns:
        float32 [n], mean 1 over pairs of values that all occur; a pair that does not occur can
        have no weight, and independence is then out of reach.

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
