"""The main job: from settings to a trained run, and from a run back to its task."""

import logging

from tqdm import tqdm

from fedgru import algorithms, datasets, features, reports, training
from fedgru.engines import ENGINES
from fedgru.errors import DataError, RunError, TrainingError
from fedgru.kernel_prior import FIT_ROUNDS, Kernel
from fedgru.runs import RunFolder
from fedgru.task import build_task

logger = logging.getLogger(__name__)


def open_task(settings, data_dir, kernel=None):
    """Open the data set that the settings name and build the task.

    Args:
        settings: Settings.
        data_dir: folder of data sets.
        kernel: with --prior kernel, the Kernel of an earlier run; None before it is learnt.

    Returns:
        (Task, facts): facts go into run.json: data set, fingerprint, coverage, unknown rates.

    Raises:
        ConfigError, DataError: if settings and data do not fit together.
    """
    training.parse_stop_metric(settings.loop.stop_metric)
    data_set = datasets.open_data_set(settings.data.data, data_dir)
    task = build_task(data_set, settings, kernel)
    _check_scorable(task)
    facts = {
        "data": data_set.name,
        "fingerprint": data_set.passport["fingerprint"],
        "coverage": [vars(line) for line in task.coverage],
        "unknown_rates": features.unknown_rates(task.inputs, task.clients),
        "num_classes": task.num_classes,
    }
    return task, facts


def _check_scorable(task):
    """Refuse a task whose best round, or whose test result, could not be told."""
    for split, name in (("val", "validation"), ("test", "test")):
        classes = task.classes[task.clients.target_positions(split)]
        if not (classes >= 0).any():
            raise DataError(
                f"nothing to score: none of the {len(classes)} {name} targets has a "
                f"{task.settings.inputs.target} that occurs in train. Take more users or more "
                "check-ins."
            )


def learn_prior(task, show_progress=False):
    """Let the clients learn the kernel, where the task's prior has one.

    Args:
        task: Task.
        show_progress: whether to draw a bar on stderr.

    Returns:
        Task, the same if there is nothing to learn.
    """
    if task.settings.inputs.prior != "kernel" or task.kernel is not None:
        return task
    losses = []
    with tqdm(
        total=FIT_ROUNDS, desc="kernel prior", unit="round", disable=not show_progress, leave=False
    ) as progress:

        def on_round(_, loss):
            losses.append(loss)
            progress.set_postfix({"loss": f"{loss:.3f}"}, refresh=False)
            progress.update()

        task = task.with_kernel(on_round)
    if not losses:
        logger.warning("kernel prior: all clients have too few check-ins to learn it from")
    else:
        logger.info(
            "kernel prior learnt in %d rounds: train loss %.3f before, %.3f after",
            len(losses),
            losses[0],
            losses[-1],
        )
    return task


def make_engine(task, name=None):
    """Return the engine of that name, or the one that the task's settings name."""
    import importlib

    module, name = ENGINES[name or task.settings.loop.engine]
    return getattr(importlib.import_module(module), name)(task)


def train(task, facts, log_dir, show_progress=False, kind="federated", on_round=None):
    """Train in a new run folder.

    Args:
        task: Task.
        facts: from `open_task`.
        log_dir: folder of all runs.
        show_progress: whether to draw a bar on stderr.
        kind: "federated", or "central" for the baseline that pools all clients' data.
        on_round: called as on_round(round_num, row) once a round is written down; training
            stops after a round for which it returns a text, the reason.

    Returns:
        (RunFolder, Task, TrainResult); the task with the prior learnt.

    Raises:
        RunError: if the run folder cannot be written, or on Ctrl-C.
        TrainingError: if training diverges.
    """
    settings = task.settings
    if kind == "central":
        from fedgru.engines.central import CentralEngine, CentralTraining

        engine, algorithm = CentralEngine(task), CentralTraining(settings.client)
    else:
        engine, algorithm = make_engine(task), algorithms.from_settings(settings.server)

    def record(round_num, row, seconds):
        run.record_round(round_num, row, seconds)
        return on_round(round_num, row) if on_round is not None else None

    with RunFolder.create(log_dir, settings, facts | {"kind": kind}) as run:
        logger.info("run folder %s, engine %s", run.path, engine.name)
        try:
            engine.task = learn_prior(task, show_progress)
        except KeyboardInterrupt as error:
            raise RunError(f"stopped by Ctrl-C. {_what_is_kept(run)}") from error
        if engine.task.kernel is not None:
            run.write_facts({"kernel": engine.task.kernel.to_dict()})
        progress = tqdm(
            total=settings.loop.rounds, unit="round", disable=not show_progress, leave=False
        )
        try:
            with progress:
                result = training.train(
                    engine,
                    algorithm,
                    on_round=record,
                    on_improvement=lambda state: run.save_weights(
                        "best", state.weights, state.round_num
                    ),
                    progress=progress,
                )
        except TrainingError as error:
            raise TrainingError(f"{error} Details: {run.path / 'run.log'}") from error
        except KeyboardInterrupt as error:
            raise RunError(f"stopped by Ctrl-C. {_what_is_kept(run)}") from error
        run.save_weights("last", result.last.weights, result.last.round_num)
        logger.info("%s", reports.describe_end(result, settings))
        run.write_facts(
            {
                "status": "done",
                "why": result.why,
                "rounds": result.last.round_num,
                "best_round": result.best.round_num,
                "best_value": result.best_value,
            }
        )
    return run, engine.task, result


def _what_is_kept(run):
    if not (run.path / "best.npz").exists():
        return f"No round was better than before training; you can delete {run.path}."
    return f"The best round so far is kept; score it with: fedgru eval {run.path}"


def reopen_task(run, data_dir):
    """Build the task of a finished run again, from its config.

    Raises:
        RunError: if the data set is not the one that the run was trained on.
    """
    learnt = run.facts().get("kernel")
    task, facts = open_task(
        run.settings(), data_dir, None if learnt is None else Kernel.from_dict(learnt)
    )
    trained_on = run.facts().get("fingerprint")
    if facts["fingerprint"] != trained_on:
        raise RunError(
            f"{run.path} was trained on another version of data set {facts['data']} (fingerprint "
            f"{str(trained_on)[:12]}, now {facts['fingerprint'][:12]}). Bring that version "
            "back, or train again."
        )
    return task
