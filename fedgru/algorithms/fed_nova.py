"""FedNova (Wang et al. 2020): clients that take more local steps do not count more."""

from typing import Any, ClassVar

import numpy as np

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState, UpdateSum
from fedgru.algorithms.sent import Sent
from fedgru.core.types import AnyFloats, AnyInts, Weights


class FedNova:
    """Each update is divided by its client's local steps, and the mean is scaled back.

    Client k takes tau_k local steps and changes its weights by delta_k. With p_k its share of the
    examples and a_k the sum of the weights that its gradients have in delta_k,

        mean update = tau_eff * sum of p_k * delta_k / a_k,    tau_eff = sum of p_k * a_k

    a_k is tau_k, and with FedProx's mu and step size eta it is (1 - (1 - eta * mu)^tau_k) /
    (eta * mu). If all a_k are equal this is the server half to the bit. A row of the table is
    averaged as the server half does, each owner's update divided by a_k too.

    Args:
        server_half: FedAvg or FedSubAvg.
        client_rule: ClientRule; None takes that of the server half.

    Source: Wang et al. 2020 (arXiv:2007.07481), equations (7) and (8), and section 5 for the
        proximal term. There clients use SGD; Adam's steps are counted as if they were SGD's.
    """

    name: ClassVar[str] = "fed_nova"
    sent: ClassVar[Sent] = Sent(sums=1)

    def __init__(self, server_half: FedAvg, client_rule: ClientRule | None = None) -> None:
        self.server_half = server_half
        self.server_optimizer = server_half.server_optimizer
        self.client_rule = client_rule or server_half.client_rule

    def init(self, weights: Weights) -> ServerState:
        """See FedAvg.init."""
        return self.server_half.init(weights)

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> "NormalisedSum":
        """See FedAvg.start."""
        return NormalisedSum(weights, row_ids, self.client_rule)

    def apply(self, state: ServerState, total: Any) -> ServerState:
        """See FedAvg.apply."""
        return self.server_half.apply(state, total)


class NormalisedSum(UpdateSum):
    """An UpdateSum of updates that are divided by their clients' a_k.

    Args:
        weights, row_ids: as for UpdateSum.
        rule: ClientRule.
    """

    def __init__(self, weights: Weights, row_ids: AnyInts | None, rule: ClientRule) -> None:
        super().__init__(weights, row_ids)
        self._rule = rule
        self._unit = 0.0  # the first client's a_k: sums of equal ones are then exact
        self._weighed_steps = 0.0  # sum of n_k * a_k

    def add(self, update: ClientUpdate, factor: float = 1.0) -> None:
        """Add one ClientUpdate; errors as `UpdateSum.add`, and if it does not say its steps."""
        steps = gradient_weight(update.num_steps, self._rule)
        self._unit = self._unit or steps
        self._weighed_steps += update.num_examples * steps
        super().add(update, factor * self._unit / steps)

    def merge(self, other: UpdateSum) -> None:
        """Add another sum over some rows to this one over all rows."""
        assert isinstance(other, NormalisedSum), "made by the same algorithm"
        self._unit = self._unit or other._unit
        if other.num_clients:
            scale = np.float32(self._unit / other._unit)
            other.dense = {name: scale * array for name, array in other.dense.items()}
            other.rows = scale * other.rows
        self._weighed_steps += other._weighed_steps
        super().merge(other)

    @property
    def _effective(self) -> float:
        """tau_eff in units of the first client's a_k."""
        return self._weighed_steps / self.num_examples / self._unit

    @property
    def divisor(self) -> float:
        return self.num_examples / self._effective

    @property
    def row_divisors(self) -> AnyFloats:
        return self.row_examples / self._effective


def gradient_weight(num_steps: int, rule: ClientRule) -> float:
    """Return a_k, the sum of the weights that a client's gradients have in its update.

    >>> gradient_weight(3, ClientRule("sgd", 0.5))
    3.0
    >>> gradient_weight(2, ClientRule("sgd", 0.5, prox_mu=1.0))  # 1 + (1 - 0.5)
    1.5

    Raises:
        ValueError: if there are no steps: the engine does not count them.
    """
    if num_steps < 1:
        raise ValueError("FedNova needs an engine that counts local steps")
    shrink = rule.client_lr * rule.prox_mu
    return float(num_steps) if shrink == 0 else (1.0 - (1.0 - shrink) ** num_steps) / shrink
