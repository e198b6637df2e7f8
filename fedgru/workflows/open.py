"""From settings to a task: open the data set, and learn the prior before round 1."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from fedgru.config.feature_names import own_inputs
from fedgru.core.errors import DataError
from fedgru.data import datasets
from fedgru.engines import registry
from fedgru.models.own import OwnSpec
from fedgru.task.kernel_prior import FIT_ROUNDS, Kernel
from fedgru.task.task import Task, build_task
from fedgru.training import loop as round_loop
from fedgru.workflows.preparing import EVERY_S

if TYPE_CHECKING:
    from fedgru.config.settings import Settings
    from fedgru.runs.folder import RunFolder

logger = logging.getLogger(__name__)


def open_task(
    settings: Settings, data_dir: str | Path, kernel: Kernel | None = None
) -> tuple[Task, dict[str, Any]]:
    """Open the data set that the settings name and build the task.

    Args:
        settings: Settings.
        data_dir: folder of data sets.
        kernel: where `prior` is kernel, the Kernel of an earlier run; None before it is learnt.

    Returns:
        (Task, facts): the facts for run.json: data set, fingerprint, coverage, unknown rates.

    Raises:
        ConfigError, DataError: if settings and data do not fit together.
    """
    registry.check(settings)
    round_loop.parse_stop_metric(settings.loop.stop_metric)
    if settings.model.model is not None:
        from fedgru.models import own_keras

        own_keras.find_function(settings.model.model)  # before the data set is read
    data_set = datasets.open_data_set(settings.data.data, data_dir)
    task = build_task(data_set, settings, kernel)
    _check_scorable(task)
    return task, facts_of(task)


def facts_of(task: Task) -> dict[str, Any]:
    """Return what run.json says of a task: data set, fingerprint, coverage, unknown rates.

    Where more users train than are scored, also `users`: numbers of those that have a local step
    to train (`trained`) and that are `scored`, and `known_through_others`, see Task.
    """
    facts = {
        "data": task.data_name,
        "fingerprint": task.fingerprint,
        "coverage": [vars(line) for line in task.coverage],
        "unknown_rates": task.unknown_rates,
        "num_classes": task.num_classes,
    }
    if task.clients.num_scored is not None:
        facts["users"] = {
            "trained": len(task.training_clients),
            "scored": len(task.clients.scored),
            "known_through_others": task.known_through_others(),
        }
    own = _own_features(task)
    if own:
        facts["own_features"] = own
    if isinstance(task.spec, OwnSpec):
        facts["model"] = task.spec.own.describe()
    return facts


def _own_features(task: Task) -> dict[str, Any]:
    """Return {input: mean and deviation in train} of features of one's own."""
    inputs = task.inputs
    names = (n for f, width in inputs.own_widths.items() for n in own_inputs(f, width))
    scales = {name: inputs.scales[name] for name in names}
    return {
        name: {"mean": one.fill, "deviation": one.deviation or 0.0} for name, one in scales.items()
    }


def _check_scorable(task: Task) -> None:
    """Raise a DataError if the validation or the test split has no target to score."""
    for split, name, drawn in (
        ("val", "validation", task.validation_clients),
        ("test", "test", None),
    ):
        if drawn is None:
            num_known = task.num_known[split]
        else:
            (classes,) = task.read(["classes"], task.clients.target_positions(split, drawn))
            num_known = int((classes >= 0).sum())
        if not num_known:
            chosen = slice(None) if drawn is None else drawn
            num_targets = len(task.clients.scored.target_positions(split, chosen))
            raise DataError(
                f"nothing to score: none of the {num_targets} {name} targets has a "
                f"{task.settings.inputs.target} that occurs in train. Take more users or more "
                "check-ins."
            )


def record_kernel(run: RunFolder, task: Task) -> None:
    """Write the kernel that the clients have learnt to run.json, if the task has one."""
    if task.kernel is not None:
        run.write_facts({"kernel": task.kernel.to_dict()})


def learn_prior(task: Task, show_progress: bool = False) -> Task:
    """Let the clients learn the kernel prior, if the task has one.

    Args:
        task: Task.
        show_progress: whether to draw a bar on stderr.

    Returns:
        Task, the same if there is nothing to learn.
    """
    if task.settings.inputs.prior != "kernel" or task.kernel is not None:
        return task
    privacy = task.settings.privacy
    if privacy.is_on and privacy.dp_setup_noise is None:
        logger.info(
            "kernel prior: its start values, and no class is more frequent than another, as there "
            "is no `dp_setup_noise` to learn them with"
        )
        return task.with_kernel()
    losses, said = list[float](), time.monotonic()
    with tqdm(
        total=FIT_ROUNDS, desc="kernel prior", unit="round", disable=not show_progress, leave=False
    ) as progress:

        def on_round(round_num: int, loss: float) -> None:
            nonlocal said
            losses.append(loss)
            if time.monotonic() - said > EVERY_S:
                said = time.monotonic()
                logger.info(
                    "learning the kernel prior: round %d of %d, loss %.3f",
                    round_num,
                    FIT_ROUNDS,
                    loss,
                )
            progress.set_postfix({"loss": f"{loss:.3f}"}, refresh=False)
            progress.update()

        task = task.with_kernel(on_round)
    if not losses:
        logger.warning("kernel prior: all clients have too few check-ins to learn it from")
    elif privacy.is_on:
        logger.info("kernel prior learnt in %d rounds with noise; no loss is sent", len(losses))
    else:
        logger.info(
            "kernel prior learnt in %d rounds: train loss %.3f before, %.3f after",
            len(losses),
            losses[0],
            losses[-1],
        )
    return task
