"""The round loop: sample a cohort, run the round, evaluate, record, stop."""

import logging
import time
from dataclasses import dataclass

import numpy as np

from fedgru import metrics, protection, seeding
from fedgru.algorithms.fed_avg import ServerState
from fedgru.early_stopping import EarlyStopping
from fedgru.errors import ConfigError
from fedgru.evaluation import evaluate

AVERAGES = ("micro", "macro")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """How training ended.

    Attributes:
        best: ServerState of the round that was best by the stop metric on validation.
        last: ServerState of the last round.
        best_value: the stop metric in the best round.
        why: "all rounds done", or why it stopped early.
    """

    best: ServerState
    last: ServerState
    best_value: float
    why: str


def train(engine, algorithm, on_round, on_improvement, progress=None):
    """Train until the rounds are done or the stop metric no longer improves.

    With a protected concept only rounds under the final alpha may be the best: one before would
    be chosen for what it still gets from the concept, and the untrained network tells everything.

    Args:
        engine: Engine.
        algorithm: FedAvg or a subclass.
        on_round: called as on_round(round_num, row, seconds) after each round and, as round 0,
            before the first; row is {"split/metric/average": value}. Training stops after a
            round for which it returns a text, the reason.
        on_improvement: called with the ServerState of each round that is the best so far; at
            the end with that before training, if no round was better.
        progress: a tqdm bar over the rounds, or None.

    Returns:
        TrainResult.

    Raises:
        ConfigError: for an unknown stop metric, before round 1.
        TrainingError: if training diverges.
    """
    task = engine.task
    loop = task.settings.loop
    metric = parse_stop_metric(loop.stop_metric)
    stopping = EarlyStopping(metric.higher_is_better, loop.patience, loop.min_improvement)
    state = best = algorithm.init(protection.init_weights(task))
    started = time.perf_counter()
    untrained = evaluate(engine, state.weights, "val").summary()
    measured = ("loss", "acc@1", *(task.protection.metric_names if task.protection else ()))
    train_row = {f"train/{name}/micro": None for name in measured}
    on_round(0, train_row | untrained, {"train": 0.0, "val": time.perf_counter() - started})
    if task.protection is None or task.protection.is_risen(0):
        stopping.report(0, untrained[loop.stop_metric])
    why = "all rounds done"
    for round_num in range(1, loop.rounds + 1):
        started = time.perf_counter()
        result = engine.run_round(algorithm, state, draw_cohort(task, round_num))
        state = result.state
        trained = time.perf_counter()
        row = {f"train/{name}/micro": value for name, value in result.metrics.items()}
        row |= evaluate(engine, state.weights, "val").summary()
        engine.check_diverged(row["val/loss/micro"], round_num, "val")
        seconds = {"train": trained - started, "val": time.perf_counter() - trained}
        why_stop = on_round(round_num, row, seconds)
        improved = stop = False
        if task.protection is None or task.protection.is_risen(round_num):
            improved, stop = stopping.report(round_num, row[loop.stop_metric])
        if improved:
            best = state
            on_improvement(state)
        _report(round_num, row, seconds, improved, progress)
        if stop:
            why = f"{loop.stop_metric} has not improved in {loop.patience} rounds"
            break
        if why_stop:
            why = why_stop
            break
    if best.round_num == 0:
        logger.warning(
            "no round was better than before training (%s %.4f): what counts is %s",
            loop.stop_metric,
            stopping.best_value,
            "the prior alone" if task.spec.has_prior else "the untrained model",
        )
        on_improvement(best)
    elif task.protection is not None:
        _compare_with_untrained(loop.stop_metric, metric, stopping.best_value, untrained)
    return TrainResult(best, state, stopping.best_value, why)


def _compare_with_untrained(key, metric, best_value, untrained):
    """Say so if what is left beside the concept is worth less than the prior alone."""
    gain = best_value - untrained[key]
    if (gain if metric.higher_is_better else -gain) <= 0:
        logger.warning(
            "the best round under the final alpha (%s %.4f) is no better than before training "
            "(%.4f)",
            key,
            best_value,
            untrained[key],
        )


def parse_stop_metric(key):
    """Return the Metric that a key such as val/loss/micro names.

    Raises:
        ConfigError: if there is no such metric on validation.
    """
    split, _, rest = key.partition("/")
    name, _, average = rest.partition("/")
    if split != "val" or average not in AVERAGES or name not in metrics.METRICS:
        raise ConfigError(
            f"--stop-metric is {key}, expected val/METRIC/AVERAGE with METRIC one of "
            f"{', '.join(metrics.METRICS)} and AVERAGE micro (each check-in once) or macro "
            "(each client once)."
        )
    return metrics.METRICS[name]


def draw_cohort(task, round_num):
    """Return int [cohort], ascending: the clients of a round, drawn by seed and round number."""
    size = task.settings.loop.clients_per_round
    if size is None:
        return task.training_clients
    generator = seeding.rng(task.settings.loop.seed, "cohort", round_num)
    return np.sort(generator.choice(task.training_clients, size, replace=False))


def _report(round_num, row, seconds, improved, progress):
    shown = {
        "loss": _short(row["train/loss/micro"]),
        "val loss": _short(row["val/loss/micro"]),
        "val acc": _short(row["val/acc@1/micro"]),
    }
    logger.info(
        "round %d: %s, %.1f + %.1f s%s",
        round_num,
        ", ".join(f"{name} {value}" for name, value in shown.items()),
        seconds["train"],
        seconds["val"],
        ", best so far" if improved else "",
    )
    if progress is not None:
        progress.set_postfix(shown, refresh=False)
        progress.update()


def _short(value):
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"
