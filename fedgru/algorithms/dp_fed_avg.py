"""Federated averaging with differential privacy for each client (DP-FedAvg and DP-FTRL)."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState, Total, UpdateSum
from fedgru.algorithms.private import Private
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.algorithms.update_list import norm
from fedgru.core import seeding
from fedgru.core.errors import TrainingError
from fedgru.core.types import AnyInts, Floats, Weights
from fedgru.privacy import correlated
from fedgru.privacy.plan import Plan

# float32 rounds each number of a clipped update by 2^-24 of it at most: so it stays within the norm
BELOW = 1 - 2**-22
NOISE = "noise_"  # slots with the noise of the rounds before, the last one first


class DPFedAvg(FedAvg):
    """The mean of clipped updates, with noise, divided by the expected size of the cohort.

    With client k's whole update x_k, all rows of the table included, clip C, noise z, and q n
    clients expected in a round,

        mean update = (sum of x_k min(1, C / ||x_k||) + z C N(0, 1)) / (q n)

    The size of the cohort that was drawn does not enter: it would have to be noised, too. With
    correlated noise the N(0, 1) of round t is that of `fedgru.privacy.correlated`.

    Args:
        server_optimizer, client_rule: as for FedAvg.
        plan: Plan; None until `planned`, which needs the number of clients.

    Source: McMahan et al. 2018 (arXiv:1710.06963), Algorithm 1 with flat clipping and the estimator
        f_f; Choquette-Choo et al. 2023 (arXiv:2306.08153) for correlated noise; Andrew et al. 2021
        (arXiv:1905.03871), Algorithm 1, for the adaptive clip. Every client counts equally.
    """

    name = "dp_fed_avg"

    def __init__(
        self,
        server_optimizer: ServerOptimizer,
        client_rule: ClientRule = DEFAULT_RULE,
        plan: Plan | None = None,
    ) -> None:
        super().__init__(server_optimizer, client_rule)
        self._plan = plan
        self._clip = None if plan is None else plan.clip

    @property
    def plan(self) -> Plan:
        """The Plan."""
        assert self._plan is not None, "the noise is not known before `planned`"
        return self._plan

    def planned(self, plan: Plan) -> DPFedAvg:
        """Return the algorithm with a Plan."""
        return type(self)(self.server_optimizer, self.client_rule, plan)

    def in_round(self, state: ServerState) -> DPFedAvg:
        """Return the algorithm with the clip of the round after a state."""
        assert state.private is not None, "a state of another algorithm"
        found = copy.copy(self)
        found._clip = state.private.clip
        return found

    def init(self, weights: Weights) -> ServerState:
        """See FedAvg.init; without a Plan the state is that of no round that can be run."""
        if self._plan is None:
            return super().init(weights)
        zeros = {name: np.zeros_like(array) for name, array in weights.items()}
        slots = {f"{NOISE}{back}": zeros for back in range(1, self.plan.bands)}
        private = Private(self.plan.epsilon(0), self.plan.clip)
        return ServerState(weights, self.server_optimizer.init(weights) | slots, 0, private=private)

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        assert self._clip is not None, "the clip is not known before `planned`"
        return ClippedSum(weights, row_ids, self._clip)

    def mean_update(self, total: Any) -> Weights:
        """Refused: a mean without noise protects nobody."""
        raise TypeError("a private mean belongs to a round: use apply")

    def apply(self, state: ServerState, total: Any) -> ServerState:
        """Return the ServerState after a round; `total` is from `start` of `in_round`."""
        assert state.private is not None, "a state of another algorithm"
        plan, round_num = self.plan, state.round_num + 1
        mean, slots = self.noised_mean(state, total)
        own = {n: slot for n, slot in state.optimizer.items() if not n.startswith(NOISE)}
        weights, own = self.server_optimizer.apply(state.weights, mean, own)
        clip = state.private.clip
        if plan.quantile is not None:
            generator = seeding.rng(plan.seed, "count of short updates", round_num)
            count = total.num_short - len(total) / 2 + plan.count_noise * generator.normal()
            clip = plan.adapt(clip, count)
        private = Private(plan.epsilon(round_num), clip)
        return ServerState(weights, own | slots, round_num, private=private)

    def noised_mean(
        self, state: ServerState, total: ClippedSum
    ) -> tuple[Weights, dict[str, Weights]]:
        """Return the mean update of the round after a state, and the noise that it keeps as slots.

        It is what the guarantee is for: whoever sees it sees no more than epsilon allows.
        """
        noise, slots = self._noise(state, state.round_num + 1)
        size = np.float32(self.plan.update_noise * total.clip)
        scale = np.float32(1.0 / self.plan.cohort)
        sums = total.dense | {"rows": total.rows}
        mean = {name: (sums[name] + size * noise[name]) * scale for name in state.weights}
        return mean, slots

    def _noise(self, state: ServerState, round_num: int) -> tuple[Weights, dict[str, Weights]]:
        """Return a round's noise, of deviation 1 if it is independent, and the slots to keep."""
        plan = self.plan
        generator = seeding.rng(plan.seed, "privacy", round_num)
        shapes = {name: np.shape(state.weights[name]) for name in sorted(state.weights)}
        noise: dict[str, Floats] = {
            name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()
        }
        if plan.bands == 1:
            return noise, {}
        # C y = z, row by row: c_0 y_t = z_t - c_1 y_(t-1) - c_2 y_(t-2) ...
        first, *others = correlated.coefficients(plan.bands)
        before = [state.optimizer[f"{NOISE}{back}"] for back in range(1, plan.bands)]
        for name, values in noise.items():
            for coefficient, past in zip(others, before, strict=True):
                values -= np.float32(coefficient) * past[name]
            values /= np.float32(first)
        kept = [noise, *before[:-1]]
        return noise, {f"{NOISE}{back}": slot for back, slot in enumerate(kept, start=1)}


class ClippedSum(UpdateSum):
    """The sum of clipped updates, each counted once.

    Args:
        weights, row_ids: as for UpdateSum.
        clip: the largest norm of an update.

    Attributes:
        num_short: how many updates were no longer than the clip.
    """

    def __init__(
        self, weights: Weights, row_ids: AnyInts | None = None, clip: float = math.inf
    ) -> None:
        super().__init__(weights, row_ids)
        self.clip, self.num_short = clip, 0

    def add(self, update: ClientUpdate, factor: float = 1.0) -> None:
        """Add one ClientUpdate that counts as one example; errors as UpdateSum.add.

        Raises:
            TrainingError: if it counts as more, or its norm is not finite.
        """
        length = norm(update)
        if update.num_examples != 1 or not math.isfinite(length):
            raise TrainingError(
                f"client {update.client} sent an update of norm {length:g} that counts as "
                f"{update.num_examples}: with differential privacy all clients count as 1."
            )
        is_short = length <= self.clip
        super().add(update, factor if is_short else factor * BELOW * self.clip / length)
        self.num_short += is_short

    def merge(self, other: UpdateSum) -> None:
        """See UpdateSum.merge."""
        super().merge(other)
        assert isinstance(other, ClippedSum), "a part of a sum is made as the whole"
        self.num_short += other.num_short
