"""From a run back to its task, its weights and its learnt kernel."""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgru import algorithms
from fedgru.agnostic import protection
from fedgru.core.errors import RunError
from fedgru.core.types import Weights
from fedgru.core.version import __version__
from fedgru.models.own import OwnSpec
from fedgru.task.kernel_prior import Kernel
from fedgru.workflows.open import open_task

if TYPE_CHECKING:
    from fedgru.runs.folder import RunFolder
    from fedgru.task.round_task import RoundTask
    from fedgru.task.task import Task

logger = logging.getLogger(__name__)


def check_resumable(run: RunFolder) -> None:
    """Raise a RunError if resuming the run could not give the result of an unstopped run."""
    facts, toml = run.facts(), run.path / "config.toml"
    anew = f"Train anew with: fedgru train --config {toml}"
    if not _same_version(trained_with := _version(run)):
        raise RunError(
            f"{run.path} was begun by fedgru {trained_with}, this is {__version__}: later rounds "
            f"would be computed differently. Resume it with fedgru {trained_with}. {anew}"
        )
    if not run.kind.resumes:
        raise RunError(f"{run.path} is {run.kind.words}, which keeps no checkpoints.")
    if "config_sha256" not in facts:
        raise RunError(f"{run.path} was begun by a fedgru without checkpoints. {anew}")
    if hashlib.sha256(toml.read_bytes()).hexdigest() != facts["config_sha256"]:
        raise RunError(
            f"{toml} has changed since {run.path} was begun. Restore it, or train a new run with: "
            f"fedgru train --config {toml}"
        )


def resume_command(run: RunFolder) -> str:
    """Return the command that resumes a run."""
    data_dir = run.facts().get("data_dir", "data")
    elsewhere = "" if data_dir == "data" else f" --data-dir {data_dir}"
    return f"fedgru train --resume {run.path}{elsewhere}"


def _version(run: RunFolder) -> str:
    versions = run.facts().get("versions")
    return str(versions.get("fedgru")) if isinstance(versions, dict) else "of an unknown version"


def _same_version(version: str) -> bool:
    """Whether this fedgru computes as that version: all but the last number is the same."""
    return version.rpartition(".")[0] == __version__.rpartition(".")[0]


def best_weights(run: RunFolder, task: RoundTask) -> tuple[Weights, int]:
    """Return (weights, round_num) of a run's best round, of the shapes of the run's Task.

    Raises:
        RunError: if there are none, or they have other shapes; see `RunFolder.load_weights`.
    """
    like = protection.init_weights(task)
    if run.kind.has_engine:
        like = algorithms.from_settings(task.settings).init(like).weights
    return run.load_weights("best", like=like)


def reopen_task(run: RunFolder, data_dir: str | Path) -> Task:
    """Build the task of an earlier run again, from its config.

    Logs a warning if the run is not done, or if another version of fedgru made it.

    Raises:
        DataError: if the data set is not there or cannot be used.
        RunError: if the run was trained on another version of it, or run.json is damaged.
    """
    if not _same_version(_version(run)):
        logger.warning(
            "%s was made by fedgru %s, this is %s: numbers can differ",
            run.path,
            _version(run),
            __version__,
        )
    if (status := run.status()) != "done":
        logger.warning(
            "%s is %s: its best round so far is scored. Resume it with: %s",
            run.path,
            status,
            resume_command(run),
        )
    return rebuild_task(run, data_dir)


def rebuild_task(run: RunFolder, data_dir: str | Path) -> Task:
    """As `reopen_task`, without a warning."""
    if not run.kind.has_check_ins:
        raise RunError(
            f"{run.path} is {run.kind.words}: its check-ins are with the clients. Show the scores "
            f"that they sent with: fedgru runs show {run.path}"
        )
    task, facts = open_task(run.settings(), data_dir, learnt_kernel(run))
    if run.kind.shares_model and not isinstance(task.spec, OwnSpec):
        run.refuse_larger(task.spec.hidden_dim, task.spec.gates_dim)
    trained_on = run.facts().get("fingerprint")
    if facts["fingerprint"] != trained_on:
        raise RunError(
            f"{run.path} was trained on another version of data set {facts['data']} (fingerprint "
            f"{str(trained_on)[:12]}, now {facts['fingerprint'][:12]}). Restore that version, "
            "or train again."
        )
    _check_model(run, facts)
    _check_features(run, facts)
    return task


def _check_model(run: RunFolder, facts: dict[str, Any]) -> None:
    """Raise a RunError if the run's own model computes something else than when it was begun."""
    now, then = facts.get("model"), run.facts().get("model")
    if now is None:
        return
    if (
        not isinstance(then, dict)
        or then["representation"] != now["representation"]
        or not np.allclose(then["outputs"], now["outputs"], rtol=1e-3, atol=1e-3)
    ):
        raise RunError(
            f"{run.path} was trained with another version of `model` {now['name']}: what it "
            "computes has changed. Restore that version, or train again."
        )


def _check_features(run: RunFolder, facts: dict[str, Any]) -> None:
    """Raise a RunError if a feature of one's own gives something else than when the run began."""
    now, then = facts.get("own_features", {}), run.facts().get("own_features", {})
    for name in now:
        ours, theirs = ([float(x) for x in found.get(name, {}).values()] for found in (now, then))
        if len(ours) != len(theirs) or not np.allclose(ours, theirs, rtol=1e-4, atol=1e-6):
            raise RunError(
                f"{run.path} was trained with another version of the feature {name}: what it gives "
                "has changed. Restore that version, or train again."
            )


def learnt_kernel(run: RunFolder) -> Kernel | None:
    """Return the Kernel in run.json, None if there is none."""
    learnt = run.facts().get("kernel")
    if learnt is None:
        return None
    try:
        if all(isinstance(v, float) and math.isfinite(v) for v in learnt.values()):
            return Kernel.from_dict(learnt)
    except (AttributeError, TypeError):
        pass
    raise RunError(f"{run.path / 'run.json'} is damaged: its kernel is not one.")
