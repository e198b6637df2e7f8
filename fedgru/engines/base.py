"""Engine: where local training and the forward pass run. Any engine gives the same numbers."""

from dataclasses import dataclass

import numpy as np

from fedgru.algorithms.fed_avg import ServerState, UpdateSum
from fedgru.errors import TrainingError

DIVERGED_LOSS = 100.0  # nats; the uniform guess over 27 classes has 3.3, over 10,000 has 9.2


@dataclass(frozen=True)
class RoundResult:
    """What one round gives.

    Attributes:
        state: ServerState after the round.
        metrics: "loss" and "acc@1" over all targets trained on, each at the moment it was used.
        num_clients: clients in the mean.
        num_examples: targets trained on, counting each local epoch.
    """

    state: ServerState
    metrics: dict[str, float]
    num_clients: int
    num_examples: int


class Engine:
    """What every engine offers.

    A subclass fills in `hidden_states`, and `local_updates` unless its `run_round` is its own.
    """

    name = "none"

    def __init__(self, task):
        self.task = task

    def local_updates(self, weights, cohort, round_num, constants=None):
        """Yield the ClientUpdate of each client of the cohort, in the cohort's order.

        `constants` is what `Protection.before_round` gives, where the task has a Protection.
        """
        raise NotImplementedError(
            f"engine {self.name} gives no updates of single clients: it needs local_updates, or a "
            "run_round of its own"
        )

    def hidden_states(self, weights, first_positions, end_positions, wanted):
        """Return the representation at some inputs, float32 [num_wanted, hidden_dim].

        Args:
            weights: name -> float32 array.
            first_positions, end_positions: int64 [num_clients]; each client's state is zero
                before its first position, and its check-ins are run through up to the end.
            wanted: int64 [num_wanted], positions of inputs within those ranges, ascending
                within a client.
        """
        raise NotImplementedError(f"engine {self.name} cannot evaluate: it needs hidden_states")

    def run_round(self, algorithm, state, cohort):
        """Train the cohort on the state's weights and let the algorithm apply the result.

        Args:
            algorithm: FedAvg or a subclass.
            state: ServerState.
            cohort: int [cohort], indices of clients.

        Returns:
            RoundResult.

        Raises:
            TrainingError: if a client's loss or update is not finite, or the loss passes
                DIVERGED_LOSS; names the client and the round.
        """
        round_num, protection, constants = state.round_num + 1, self.task.protection, None
        if protection is not None:
            state, constants = protection.before_round(self, state, cohort)
        total = UpdateSum(state.weights)
        loss_sum = num_correct = protected = 0.0
        for update in self.local_updates(state.weights, cohort, round_num, constants):
            self._check_finite(update, round_num)
            total.add(update)
            loss_sum += update.loss_sum
            num_correct += update.num_correct
            protected = protected + update.protected
        metrics = {
            "loss": loss_sum / total.num_examples,
            "acc@1": num_correct / total.num_examples,
        }
        self.check_diverged(metrics["loss"], round_num)
        after = algorithm.apply(state, total)
        if protection is not None:
            after = protection.after_round(self, after, cohort)
            metrics |= protection.round_metrics(constants, protected)
        return RoundResult(after, metrics, len(cohort), total.num_examples)

    def _check_finite(self, update, round_num):
        arrays = [update.row_update, *update.dense.values()]
        if np.isfinite(update.loss_sum) and all(np.isfinite(a).all() for a in arrays):
            return
        raise TrainingError(
            f"training loss became NaN in round {round_num} (client "
            f"{self.task.clients.client_ids[update.client]} first). {self._advice(round_num)}"
        )

    def check_diverged(self, loss, round_num, split="train"):
        """Raise a TrainingError if a round's loss is one that training does not come back from."""
        if not loss <= DIVERGED_LOSS:
            raise TrainingError(
                f"training diverged: the {split} loss of round {round_num} is {loss:.4g} nats, "
                f"far above that of guessing. {self._advice(round_num)}"
            )

    def _advice(self, round_num):
        settings = self.task.settings
        last = f"Last good state: round {round_num - 1}. " if round_num > 1 else ""
        return (
            f"{last}Try a smaller --client-lr (now {settings.client.client_lr:g}) or --server-lr "
            f"(now {settings.server.server_lr:g})."
        )
