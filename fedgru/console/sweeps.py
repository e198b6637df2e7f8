"""Text about a sweep: its plan, its trials and its best point."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Protocol, TypeAlias

from fedgru.config import Settings
from fedgru.console.compared import describe_gain
from fedgru.console.tables import align

TEST_COLUMNS = ("acc@1", "acc@5", "mrr", "loss")
TEST_BASELINES = ("running_backoff", "running_kernel")

Record: TypeAlias = Mapping[str, Any]  # of a trial, or a report of test.json


class SweepPlan(Protocol):
    """What is shown of a `fedgru.sweep.plan.Plan`."""

    @property
    def axes(self) -> Mapping[str, Any]: ...

    @property
    def seeds(self) -> int: ...

    @property
    def num_trials(self) -> int: ...

    @property
    def draws(self) -> bool: ...

    @property
    def metric(self) -> str: ...

    @property
    def base(self) -> Settings: ...


def describe_plan(path: Path, plan: SweepPlan, scored: Mapping[str, Any]) -> str:
    """Return the text about a sweep's points, and the targets that they are scored on.

    Args:
        path: the sweep's folder.
        plan: `fedgru.sweep.plan.Plan`.
        scored: dict: targets of "val", "clients", "data".
    """
    axes = ", ".join(
        f"{name} {'|'.join(map(str, v)) if isinstance(v, tuple) else _range(v)}"
        for name, v in plan.axes.items()
    )
    seeds = f", {plan.seeds} seeds each" if plan.seeds > 1 else ""
    how = "drawn by TPE" if plan.draws else "in a grid"
    return (
        f"Sweep {path}, {plan.base.task_name}: "
        f"{plan.num_trials} points {how}{seeds}: {axes}\n"
        f"Each is scored on the same {scored['val']:,} validation targets of "
        f"{scored['clients']:,} clients of data set {scored['data']} by {plan.metric}"
    )


def _range(values: Any) -> str:
    scale = "by its logarithm" if values.by_logarithm else "evenly"
    return f"{values.low:g}..{values.high:g} ({scale})"


def describe_trial(plan: SweepPlan, record: Record) -> str:
    """Return the line about a finished trial."""
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


def describe_records(plan: SweepPlan, records: Sequence[Record]) -> str:
    """Return the table of all trials, and below it the reasons of failed ones.

    Args:
        plan: `fedgru.sweep.plan.Plan`.
        records: from `fedgru.sweep.results.ranked`, best first.
    """
    names = list(plan.axes)
    head = ["trial", *names, plan.metric, *(["over seeds"] if plan.seeds > 1 else [])]
    head += ["best round", "seconds", "status"]
    rows = [
        [
            str(r["trial"]),
            *(str(r["params"][name]) for name in names),
            "-" if r["value"] is None else f"{r['value']:.4f}",
            *([_spread(r).strip(" ()") or "-"] if plan.seeds > 1 else []),
            rounds(r) or "-",
            f"{r['seconds']:.1f}",
            status(r),
        ]
        for r in records
    ]
    lines = [align([head, *rows], right=range(len(head) - 1))]
    counts = {s: sum(r["status"] == s for r in records) for s in ("done", "pruned", "failed")}
    lines.append(", ".join(f"{n} {state}" for state, n in counts.items() if n))
    lines += [f"trial {r['trial']} failed: {r['why']}" for r in records if r["status"] == "failed"]
    return "\n".join(lines)


def describe_best(plan: SweepPlan, record: Record, reports: Sequence[Record], command: str) -> str:
    """Return the text about the best point: its value, how to train it, its test."""
    point = ", ".join(f"{name} {record['params'][name]}" for name in plan.axes)
    first = reports[0]
    lines = [
        f"Best: {point}, trial {record['trial']}, {plan.metric} {record['value']:.4f}"
        f"{_spread(record)}",
        f"Train it with: {command}",
        f"Test of only this point, chosen by validation: {first['test/targets']:,} targets of "
        f"{first['test/clients']:,} clients, each scored once",
        f"  {'':18}" + "".join(f"{name:>9}" for name in TEST_COLUMNS),
    ]
    lines.append(_test_row("model", reports))
    if len(reports) > 1:
        for label, of in (("  lowest seed", min), ("  highest seed", max)):
            lines.append(_test_row(label, reports, of))
    best = first.get("best_counting")
    names = dict.fromkeys([*TEST_BASELINES, *([best["name"]] if best else [])])
    for name in names:
        if name in first["baselines"]:
            rows = [report["baselines"][name] for report in reports]
            lines.append(_test_row(name.replace("_", " "), rows))
    for run, report in zip(record["runs"], reports, strict=True):
        for name in names:
            if name in report["gains"]:
                gain = describe_gain(report["gains"][name]["test/acc@1/micro"])
                against = f"acc@1 against {name.replace('_', ' ')}"
                lines.append(f"  seed {run['seed']}, {against}: {gain}")
    lines += [f"Run folder:  {report['run']}" for report in reports]
    return "\n".join(lines)


def _test_row(
    label: str, rows: Sequence[Record], of: Callable[[Iterable[float]], float] = mean
) -> str:
    keys = [f"test/{name}/micro" for name in TEST_COLUMNS]
    # most counting gives no probabilities, and so no loss
    cells = [f"{of(r[k] for r in rows):.4f}" if k in rows[0] else "-" for k in keys]
    return f"  {label:18}" + "".join(f"{cell:>9}" for cell in cells)


def _spread(record: Record) -> str:
    """Return the range over seeds in brackets, empty for one seed."""
    if len(record["runs"]) < 2 or record["value"] is None:
        return ""
    return f" ({record['lowest']:.4f} to {record['highest']:.4f})"


def rounds(record: Record) -> str:
    """Return best round/rounds trained, for each seed."""
    return " ".join(f"{run['best_round']}/{run['rounds']}" for run in record["runs"])


def status(record: Record) -> str:
    """Return how a trial ended, and which trial's runs it shares."""
    if record["same_as"] is not None:
        return f"{record['status']}, as {record['same_as']}"
    return record["status"]
