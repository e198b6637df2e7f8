"""Score a trained run: evaluate it on the test split, audit it, compare it with a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from fedgru.core import verdict
from fedgru.core.errors import ConfigError, Interrupted, MissingEngineError, RunError
from fedgru.engines import registry
from fedgru.engines.fastest import fastest
from fedgru.evaluation import audit, evaluate, nearby
from fedgru.evaluation.backdoor import success_rate
from fedgru.training import local_models
from fedgru.training.fine_tuning import evaluate_fine_tuned, scored_that_train
from fedgru.training.per_client import evaluate_personal
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import train as train_workflow
from fedgru.workflows.baseline import evaluate_counting
from fedgru.workflows.ledger import exchanged
from fedgru.workflows.personal import open_store, personal_of, shared_weights

if TYPE_CHECKING:
    from fedgru.config.settings import Settings
    from fedgru.evaluation.evaluate import Evaluation
    from fedgru.runs.folder import RunFolder
    from fedgru.task.task import Task

BEST = "best"  # for `must_beat`: the counting baseline that is best on validation
BASELINES = evaluate.baseline_names(asked_at=False)
ASKED_BASELINES = evaluate.baseline_names(asked_at=True)

# of a run whose clients have models of their own
AUDITED = "the model that a new client starts with, not the clients' own"


def evaluate_run(
    run: RunFolder,
    task: Task,
    engine: str | None = None,
    fine_tune: int | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Evaluate a run's best round and write what `RunFolder.save_test` writes.

    Args:
        run: RunFolder, also that of a baseline.
        task: the run's Task.
        engine: name of the engine for the forward pass; all give the same numbers. None takes the
            one that trained the run.
        fine_tune: local epochs for each client's own copy of the model, which is then scored too;
            None scores only the model itself.
        show_progress: whether to draw a bar on stderr.

    Returns:
        dict, see `evaluate.full_report`, with the run's path, data set, kind, round, the engine
        that scored, the model's prior, the number of clients with test targets, and `verdict`, see
        `verdict.Verdict`. Of a private run also `privacy`: epsilon, delta and noise. Of a run
        with server and clients `exchanged`: bytes of all rounds. If all clients share one
        representation, also `leakage`, see `audit.quick_audit`. With `fine_tune`, also
        `fine_tuned`: epochs, summary, and `gains` over the model itself.

    Raises:
        ConfigError: if `engine` or `fine_tune` has no effect on this run.
        MissingEngineError: if the engine is not in this environment; names another way to score.
    """
    kind = run.kind
    _check_choices(run, task, engine, fine_tune)
    fine_tuned = None
    with run:
        head: dict[str, Any] = {"run": str(run.path), "data": task.settings.data.data}
        head["kind"] = kind.name
        try:
            if not kind.trains:
                warm, cold, more = evaluate_counting(task, kind), None, {"round": 0}
            elif not kind.shares_model:
                warm, cold, more = _evaluate_local(run, task)
            else:
                warm, cold, more, fine_tuned = _evaluate_model(
                    run, task, engine, fine_tune, show_progress
                )
        except KeyboardInterrupt as error:
            raise Interrupted(
                f" while scoring. Score it again with: fedgru eval {run.path}", error
            ) from error
        seed = task.settings.loop.seed
        if "users" in run.facts():
            head["users"] = run.facts()["users"]
        if kind.trains:
            head["prior"] = task.settings.inputs.prior
        found, best = evaluate.full_report(task, warm, seed, cold)
        table = evaluate.client_table(task, warm, best)
        report = head | {"test/clients": len(table["client_id"])} | found | more
        report["verdict"] = verdict.of_test(report, kind.counting, head.get("prior")).to_dict()
        if task.backdoor is not None:
            planted = {"trigger": task.backdoor.trigger, "target": task.backdoor.target}
            report |= success_rate(task, warm) | {"backdoor": planted}
        if fine_tuned is not None:
            report["fine_tuned"] = {
                "epochs": fine_tune,
                **fine_tuned.summary(),
                "gains": evaluate.gains(fine_tuned, warm, seed),
            }
        run.save_test(report, table, evaluate.prediction_table(task, warm))
        run.save_fine_tuned(None if fine_tuned is None else evaluate.client_table(task, fine_tuned))
    return report


def _check_choices(run: RunFolder, task: Task, engine: str | None, fine_tune: int | None) -> None:
    kind = run.kind
    if engine is not None and not kind.has_engine:
        raise ConfigError(
            f"`engine` has no effect on {run.path}, which is {kind.words}: leave it out."
        )
    if engine is not None:
        registry.check_model(task.settings, engine)
    if fine_tune is None:
        return
    if not kind.shares_model:
        raise ConfigError(f"{run.path} is {kind.words}: it has no shared model to fine-tune.")
    if personal_of(run, task) is not None:
        raise ConfigError(
            f"the clients of {run.path} have models of their own: leave `fine_tune` out."
        )
    concept = task.settings.agnostic.agnostic_to
    if concept is not None:
        raise ConfigError(
            f"{run.path} is agnostic to {concept}: fine-tuning would teach each client's copy that "
            "concept again. Leave `fine_tune` out."
        )


def _evaluate_local(run: RunFolder, task: Task) -> tuple[Evaluation, Evaluation, dict[str, Any]]:
    arrays, _ = run.load_weights("best")
    models = local_models.from_arrays(arrays, len(task.clients.scored))
    warm, cold = (local_models.evaluate_local(task, models, "test", w) for w in (True, False))
    alone = {"not_audited": "each client has a representation of its own."}
    rounds = max(model.best_round for model in models)
    return warm, cold, {"round": rounds, "leakage": dict.fromkeys(audit.QUICK_CONCEPTS, alone)}


