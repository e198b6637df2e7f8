"""The main job: train a task, in a new run folder, or resume an interrupted run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from fedgru import algorithms
from fedgru.agnostic.protection import init_weights
from fedgru.algorithms.dp_fed_avg import DPFedAvg
from fedgru.algorithms.fed_buff import FedBuff
from fedgru.console import describe
from fedgru.core.errors import Interrupted, RunError, TrainingError
from fedgru.core.jax_setup import kept_between_runs
from fedgru.core.types import OnRound, Row
from fedgru.core.versions import installed_versions
from fedgru.engines import registry
from fedgru.evaluation import evaluate
from fedgru.privacy.plan import Plan, make_plan
from fedgru.runs.folder import RunFolder
from fedgru.runs.kinds import FEDERATED, RunKind
from fedgru.task.preparation import Preparation
from fedgru.training import loop as round_loop
from fedgru.training.asynchronous import AsynchronousTraining
from fedgru.training.rounds import FederatedTraining
from fedgru.training.simulated_time import SimulatedTraining, Simulation, open_simulation
from fedgru.workflows.open import learn_prior, record_kernel
from fedgru.workflows.personal import make_store
from fedgru.workflows.preparing import reporting
from fedgru.workflows.reopen import check_resumable, rebuild_task, reopen_task, resume_command

if TYPE_CHECKING:
    from fedgru.algorithms.client_rule import ClientRule
    from fedgru.algorithms.protocol import Algorithm
    from fedgru.engines.base import Engine
    from fedgru.task.task import Task
    from fedgru.training.loop import Checkpoint, TrainResult

# packages whose version can change the last digits
COMPUTING = ("jax", "jaxlib", "numpy", "keras", "tensorflow", "tensorflow-federated")

logger = logging.getLogger(__name__)


class EngineTraining(round_loop.Training, Protocol):
    """A Training with an engine: federated, central, or that of a deployment."""

    @property
    def engine(self) -> Engine: ...

    def commit(self, needed: Iterable[int], everywhere: bool = False) -> None:
        """Bring what clients keep beside the weights to the disk, as after these rounds."""

    def go_back_to(self, round_num: int) -> None:
        """Forget what clients kept after a round."""

    def close(self) -> None:
        """Close what is kept; the engine is closed by itself."""


def make_engine(
    task: Task, name: str | None = None, client_rule: ClientRule | None = None
) -> Engine:
    """Return the engine of that name, or that of the task's settings.

    Args:
        task: Task.
        name: key of `registry.ENGINES`; None takes the one in the settings.
        client_rule: ClientRule; None takes the one of the settings.
    """
    return registry.ENGINES[name or task.settings.loop.engine].load()(task, client_rule)


def train(
    task: Task,
    facts: dict[str, Any],
    log_dir: str | Path,
    show_progress: bool = False,
    kind: RunKind = FEDERATED,
    on_round: OnRound | None = None,
    algorithm: Algorithm | None = None,
) -> tuple[RunFolder, Task, TrainResult]:
    """Train in a new run folder.

    Args:
        task: Task.
        facts: from `open_task`.
        log_dir: folder of all runs.
        show_progress: whether to draw a bar on stderr.
        kind: RunKind, one that shares a model.
        on_round: called as on_round(round_num, row) after a round is written to the folder. If
            it returns a text, training stops, and the text is the reason.
        algorithm: your own; None takes the one that the settings describe.

    Returns:
        (RunFolder, Task, TrainResult); the Task has the learnt prior.

    Raises:
        ConfigError: if differential privacy does not go with the number of clients.
        Interrupted: on Ctrl-C or SIGTERM; names the command to resume.
        MissingEngineError: if the engine is not installed.
        RunError: if the run folder cannot be written.
        TrainingError: if training diverges.
    """
    simulation = None
    if kind.has_engine:
        registry.engine_of(task.settings).load().check_here(task.settings)
        simulation = open_simulation(task)
        if task.settings.algorithm.personal_weights is not None:  # it can name what is not there
            algorithms.from_settings(task.settings).init(init_weights(task))
    facts = facts | {"kind": kind.name} | (simulation.facts if simulation else {})
    if kind.has_engine and task.settings.privacy.is_on:
        facts["privacy"] = make_plan(task.settings, len(task.training_clients)).to_dict()
    if algorithm is not None:
        facts["algorithm"] = name_of(algorithm)
    with RunFolder.create(log_dir, task.settings, facts) as run:
        return _train(
            run,
            task,
            show_progress,
            on_round=on_round,
            algorithm=algorithm,
            simulation=simulation,
        )


def resume(
    run: RunFolder,
    data_dir: str | Path,
    show_progress: bool = False,
    algorithm: Algorithm | None = None,
) -> tuple[RunFolder, Task, TrainResult | None]:
    """Resume a run that was stopped or killed from its last checkpoint; do nothing if it is done.

    Its result equals that of an unstopped run byte for byte. The exception is engine tff with
    dropout, which takes its random numbers from the system.

    Args:
        run: RunFolder.
        data_dir: folder of data sets.
        show_progress: whether to draw a bar on stderr.
        algorithm: the one that the run was begun with, if that was one's own.

    Returns:
        As `train`; the TrainResult is None if the run is done.

    Raises:
        DataError: if the data set is not there or cannot be used.
        RunError: if the data set has changed, the run cannot be resumed, or its folder cannot be
            written.
        TrainingError: if training diverges.
    """
    if run.status() == "done":
        return run, reopen_task(run, data_dir), None
    check_resumable(run)
    _check_algorithm(run, algorithm)
    task = rebuild_task(run, data_dir)
    simulation = None
    if run.kind.has_engine:
        registry.engine_of(task.settings).load().check_here(task.settings)
        simulation = open_simulation(task)
        _check_trace(run, task, simulation)
    with run:
        return _train(
            run,
            task,
            show_progress,
            resumes=True,
            algorithm=algorithm,
            simulation=simulation,
        )


def _train(
    run: RunFolder,
    task: Task,
    show_progress: bool,
    resumes: bool = False,
    on_round: OnRound | None = None,
    algorithm: Algorithm | None = None,
    simulation: Simulation | None = None,
) -> tuple[RunFolder, Task, TrainResult]:
    """As `train`, in a run folder that is open."""
    with _naming_how_to_resume(run):
        if task.kernel is None:
            task = learn_prior(task, show_progress)
            record_kernel(run, task)
        training = _make_training(task, run, algorithm, simulation)
        if isinstance(training, FederatedTraining) and isinstance(training.algorithm, DPFedAvg):
            logger.info("%s", training.algorithm.plan)
        engine = training.engine
        with closing(engine), closing(training), _keeping_compiled(engine):
            engine.choose_local_loop(run.facts().get("computes_with") if resumes else None)
            logger.info("run folder %s, engine %s", run.path, engine)
            engine.report_speed()
            result = _run_rounds(run, training, show_progress, resumes, on_round, task.preparation)
        kept = beside_prior(run, task, result)
        if kept is not None:
            run.write_facts({"kept": kept})
            logger.info("%s", describe.describe_kept(kept))
    return run, task, result


def beside_prior(run: RunFolder, task: Task, result: TrainResult) -> dict[str, Any] | None:
    """Return the validation scores of the kept round beside those of the prior without network.

    Returns:
        dict for run.json: `round`, `stop_metric`, `prior` (its name), and `model` and `alone`,
        {"val/metric/average": value} of the kept round and of the prior; None without a prior or
        without a round that counts.
    """
    prior, key = task.settings.inputs.prior, task.settings.loop.stop_metric
    if prior == "none" or result.best_value is None:
        return None
    alone = evaluate.evaluate_running(task, prior, "val", task.validation_clients).summary()
    rounds, kept = run.rounds(), result.best.round_num
    keys = dict.fromkeys([key, "val/loss/micro", "val/acc@1/micro"])
    return {
        "round": kept,
        "stop_metric": key,
        "prior": prior,
        "model": {name: float(rounds[name][kept]) for name in keys},
        "alone": {name: alone[name] for name in keys},
    }


def train_in(run: RunFolder, training: EngineTraining, resumes: bool = False) -> TrainResult:
    """Train in a run folder that is open.

    Args:
        run: RunFolder.
        training: EngineTraining.
        resumes: whether to start from the run's last checkpoint.

    Returns:
        TrainResult.

    Raises:
        As `train`.
    """
    with _naming_how_to_resume(run):
        return _run_rounds(run, training, resumes=resumes)


def name_of(algorithm: Algorithm) -> str:
    """Return the name of your own algorithm in run.json: the module and name of its class."""
    kind = type(algorithm)
    return f"{kind.__module__}:{kind.__qualname__}"


def _check_algorithm(run: RunFolder, algorithm: Algorithm | None) -> None:
    """Raise a RunError unless the run is resumed with the algorithm that it was begun with."""
    began_with = run.facts().get("algorithm")
    now = None if algorithm is None else name_of(algorithm)
    if began_with == now:
        return
    if began_with is None:
        raise RunError(f"{run.path} was begun with the algorithm of its settings, not with {now}.")
    raise RunError(
        f"{run.path} was begun with the algorithm {began_with}, which its settings do not name"
        f"{'' if now is None else f', not with {now}'}. Resume it from Python: fedgru.resume(run, "
        "algorithm=...)."
    )


def _check_trace(run: RunFolder, task: Task, simulation: Simulation | None) -> None:
    """Raise a RunError unless the trace of who is on has not changed since the run was begun."""
    name = "availability_sha256"
    if simulation is not None and simulation.facts.get(name) != run.facts().get(name):
        raise RunError(
            f"{task.settings.availability.availability} has changed since {run.path} was begun. "
            f"Restore it, or train a new run with: fedgru train --config {run.path / 'config.toml'}"
        )


def _make_training(
    task: Task,
    run: RunFolder,
    algorithm: Algorithm | None = None,
    simulation: Simulation | None = None,
) -> EngineTraining:
    """Return the EngineTraining for a run's kind."""
    if run.kind.pools:
        from fedgru.training.central import CentralTraining

        return CentralTraining(task)
    if algorithm is None:
        algorithm = algorithms.from_settings(task.settings)
    engine = make_engine(task, client_rule=algorithm.client_rule)
    if simulation is not None and task.settings.availability.buffer_size is not None:
        return AsynchronousTraining(engine, FedBuff(algorithm), simulation)
    store = make_store(run, algorithm)
    if simulation is not None:
        return SimulatedTraining(engine, algorithm, simulation, store)
    began_with = run.facts().get("privacy")
    plan = None if began_with is None else Plan.from_dict(began_with)
    return FederatedTraining(engine, algorithm, store, plan)


