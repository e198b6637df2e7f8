"""The round loop: sample a cohort, run the round, evaluate, record, stop."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from fedgru.algorithms.fed_avg import ServerState
from fedgru.config.settings import Settings
from fedgru.core import metrics, seeding
from fedgru.core.errors import ConfigError
from fedgru.core.types import Ints, Row
from fedgru.engines.base import RoundResult, check_diverged
from fedgru.task.round_task import RoundTask
from fedgru.training.early_stopping import EarlyStopping

AVERAGES = ("micro", "macro")
Seconds: TypeAlias = dict[str, float]  # "train" and "val" -> how long they took
Fault: TypeAlias = tuple[int, str, str]  # (round_num, client_id, why)

logger = logging.getLogger(__name__)


class Training(Protocol):
    """What `train` repeats: `FederatedTraining`, `CentralTraining` or one of a deployment."""

    @property
    def task(self) -> RoundTask: ...

    def init(self) -> ServerState:
        """Return the ServerState before round 1."""

    def run_round(self, state: ServerState, cohort: Ints) -> RoundResult:
        """Run one round."""

    def validate(self, state: ServerState) -> Row:
        """Return {"val/metric/average": value}."""


class KeepsNothing:
    """A Training whose clients keep nothing from round to round."""

    def commit(self, needed: Iterable[int], everywhere: bool = False) -> None:
        """See FederatedTraining.commit."""

    def go_back_to(self, round_num: int) -> None:
        """See FederatedTraining.go_back_to."""

    def close(self) -> None:
        """See FederatedTraining.close."""


class Progress(Protocol):
    """A tqdm bar."""

    def set_postfix(self, ordered_dict: Any, refresh: bool) -> None: ...
    def update(self) -> Any: ...


@dataclass(frozen=True)
class Checkpoint:
    """Where training stands after a round: with the task, all that the next one depends on.

    It holds no state of random generators: each draw is a function of seed, purpose, round and
    client. What a Protection carries from round to round is in the weights.

    Attributes:
        state: ServerState after the round.
        best: ServerState of the round that is best so far; `state` itself if that is this one.
        stopping: EarlyStopping, as it stands.
        rows: for each round from 0 on, its (row, seconds), see `train`.
        faults: (round_num, client_id, why) of every client that dropped out or whose update was
            kept out of the mean, see `fedgru.algorithms.faults`.
    """

    state: ServerState
    best: ServerState
    stopping: EarlyStopping
    rows: tuple[tuple[Row, Seconds], ...]
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class TrainResult:
    """How training ended.

    Attributes:
        best: ServerState of the round that was best by the stop metric on validation.
        last: ServerState of the last round.
        best_value: the stop metric in the best round; None if no round counted.
        why: "all rounds done", or why it stopped early.
        faults: as in Checkpoint.
    """

    best: ServerState
    last: ServerState
    best_value: float | None
    why: str
    faults: tuple[Fault, ...] = ()


def train(
    training: Training,
    on_round: Callable[[int, Row, Seconds], str | None],
    on_checkpoint: Callable[[Checkpoint], object],
    progress: Progress | None = None,
    start: Checkpoint | None = None,
    on_faults: Callable[[list[Fault]], object] | None = None,
) -> TrainResult:
    """Train until the rounds are done or the stop metric no longer improves.

    With a protected concept only rounds under the final alpha may be the best: an earlier one still
    uses the concept, and the untrained network reveals all of it.

    Args:
        training: Training, whose rounds are repeated.
        on_round: called as on_round(round_num, row, seconds) after each round and, as round 0,
            before the first; row is {"split/metric/average": value}. Training stops after a
            round for which it returns a text, the reason.
        on_checkpoint: called with the Checkpoint after each round, round 0 too.
        progress: a tqdm bar over the rounds, or None.
        start: the Checkpoint to go on from; None starts before round 1. Either way the result is
            the same, bit for bit.
        on_faults: called with the list of a round's faults, if it has any; or None.

    Returns:
        TrainResult.

    Raises:
        ConfigError: for an unknown stop metric, before round 1.
        TrainingError: if training diverges.
    """
    task = training.task
    loop = task.settings.loop
    parse_stop_metric(loop.stop_metric)  # refuses an unknown one
    if start is None:
        start = _before_training(training)
        on_round(0, *start.rows[0])
        on_checkpoint(start)
    state, best, rows, faults = start.state, start.best, start.rows, start.faults
    stopping, untrained = replace(start.stopping), rows[0][0]
    why = None
    while state.round_num < loop.rounds and not (stopping.is_over or why):
        round_num = state.round_num + 1
        started = time.perf_counter()
        result = training.run_round(state, draw_cohort(task, round_num))
        state = result.state
        trained = time.perf_counter()
        found = _faults_of(task, round_num, result)
        faults = (*faults, *found)
        if found and on_faults is not None:
            on_faults(found)
        measured = {f"train/{name}/micro": value for name, value in result.metrics.items()}
        row = _plain({**measured, **_kept_row(state), **training.validate(state)})
        check_diverged(task.settings, number(row, "val/loss/micro"), round_num, "val")
        task.release()
        seconds = {"train": trained - started, "val": time.perf_counter() - trained}
        rows = (*rows, (row, seconds))
        why = on_round(round_num, row, seconds)
        improved = False
        if task.protection is None or task.protection.is_risen(round_num):
            improved, _ = stopping.report(round_num, number(row, loop.stop_metric))
        if improved:
            best = state
        on_checkpoint(Checkpoint(state, best, replace(stopping), rows, faults))
        _report(round_num, row, seconds, improved, progress, state)
    if stopping.is_over:
        why = f"{loop.stop_metric} has not improved in {loop.patience} rounds"
    elif not why:
        why = "all rounds done"
    _warn_of_best(training, best, stopping.best_value, untrained)
    return TrainResult(best, state, stopping.best_value, why, faults)


def _warn_of_best(
    training: Training, best: ServerState, best_value: float | None, untrained: Row
) -> None:
    """Warn if the round that is kept is none, or no better than before training."""
    task = training.task
    stop_metric = task.settings.loop.stop_metric
    if best_value is None:
        logger.warning("no round ran under the final alpha: what counts is the untrained model")
    elif best.round_num == 0:
        logger.warning(
            "no round was better than before training (%s %.4f): what counts is %s",
            stop_metric,
            best_value,
            "the prior alone" if task.spec.has_prior else "the untrained model",
        )
    elif task.protection is not None:
        metric = parse_stop_metric(stop_metric)
        _compare_with_untrained(stop_metric, metric, best_value, untrained)


def _faults_of(task: RoundTask, round_num: int, result: RoundResult) -> list[Fault]:
    """Return a round's faults as (round_num, client_id, why), and log them."""
    ids = task.clients.client_ids
    found = [(round_num, ids[c], why) for why, clients in result.faults.items() for c in clients]
    if found:
        listed = ", ".join(f"{len(clients)} {why}" for why, clients in result.faults.items())
        logger.info("round %d, clients: %s", round_num, listed)
    if not result.num_clients and not task.settings.privacy.is_on:
        logger.warning(
            "round %d was skipped, the weights stay: fewer usable updates than `min_clients` %d",
            round_num,
            task.settings.faults.min_clients,
        )
    return found


