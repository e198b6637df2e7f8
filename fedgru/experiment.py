"""The main job, from settings to an evaluated run."""

import logging

from tqdm import tqdm

from fedgru import algorithms, audit, baselines, datasets, evaluation, features, reports, training
from fedgru.engines import ENGINES
from fedgru.errors import ConfigError, DataError, MissingEngineError, RunError, TrainingError
from fedgru.kernel_prior import FIT_ROUNDS, Kernel
from fedgru.runs import RunFolder
from fedgru.task import build_task

BASELINES = (
    *baselines.STATIC_BASELINES,
    *(f"running_{kind}" for kind in evaluation.RUNNING_BASELINES),
)

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


def train(task, facts, log_dir, show_progress=False):
    """Train in a new run folder.

    Args:
        task: Task.
        facts: from `open_task`.
        log_dir: folder of all runs.
        show_progress: whether to draw a bar on stderr.

    Returns:
        (RunFolder, Task, TrainResult); the task with the prior learnt.

    Raises:
        RunError: if the run folder cannot be written, or on Ctrl-C.
        TrainingError: if training diverges.
    """
    settings = task.settings
    engine = make_engine(task)
    with RunFolder.create(log_dir, settings, facts) as run:
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
                    algorithms.from_settings(settings.server),
                    on_round=run.record_round,
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


def evaluate_run(run, task, engine=None):
    """Evaluate a run's best round and write test.json, clients.csv and TensorBoard's eval/.

    Args:
        run: RunFolder.
        task: the run's Task.
        engine: name of the engine that runs the model forward, where all give the same numbers;
            None takes the one that trained it.

    Returns:
        dict, see `evaluation.full_report`, with the run's path, data set, round, the engine that
        scored, the number of clients with test targets, and `leakage`, see `audit.quick_audit`.

    Raises:
        MissingEngineError: if the engine is not in this environment; says how to score all the
            same.
    """
    with run:
        weights, round_num = run.load_weights("best")
        try:
            scorer = make_engine(task, engine)
        except MissingEngineError as error:
            raise MissingEngineError(
                f"{run.path}: {error} Or score with an engine that is here; all give the same "
                f"numbers: fedgru eval {run.path} --engine jax"
            ) from error
        try:
            report, warm = evaluation.full_report(scorer, weights, task.settings.loop.seed)
            report["leakage"] = audit.quick_audit(_auditing_engine(scorer), weights)
        except KeyboardInterrupt as error:
            raise RunError(
                f"stopped by Ctrl-C while scoring. Score it again with: fedgru eval {run.path}"
            ) from error
        table = evaluation.client_table(task, warm)
        head = {"run": str(run.path), "data": task.settings.data.data, "round": round_num}
        head["engine"] = scorer.name
        report = head | {"test/clients": len(table["client_id"])} | report
        run.save_test(report, table)
    return report


def _auditing_engine(engine):
    """The engine itself, or the fast one beside it: the forward pass is the same in all."""
    from fedgru.engines.jax import JaxEngine

    return engine if isinstance(engine, JaxEngine) else JaxEngine(engine.task)


def audit_run(run, task, concepts, probe_names, seeds, show_progress=False):
    """Audit a run's best round for some concepts and write audit.json.

    Args:
        run: RunFolder.
        task: Task, see `reopen_task`.
        concepts: names, see `make_concept`.
        probe_names: names out of PROBES.
        seeds: int, how many.
        show_progress: whether to draw a bar on stderr.

    Returns:
        dict: `run`, `data`, `round`, and `concepts`, {name: dict of an Audit, and `left_out`}.
    """
    from fedgru.engines.jax import JaxEngine

    with run:
        weights, round_num = run.load_weights("best")
        found = {}
        with tqdm(desc="probes", unit="fit", disable=not show_progress, leave=False) as progress:
            for name in concepts:
                done, left_out = audit.audit_task(
                    JaxEngine(task),
                    weights,
                    name,
                    probe_names,
                    range(seeds),
                    on_fit=progress.update,
                )
                found[name] = done.to_dict() | {"left_out": left_out}
        head = {"run": str(run.path), "data": task.settings.data.data, "round": round_num}
        report = head | {"seeds": seeds, "concepts": found}
        run.save_audit(report)
    return report


def check_baseline(name, settings):
    """Raise a ConfigError unless the report of a run with these settings has this baseline."""
    known = list(BASELINES)
    if settings.inputs.prior != "kernel":
        known.remove("running_kernel")
    if name not in known:
        raise ConfigError(f"--must-beat is {name}, expected one of {', '.join(known)}.")


def check_beats(report, baseline):
    """Return a line that says by how much the run beats a baseline in test acc@1.

    Args:
        report: from `evaluate_run`.
        baseline: a key of report["baselines"].

    Raises:
        RunError: if the run does not beat it.
    """
    ours, theirs = (r["test/acc@1/micro"] for r in (report, report["baselines"][baseline]))
    if ours <= theirs:
        raise RunError(f"test acc@1 is {ours:.4f}, not above {baseline} with {theirs:.4f}.")
    return f"test acc@1 is {ours:.4f}, above {baseline} with {theirs:.4f}."
