"""The results of a sweep: its trials as records and as a table, and the command of a point."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgru import config
from fedgru.console.sweeps import rounds, status

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from fedgru.sweep.plan import Plan, PlannedSweep

STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}


def to_record(trial: FrozenTrial) -> dict[str, Any]:
    """Return the record of an optuna FrozenTrial.

    Returns:
        dict: `trial`, its number, the first is 1; `params`; `status`, one of done, pruned,
        failed, running; `value`, the mean over its seeds of the validation metric in the best
        round, and `lowest` and `highest`, None if it failed or is not done; `seconds` of
        training and validation; `why` it ended; `same_as`, the number of an earlier trial with
        the same point, whose runs are used, or None; `runs`, a dict for each seed: `run`, the
        folder's name, `seed`, `value`, `best_round`, `rounds`, `seconds`.
    """
    state = STATES.get(trial.state.name, "running")
    runs, same_as = trial.user_attrs.get("runs", []), trial.user_attrs.get("same_as")
    values = [run["value"] for run in runs] if state in ("done", "pruned") else []
    return {
        "trial": trial.number + 1,
        "params": dict(trial.params),
        "status": state,
        "value": trial.value if values else None,
        "lowest": min(values, default=None),
        "highest": max(values, default=None),
        "seconds": sum(run["seconds"] for run in runs),
        "why": trial.user_attrs.get("why"),
        "same_as": None if same_as is None else same_as + 1,
        "runs": runs,
    }


def ranked(plan: Plan, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records, best first: those done, then those pruned, failed and running."""
    order = ("done", "pruned", "failed", "running")
    sign = -1 if plan.direction == "maximize" else 1
    return sorted(
        records,
        key=lambda r: (order.index(r["status"]), sign * (r["value"] or 0), r["trial"]),
    )


def table(plan: Plan, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of sweep.csv, a dict per trial, by number."""
    return [
        {"trial": r["trial"], "status": status(r)}
        | {name: r["params"][name] for name in plan.axes}
        | {plan.metric: r["value"], "lowest": r["lowest"], "highest": r["highest"]}
        | {"rounds": rounds(r), "seconds": f"{r['seconds']:.3f}"}
        | {"why": r["why"], "runs": " ".join(run["run"] for run in r["runs"])}
        for r in records
    ]


def train_command(plan: Plan, record: dict[str, Any], data_dir: str | Path = "data") -> str:
    """Return the command that trains a point with the first seed; it names all swept settings."""
    settings = plan.settings(record["params"])
    given, words = config.differences(settings), ["fedgru", "train"]
    for name, (section, _) in config.fields().items():
        value = getattr(getattr(settings, section), name)
        if name in plan.axes or (name in given and name != "name"):
            words += [config.option(name), str(value)]
    if str(data_dir) != "data":
        words += ["--data-dir", str(data_dir)]
    return shlex.join(words)


def to_json(
    sweep: PlannedSweep,
    records: list[dict[str, Any]],
    best: dict[str, Any],
    reports: list[dict[str, Any]],
    command: str,
) -> dict[str, Any]:
    """Return the dict that --json prints."""
    plan = sweep.plan
    return {
        "sweep": str(sweep.path),
        "metric": plan.metric,
        "direction": plan.direction,
        "scored": sweep.scored,
        "trials": records,
        "best": {"trial": best["trial"], "params": best["params"], "value": best["value"]}
        | {"command": command, "test": reports},
    }
