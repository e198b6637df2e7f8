"""Engine: where local training and the forward pass run. Any engine gives the same numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from fedgru import algorithms
from fedgru.algorithms import attacks, faults
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.client_start import Starts
from fedgru.algorithms.fed_avg import ClientUpdate, NoUpdate, ServerState, counted_once
from fedgru.algorithms.protocol import Algorithm, Total
from fedgru.config.settings import Settings
from fedgru.core.errors import TrainingError
from fedgru.core.types import AnyFloats, AnyInts, Floats, Ints, Weights
from fedgru.task.round_task import RoundTask


class OwnParts(Protocol):
    """What differs by client in a round, see `fedgru.training.per_client.OneRound`."""

    @property
    def starts(self) -> Starts | None: ...

    def finish(self, update: ClientUpdate) -> ClientUpdate:
        """Return what a client sends."""

    def settle(self, client: int, is_used: bool) -> None:
        """Take note whether its update is used."""


Constants: TypeAlias = Mapping[str, Any]  # of a round, see `Protection.before_round`
AnyTask = TypeVar("AnyTask", bound=RoundTask)

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
    metrics: Mapping[str, float]
    num_clients: int
    num_examples: int
    faults: dict[str, list[int]] = field(default_factory=dict)


class Gathered:
    """What a cohort, or a part of it, sent: the sum of the usable updates, and who sent none.

    Args:
        settings: Settings, whose `client_weights` says what an update counts for in the total.
        total: what the algorithm's `start` gave.
        liars: attacks.Liars, if the attack has the liars act together; else None.

    Attributes:
        total: as given.
        num_examples, loss_sum, num_correct, protected: sums over the usable updates, see
            ClientUpdate.
        unusable: index of a client -> why its update is not in the sums, see
            `fedgru.algorithms.faults`.
    """

    def __init__(
        self, settings: Settings, total: Total, liars: attacks.Liars | None = None
    ) -> None:
        self.total, self._liars = total, liars
        self._counts_once = settings.server.client_weights == "equal"
        self.num_examples = 0
        self.loss_sum = self.num_correct = 0.0
        self.protected: AnyFloats | float = 0.0
        self.unusable: dict[int, str] = {}

    def add(
        self, task: RoundTask, update: ClientUpdate | NoUpdate, weights: Weights, round_num: int
    ) -> None:
        """Add one ClientUpdate as its client sends it, if there is one and it can be used.

        A liar's that is held back is added by `add_lies`.
        """
        if isinstance(update, NoUpdate):
            self.unusable[update.client] = update.why
        elif self._liars is None:
            self._add_sent(attacks.tamper(task, update, round_num), weights)
        elif update.client not in task.attackers:
            if self._add_sent(update, weights):
                self._liars.see(self._weighed(update))
        elif (why := faults.problem(update, weights)) is not None:
            self.unusable[update.client] = why
        else:
            self._liars.hold(update)

    def add_lies(self, weights: Weights) -> None:
        """Add what the liars send who act together; all of the cohort is in."""
        for sent in [] if self._liars is None else self._liars.send():
            self._add_sent(sent, weights)

    def _add_sent(self, sent: ClientUpdate, weights: Weights) -> bool:
        """Add what was sent; return whether it can be used."""
        why = faults.problem(sent, weights)
        if why is not None:
            self.unusable[sent.client] = why
            return False
        self.total.add(self._weighed(sent))
        self.num_examples += sent.num_examples
        self.loss_sum += sent.loss_sum
        self.num_correct += sent.num_correct
        self.protected = self.protected + sent.protected
        return True

    def _weighed(self, sent: ClientUpdate) -> ClientUpdate:
        """Return what was sent with the number of examples that it counts for."""
        return counted_once(sent) if self._counts_once else sent

    def merge(self, other: "Gathered") -> None:
        """Add what another part of the cohort sent."""
        self.total.merge(other.total)
        self.num_examples += other.num_examples
        self.loss_sum += other.loss_sum
        self.num_correct += other.num_correct
        self.protected = self.protected + other.protected
        self.unusable |= other.unusable
        if self._liars is not None and other._liars is not None:
            self._liars.merge(other._liars)

    def by_reason(self, cohort: AnyInts) -> dict[str, list[int]]:
        """Return {why: indices of clients} of the unusable updates, in the cohort's order."""
        found: dict[str, list[int]] = {}
        for client in map(int, cohort):
            if client in self.unusable:
                found.setdefault(self.unusable[client], []).append(client)
        return found


