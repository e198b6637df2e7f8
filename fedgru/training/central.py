"""Central training: what the same model learns if all check-ins are in one place.

A baseline: it shows what federated averaging gives up. One optimizer goes through the train pairs
of all clients; a round is `local_epochs` passes, as much data as a federated round of all clients.
"""

import numpy as np

from fedgru.agnostic import protection
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.fed_avg import ServerState
from fedgru.core.types import Ints, Row
from fedgru.engines.base import RoundResult, check_diverged
from fedgru.engines.jax.central import CentralEngine
from fedgru.task.task import Task
from fedgru.training.loop import KeepsNothing
from fedgru.training.rounds import validate


class CentralTraining(KeepsNothing):
    """What `loop.train` repeats, see the module's docstring.

    The ServerState's `optimizer` holds the one optimizer's slots, "m" and "v" for Adam, and
    "step", its steps so far.

    Args:
        task: Task.
    """

    def __init__(self, task: Task) -> None:
        # without FedProx's term, the distance from the received weights: here no weights are sent
        self.engine = CentralEngine(task, ClientRule.of(task.settings.client))

    @property
    def task(self) -> Task:
        return self.engine.task

    @property
    def _slots(self) -> tuple[str, ...]:
        return ("m", "v") if self.engine.client_rule.optimizer == "adam" else ()

    def init(self) -> ServerState:
        """Return the ServerState before round 1."""
        weights = protection.init_weights(self.task)
        slots = {slot: {n: np.zeros_like(w) for n, w in weights.items()} for slot in self._slots}
        return ServerState(weights, slots | {"step": np.int64(0)}, 0)

    def run_round(self, state: ServerState, cohort: Ints) -> RoundResult:
        """Train on all clients' pairs for one round; `cohort` is all clients with train data.

        Returns:
            RoundResult.

        Raises:
            TrainingError: if the loss is not finite, or passes DIVERGED_LOSS.
        """
        round_num, weights = state.round_num + 1, state.weights
        slots = tuple(state.optimizer[name] for name in self._slots)
        step, sums, num_examples = int(state.optimizer["step"]), np.zeros(5), 0
        for epoch in range(self.engine.client_rule.local_epochs):
            weights, slots, step, pass_sums, examples = self.engine.run_pass(
                weights, slots, step, cohort, round_num, epoch
            )
            sums += pass_sums
            num_examples += examples
        metrics = {"loss": sums[0] / num_examples, "acc@1": sums[1] / num_examples}
        check_diverged(self.task.settings, metrics["loss"], round_num)
        optimizer = {
            name: {n: np.asarray(s) for n, s in slot.items()}
            for name, slot in zip(self._slots, slots, strict=True)
        }
        weights = {name: np.asarray(w) for name, w in weights.items()}
        after = ServerState(weights, optimizer | {"step": np.int64(step)}, round_num)
        return RoundResult(after, metrics, len(cohort), num_examples)

    def validate(self, state: ServerState) -> Row:
        """Return {"val/metric/average": value}, see `rounds.validate`."""
        return validate(self.engine, state)