def _keeping_compiled(engine: Engine) -> AbstractContextManager[None]:
    """A context that keeps JAX's compiled code for the next run, if the engine uses JAX."""
    return kept_between_runs() if engine.compiles_with_jax else nullcontext()


def _run_rounds(
    run: RunFolder,
    training: EngineTraining,
    show_progress: bool = False,
    resumes: bool = False,
    on_round: OnRound | None = None,
    preparation: Preparation | None = None,
) -> TrainResult:
    engine, settings = training.engine, training.task.settings

    def record(round_num: int, row: Row, seconds: dict[str, float]) -> str | None:
        run.record_round(round_num, row, seconds)
        if round_num:  # the next rounds compute little, or as much as this one
            end_reports()
        return on_round(round_num, row) if on_round is not None else None

    def checkpoint(reached: Checkpoint) -> None:
        # what clients keep is on the disk before the checkpoint that needs it; the checkpoint
        # before stays until this one is written
        last = reached.state.round_num
        training.commit([reached.best.round_num, last - 1, last])
        run.checkpoints.save(reached)

    start = _restore(run, training) if resumes else None
    preparation = (
        Preparation() if preparation is None else preparation
    )  # of a deployment: elsewhere
    began_with = run.facts().get("computes_with", engine.computes_with)
    if began_with != engine.computes_with:
        _warn_of_change(run, began_with, engine.computes_with)
    run.write_facts({"computes_with": engine.computes_with})
    with (
        tqdm(
            total=settings.loop.rounds,
            initial=0 if start is None else start.state.round_num,
            unit="round",
            disable=not show_progress,
            leave=False,
        ) as progress,
        reporting(preparation, progress.set_description) as end_reports,
    ):
        result = round_loop.train(
            training,
            on_round=record,
            on_checkpoint=checkpoint,
            progress=progress,
            start=start,
            on_faults=run.record_faults,
        )
    logger.info("%s", describe.describe_end(result, settings))
    training.commit([result.best.round_num, result.last.round_num], everywhere=True)
    run.finish(result)
    return result


