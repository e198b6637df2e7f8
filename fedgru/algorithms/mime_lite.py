"""MimeLite (Karimireddy et al. 2021): clients use the server's momentum, and do not change it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.client_start import ClientStart, own_weights
from fedgru.algorithms.fed_avg import FedAvg, ServerState
from fedgru.algorithms.per_client import (
    PerClient,
    Tools,
    Visit,
    apply_half,
    as_own,
    with_arrays,
)
from fedgru.algorithms.sent import Sent
from fedgru.core.types import AnyInts, Weights


class MimeLite(PerClient):
    """Local SGD with one momentum m for all clients, fixed during the round.

    With beta the momentum and eta the step size, each local step and the server compute

        y <- y - eta * ((1 - beta) * g_i(y) + beta * m)
        m <- (1 - beta) * mean of the clients' gradients at the received weights + beta * m

    The gradients at the received weights take another pass over the data. beta = 0 is the server
    half to the bit.

    Args:
        server_half: FedAvg or FedSubAvg, whose client rule has optimizer sgd.
        momentum: beta, from 0 to below 1.

    Source: Karimireddy et al. 2021 (arXiv:2008.03606), Algorithm 1 without the parts of Mime, with
        SGD with momentum as the base algorithm. Here a client's gradient is the mean over its
        local steps, and clients count by their examples.
    """

    name: ClassVar[str] = "mime_lite"
    sent: ClassVar[Sent] = Sent(down=2, up=2)
    _slots = ("momentum", "gradient")

    def __init__(self, server_half: FedAvg, momentum: float) -> None:
        rule = server_half.client_rule
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}, expected from 0 to below 1")
        if rule.optimizer != "sgd":
            raise ValueError(f"MimeLite needs clients with optimizer sgd, not {rule.optimizer}")
        kept = 1.0 - momentum
        super().__init__(
            server_half, replace(rule, client_lr=rule.client_lr * kept, by_client=True)
        )
        self.momentum = momentum

    def init(self, weights: Weights) -> ServerState:
        state = self.server_half.init(weights)
        own = {slot: {n: np.zeros_like(w) for n, w in weights.items()} for slot in self._slots}
        return replace(state, optimizer={**state.optimizer, **own})

    def before_round(
        self, tools: Tools, state: ServerState, cohort: AnyInts
    ) -> tuple[ServerState, Mapping[int, Any]]:
        if not self.momentum:
            return state, {}
        at_received = ClientRule("sgd", 1.0, 1, at_received=True)
        total = self.server_half.start(state.weights)
        for update in tools.updates(at_received, state.weights, cohort):
            scale = np.float32(-1.0 / update.num_steps)
            total.add(with_arrays(update, {n: scale * a for n, a in as_own(update).items()}))
        if not len(total):
            return state, {}
        gradient = self.server_half.mean_update(total)
        return replace(state, optimizer={**state.optimizer, "gradient": gradient}), {}

    def start_of(self, visit: Visit) -> ClientStart:
        own = own_weights(visit.state.weights, visit.row_ids)
        # the rule's step size has the factor 1 - beta
        scale = np.float32(self.momentum / (1.0 - self.momentum))
        momentum = own_weights(visit.state.optimizer["momentum"], visit.row_ids)
        return ClientStart(own, {name: scale * m for name, m in momentum.items()})

    def apply(self, state: ServerState, total: Any) -> ServerState:
        beta = np.float32(self.momentum)
        gradient = state.optimizer["gradient"]
        momentum = {
            name: (1 - beta) * gradient[name] + beta * m
            for name, m in state.optimizer["momentum"].items()
        }
        slots = {"momentum": momentum, "gradient": gradient}
        return apply_half(self.server_half, state, total, self._slots, slots)
