"""One trial of a sweep: a point trained with some seeds, each in a run folder like any other."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedgru.core.errors import ConfigError, DataError, RunError, TrainingError
from fedgru.core.types import Row
from fedgru.runs import folder as run_folder
from fedgru.sweep.plan import PlannedSweep
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

    from fedgru.agnostic.protection import Protection
    from fedgru.config.settings import Settings
    from fedgru.runs.folder import RunFolder
    from fedgru.task.task import Task

PRUNE_AFTER_TRIALS = 5  # trials that must be done before one is pruned
PRUNE_AFTER_ROUNDS = 3  # the first round in which a trial can be pruned
PRUNED = "pruned"


class WorkingSweep(PlannedSweep, Protocol):
    """What a trial needs of its sweep: `sweep.Sweep`."""

    @property
    def study(self) -> Study: ...

    def report(self, number: int, round_num: int, value: float) -> None:
        """Record the metric of a trial in a round."""

    def finish(
        self, number: int, state: TrialState, value: float | None, attributes: dict[str, Any]
    ) -> None:
        """Record how a trial ended."""


def do_trial(
    sweep: WorkingSweep,
    number: int,
    taken_over: bool,
    data_dir: str | Path,
    threads: int | None = None,
    show_progress: bool = False,
) -> None:
    """Train a trial's point with all seeds and record the result.

    Args:
        sweep: WorkingSweep.
        number: int, a trial whose lock is held; the first is 0.
        taken_over: whether a process that died began it. Its finished runs count; the others are
            marked and trained again.
        data_dir: folder of data sets.
        threads: clients trained at the same time, if the settings do not set it; int or None.
        show_progress: whether to draw bars on stderr.

    Raises:
        RunError: if the trial cannot be done for a reason that holds for all of them.
    """
    from optuna.trial import TrialState

    plan, trials = sweep.plan, sweep.study.get_trials()
    point = trials[number].params
    twin = next((t for t in trials if t.state.is_finished() and t.params == point), None)
    if twin is not None:  # the same settings and seeds give the same numbers
        attributes = {"same_as": twin.number} | twin.user_attrs
        sweep.finish(number, twin.state, twin.value, attributes)
        return
    earlier = _finished_runs(sweep, number) if taken_over else {}
    prune = Pruner(sweep, trials[number]) if plan.prunes else None
    state, why, done = TrialState.COMPLETE, None, []
    try:
        for seed in plan.all_seeds:
            run = earlier.get(seed)
            if run is None:
                others = {"seed": seed, "name": f"{plan.name}-{number + 1}-seed{seed}"}
                if threads is not None and plan.takes_threads:
                    others["threads"] = threads
                settings = plan.settings(point, **others)
                on_round = prune if seed == plan.all_seeds[0] else None
                run = _train(sweep, number, settings, data_dir, on_round, show_progress)
            done.append(_to_record(run))
            why = run.facts()["why"]
            if why.startswith(PRUNED):
                state = TrialState.PRUNED
                break
    except (TrainingError, ConfigError, DataError) as error:
        state, why = TrialState.FAIL, str(error)
    value = None
    if state != TrialState.FAIL:
        value = sum(run["value"] for run in done) / len(done)
    sweep.finish(number, state, value, {"runs": done, "why": why})


def _train(
    sweep: WorkingSweep,
    number: int,
    settings: Settings,
    data_dir: str | Path,
    prune: Pruner | None,
    show_progress: bool,
) -> RunFolder:
    """Return the RunFolder of one training."""
    task, facts = open_workflow.open_task(settings, data_dir)
    scored = describe_scored(task, facts)
    if scored != sweep.scored:
        raise RunError(
            f"trial {number + 1} of {sweep.path} would not be scored on the check-ins that the "
            f"sweep was begun with, {_words(sweep.scored)}: now there are {_words(scored)}. "
            "Restore that version of the data, or give a new sweep another `name`."
        )
    if prune is not None:
        prune.protection = task.protection
    facts = facts | {"sweep": {"name": sweep.plan.name, "trial": number + 1}}
    run, _, _ = train_workflow.train(task, facts, sweep.path, show_progress, on_round=prune)
    return run


def _finished_runs(sweep: WorkingSweep, number: int) -> dict[int, RunFolder]:
    """Return {seed: RunFolder} of the runs that a dead process finished; mark the others failed."""
    finished = {}
    for file in sorted(sweep.path.glob("*/run.json")):
        run = run_folder.RunFolder(file.parent)
        facts = run.facts()
        if facts.get("sweep", {}).get("trial") != number + 1:
            continue
        if facts["status"] == "done":
            finished[run.settings().loop.seed] = run
        elif facts["status"] == "running":
            text = "the process died before the run was done; the sweep trains it again"
            run.write_facts({"status": "failed", "error": text})
    return finished


def _to_record(run: RunFolder) -> dict[str, Any]:
    """The part of a trial's record about one run."""
    facts, times = run.facts(), run.times()
    seconds = sum((times["train_s"] + times["val_s"]).tolist())
    return {
        "run": run.path.name,
        "seed": run.settings().loop.seed,
        "value": facts["best_value"],
        "best_round": facts["best_round"],
        "rounds": facts["rounds"],
        "seconds": round(seconds, 3),
    }


class Pruner:
    """Decides after each round of the first seed whether a trial is worse than the median so far.

    Attributes:
        protection: the Protection of the trial's task, or None; set before the first round.
    """

    def __init__(self, sweep: WorkingSweep, trial: FrozenTrial) -> None:
        from optuna.pruners import MedianPruner

        self.sweep, self.trial = sweep, trial
        self.protection: Protection | None = None
        self.pruner = MedianPruner(PRUNE_AFTER_TRIALS, PRUNE_AFTER_ROUNDS)
        self.trial.intermediate_values = {}  # without those of a process that died

    def __call__(self, round_num: int, row: Row) -> str | None:
        if round_num == 0 or (self.protection and not self.protection.is_risen(round_num)):
            return None  # no such round can be the best
        value = row[self.sweep.plan.metric]
        assert value is not None, "the stop metric has a value in each round"
        self.sweep.report(self.trial.number, round_num, value)
        self.trial.intermediate_values[round_num] = value
        if not self.pruner.prune(self.sweep.study, self.trial):
            return None
        return f"{PRUNED} in round {round_num}: worse than the median of the trials before it"


def describe_scored(task: Task, facts: dict[str, Any]) -> dict[str, Any]:
    """Return which check-ins a task is scored on.

    Args:
        task: Task.
        facts: from `train.open_task`.

    Returns:
        dict: `data`, `fingerprint`, `clients`, number of `val` and `test` targets, and `digest`
        of the clients and of the rows of the data set that are targets.
    """
    clients = task.clients.scored
    digest = hashlib.sha256("\0".join(clients.client_ids).encode())
    counts = {}
    for split in ("val", "test"):
        positions = clients.target_positions(split)
        counts[split] = len(positions)
        digest.update(clients.rows[positions].astype("<i8").tobytes())
    return {
        "data": facts["data"],
        "fingerprint": facts["fingerprint"],
        "clients": len(clients),
        **counts,
        "digest": digest.hexdigest(),
    }


def _words(scored: dict[str, Any]) -> str:
    return (
        f"{scored['val']:,} val and {scored['test']:,} test targets of {scored['clients']:,} "
        f"clients of data set {scored['data']} (fingerprint {scored['fingerprint'][:12]})"
    )
