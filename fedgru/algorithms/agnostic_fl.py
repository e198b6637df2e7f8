"""Agnostic federated learning (Mohri et al. 2019): good for any mixture of the clients.

"Agnostic" means something else here than in `fedgru.agnostic`: there a representation does not
reveal a concept, here a model does not rely on how the clients are mixed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from fedgru.algorithms.client_start import ClientStart
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState, UpdateSum
from fedgru.algorithms.per_client import PerClient, Tools, Visit
from fedgru.algorithms.sent import Sent
from fedgru.core.types import AnyFloats, AnyInts, Doubles, Weights

SERVER = -1  # the number under which the mixture is kept


class AgnosticFL(PerClient):
    """Minimises the loss under the worst mixture of clients, not under their shares of the data.

    With mixture weights lambda_k, F_k the client's mean train loss at the received weights, and a
    cohort S out of N clients,

        mean update = sum of n_k (lambda_k / p_k) delta_k / sum of n_k (lambda_k / p_k)
        lambda <- projection onto the simplex of (lambda + mixture_lr * N / |S| * F),  F_k = 0
            outside of S

    lambda_k is p_k at first, the client's share of the examples. mixture_lr = 0 is the server half
    to the bit.

    Args:
        server_half: FedAvg or FedSubAvg.
        mixture_lr: not negative.

    Source: Mohri et al. 2019 (arXiv:1902.00146), algorithm Stochastic-AFL. There the weights take
        one gradient step between two steps of lambda; here clients take their local steps. Each
        client is a domain.
    """

    name: ClassVar[str] = "agnostic_fl"
    sent: ClassVar[Sent] = Sent(sums=1)
    keeps: ClassVar[bool] = True

    def __init__(self, server_half: FedAvg, mixture_lr: float) -> None:
        if not mixture_lr >= 0:
            raise ValueError(f"mixture_lr is {mixture_lr}, expected at least 0")
        super().__init__(server_half)
        self.mixture_lr = mixture_lr

    def before_round(
        self, tools: Tools, state: ServerState, cohort: AnyInts
    ) -> tuple[ServerState, Mapping[int, Any]]:
        """Give each client lambda_k / p_k, and take the step of lambda that the round has."""
        kept = tools.kept(SERVER)
        shares = tools.shares
        mixture = shares if kept is None else kept["mixture"]
        place = {int(client): at for at, client in enumerate(tools.training_clients)}
        losses = tools.train_losses(state.weights, cohort)
        ascent = np.zeros(len(mixture))
        for client, loss in losses.items():
            ascent[place[client]] = loss * len(mixture) / len(losses)
        moved = mixture
        if self.mixture_lr:
            moved = project_to_simplex(mixture + self.mixture_lr * ascent)
        tools.keep(SERVER, {"mixture": moved})
        ratios = mixture / shares
        return state, {client: float(ratios[place[client]]) for client in losses}

    def finish(
        self, visit: Visit, start: ClientStart | None, update: ClientUpdate
    ) -> tuple[ClientUpdate, None]:
        return replace(update, measured=visit.measured), None

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> "MixtureSum":
        return MixtureSum(weights, row_ids)


class MixtureSum(UpdateSum):
    """An UpdateSum in which each client counts by its examples times `measured`."""

    def __init__(self, weights: Weights, row_ids: AnyInts | None = None) -> None:
        super().__init__(weights, row_ids)
        self._divisor = 0.0
        self._row_divisors: Doubles = np.zeros(len(self.rows))

    def add(self, update: ClientUpdate, factor: float = 1.0) -> None:
        """Add one ClientUpdate, with `measured` its lambda_k / p_k."""
        ratio = float(update.measured)
        super().add(update, factor * ratio)
        self._divisor += update.num_examples * ratio
        self._row_divisors[update.row_ids] += update.num_examples * ratio

    @property
    def divisor(self) -> float:
        return self._divisor or 1.0  # nobody in the cohort counts: the sums are zero

    @property
    def row_divisors(self) -> AnyFloats:
        return self._row_divisors


def project_to_simplex(values: Doubles) -> Doubles:
    """Return the nearest point whose coordinates are not negative and sum to 1.

    >>> project_to_simplex(np.array([0.5, 0.75, -0.25])).tolist()
    [0.375, 0.625, 0.0]

    Source: Duchi et al. 2008, Efficient projections onto the l1-ball, Algorithm 1.
    """
    ordered = np.sort(values)[::-1]
    thresholds = (np.cumsum(ordered) - 1) / np.arange(1, len(values) + 1)
    last = np.flatnonzero(ordered > thresholds)[-1]
    return np.maximum(values - thresholds[last], 0)
