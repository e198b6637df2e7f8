"""q-FedAvg (Li et al. 2020): clients with a higher loss count more."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from fedgru.algorithms.client_start import ClientStart
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState, UpdateSum
from fedgru.algorithms.per_client import PerClient, Tools, Visit
from fedgru.algorithms.sent import Sent
from fedgru.core.types import AnyFloats, AnyInts, Doubles, Weights

SMALLEST_LOSS = 1e-10  # nats: F^(q-1) has no value at 0


class QFedAvg(PerClient):
    """Minimises the sum of p_k / (q + 1) * F_k^(q + 1) over clients in place of that of p_k * F_k.

    With F_k the client's mean train loss at the received weights, delta_k its update, L = 1 /
    client_lr, and its examples as weight p_k,

        mean update = sum of p_k F_k^q delta_k / sum of p_k (q F_k^(q-1) L ||delta_k||^2 + F_k^q)

    q = 0 is the server half to the bit. A row of the table is divided by the sum over its owners,
    where the server half averages over owners.

    Args:
        server_half: FedAvg or FedSubAvg.
        q: not negative.

    Source: Li et al. 2020 (arXiv:1905.10497), Algorithm 2, with both sides divided by L. There
        clients are drawn by their share of the examples and then count equally; here each counts
        by its examples.
    """

    name: ClassVar[str] = "q_fed_avg"
    sent: ClassVar[Sent] = Sent(sums=1)

    def __init__(self, server_half: FedAvg, q: float) -> None:
        if not q >= 0:
            raise ValueError(f"q is {q}, expected at least 0")
        super().__init__(server_half)
        self.q = q

    def before_round(
        self, tools: Tools, state: ServerState, cohort: AnyInts
    ) -> tuple[ServerState, Mapping[int, Any]]:
        return state, tools.train_losses(state.weights, cohort)

    def finish(
        self, visit: Visit, start: ClientStart | None, update: ClientUpdate
    ) -> tuple[ClientUpdate, None]:
        return replace(update, measured=visit.measured), None

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> "QSum":
        return QSum(weights, self.q, 1.0 / self.client_rule.client_lr)


class QSum(UpdateSum):
    """An UpdateSum in which client k counts by F_k^q, with q-FedAvg's divisor.

    Args:
        weights: as for UpdateSum.
        q, smoothness: q and L.
    """

    def __init__(self, weights: Weights, q: float, smoothness: float) -> None:
        super().__init__(weights)
        self._q, self._smoothness = q, smoothness
        self._divisor = 0.0
        self._row_divisors: Doubles = np.zeros(len(self.rows))

    def add(self, update: ClientUpdate, factor: float = 1.0) -> None:
        """Add one ClientUpdate, with `measured` the client's loss at the received weights."""
        loss, q = max(float(update.measured), SMALLEST_LOSS), self._q
        arrays = [update.row_update, *update.dense.values()]
        square = sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays)
        height = loss**q
        if q:
            height += q * loss ** (q - 1) * self._smoothness * square
        super().add(update, factor * loss**q)
        self._divisor += update.num_examples * height
        self._row_divisors[update.row_ids] += update.num_examples * height

    @property
    def divisor(self) -> float:
        return self._divisor

    @property
    def row_divisors(self) -> AnyFloats:
        return self._row_divisors
