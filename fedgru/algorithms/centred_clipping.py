"""Centred clipping (Karimireddy et al. 2021): no update leads far from the last aggregate."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, ServerState
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.algorithms.update_list import ListMean, UpdateList, WeightedSum
from fedgru.core.types import Weights

ITERATIONS = 1
CENTRE = "centre"  # name of its slot


class CentredClipping(ListMean):
    """Clip each update around the aggregate of the round before, v; v is zero before round 1.

    With client k's share of the examples p_k and its update x_k, each iteration computes

        v <- v + sum of p_k * (x_k - v) * min(1, tau / ||x_k - v||)

    and the last v is the round's mean update, and the next round's centre. It is a slot of the
    ServerState, so that checkpoints hold it. If nothing is clipped, as with a tau above all
    distances, v is the plain mean to the bit.

    A client is compared with v in the weights and rows that it has: the other rows of v are not its
    matter. Where rows are averaged over their owners, p_k is the share among the row's owners. A
    row without owners in the cohort does not change, nor does its centre.

    Args:
        server_optimizer: of `server_optimizers`.
        radius: tau.
        client_rule: ClientRule.
        owners: whether rows are averaged over their owners.
        iterations: how many.

    Source: Karimireddy et al. 2021 (arXiv:2012.10333), equation (CC) and Algorithm 2. There clients
        send their momentum and count equally; here they send updates and count by their examples.
    """

    name = "centred_clipping"

    def __init__(
        self,
        server_optimizer: ServerOptimizer,
        radius: float,
        client_rule: ClientRule = DEFAULT_RULE,
        owners: bool = True,
        iterations: int = ITERATIONS,
    ) -> None:
        super().__init__(server_optimizer, client_rule, owners)
        self.radius, self.iterations = radius, iterations

    def init(self, weights: Weights) -> ServerState:
        """See FedAvg.init."""
        state = super().init(weights)
        zeros = {name: np.zeros_like(array) for name, array in weights.items()}
        return replace(state, optimizer={**state.optimizer, CENTRE: zeros})

    def mean_update(self, total: UpdateList) -> Weights:
        """Return the aggregate of updates that are clipped around zero, as in round 1."""
        zeros = {name: np.zeros_like(array) for name, array in total.weights.items()}
        return self._aggregate(total, zeros)[0]

    def apply(self, state: ServerState, total: Any) -> ServerState:
        """See FedAvg.apply."""
        mean, centre = self._aggregate(total, state.optimizer[CENTRE])
        slots = {name: slot for name, slot in state.optimizer.items() if name != CENTRE}
        weights, slots = self.server_optimizer.apply(state.weights, mean, slots)
        return ServerState(weights, {**slots, CENTRE: centre}, state.round_num + 1)

    def _aggregate(self, total: UpdateList, centre: Weights) -> tuple[Weights, Weights]:
        """Return (mean update, new centre); they differ in rows without owners."""
        updates = total.in_order
        owned = np.zeros(len(centre["rows"]), bool)
        for update in updates:
            owned[update.row_ids] = True
        for _ in range(self.iterations):
            centre = self._move(total.weights, updates, centre)
        if not self.over_owners:
            return centre, centre
        return {**centre, "rows": np.where(owned[:, None], centre["rows"], np.float32(0))}, centre

    def _move(self, weights: Weights, updates: Sequence[ClientUpdate], centre: Weights) -> Weights:
        """Return v after an iteration: sum of p_k c_k x_k + (1 - sum of p_k c_k) v."""
        clipped = WeightedSum(weights)
        for update in updates:
            far = distance(update, centre)
            clipped.add(update, 1.0 if far <= self.radius else self.radius / far)
        share = np.float32(1.0 / clipped.num_examples)
        stays = np.float32(1.0 - clipped.divisor / clipped.num_examples)
        moved = {name: share * array for name, array in clipped.dense.items()}
        if self.over_owners:
            examples = np.maximum(clipped.row_examples, 1)
            row_stays = (1.0 - clipped.row_divisors / examples).astype(np.float32)
            moved["rows"] = clipped.rows / examples.astype(np.float32)[:, None]
        else:
            row_stays = np.full(len(clipped.rows), stays)
            moved["rows"] = share * clipped.rows
        if stays:
            moved |= {name: moved[name] + stays * centre[name] for name in clipped.dense}
        at = row_stays != 0
        moved["rows"][at] += row_stays[at, None] * centre["rows"][at]
        return moved


def distance(update: ClientUpdate, centre: Weights) -> float:
    """Return how far an update is from the centre, in the weights and rows that the client has."""
    parts = [array - centre[name] for name, array in update.dense.items()]
    parts.append(update.row_update - centre["rows"][update.row_ids])
    return float(np.sqrt(sum(np.square(part, dtype=np.float64).sum() for part in parts)))
