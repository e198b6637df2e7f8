"""Engine: where local training and the forward pass run. Any engine gives the same numbers."""

from dataclasses import dataclass, field, replace

from fedgru.algorithms import faults
from fedgru.algorithms.fed_avg import NoUpdate, ServerState
from fedgru.core.errors import TrainingError

DIVERGED_LOSS = 100.0  # nats; the uniform guess over 27 classes has 3.3, over 10,000 has 9.2


@dataclass(frozen=True)
class RoundResult:
    """What one round gives.

    Attributes:
        state: ServerState after the round.
        metrics: "loss" and "acc@1" over all targets trained on, each at the moment it was used.
        num_clients: clients in the mean; 0 in a round that was skipped.
        num_examples: targets trained on, counting each local epoch.
        faults: what went wrong -> indices of the clients, see `fedgru.algorithms.faults`; empty if
            nothing.
    """

    state: ServerState
    metrics: dict[str, float]
    num_clients: int
    num_examples: int
    faults: dict[str, list[int]] = field(default_factory=dict)


class Gathered:
    """What a cohort, or a part of it, sent: the usable updates added up, and who sent none.

    Attributes:
        total: what the algorithm's `start` gave.
        loss_sum, num_correct, protected: sums over the usable updates, see ClientUpdate.
        unusable: index of a client -> why it has no part in the sums, see
            `fedgru.algorithms.faults`.
    """

    def __init__(self, total):
        self.total = total
        self.loss_sum = self.num_correct = self.protected = 0.0
        self.unusable = {}

    def add(self, task, update, weights, round_num):
        """Add one ClientUpdate, as its client sends it, unless there is none or it is of no use."""
        if isinstance(update, NoUpdate):
            self.unusable[update.client] = update.why
            return
        update = faults.tamper(task, update, round_num)
        why = faults.problem(update, weights)
        if why is not None:
            self.unusable[update.client] = why
            return
        self.total.add(update)
        self.loss_sum += update.loss_sum
        self.num_correct += update.num_correct
        self.protected = self.protected + update.protected

    def merge(self, other):
        """Add what another part of the cohort sent."""
        self.total.merge(other.total)
        self.loss_sum += other.loss_sum
        self.num_correct += other.num_correct
        self.protected = self.protected + other.protected
        self.unusable |= other.unusable

    def by_reason(self, cohort):
        """Return {why: indices of clients} of the unusable updates, in the cohort's order."""
        found = {}
        for client in map(int, cohort):
            if client in self.unusable:
                found.setdefault(self.unusable[client], []).append(client)
        return found


class Engine:
    """What every engine offers.

    A subclass fills in `hidden_states`, and `local_updates` unless its `run_round` is its own.
    """

    name = "none"

    def __init__(self, task):
        self.task = task

    def __str__(self):
        return self.name

    @property
    def computes_with(self):
        """What the last digits depend on, in words: a resumed run says if it has changed."""
        return self.name

    def choose_local_loop(self, began_with=None):
        """Find out what trains a client fastest on this machine, where there is a choice.

        Args:
            began_with: `computes_with` of the run that is resumed; None for a new one.
        """

    def close(self):
        """Give back what the engine holds beside memory: processes. Used again, it starts anew."""

    def local_updates(self, weights, cohort, round_num, constants=None):
        """Yield the ClientUpdate, or NoUpdate, of each client of the cohort, in its order.

        `constants` is what `Protection.before_round` gives, where the task has a Protection.
        """
        raise NotImplementedError(
            f"engine {self.name} gives no updates of single clients: it needs local_updates, or a "
            "run_round of its own"
        )

    def gather(self, algorithm, weights, cohort, round_num, constants=None):
        """Return the Gathered of the cohort: each client's update made, checked and added."""
        gathered = Gathered(algorithm.start(weights))
        for update in self.local_updates(weights, cohort, round_num, constants):
            gathered.add(self.task, update, weights, round_num)
        return gathered

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
            TrainingError: if no update is usable, or more than half are not; names the round and
                the first client. If the loss passes DIVERGED_LOSS.
        """
        round_num, protection, constants = state.round_num + 1, self.task.protection, None
        cohort, gone = faults.drop_out(self.task, cohort, round_num)
        found = {faults.DROPPED_OUT: gone} if gone else {}
        if len(cohort) < self.task.settings.faults.min_clients:
            return self._skipped(state, found)
        if protection is not None:
            state, constants = protection.before_round(self, state, cohort)
        gathered = self.gather(algorithm, state.weights, cohort, round_num, constants)
        total = gathered.total
        found |= gathered.by_reason(cohort)
        self._check_usable(found, len(cohort), round_num)
        if len(total) < self.task.settings.faults.min_clients:
            return self._skipped(state, found)
        metrics = {
            "loss": gathered.loss_sum / total.num_examples,
            "acc@1": gathered.num_correct / total.num_examples,
        }
        self.check_diverged(metrics["loss"], round_num)
        after = algorithm.apply(state, total)
        if protection is not None:
            after = protection.after_round(self, after, cohort)
            metrics |= protection.round_metrics(constants, gathered.protected)
        return RoundResult(after, metrics, len(total), total.num_examples, found)

    def _skipped(self, state, found):
        """A round that changes nothing: too few clients answered with what can be used."""
        protection = self.task.protection
        names = ("loss", "acc@1", *(protection.metric_names if protection else ()))
        metrics = dict.fromkeys(names, float("nan"))
        return RoundResult(replace(state, round_num=state.round_num + 1), metrics, 0, 0, found)

    def _check_usable(self, found, num_answers, round_num):
        """Stop where most of the cohort cannot be used: that is training, not single clients."""
        unusable = [client for why in faults.REJECTED for client in found.get(why, [])]
        if 2 * len(unusable) <= num_answers:
            return
        first = self.task.clients.client_ids[unusable[0]]
        if faults.NOT_FINITE in found:
            what = "training loss became NaN"
        else:
            what = f"training diverged: {len(unusable)} of {num_answers} updates cannot be used"
        raise TrainingError(
            f"{what} in round {round_num} (client {first} first). {self._advice(round_num)}"
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
