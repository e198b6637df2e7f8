"""What is told of a sweep: its trials as a table, its best point, TensorBoard's HParams."""

import shlex
from statistics import mean

from fedgru import config
from fedgru.console.describe import describe_gain

TEST_COLUMNS = ("acc@1", "acc@5", "mrr", "loss")
TEST_BASELINES = ("running_backoff", "running_kernel")
STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}


def to_record(trial):
    """Return what is told of an optuna FrozenTrial.

    Returns:
        dict: `trial`, its number, the first is 1; `params`; `status`, one of done, pruned,
        failed, running; `value`, the mean over its seeds of the validation metric in the best
        round, and `lowest` and `highest`, None if it failed or is not done; `seconds` of
        training and validation;
        `why` it ended; `same_as`, the number of an earlier trial with the same point, whose runs
        these are, or None; `runs`, a dict for each seed: `run`, the folder's name, `seed`,
        `value`, `best_round`, `rounds`, `seconds`.
    """
    status = STATES.get(trial.state.name, "running")
    runs, same_as = trial.user_attrs.get("runs", []), trial.user_attrs.get("same_as")
    values = [run["value"] for run in runs] if status in ("done", "pruned") else []
    return {
        "trial": trial.number + 1,
        "params": dict(trial.params),
        "status": status,
        "value": trial.value if values else None,
        "lowest": min(values, default=None),
        "highest": max(values, default=None),
        "seconds": sum(run["seconds"] for run in runs),
        "why": trial.user_attrs.get("why"),
        "same_as": None if same_as is None else same_as + 1,
        "runs": runs,
    }


def ranked(plan, records):
    """Return the records, best first: those done, then those pruned, failed and running."""
    order = ("done", "pruned", "failed", "running")
    sign = -1 if plan.direction == "maximize" else 1
    return sorted(
        records,
        key=lambda r: (order.index(r["status"]), sign * (r["value"] or 0), r["trial"]),
    )


def table(plan, records):
    """Return the rows of sweep.csv, a dict per trial, by number."""
    return [
        {"trial": r["trial"], "status": _status(r)}
        | {name: r["params"][name] for name in plan.axes}
        | {plan.metric: r["value"], "lowest": r["lowest"], "highest": r["highest"]}
        | {"rounds": _rounds(r), "seconds": f"{r['seconds']:.3f}"}
        | {"why": r["why"], "runs": " ".join(run["run"] for run in r["runs"])}
        for r in records
    ]


def describe_plan(sweep):
    """Return a line that says what is tried."""
    plan, scored = sweep.plan, sweep.scored
    axes = ", ".join(
        f"{name} {'|'.join(map(str, v)) if isinstance(v, tuple) else _range(v)}"
        for name, v in plan.axes.items()
    )
    seeds = f", {plan.seeds} seeds each" if plan.seeds > 1 else ""
    how = "drawn by TPE" if plan.draws else "in a grid"
    return (
        f"Sweep {sweep.path}: {plan.num_trials} points {how}{seeds}: {axes}\n"
        f"Each is scored on the same {scored['val']:,} validation targets of "
        f"{scored['clients']:,} clients of data set {scored['data']} by {plan.metric}"
    )


def _range(values):
    scale = "by its logarithm" if values.by_logarithm else "evenly"
    return f"{values.low:g}..{values.high:g} ({scale})"


def describe_trial(plan, record):
    """Return the line that is printed once a trial is done."""
    point = ", ".join(f"{name} {record['params'][name]}" for name in plan.axes)
    line = f"trial {record['trial']} of {plan.num_trials}: {point}: "
    if record["value"] is None:
        return f"{line}failed: {record['why']}"
    line += f"{plan.metric} {record['value']:.4f}{_spread(record)}"
    if record["same_as"] is not None:
        return f"{line}, the point of trial {record['same_as']}"
    if record["status"] == "pruned":
        line += f", {record['why']}"
    return f"{line}, {record['seconds']:.1f} s"