class Engine(Generic[AnyTask]):
    """What every engine offers.

    A subclass implements `hidden_states` and `local_updates`; or it sets `runs_whole_rounds` and
    implements `run_round` in place of `local_updates`.

    Args:
        task: Task.
        client_rule: ClientRule that clients train by; None takes that of the task's settings.
    """

    name = "none"
    runs_whole_rounds = False  # True where clients and server cannot be told apart
    compiles_with_jax = False

    def __init__(self, task: AnyTask, client_rule: ClientRule | None = None) -> None:
        self.task = task
        self.client_rule = client_rule or algorithms.from_settings(task.settings).client_rule

    def __str__(self) -> str:
        return self.name

    @property
    def computes_with(self) -> str:
        """What the last digits depend on, in words: a resumed run warns if it has changed."""
        return self.name

    @classmethod
    def check_here(cls, settings: Settings) -> None:
        """Raise an error if the engine cannot run on this machine; no engine is made.

        Args:
            settings: Settings.

        Raises:
            ConfigError, MissingEngineError: say what is missing.
        """

    def choose_local_loop(self, began_with: str | None = None) -> None:
        """Find out what trains a client fastest on this machine, where there is a choice.

        Args:
            began_with: `computes_with` of the run that is resumed; None for a new one.
        """

    def report_speed(self) -> None:
        """Log how long a round will take, where that is measured before round 1."""

    def close(self) -> None:
        """End the processes of the engine; if it is used again, it starts new ones."""

    def local_updates(
        self,
        weights: Weights,
        cohort: AnyInts,
        round_num: int,
        constants: Constants | None = None,
        starts: Starts | None = None,
    ) -> Iterator[ClientUpdate | NoUpdate]:
        """Yield the ClientUpdate, or NoUpdate, of each client of the cohort, in its order.

        `constants` is what `Protection.before_round` gives, where the task has a Protection.
        `starts` is given if the client rule is `by_client`: it is called once for each client, as
        a rule shortly before the client trains, also by several threads at the same time.
        """
        raise NotImplementedError(
            f"engine {self.name} gives no updates of single clients: it needs local_updates, or "
            "runs_whole_rounds and run_round"
        )

    def run_round(self, algorithm: Algorithm, state: ServerState, cohort: AnyInts) -> RoundResult:
        """Run a whole round, where the engine `runs_whole_rounds`.

        Arguments and result as those of `fedgru.training.rounds.run_round`.
        """
        raise NotImplementedError(f"engine {self.name} runs no whole rounds")

    def gather(
        self,
        algorithm: Algorithm,
        weights: Weights,
        cohort: AnyInts,
        round_num: int,
        constants: Constants | None = None,
        own: OwnParts | None = None,
    ) -> Gathered:
        """Return the Gathered of the cohort: each client's update made, checked and added.

        `own` is given if the algorithm is a `fedgru.algorithms.per_client.PerClient`.
        """
        liars = attacks.liars_of(self.task.settings, weights)
        gathered = Gathered(self.task.settings, algorithm.start(weights), liars)
        if own is None:
            for update in self.local_updates(weights, cohort, round_num, constants):
                gathered.add(self.task, update, weights, round_num)
            gathered.add_lies(weights)
            return gathered
        waiting = []
        for update in self.local_updates(weights, cohort, round_num, constants, own.starts):
            if isinstance(update, ClientUpdate):
                update = own.finish(update)
            gathered.add(self.task, update, weights, round_num)
            if liars is not None and update.client in self.task.attackers:
                waiting.append(update.client)
            else:
                own.settle(update.client, update.client not in gathered.unusable)
        gathered.add_lies(weights)
        for client in waiting:
            own.settle(client, client not in gathered.unusable)
        return gathered

    def hidden_states(
        self, weights: Weights, first_positions: Ints, end_positions: Ints, wanted: Ints
    ) -> Floats:
        """Return the representation at some inputs, float32 [num_wanted, hidden_dim].

        Args:
            weights: name -> float32 array.
            first_positions, end_positions: int64 [num_clients]; each client's state is zero
                before its first position, and the model runs over its check-ins up to the end.
            wanted: int64 [num_wanted], positions of inputs within those ranges, ascending
                within a client.
        """
        raise NotImplementedError(f"engine {self.name} cannot evaluate: it needs hidden_states")


def check_diverged(settings: Settings, loss: float, round_num: int, split: str = "train") -> None:
    """Raise a TrainingError if a round's loss, in nats, is beyond recovery."""
    if not loss <= DIVERGED_LOSS:
        raise TrainingError(
            f"training diverged: the {split} loss of round {round_num} is {loss:.4g} nats, "
            f"far above that of guessing. {advice(settings, round_num)}"
        )


def advice(settings: Settings, round_num: int) -> str:
    """Return what to do after a round that diverged."""
    last = f"Last good state: round {round_num - 1}. " if round_num > 1 else ""
    return (
        f"{last}Try a smaller `client_lr` (now {settings.client.client_lr:g}) or `server_lr` "
        f"(now {settings.server.server_lr:g})."
    )


def refuse_own_parts(engine: str, own: OwnParts | None) -> None:
    """Raise a ValueError if an engine is given what differs by client, and cannot use it."""
    if own is not None:
        raise ValueError(
            f"engine {engine} runs no algorithm whose clients differ: use engine jax or reference"
        )
