"""The main job: from settings to a trained run, and from a run back to its task."""

import hashlib
import logging
import math
from contextlib import closing, nullcontext, suppress

from tqdm import tqdm

from fedgru import __version__, algorithms
from fedgru.agnostic import protection
from fedgru.console import describe
from fedgru.core.errors import DataError, Interrupted, RunError, TrainingError
from fedgru.core.jax_setup import kept_between_runs
from fedgru.core.versions import installed_versions
from fedgru.data import datasets
from fedgru.engines import ENGINES
from fedgru.runs.folder import RunFolder
from fedgru.runs.kinds import FEDERATED
from fedgru.task.kernel_prior import FIT_ROUNDS, Kernel
from fedgru.task.task import build_task
from fedgru.training import loop as round_loop

COMPUTING = ("jax", "jaxlib", "numpy", "keras", "tensorflow", "tensorflow-federated")

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
    round_loop.parse_stop_metric(settings.loop.stop_metric)
    data_set = datasets.open_data_set(settings.data.data, data_dir)
    task = build_task(data_set, settings, kernel)
    _check_scorable(task)
    facts = {
        "data": data_set.name,
        "fingerprint": data_set.passport["fingerprint"],
        "coverage": [vars(line) for line in task.coverage],
        "unknown_rates": task.unknown_rates,
        "num_classes": task.num_classes,
    }
    return task, facts


