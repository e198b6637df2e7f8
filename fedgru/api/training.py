"""From settings to a run, as `fedgru train` and `fedgru baseline` make it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgru import config
from fedgru.api.run import Run
from fedgru.core.errors import ConfigError
from fedgru.core.types import OnRound
from fedgru.runs.kinds import BASELINES, FEDERATED
from fedgru.task.task import Task
from fedgru.workflows import baseline as baseline_workflow
from fedgru.workflows import score as score_workflow
from fedgru.workflows import train as train_workflow
from fedgru.workflows.open import facts_of, open_task

if TYPE_CHECKING:
    from fedgru.algorithms.protocol import Algorithm

Folder = str | Path
OnTask = Callable[[Task, dict[str, Any]], None]


def make_settings(
    config_file: Folder | None = None, preset: str | None = None, **values: Any
) -> config.Settings:
    """Return Settings: defaults, then the preset, then the file, then the values.

    Args:
        config_file: path of a TOML or YAML file, such as a run's config.toml.
        preset: name of a preset, such as "notebook".
        values: settings by name, such as `rounds=3`; `fedgru config show` lists them.

    Raises:
        ConfigError: for an unknown setting, a value out of range, or settings that do not go
            together.

    >>> make_settings(rounds=3, client_lr=0.01).client.client_lr
    0.01
    """
    return config.load(values, config_file, preset)


def build_task(
    settings: config.Settings | None = None, *, data_dir: Folder = "data", **values: Any
) -> Task:
    """Return the Task of some settings: clients, inputs, targets, prior, checked to fit.

    Args:
        settings: Settings; None takes the defaults.
        data_dir: folder of data sets.
        values: settings by name, in place of those in `settings`.

    Raises:
        ConfigError, DataError: if settings and data do not fit together.
    """
    task, _ = open_task(_changed(settings, values), data_dir)
    return task


def train(
    settings: config.Settings | Task | None = None,
    *,
    algorithm: Algorithm | None = None,
    on_round: OnRound | None = None,
    evaluate: bool = True,
    data_dir: Folder = "data",
    log_dir: Folder = "log",
    show_progress: bool = False,
    on_task: OnTask | None = None,
    **values: Any,
) -> Run:
    """Train by federated averaging in a new run folder, and score the best round.

    Args:
        settings: Settings, or a Task of `build_task`; None takes the defaults.
        algorithm: whatever has the methods of `FedAvg`; None takes the one the settings describe.
            A run with an algorithm of your own is resumed from Python, with the same one.
        on_round: called as on_round(round_num, row) after each round, row {"split/metric/average":
            value}. A text that it returns stops training and is logged as the reason.
        evaluate: whether to score the test split at the end.
        data_dir, log_dir: folders of data sets and of runs.
        show_progress: whether to draw a bar on stderr.
        on_task: called as on_task(task, facts) before training; facts go into run.json.
        values: settings by name, in place of those in `settings`.

    Returns:
        Run.

    Raises:
        ConfigError, DataError: if settings and data do not fit together.
        Interrupted: on Ctrl-C; says how to go on.
        RunError: if the run folder cannot be written.
        TrainingError: if training diverges.
    """
    if isinstance(settings, Task):
        if values:
            raise ConfigError(
                f"`{next(iter(values))}` has no effect beside a task, which has its settings: give "
                "it to build_task."
            )
        task, facts = settings, facts_of(settings)
    else:
        task, facts = open_task(_changed(settings, values), data_dir)
    if on_task is not None:
        on_task(task, facts)
    facts = facts | {"data_dir": str(data_dir), "evaluates": evaluate}
    folder, task, result = train_workflow.train(
        task, facts, log_dir, show_progress, FEDERATED, on_round, algorithm
    )
    if evaluate:
        score_workflow.evaluate_run(folder, task)
    return Run(folder, data_dir, task, result)


def resume(
    run: Run,
    *,
    algorithm: Algorithm | None = None,
    show_progress: bool = False,
) -> Run:
    """Go on with a run that was stopped; it ends in the same bytes as if it had not been.

    Args:
        run: Run.
        algorithm: the one that the run was begun with, if that was your own.
        show_progress: whether to draw a bar on stderr.

    Raises:
        RunError: if it cannot be gone on with; says why.
        As `train`.
    """
    folder, task, result = train_workflow.resume(run.folder, run.data_dir, show_progress, algorithm)
    if folder.facts().get("evaluates", True) and not folder.test():
        score_workflow.evaluate_run(folder, task)
    return Run(folder, run.data_dir, task, result)


def baseline(
    kind: str,
    *,
    config_file: Folder | None = None,
    preset: str | None = None,
    evaluate: bool = True,
    data_dir: Folder = "data",
    log_dir: Folder = "log",
    show_progress: bool = False,
    on_task: OnTask | None = None,
    **values: Any,
) -> Run:
    """Make the run of a baseline, to be compared with others.

    Args:
        kind: "markov", "running-backoff", "kernel", "central", "local", ...
        config_file, preset: see `make_settings`; those of the run that it is compared with.
        evaluate, data_dir, log_dir, show_progress, on_task, values: as for `train`.

    Raises:
        ConfigError: for an unknown kind, or a setting that has no effect on it.
        As `train`.
    """
    if kind not in BASELINES:
        raise ConfigError(f"`kind` is {kind!r}, expected one of {', '.join(BASELINES)}.")
    settings = baseline_workflow.settings_of(BASELINES[kind], values, config_file, preset)
    settings = baseline_workflow.without_missing_features(BASELINES[kind], settings, data_dir)
    task, facts = open_task(settings, data_dir)
    if on_task is not None:
        on_task(task, facts)
    folder, task = baseline_workflow.make_baseline(
        BASELINES[kind], task, facts, log_dir, show_progress
    )
    if evaluate:
        score_workflow.evaluate_run(folder, task)
    return Run(folder, data_dir, task)


def _changed(settings: config.Settings | None, values: dict[str, Any]) -> config.Settings:
    """Return Settings with some values in place of theirs."""
    if settings is None:
        return make_settings(**values)
    if not isinstance(settings, config.Settings):
        raise ConfigError(
            f"settings are {type(settings).__name__}, expected what make_settings returns, or a "
            "task of build_task."
        )
    return config.change(settings, values)
