"""The main job: from a task to a trained run, in a new folder or in one that was begun."""

import logging
from contextlib import closing, contextmanager, nullcontext, suppress

from tqdm import tqdm

from fedgru import algorithms
from fedgru.console import describe
from fedgru.core.errors import Interrupted, RunError, TrainingError
from fedgru.core.jax_setup import kept_between_runs
from fedgru.core.versions import installed_versions
from fedgru.engines import registry
from fedgru.runs.folder import RunFolder
from fedgru.runs.kinds import FEDERATED
from fedgru.training import loop as round_loop
from fedgru.training.rounds import FederatedTraining
from fedgru.workflows.open import learn_prior
from fedgru.workflows.reopen import check_resumable, rebuild_task, reopen_task, resume_command

COMPUTING = ("jax", "jaxlib", "numpy", "keras", "tensorflow", "tensorflow-federated")

logger = logging.getLogger(__name__)


def make_engine(task, name=None, client_rule=None):
    """Return the engine of that name, or the one that the task's settings name.

    Args:
        task: Task.
        name: key of `registry.ENGINES`; None for the settings'.
        client_rule: ClientRule; None for the settings'.
    """
    return registry.ENGINES[name or task.settings.loop.engine].load()(task, client_rule)


def train(task, facts, log_dir, show_progress=False, kind=FEDERATED, on_round=None, algorithm=None):
    """Train in a new run folder.

    Args:
        task: Task.
        facts: from `open_task`.
        log_dir: folder of all runs.
        show_progress: whether to draw a bar on stderr.
        kind: RunKind, one that shares a model.
        on_round: called as on_round(round_num, row) once a round is written down; training
            stops after a round for which it returns a text, the reason.
        algorithm: of one's own; None takes the one that the settings describe.

    Returns:
        (RunFolder, Task, TrainResult); the task with the prior learnt.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM; says how to go on.
        MissingEngineError: if the engine is not installed.
        RunError: if the run folder cannot be written.
        TrainingError: if training diverges.
    """
    if kind.has_engine:
        registry.engine_of(task.settings).load().check_here(task.settings)
    facts = facts | {"kind": kind.name}
    if algorithm is not None:
        facts["algorithm"] = name_of(algorithm)
    with RunFolder.create(log_dir, task.settings, facts) as run:
        return _train(run, task, show_progress, on_round=on_round, algorithm=algorithm)


def resume(run, data_dir, show_progress=False, algorithm=None):
    """Go on with a run that was stopped or killed, from its last checkpoint, if it is not done.

    It ends as if it had never been stopped, to the byte; with --engine tff and dropout, which
    draws from the system's entropy, as another run of its kind.

    Args:
        run: RunFolder.
        data_dir: folder of data sets.
        show_progress: whether to draw a bar on stderr.
        algorithm: the one that the run was begun with, if that was one's own.

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
    _check_algorithm(run, algorithm)
    task = rebuild_task(run, data_dir)
    if run.kind.has_engine:
        registry.engine_of(task.settings).load().check_here(task.settings)
    with run:
        return _train(run, task, show_progress, resumes=True, algorithm=algorithm)


def _train(run, task, show_progress, resumes=False, on_round=None, algorithm=None):
    """As `train`, in a run folder that is open."""
    with _told_how_to_go_on(run):
        if task.kernel is None:
            task = learn_prior(task, show_progress)
            if task.kernel is not None:
                run.write_facts({"kernel": task.kernel.to_dict()})
        training = _make_training(task, run.kind, algorithm)
        engine = training.engine
        with closing(engine), _keeping_compiled(engine):
            engine.choose_local_loop(run.facts().get("computes_with") if resumes else None)
            logger.info("run folder %s, engine %s", run.path, engine)
            result = _run_rounds(run, training, show_progress, resumes, on_round)
    return run, task, result


def train_in(run, training, resumes=False):
    """Train in a run folder that is open.

    Args:
        run: RunFolder.
        training: FederatedTraining, or whatever has its methods.
        resumes: whether to go on from the run's last checkpoint.

    Returns:
        TrainResult.

    Raises:
        As `train`.
    """
    with _told_how_to_go_on(run):
        return _run_rounds(run, training, resumes=resumes)


def name_of(algorithm):
    """Return how run.json names an algorithm of one's own: where its class is."""
    kind = type(algorithm)
    return f"{kind.__module__}:{kind.__qualname__}"


def _check_algorithm(run, algorithm):
    """Raise a RunError unless the run goes on with the algorithm that it was begun with."""
    began_with = run.facts().get("algorithm")
    now = None if algorithm is None else name_of(algorithm)
    if began_with == now:
        return
    if began_with is None:
        raise RunError(f"{run.path} was begun with the algorithm of its settings, not with {now}.")
    raise RunError(
        f"{run.path} was begun with the algorithm {began_with}, which its settings do not name"
        f"{'' if now is None else f', not with {now}'}. Go on from Python: fedgru.resume(run, "
        "algorithm=...)."
    )


def _make_training(task, kind, algorithm=None):
    """Return what `loop.train` repeats, for a kind of run."""
    if kind.pools:
        from fedgru.training.central import CentralTraining

        return CentralTraining(task)
    if algorithm is None:
        algorithm = algorithms.from_settings(task.settings)
    engine = make_engine(task, client_rule=algorithm.client_rule)
    return FederatedTraining(engine, algorithm)


def _keeping_compiled(engine):
    """A context in which what JAX compiles is kept for the next run, where the engine is JAX's."""
    return kept_between_runs() if engine.compiles_with_jax else nullcontext()


def _run_rounds(run, training, show_progress=False, resumes=False, on_round=None):
    engine, settings = training.engine, training.task.settings

    def record(round_num, row, seconds):
        run.record_round(round_num, row, seconds)
        return on_round(round_num, row) if on_round is not None else None

    start = _restore(run, training) if resumes else None
    began_with = run.facts().get("computes_with", engine.computes_with)
    if began_with != engine.computes_with:
        _warn_of_change(run, began_with, engine.computes_with)
    run.write_facts({"computes_with": engine.computes_with})
    with tqdm(
        total=settings.loop.rounds,
        initial=0 if start is None else start.state.round_num,
        unit="round",
        disable=not show_progress,
        leave=False,
    ) as progress:
        result = round_loop.train(
            training,
            on_round=record,
            on_checkpoint=run.checkpoints.save,
            progress=progress,
            start=start,
            on_faults=run.record_faults,
        )
    logger.info("%s", describe.describe_end(result, settings))
    run.finish(result)
    return result


@contextmanager
def _told_how_to_go_on(run):
    """A context whose errors name the run folder and how to go on with it."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{error} Details: {run.path / 'run.log'}") from error
    except KeyboardInterrupt as error:
        raise Interrupted(f"{_how_far(run)}. Go on with: {resume_command(run)}", error) from error
    except OSError as error:
        raise RunError(
            f"cannot write to {error.filename or run.path}: {error.strerror}. Training stopped"
            f"{_how_far(run)}. When that is mended, go on with: {resume_command(run)}"
        ) from error


def _restore(run, training):
    """Bring the run's folder to its last checkpoint and return that; None if it has none yet."""
    task, start_state = training.task, training.init()
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
