"""From a run back to its task, its weights and what it has learnt."""

import hashlib
import logging
import math

from fedgru.agnostic import protection
from fedgru.core.errors import RunError
from fedgru.core.version import __version__
from fedgru.task.kernel_prior import Kernel
from fedgru.workflows.open import open_task

logger = logging.getLogger(__name__)


def check_resumable(run):
    """Raise a RunError where what follows would not be what would have followed."""
    facts, toml = run.facts(), run.path / "config.toml"
    anew = f"Train anew with: fedgru train --config {toml}"
    if not _same_version(trained_with := _version(run)):
        raise RunError(
            f"{run.path} was begun by fedgru {trained_with}, this is {__version__}: the rounds to "
            f"come would not be computed as those before. Go on with fedgru {trained_with}. {anew}"
        )
    if not run.kind.resumes:
        raise RunError(f"{run.path} is {run.kind.words}, which keeps no checkpoints.")
    if "config_sha256" not in facts:
        raise RunError(f"{run.path} was begun by a fedgru that kept no checkpoints. {anew}")
    if hashlib.sha256(toml.read_bytes()).hexdigest() != facts["config_sha256"]:
        raise RunError(
            f"{toml} is not the one that {run.path} was begun with. Bring it back, or train a new "
            f"run with: fedgru train --config {toml}"
        )


def resume_command(run):
    """Return the command that goes on with a run."""
    data_dir = run.facts().get("data_dir", "data")
    elsewhere = "" if data_dir == "data" else f" --data-dir {data_dir}"
    return f"fedgru train --resume {run.path}{elsewhere}"


def _version(run):
    versions = run.facts().get("versions")
    return str(versions.get("fedgru")) if isinstance(versions, dict) else "of an unknown version"


def _same_version(version):
    """Whether runs of that fedgru are runs of this one: all but the last number is the same."""
    return version.rpartition(".")[0] == __version__.rpartition(".")[0]


def best_weights(run, task):
    """Return (weights, round_num) of a run's best round, fit for the run's Task.

    Raises:
        RunError: if there are none, or they are not such; see `RunFolder.load_weights`.
    """
    return run.load_weights("best", like=protection.init_weights(task))


def reopen_task(run, data_dir):
    """Build the task of an earlier run again, from its config.

    Warns of a run that is not done, and of one that another version of fedgru made.

    Raises:
        DataError: if the data set is not there or cannot be used.
        RunError: if it is not the one that the run was trained on, or run.json is damaged.
    """
    if not _same_version(_version(run)):
        logger.warning(
            "%s was made by fedgru %s, this is %s: numbers may differ",
            run.path,
            _version(run),
            __version__,
        )
    if (status := run.status()) != "done":
        logger.warning(
            "%s is %s: what is scored is the best round so far. Go on with: %s",
            run.path,
            status,
            resume_command(run),
        )
    return rebuild_task(run, data_dir)


def rebuild_task(run, data_dir):
    """As `reopen_task`, without a warning."""
    if not run.kind.has_check_ins:
        raise RunError(
            f"{run.path} is {run.kind.words}: its check-ins are with the clients. The scores that "
            f"they sent are shown by: fedgru runs show {run.path}"
        )
    task, facts = open_task(run.settings(), data_dir, learnt_kernel(run))
    trained_on = run.facts().get("fingerprint")
    if facts["fingerprint"] != trained_on:
        raise RunError(
            f"{run.path} was trained on another version of data set {facts['data']} (fingerprint "
            f"{str(trained_on)[:12]}, now {facts['fingerprint'][:12]}). Bring that version "
            "back, or train again."
        )
    return task


def learnt_kernel(run):
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