def describe_records(plan, records):
    """Return the table of all trials, best first, and below it why some failed."""
    names = [*plan.axes]
    head = ["trial", *names, plan.metric, *(["over seeds"] if plan.seeds > 1 else [])]
    head += ["best round", "seconds", "status"]
    rows = [
        [
            str(r["trial"]),
            *(str(r["params"][name]) for name in names),
            "-" if r["value"] is None else f"{r['value']:.4f}",
            *([_spread(r).strip(" ()") or "-"] if plan.seeds > 1 else []),
            _rounds(r) or "-",
            f"{r['seconds']:.1f}",
            _status(r),
        ]
        for r in ranked(plan, records)
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            [*(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]]
        )
        for row in [head, *rows]
    ]
    counts = {s: sum(r["status"] == s for r in records) for s in ("done", "pruned", "failed")}
    lines.append(", ".join(f"{n} {status}" for status, n in counts.items() if n))
    lines += [f"trial {r['trial']} failed: {r['why']}" for r in records if r["status"] == "failed"]
    return "\n".join(lines)


def _spread(record):
    """The range over seeds in brackets, nothing for one seed."""
    if len(record["runs"]) < 2 or record["value"] is None:
        return ""
    return f" ({record['lowest']:.4f} to {record['highest']:.4f})"


def _rounds(record):
    """Best round of rounds trained, for each seed."""
    return " ".join(f"{run['best_round']}/{run['rounds']}" for run in record["runs"])


def _status(record):
    if record["same_as"] is not None:
        return f"{record['status']}, as {record['same_as']}"
    return record["status"]


def train_command(plan, record, data_dir="data"):
    """Return the command that trains a point with the first seed; says all that is swept."""
    settings, default = plan.settings(record["params"]), config.Settings()
    words = ["fedgru", "train"]
    for name, (section, _) in config.fields().items():
        value = getattr(getattr(settings, section), name)
        is_default = value == getattr(getattr(default, section), name)
        if name in plan.axes or not (is_default or name == "name"):
            words += [config.option(name), str(value)]
    if str(data_dir) != "data":
        words += ["--data-dir", str(data_dir)]
    return shlex.join(words)


def describe_best(plan, record, reports, command):
    """Return what is told of the best point: its value, how to train it, its test."""
    point = ", ".join(f"{name} {record['params'][name]}" for name in plan.axes)
    first = reports[0]
    lines = [
        f"Best: {point}, trial {record['trial']}, {plan.metric} {record['value']:.4f}"
        f"{_spread(record)}",
        f"Train it with: {command}",
        f"Test of that point alone, chosen by validation: {first['test/targets']:,} targets of "
        f"{first['test/clients']:,} clients, each scored once",
        f"  {'':18}" + "".join(f"{name:>9}" for name in TEST_COLUMNS),
    ]
    lines.append(_test_row("model", reports))
    if len(reports) > 1:
        for label, of in (("  lowest seed", min), ("  highest seed", max)):
            lines.append(_test_row(label, reports, of))
    for name in TEST_BASELINES:
        if name in first["baselines"]:
            rows = [report["baselines"][name] for report in reports]
            lines.append(_test_row(name.replace("_", " "), rows))
    for run, report in zip(record["runs"], reports, strict=True):
        for name in TEST_BASELINES:
            if name in report["gains"]:
                gain = describe_gain(report["gains"][name]["test/acc@1/micro"])
                against = f"acc@1 against {name.replace('_', ' ')}"
                lines.append(f"  seed {run['seed']}, {against}: {gain}")
    lines += [f"Run folder:  {report['run']}" for report in reports]
    return "\n".join(lines)


def _test_row(label, rows, of=mean):
    values = [of(row[f"test/{name}/micro"] for row in rows) for name in TEST_COLUMNS]
    return f"  {label:18}" + "".join(f"{value:9.4f}" for value in values)


def to_json(sweep, records, best, reports, command):
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
