"""One trial of a sweep: a point trained with some seeds, each in a run folder like any other."""

import hashlib

from fedgru.core.errors import ConfigError, DataError, RunError, TrainingError
from fedgru.runs import folder as run_folder
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow

PRUNE_AFTER_TRIALS = 5  # trials that must be done before another is compared with them
PRUNE_AFTER_ROUNDS = 3  # the first round in which a trial may be given up
PRUNED = "pruned"


def do_trial(sweep, number, taken_over, data_dir, threads=None, show_progress=False):
    """Train a trial's point with all seeds and write down how it went.

    Args:
        sweep: Sweep.
        number: int, a trial whose lock is held; the first is 0.
        taken_over: whether a process that died began it. Its finished runs count; the others are
            marked and trained again.
        data_dir: folder of data sets.
        threads: clients trained at the same time where the settings do not say; int or None.
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


def _train(sweep, number, settings, data_dir, prune, show_progress):
    """Return the RunFolder of one training."""
    task, facts = open_workflow.open_task(settings, data_dir)
    scored = describe_scored(task, facts)
    if scored != sweep.scored:
        raise RunError(
            f"trial {number + 1} of {sweep.path} would not be scored on the check-ins that the "
            f"sweep was begun with, {_tell(sweep.scored)}: now there are {_tell(scored)}. Bring "
            "that version of the data back, or give a new sweep another --name."
        )
    if prune is not None:
        prune.protection = task.protection
    facts = facts | {"sweep": {"name": sweep.plan.name, "trial": number + 1}}
    run, _, _ = train_workflow.train(task, facts, sweep.path, show_progress, on_round=prune)
    return run


def _finished_runs(sweep, number):
    """Return {seed: RunFolder} of what a dead process finished; the others say that it died."""
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


def _to_record(run):
    """What a trial keeps of a run."""
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
    """Says after a round of the first seed whether a trial is worse than the median so far.

    Attributes:
        protection: the Protection of the trial's task, or None; set before the first round.
    """

    def __init__(self, sweep, trial):
        from optuna.pruners import MedianPruner

        self.sweep, self.trial, self.protection = sweep, trial, None
        self.pruner = MedianPruner(PRUNE_AFTER_TRIALS, PRUNE_AFTER_ROUNDS)
        self.trial.intermediate_values = {}  # of this attempt, not of one that died

    def __call__(self, round_num, row):
        if round_num == 0 or (self.protection and not self.protection.is_risen(round_num)):
            return None  # no such round can be the best
        value = row[self.sweep.plan.metric]
        self.sweep.report(self.trial.number, round_num, value)
        self.trial.intermediate_values[round_num] = value
        if not self.pruner.prune(self.sweep.study, self.trial):
            return None
        return f"{PRUNED} in round {round_num}: worse than the median of the trials before it"


def describe_scored(task, facts):
    """Return what says on which check-ins a task is scored.

    Args:
        task: Task.
        facts: from `train.open_task`.

    Returns:
        dict: `data`, `fingerprint`, `clients`, number of `val` and `test` targets, and `digest`
        of the clients and of the rows of the data set that are targets.
    """
    clients = task.clients
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


def _tell(scored):
    return (
        f"{scored['val']:,} val and {scored['test']:,} test targets of {scored['clients']:,} "
        f"clients of data set {scored['data']} (fingerprint {scored['fingerprint'][:12]})"
    )
