"""One round of federated averaging: who answers, what they send, what the server makes of it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fedgru.agnostic import protection
from fedgru.algorithms import faults
from fedgru.algorithms.dp_fed_avg import DPFedAvg
from fedgru.algorithms.fed_avg import ServerState
from fedgru.algorithms.per_client import PerClient
from fedgru.algorithms.protocol import Algorithm
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.core.types import Ints, Row
from fedgru.engines.base import Engine, Gathered, RoundResult, advice, check_diverged
from fedgru.evaluation.backdoor import success_rate
from fedgru.evaluation.evaluate import Forward, evaluate
from fedgru.privacy.plan import Plan, make_plan
from fedgru.storage.client_store import ClientStore
from fedgru.task.round_task import RoundTask
from fedgru.training.per_client import PerClientRounds, evaluate_personal


class FederatedTraining:
    """What `loop.train` repeats: rounds of an algorithm, whose clients an engine trains.

    Args:
        engine: Engine.
        algorithm: Algorithm.
        store: ClientStore, if the algorithm keeps something for clients; None for a temporary one.
        plan: with differential privacy, the Plan of a run; None makes it.

    Raises:
        ConfigError: if the settings ask for differential privacy, and the algorithm is another.
    """

    def __init__(
        self,
        engine: Engine[Any],
        algorithm: Algorithm,
        store: ClientStore | None = None,
        plan: Plan | None = None,
    ) -> None:
        settings = engine.task.settings
        if settings.privacy.is_on and not isinstance(algorithm, DPFedAvg):
            raise ConfigError(f"{algorithm.name} does not go with `dp_clip`: it adds no noise.")
        if isinstance(algorithm, DPFedAvg):
            plan = plan or make_plan(settings, len(engine.task.training_clients))
            algorithm = algorithm.planned(plan)
        self.engine, self.algorithm = engine, algorithm
        self.per_client: PerClientRounds | None = None
        if isinstance(algorithm, PerClient):
            self.per_client = PerClientRounds(engine, algorithm, store)

    @property
    def task(self) -> RoundTask:
        return self.engine.task

    def init(self) -> ServerState:
        """Return the ServerState before round 1."""
        return self.algorithm.init(protection.init_weights(self.task))

    def run_round(self, state: ServerState, cohort: Ints) -> RoundResult:
        """Return the RoundResult of a round of this cohort, see `run_round`."""
        return run_round(self.engine, self.algorithm, state, cohort, self.per_client)

    def validate(self, state: ServerState) -> Row:
        """Return {"val/metric/average": value}, see `validate`."""
        if self.per_client is not None and self.per_client.algorithm.personal:
            found = evaluate_personal(
                self.engine,
                self.per_client.algorithm,
                state.weights,
                self.per_client.store,
                "val",
                clients=self.engine.task.validation_clients,
            )
            return found.summary() | success_rate(self.engine.task, found)
        return validate(self.engine, state)

    def commit(self, needed: Iterable[int], everywhere: bool = False) -> None:
        """Bring what clients keep to the disk; see `ClientStore.commit`."""
        if self.per_client is not None and self.per_client.algorithm.keeps:
            self.per_client.store.commit(needed, everywhere)

    def go_back_to(self, round_num: int) -> None:
        """Forget what clients kept after a round."""
        if self.per_client is not None and self.per_client.algorithm.keeps:
            self.per_client.store.go_back_to(round_num)

    def close(self) -> None:
        """Close what goes with the engine, but not the engine itself."""
        if self.per_client is not None:
            self.per_client.close()


def validate(engine: Forward, state: ServerState) -> Row:
    """Return {"val/metric/average": value}: of all clients, or of `eval_clients` drawn ones."""
    drawn = engine.task.validation_clients
    found = evaluate(engine, state.weights, "val", clients=drawn)
    return found.summary() | success_rate(engine.task, found)


def run_round(
    engine: Engine[Any],
    algorithm: Algorithm,
    state: ServerState,
    cohort: Ints,
    per_client: PerClientRounds | None = None,
) -> RoundResult:
    """Let the cohort train on the state's weights, and the algorithm apply what it sends.

    Args:
        engine: Engine.
        algorithm: Algorithm.
        state: ServerState.
        cohort: int [cohort], indices of clients.
        per_client: PerClientRounds, if the algorithm is a PerClient.

    Returns:
        RoundResult.

    Raises:
        TrainingError: if no update is usable, or more than half are not (it names the round and
            the first client); if the loss passes DIVERGED_LOSS.
        ValueError: if the engine was made for another client rule than the algorithm's.
    """
    if engine.client_rule != algorithm.client_rule:
        raise ValueError(
            f"the engine trains clients by {engine.client_rule}, but {algorithm.name} asks for "
            f"{algorithm.client_rule}: make the engine with client_rule=algorithm.client_rule"
        )
    if isinstance(algorithm, PerClient) and per_client is None:
        raise ValueError(f"{algorithm.name} needs what its clients keep: use FederatedTraining")
    if engine.runs_whole_rounds:
        return engine.run_round(algorithm, state, cohort)
    task, round_num = engine.task, state.round_num + 1
    if isinstance(algorithm, DPFedAvg):
        return _private_round(engine, algorithm.in_round(state), state, cohort)
    protected, constants = task.protection, None
    cohort, gone = faults.drop_out(task, cohort, round_num)
    found = {faults.DROPPED_OUT: gone} if gone else {}
    if len(cohort) < task.settings.faults.min_clients:
        return _skipped(task, state, found)
    if protected is not None:
        state, constants = protected.before_round(engine, state, cohort)
    if per_client is None:
        gathered = engine.gather(algorithm, state.weights, cohort, round_num, constants)
    else:
        state, own = per_client.begin(state, cohort)
        received = per_client.algorithm.received(state.weights)
        gathered = engine.gather(algorithm, received, cohort, round_num, constants, own)
    total = gathered.total
    found |= gathered.by_reason(cohort)
    check_usable(task, found, len(cohort), round_num)
    if len(total) < task.settings.faults.min_clients:
        return _skipped(task, state, found)
    metrics = {
        "loss": gathered.loss_sum / gathered.num_examples,
        "acc@1": gathered.num_correct / gathered.num_examples,
    }
    check_diverged(task.settings, metrics["loss"], round_num)
    after = algorithm.apply(state, total)
    if protected is not None:
        after = protected.after_round(engine, after, cohort)
        metrics |= protected.round_metrics(constants, gathered.protected)
    return RoundResult(after, metrics, len(total), gathered.num_examples, found)


def _private_round(
    engine: Engine[Any], algorithm: DPFedAvg, state: ServerState, cohort: Ints
) -> RoundResult:
    """As `run_round`, with differential privacy: also without clients, and without their losses.

    A round without an update is not skipped: that would reveal that the cohort was empty.
    """
    task, round_num = engine.task, state.round_num + 1
    cohort, gone = faults.drop_out(task, cohort, round_num)
    found = {faults.DROPPED_OUT: gone} if gone else {}
    if len(cohort):
        gathered = engine.gather(algorithm, state.weights, cohort, round_num)
    else:
        gathered = Gathered(task.settings, algorithm.start(state.weights))
    found |= gathered.by_reason(cohort)
    check_usable(task, found, len(cohort), round_num)
    after = algorithm.apply(state, gathered.total)
    unknown = dict.fromkeys(("loss", "acc@1"), float("nan"))
    return RoundResult(after, unknown, len(gathered.total), gathered.num_examples, found)


def _skipped(task: RoundTask, state: ServerState, found: dict[str, list[int]]) -> RoundResult:
    """A round that changes nothing: too few clients sent what can be used."""
    protected = task.protection
    names = ("loss", "acc@1", *(protected.metric_names if protected else ()))
    metrics = dict.fromkeys(names, float("nan"))
    return RoundResult(replace(state, round_num=state.round_num + 1), metrics, 0, 0, found)


def check_usable(
    task: RoundTask, found: dict[str, list[int]], num_answers: int, round_num: int
) -> None:
    """Raise if most updates cannot be used: then training has failed, not single clients."""
    unusable = [client for why in faults.REJECTED for client in found.get(why, [])]
    if 2 * len(unusable) <= num_answers:
        return
    first = task.clients.client_ids[unusable[0]]
    if faults.NOT_FINITE in found:
        what = "training loss became NaN"
    else:
        what = f"training diverged: {len(unusable)} of {num_answers} updates cannot be used"
    raise TrainingError(
        f"{what} in round {round_num} (client {first} first). {advice(task.settings, round_num)}"
    )
