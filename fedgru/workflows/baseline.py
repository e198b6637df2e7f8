"""Baselines as runs: the same folders, so that they are evaluated and compared the same way."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from fedgru import config
from fedgru.config.feature_names import parse_features
from fedgru.config.settings import Settings
from fedgru.core.errors import ConfigError, Interrupted
from fedgru.data import datasets
from fedgru.evaluation import evaluate, nearby
from fedgru.runs.folder import RunFolder
from fedgru.task.task import has_column
from fedgru.training import local_models
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow

if TYPE_CHECKING:
    from fedgru.evaluation.evaluate import Evaluation
    from fedgru.runs.kinds import RunKind
    from fedgru.task.task import Task

_WHO = ("data", "users", "train_users", "min_checkins", "session_gap", "protocol", "target")
_COUNTED = (*_WHO, "seed", "threads", "name")
_SERVER, _FAULTS = config.ServerSettings.model_fields, config.FaultSettings.model_fields
_SIMULATED, _ALGORITHM, _PRIVACY = (
    config.AvailabilitySettings.model_fields,
    config.AlgorithmSettings.model_fields,
    config.PrivacySettings.model_fields,
)

logger = logging.getLogger(__name__)


def without_effect(kind: RunKind) -> tuple[str, ...]:
    """Return a tuple of the settings that have no effect on runs of a RunKind."""
    if not kind.trains:
        alone = ("train_users",) if kind.learns_alone else ()
        counted = (*_COUNTED, "asked_at") if kind.knows_moment else _COUNTED
        return tuple(name for name in config.fields() if name not in counted or name in alone)
    if not kind.is_baseline:
        return ()
    sections = (*_SERVER, *_ALGORITHM, *_FAULTS, *_SIMULATED, *_PRIVACY)
    federation = (*sections, "engine", "clients_per_round", "prox_mu")
    return federation if kind.shares_model else (*federation, "eval_clients")


def settings_of(
    kind: RunKind,
    overrides: dict[str, Any],
    config_file: str | Path | None = None,
    preset: str | None = None,
) -> Settings:
    """Resolve a baseline's settings, see `config.load`.

    A config file can have settings without effect on a baseline: so the file of a federated run
    gives a baseline of the same users and splits. Without a name, the run gets the baseline's.

    Args:
        kind: RunKind, out of `kinds.BASELINES`.
        overrides: {field name: value}, as given on the command line.
        config_file, preset: see `config.load`.

    Raises:
        ConfigError: for a setting without effect on this baseline, or as `config.load`.
    """
    unread = without_effect(kind)
    for name in overrides:
        if name in unread:
            raise ConfigError(f"`{name}` has no effect on {kind.words}.")
    forced = {"name": overrides.get("name", kind.name)}
    if kind.learns_kernel and not kind.trains:  # the baseline is the kernel prior alone
        forced["prior"] = "kernel"
    if not kind.knows_moment:  # a config file can have it
        forced["asked_at"] = False
    elif kind.needs_moment:
        forced["asked_at"] = True
    settings = config.load(overrides | forced, config_file, preset)
    if settings.model.model is not None and kind.trains:
        raise ConfigError(
            f"`model` is {settings.model.model}, but {kind.words} trains only the built-in model: "
            "leave it out."
        )
    # a config file can name one, even one's own that is not here
    unread_sections = {"algorithm": config.AlgorithmSettings(), "privacy": config.PrivacySettings()}
    settings = settings.model_copy(update=unread_sections)
    if settings.agnostic.agnostic_to is not None:
        raise ConfigError(
            f"`agnostic_to` is {settings.agnostic.agnostic_to}, which has no effect on "
            f"{kind.words}: leave [agnostic] out of the config file."
        )
    return settings


def without_missing_features(kind: RunKind, settings: Settings, data_dir: str | Path) -> Settings:
    """Return the Settings of a baseline without the features whose columns the data set lacks.

    Only for a counting kind, which reads no feature; else they are returned as they are.

    Args:
        kind: RunKind, out of `kinds.BASELINES`.
        settings: from `settings_of`.
        data_dir: folder of data sets.
    """
    if kind.trains:
        return settings
    data_set = datasets.open_data_set(settings.data.data, data_dir)
    names = parse_features(settings.inputs.features)
    present = [name for name in names if has_column(data_set, name)]
    if len(present) == len(names):
        return settings
    inputs = settings.inputs.model_copy(update={"features": ",".join(present or ["clock"])})
    return settings.model_copy(update={"inputs": inputs})


def make_baseline(
    kind: RunKind,
    task: Task,
    facts: dict[str, Any],
    log_dir: str | Path,
    show_progress: bool = False,
) -> tuple[RunFolder, Task]:
    """Make the run of a baseline.

    Args:
        kind: RunKind, out of `kinds.BASELINES`.
        task: Task.
        facts: from `open_task`.
        log_dir: folder of all runs.
        show_progress: whether to draw a bar on stderr.

    Returns:
        (RunFolder, Task); the Task has the learnt prior.

    Raises:
        ConfigError: if the data set does not hold what the baseline counts.
        Interrupted: on Ctrl-C or SIGTERM.
        RunError: if the run folder cannot be written.
        TrainingError: if central training diverges.
    """
    if kind.learns_alone and "users" in facts:
        facts = facts | {"users": facts["users"] | {"trained": facts["users"]["scored"]}}
    if kind.counting == nearby.NAME and (why := evaluate.why_not_nearby(task)):
        raise ConfigError(f"{kind.words} cannot be counted: {why}.")
    if kind.shares_model:
        run, task, _ = train_workflow.train(task, facts, log_dir, show_progress, kind=kind)
        return run, task
    with RunFolder.create(log_dir, task.settings, facts | {"kind": kind.name}) as run:
        logger.info("run folder %s, baseline %s", run.path, kind.name)
        try:
            if kind.trains:
                _train_local(run, task, show_progress)
            elif kind.learns_kernel:
                task = open_workflow.learn_prior(task, show_progress)
                open_workflow.record_kernel(run, task)
        except KeyboardInterrupt as error:
            raise Interrupted(f"; you can delete {run.path}.", error) from error
        run.write_facts({"status": "done"})
    return run, task


def evaluate_counting(task: Task, kind: RunKind) -> Evaluation:
    """Return the Evaluation of a counting baseline, a RunKind, on the test split."""
    name = kind.counting
    if name is None:
        raise ValueError(f"{kind.name} is not a counting baseline")
    if name in evaluate.RANKING_BASELINES:
        return evaluate.evaluate_counts(task, name, "test")
    return evaluate.evaluate_running(task, name.removeprefix("running_"), "test")


def _train_local(run: RunFolder, task: Task, show_progress: bool) -> None:
    with tqdm(
        total=len(task.clients.scored), unit="client", disable=not show_progress, leave=False
    ) as progress:
        models, rows = local_models.train_local(task, progress.update)
    for round_num, row in enumerate(rows):
        run.record_round(round_num, row, {})
    run.save_weights("best", local_models.to_arrays(models), len(rows) - 1)
    rounds = [model.best_round for model in models]
    logger.info(
        "%d clients trained alone, best rounds %d to %d", len(models), min(rounds), max(rounds)
    )
    run.write_facts({"rounds": len(rows) - 1, "best_rounds": [min(rounds), max(rounds)]})