def make_stopping(settings: Settings) -> EarlyStopping:
    """Return the EarlyStopping that Settings ask for, before its first report.

    With differential privacy the last round is kept: the choice of another one would need the
    clients' validation data, which no noise covers.
    """
    loop = settings.loop
    metric = parse_stop_metric(loop.stop_metric)
    return EarlyStopping(
        metric.higher_is_better,
        loop.patience,
        loop.min_improvement,
        keeps_last=settings.privacy.is_on,
    )


def _before_training(training: Training) -> Checkpoint:
    """Return the Checkpoint of round 0."""
    task = training.task
    stopping = make_stopping(task.settings)
    state = training.init()
    started = time.perf_counter()
    untrained = _plain(training.validate(state))
    measured = ("loss", "acc@1", *(task.protection.metric_names if task.protection else ()))
    row: Row = {f"train/{name}/micro": None for name in measured}
    row |= _kept_row(state) | untrained
    if task.protection is None or task.protection.is_risen(0):
        stopping.report(0, number(untrained, task.settings.loop.stop_metric))
    seconds = {"train": 0.0, "val": time.perf_counter() - started}
    return Checkpoint(state, state, stopping, ((row, seconds),))


def _kept_row(state: ServerState) -> Row:
    """What a row of metrics.csv has of simulated time and of privacy."""
    return {
        k: v for kept in (state.simulated, state.private) if kept for k, v in kept.row().items()
    }