@contextmanager
def _naming_how_to_resume(run: RunFolder) -> Iterator[None]:
    """A context that adds the run folder and the command to resume to errors."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{error} Details: {run.path / 'run.log'}") from error
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"{_how_far(run)}. Resume it with: {resume_command(run)}", error
        ) from error
    except OSError as error:
        raise RunError(
            f"cannot write to {error.filename or run.path}: {error.strerror}. Training stopped"
            f"{_how_far(run)}. When that is fixed, resume it with: {resume_command(run)}"
        ) from error


def _restore(run: RunFolder, training: EngineTraining) -> Checkpoint | None:
    """Return the run's folder to its last checkpoint and return that; None if it has none."""
    task, start_state = training.task, training.init()
    stopping = round_loop.make_stopping(task.settings)
    like = round_loop.Checkpoint(start_state, start_state, stopping, ())
    start = run.checkpoints.load(like)
    run.begin_again(start)
    training.go_back_to(-1 if start is None else start.state.round_num)
    if start is None:
        logger.info("resumed: no round was done yet")
    else:
        done, rounds = start.state.round_num, task.settings.loop.rounds
        logger.info("resumed after round %d of %d", done, rounds)
    _warn_of_versions(run)
    return start


def _warn_of_versions(run: RunFolder) -> None:
    """Log a warning if a package that computes has another version now."""
    now = installed_versions()
    for package, began_with in run.facts()["versions"].items():
        if package in COMPUTING and began_with != now.get(package):
            _warn_of_change(run, f"{package} {began_with}", now.get(package, "none"))


def _warn_of_change(run: RunFolder, began_with: str, goes_on_with: str) -> None:
    logger.warning(
        "%s began with %s, continues with %s: later rounds can differ in the last digits",
        run.path,
        began_with,
        goes_on_with,
    )


def _how_far(run: RunFolder) -> str:
    """Words for the last round that has a checkpoint."""
    with suppress(OSError):
        run.checkpoints.wait()
    last = run.checkpoints.last_round
    return f" after round {last} of {run.settings().loop.rounds}" if last else " before round 1"