def _check_scorable(task):
    """Refuse a task whose best round, or whose test result, could not be told."""
    for split, name, drawn in (
        ("val", "validation", task.validation_clients),
        ("test", "test", None),
    ):
        if drawn is None:
            num_known, ends = task.num_known[split], task.clients.ends()
        else:
            ends = task.ends(drawn)
            (classes,) = task.read(["classes"], ends.target_positions(split))
            num_known = int((classes >= 0).sum())
        if not num_known:
            num_targets = len(ends.target_positions(split))
            raise DataError(
                f"nothing to score: none of the {num_targets} {name} targets has a "
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


def train(task, facts, log_dir, show_progress=False, kind=FEDERATED, on_round=None):
    """Train in a new run folder.

    Args:
        task: Task.
        facts: from `open_task`.
        log_dir: folder of all runs.
        show_progress: whether to draw a bar on stderr.
        kind: RunKind, one that shares a model.
        on_round: called as on_round(round_num, row) once a round is written down; training
            stops after a round for which it returns a text, the reason.

    Returns:
        (RunFolder, Task, TrainResult); the task with the prior learnt.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM; says how to go on.
        RunError: if the run folder cannot be written.
        TrainingError: if training diverges.
    """
    engine, algorithm = _who_trains(task, kind)
    create = RunFolder.create(log_dir, task.settings, facts | {"kind": kind.name})
    with closing(engine), _keeping_compiled(engine), create as run:
        engine.choose_local_loop()
        logger.info("run folder %s, engine %s", run.path, engine)
        return train_in(run, engine, algorithm, show_progress, on_round=on_round)


def _who_trains(task, kind):
    """Return the Engine and the algorithm of a kind of run."""
    if kind.pools:
        from fedgru.engines.jax.central import CentralEngine, CentralTraining

        return CentralEngine(task), CentralTraining(task.settings.client)
    return make_engine(task), algorithms.from_settings(task.settings.server)


def resume(run, data_dir, show_progress=False):
    """Go on with a run that was stopped or killed, from its last checkpoint, if it is not done.

    It ends as if it had never been stopped, to the byte; with --engine tff and dropout, which
    draws from the system's entropy, as another run of its kind.

    Args:
        run: RunFolder.
        data_dir: folder of data sets.
        show_progress: whether to draw a bar on stderr.

    Returns:
        As `train`; the TrainResult is None if the run is done.

    Raises:
        DataError: if the data set is not there or cannot be used.
        RunError: if it is another one, the run cannot be gone on with, or its folder not written.
        TrainingError: if training diverges.
    """
    if run.status() == "done":
        return run, reopen_task(run, data_dir), None
    check_resumable(run)
    engine, algorithm = _who_trains(_rebuild_task(run, data_dir), run.kind)
    with closing(engine), _keeping_compiled(engine), run:
        engine.choose_local_loop(run.facts().get("computes_with"))
        return train_in(run, engine, algorithm, show_progress, resumes=True)


def _keeping_compiled(engine):
    """A context in which what JAX compiles is kept for the next run, where the engine is JAX's."""
    return kept_between_runs() if engine.name in ("jax", "ray", "central") else nullcontext()


def train_in(
    run, engine, algorithm, show_progress=False, resumes=False, on_round=None, summarise=None
):
    """Train in a run folder that is open, as `train` and `resume` do.

    Args:
        run: RunFolder.
        engine: Engine.
        algorithm: FedAvg or a subclass.
        show_progress, on_round: as for `train`.
        resumes: whether to go on from the run's last checkpoint.
        summarise: as for `loop.train`.
    """
    settings = engine.task.settings

    def record(round_num, row, seconds):
        run.record_round(round_num, row, seconds)
        return on_round(round_num, row) if on_round is not None else None

    try:
        start = _restore(run, engine.task, algorithm) if resumes else None
        began_with = run.facts().get("computes_with", engine.computes_with)
        if began_with != engine.computes_with:
            _warn_of_change(run, began_with, engine.computes_with)
        run.write_facts({"computes_with": engine.computes_with})
        if engine.task.kernel is None:
            engine.task = learn_prior(engine.task, show_progress)
            if engine.task.kernel is not None:
                run.write_facts({"kernel": engine.task.kernel.to_dict()})
        with tqdm(
            total=settings.loop.rounds,
            initial=0 if start is None else start.state.round_num,
            unit="round",
            disable=not show_progress,
            leave=False,
        ) as progress:
            result = round_loop.train(
                engine,
                algorithm,
                on_round=record,
                on_checkpoint=run.checkpoints.save,
                progress=progress,
                start=start,
                on_faults=run.record_faults,
                summarise=summarise,
            )
        logger.info("%s", describe.describe_end(result, settings))
        run.finish(result)
    except TrainingError as error:
        raise TrainingError(f"{error} Details: {run.path / 'run.log'}") from error
    except KeyboardInterrupt as error:
        raise Interrupted(f"{_how_far(run)}. Go on with: {_resume_command(run)}", error) from error
    except OSError as error:
        raise RunError(
            f"cannot write to {error.filename or run.path}: {error.strerror}. Training stopped"
            f"{_how_far(run)}. When that is mended, go on with: {_resume_command(run)}"
        ) from error
    return run, engine.task, result


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


def _restore(run, task, algorithm):
    """Bring the run's folder to its last checkpoint and return that; None if it has none yet."""
    start_state = algorithm.init(protection.init_weights(task))
    stopping = round_loop.make_stopping(task.settings.loop)
    like = round_loop.Checkpoint(start_state, start_state, stopping, ())
    start = run.checkpoints.load(like)
    run.begin_again(start)
    if start is None:
        logger.info("resumed: no round was done yet")
    else:
        done, rounds = start.state.round_num, task.settings.loop.rounds
        logger.info("resumed after round %d of %d", done, rounds)
    _warn_of_versions(run)
    return start


def _warn_of_versions(run):
    """Say so if a package that computes is another one now: then the last bits may differ."""
    now = installed_versions()
    for package, began_with in run.facts()["versions"].items():
        if package in COMPUTING and began_with != now.get(package):
            _warn_of_change(run, f"{package} {began_with}", now.get(package, "none"))


def _warn_of_change(run, began_with, goes_on_with):
    logger.warning(
        "%s began with %s, goes on with %s: what follows may differ in the last digits",
        run.path,
        began_with,
        goes_on_with,
    )


def _how_far(run):
    """The words that say which round was the last to be kept."""
    with suppress(OSError):
        run.checkpoints.wait()
    last = run.checkpoints.last_round
    return f" after round {last} of {run.settings().loop.rounds}" if last else " before round 1"


def _resume_command(run):
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
            _resume_command(run),
        )
    return _rebuild_task(run, data_dir)


def _rebuild_task(run, data_dir):
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