def _evaluate_model(
    run: RunFolder, task: Task, engine: str | None, fine_tune: int | None, show_progress: bool
) -> tuple[Evaluation, Evaluation, dict[str, Any], Evaluation | None]:
    """Return warm and cold Evaluation, more of the report, the fine-tuned Evaluation or None."""
    weights, round_num = reopen_workflow.best_weights(run, task)
    try:
        scorer = train_workflow.make_engine(task, engine)
    except MissingEngineError as error:
        raise MissingEngineError(
            f"{run.path}: {error} Or score with an installed engine; all give the same "
            f"numbers: fedgru eval {run.path} --engine jax"
        ) from error
    personal = personal_of(run, task)
    if personal is None:
        warm, cold = (evaluate.evaluate(scorer, weights, "test", w) for w in (True, False))
    else:
        with closing(open_store(run)) as store:
            warm, cold = (
                evaluate_personal(
                    scorer, personal, weights, store, "test", is_warm, round_num=round_num
                )
                for is_warm in (True, False)
            )
        weights = personal.received(weights)
    auditing = fastest(task)
    auditor = scorer if isinstance(scorer, auditing) else auditing(task)
    leakage = audit.quick_audit(auditor, weights)
    fine_tuned = None
    if fine_tune is not None:
        with tqdm(
            total=len(scored_that_train(task)),
            desc="fine-tuning",
            unit="client",
            disable=not show_progress,
            leave=False,
        ) as progress:
            fine_tuned = evaluate_fine_tuned(task, weights, fine_tune, round_num, progress.update)
    more: dict[str, Any] = {"round": round_num}
    hours = run.simulated_hours(round_num)
    more |= {} if hours is None else {"simulated_hours": hours}
    epsilon = run.epsilon(round_num)
    if epsilon is not None:
        plan = run.facts()["privacy"]
        more["privacy"] = {"epsilon": epsilon} | {name: plan[name] for name in ("delta", "noise")}
    sums = exchanged(run, task)
    if sums is not None:
        more["exchanged"] = {"down_bytes": sums[1], "up_bytes": sums[2]}
    more |= {"engine": scorer.name, "leakage": leakage}
    if personal is not None:
        more["audited"] = AUDITED
    return warm, cold, more, fine_tuned


def audit_run(
    run: RunFolder,
    task: Task,
    concepts: Iterable[str],
    probe_names: Sequence[str],
    seeds: int,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Audit a run's best round for some concepts and write audit.json.

    Args:
        run: RunFolder.
        task: Task, see `reopen_task`.
        concepts: names, see `make_concept`.
        probe_names: names out of PROBES.
        seeds: number of seeds.
        show_progress: whether to draw a bar on stderr.

    Returns:
        dict: `run`, `data`, `round`, `seeds`, `audited` where clients have models of their own,
        and `concepts`, {name: dict of an Audit, and `sampled`}.
    """
    if not run.kind.shares_model:
        raise ConfigError(
            f"{run.path} is {run.kind.words}: its clients share no representation, so there is "
            "nothing to audit."
        )
    with run:
        weights, round_num = reopen_workflow.best_weights(run, task)
        weights = shared_weights(run, task, weights)
        engine = fastest(task)(task)
        found = {}
        with tqdm(desc="probes", unit="fit", disable=not show_progress, leave=False) as progress:
            for name in concepts:
                done, sampled = audit.audit_task(
                    engine,
                    weights,
                    name,
                    audit.AuditPlan(probe_names, range(seeds)),
                    progress.update,
                )
                found[name] = done.to_dict() | {"sampled": sampled}
        head = {"run": str(run.path), "data": task.settings.data.data, "round": round_num}
        if personal_of(run, task) is not None:
            head["audited"] = AUDITED
        report = head | {"seeds": seeds, "concepts": found}
        run.save_audit(report)
    return report


def check_baseline(name: str, settings: Settings) -> None:
    """Raise a ConfigError unless the report of a run with these settings has this baseline."""
    known = list(ASKED_BASELINES if settings.inputs.asked_at else BASELINES)
    if settings.inputs.prior != "kernel":
        known.remove("running_kernel")
    if settings.inputs.target != "venue" and nearby.NAME in known:
        known.remove(nearby.NAME)
    known.append(BEST)
    if name not in known:
        raise ConfigError(f"`must_beat` is {name}, expected one of {', '.join(known)}.")


def check_beats(report: dict[str, Any], baseline: str) -> str:
    """Return a line with the test acc@1 of the run and of a baseline that it beats.

    Args:
        report: from `evaluate_run`.
        baseline: a key of report["baselines"], or BEST.

    Raises:
        RunError: if the run does not beat it, or its report does not have it.
    """
    best = report.get("best_counting") if baseline == BEST else {"name": baseline}
    if best is None:
        raise RunError("validation has no targets, so no counting baseline is the best on it.")
    name = best["name"]
    if name not in report["baselines"]:
        why = report.get(name, {}).get("absent", "the report does not have it")
        raise RunError(f"{name} was not counted: {why}.")
    ours, theirs = (r["test/acc@1/micro"] for r in (report, report["baselines"][name]))
    said = f"{name}, the best counting on validation," if baseline == BEST else name
    if ours <= theirs:
        raise RunError(f"test acc@1 is {ours:.4f}, not above {said} with {theirs:.4f}.")
    return f"test acc@1 is {ours:.4f}, above {said} with {theirs:.4f}."
