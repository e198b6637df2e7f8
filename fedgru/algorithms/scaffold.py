"""SCAFFOLD (Karimireddy et al. 2020): control variates take the drift out of local steps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from fedgru.algorithms.client_start import ClientStart, own_weights
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState, Total, UpdateSum
from fedgru.algorithms.per_client import (
    Arrays,
    PerClient,
    Tools,
    Visit,
    apply_half,
    as_own,
    with_arrays,
)
from fedgru.algorithms.sent import Sent
from fedgru.core.types import AnyInts, Weights


class Scaffold(PerClient):
    """Each local step is corrected by what the client's gradients differ from everybody's.

    With the server's control c, the client's c_i, step size eta and K local steps,

        y <- y - eta * (g_i(y) - c_i + c)                       in each step, from y = x
        c_i+ = c_i - c + (x - y) / (K * eta)                    option II
        x <- mean update, as in the server half;  c <- c + 1/N * sum of (c_i+ - c_i) over the cohort

    All controls are zero at first, so round 1 is that of the server half to the bit; with a single
    client every round is. K counts local steps, not epochs.

    A client owns few rows of the table, and moves only those. Where the server half averages a row
    over its owners, the row's c is the mean over the owners that have taken part so far; else it
    is divided by N like every other weight.

    Args:
        server_half: FedAvg or FedSubAvg, whose client rule has optimizer sgd.

    Source: Karimireddy et al. 2020 (arXiv:1910.06378), Algorithm 1. There the cohort's updates
        have equal weights; here those of the server half.
    """

    name: ClassVar[str] = "scaffold"
    keeps: ClassVar[bool] = True
    sent: ClassVar[Sent] = Sent(down=2, up=2)
    _slots = ("control", "owners", "num_clients")

    def __init__(self, server_half: FedAvg) -> None:
        rule = server_half.client_rule
        if rule.optimizer != "sgd":
            raise ValueError(f"SCAFFOLD needs clients with optimizer sgd, not {rule.optimizer}")
        super().__init__(server_half, replace(rule, by_client=True))
        self._over_owners = server_half.over_owners

    def init(self, weights: Weights) -> ServerState:
        state = self.server_half.init(weights)
        zeros = {name: np.zeros_like(w) for name, w in weights.items()}
        owners = {"rows": np.zeros(len(weights["rows"]), np.float32)}
        own = {"control": zeros, "owners": owners, "num_clients": 0}
        return replace(state, optimizer={**state.optimizer, **own})

    def before_round(
        self, tools: Tools, state: ServerState, cohort: AnyInts
    ) -> tuple[ServerState, Mapping[int, Any]]:
        num_clients = len(tools.training_clients)
        return replace(state, optimizer={**state.optimizer, "num_clients": num_clients}), {}

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        return WithControls(self.server_half.start(weights, row_ids), weights)

    def start_of(self, visit: Visit) -> ClientStart:
        own = own_weights(visit.state.weights, visit.row_ids)
        control = own_weights(visit.state.optimizer["control"], visit.row_ids)
        kept = visit.kept or {}
        return ClientStart(own, {n: c - kept[n] if kept else c for n, c in control.items()})

    def finish(
        self, visit: Visit, start: ClientStart | None, update: ClientUpdate
    ) -> tuple[ClientUpdate, Arrays | None]:
        assert start is not None and start.offset is not None, "the rule is by client"
        # c_i+ = -(c - c_i) - (y - x) / (K * eta)
        scale = np.float32(1.0 / (update.num_steps * self.client_rule.client_lr))
        moved = as_own(update)
        new = {n: -offset - scale * moved[n] for n, offset in start.offset.items()}
        kept = visit.kept
        changes = new if kept is None else {n: c - kept[n] for n, c in new.items()}
        return replace(update, extra=changes, measured=kept is None), new

    def apply(self, state: ServerState, total: Any) -> ServerState:
        controls, owners = total.controls, state.optimizer["owners"]["rows"]
        num_clients = state.optimizer["num_clients"]
        share = np.float32(1.0 / num_clients)
        control = dict(state.optimizer["control"])
        seen = owners + total.new_owners
        for name, change in controls.dense.items():
            control[name] = control[name] + share * change
        if self._over_owners:
            summed = control["rows"] * owners[:, None] + controls.rows
            control["rows"] = summed / np.maximum(seen, 1)[:, None]
        else:
            control["rows"] = control["rows"] + share * controls.rows
        slots = {"control": control, "owners": {"rows": seen}, "num_clients": num_clients}
        return apply_half(self.server_half, state, total.updates, self._slots, slots)


class WithControls:
    """The server half's Total, and the sum of the changes of the clients' controls.

    Args:
        updates: the Total.
        weights: name -> float32 array.
    """

    def __init__(self, updates: Total, weights: Weights) -> None:
        self.updates, self.controls = updates, UpdateSum(weights)
        self.new_owners = np.zeros(len(weights["rows"]), np.float32)

    def __len__(self) -> int:
        return len(self.updates)

    def add(self, update: ClientUpdate) -> None:
        """Add one ClientUpdate, with `extra` the change of its control."""
        assert update.extra is not None, "SCAFFOLD's clients send the change of their control"
        self.updates.add(update)
        self.controls.add(replace(with_arrays(update, update.extra), num_examples=1))
        if update.measured:
            self.new_owners[update.row_ids] += 1

    def merge(self, other: "WithControls") -> None:
        """Add another one, over all rows."""
        raise NotImplementedError(
            "scaffold cannot merge sums of parts of a cohort: its clients train in one process"
        )