def _plain(row: Mapping[str, Any]) -> Row:
    """Return the same numbers as Python's own types, which JSON can hold."""
    return {key: v.item() if isinstance(v, np.generic) else v for key, v in row.items()}


def number(row: Row, key: str) -> float:
    """Return a value of a row that is there."""
    value = row[key]
    assert value is not None, f"{key} has no value"
    return value


def _compare_with_untrained(
    key: str, metric: metrics.Metric, best_value: float, untrained: Row
) -> None:
    """Log a warning if the best round under the final alpha is no better than the prior alone."""
    gain = best_value - number(untrained, key)
    if (gain if metric.higher_is_better else -gain) <= 0:
        logger.warning(
            "the best round under the final alpha (%s %.4f) is no better than before training "
            "(%.4f)",
            key,
            best_value,
            untrained[key],
        )


def parse_stop_metric(key: str) -> metrics.Metric:
    """Return the Metric that a key such as val/loss/micro names.

    Raises:
        ConfigError: if there is no such metric on validation.
    """
    split, _, rest = key.partition("/")
    name, _, average = rest.partition("/")
    if split != "val" or average not in AVERAGES or name not in metrics.METRICS:
        raise ConfigError(
            f"`stop_metric` is {key}, expected val/METRIC/AVERAGE with METRIC one of "
            f"{', '.join(metrics.METRICS)} and AVERAGE micro (each check-in once) or macro "
            "(each client once)."
        )
    return metrics.METRICS[name]


def draw_cohort(task: RoundTask, round_num: int) -> Ints:
    """Return int [cohort], ascending: the clients of a round, drawn by seed and round number.

    With differential privacy they are drawn as the accountant assumes: each client by itself, a
    fixed number, or everybody in turn. A cohort can then be empty.
    """
    size, seed = task.settings.loop.clients_per_round, task.settings.loop.seed
    if size is None:
        return task.training_clients
    generator = seeding.rng(seed, "cohort", round_num)
    privacy, clients = task.settings.privacy, task.training_clients
    if not privacy.is_on or (privacy.dp_sampling == "fixed" and privacy.dp_mechanism == "gaussian"):
        return task.draw(generator, size)
    if privacy.dp_mechanism == "gaussian":
        return clients[generator.random(len(clients)) < size / len(clients)]
    # as accounted for in `fedgru.privacy.plan`: everybody in turn
    in_turn = seeding.rng(seed, "cohorts in turn").permutation(clients)
    cohorts = np.array_split(in_turn, len(clients) // size)
    return np.sort(cohorts[(round_num - 1) % len(cohorts)])


def _report(
    round_num: int,
    row: Row,
    seconds: Seconds,
    improved: bool,
    progress: Progress | None,
    state: ServerState,
) -> None:
    shown = {
        "val loss": _short(number(row, "val/loss/micro")),
        "val acc": _short(number(row, "val/acc@1/micro")),
    }
    if state.private is None:
        shown = {"loss": _short(number(row, "train/loss/micro"))} | shown
    else:
        shown["epsilon"] = f"{state.private.epsilon:.3f}"
    if state.simulated is not None:
        shown["simulated"] = f"{state.simulated.hours:.4g} h"
    logger.info(
        "round %d: %s, train %.1f s, validation %.1f s%s",
        round_num,
        ", ".join(f"{name} {value}" for name, value in shown.items()),
        seconds["train"],
        seconds["val"],
        ", best so far" if improved and state.private is None else "",
    )
    if progress is not None:
        progress.set_postfix(shown, refresh=False)
        progress.update()


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"
