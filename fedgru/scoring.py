"""What is done with a trained run: evaluated on the test split, audited, held to a baseline."""

from tqdm import tqdm

from fedgru import audit, baselines, evaluation, experiment
from fedgru.errors import ConfigError, MissingEngineError, RunError

BASELINES = (
    *baselines.STATIC_BASELINES,
    *(f"running_{kind}" for kind in evaluation.RUNNING_BASELINES),
)


def evaluate_run(run, task, engine=None):
    """Evaluate a run's best round and write test.json, clients.csv, predictions.parquet
    and TensorBoard's eval/.

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
            scorer = experiment.make_engine(task, engine)
        except MissingEngineError as error:
            raise MissingEngineError(
                f"{run.path}: {error} Or score with an engine that is here; all give the same "
                f"numbers: fedgru eval {run.path} --engine jax"
            ) from error
        try:
            warm, cold = (evaluation.evaluate(scorer, weights, "test", w) for w in (True, False))
            report = evaluation.full_report(task, warm, task.settings.loop.seed, cold)
            report["leakage"] = audit.quick_audit(_auditing_engine(scorer), weights)
        except KeyboardInterrupt as error:
            raise RunError(
                f"stopped by Ctrl-C while scoring. Score it again with: fedgru eval {run.path}"
            ) from error
        table = evaluation.client_table(task, warm)
        head = {"run": str(run.path), "data": task.settings.data.data, "round": round_num}
        head["engine"] = scorer.name
        report = head | {"test/clients": len(table["client_id"])} | report
        run.save_test(report, table, evaluation.prediction_table(task, warm))
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
