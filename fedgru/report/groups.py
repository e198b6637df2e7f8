"""Accuracy by hour, by weekday, by the client's activity, and at new venues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from fedgru.core import seeding
from fedgru.core.types import Bools, Ints
from fedgru.report import figures
from fedgru.report.figures import FEW
from fedgru.report.numbers import Groups, activity_groups, group_accuracy, hour_of_day, weekday
from fedgru.report.page import Section, figure, grid, table
from fedgru.report.words import each_label, sentence, who

if TYPE_CHECKING:
    from fedgru.report.runs import ReportedRun

DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")


def when_and_for_whom(runs: Sequence[ReportedRun]) -> Section:
    """Accuracy by hour and weekday, by the client's activity, at revisits and first visits."""
    ticks = [(hour, str(hour)) for hour in range(0, 24, 4)]
    hours = [f"from {hour}:00 to {hour}:59" for hour in range(24)]
    days = [f"on {day}" for day in DAYS]
    content = grid(
        _over_time(runs, "hour", hour_of_day, ticks, hours, joined=True),
        _over_time(runs, "weekday", weekday, list(enumerate(figures.WEEKDAYS)), days, joined=False),
        _by_visit(runs),
        *_by_activity(runs),
    )
    return Section("groups", "When and for whom", content)


def _over_time(
    runs: Sequence[ReportedRun],
    unit: str,
    of_time: Callable[[Ints], Ints],
    ticks: Sequence[tuple[int, str]],
    words: Sequence[str],
    joined: bool,
) -> Markup:
    """The figure of a unit of the local time of the check-in that is predicted."""
    series, said = [], []
    for run in runs:
        groups = of_time(run.task.check_ins.local_time_s[run.outcomes.row])
        found = _grouped(run, groups, len(words))
        series.append((run.number, run.label, found))
        said.append(f"{who(runs, run)}{_extremes(found, words)}")
    plot = figures.accuracy_and_counts(series, ticks, f"{unit}, local time", joined)
    caption = f"{sentence(runs, said)} Bars are 95 % intervals over clients."
    return figure(f"by-{unit}", f"Accuracy by {unit}", plot, caption)


def _grouped(
    run: ReportedRun, groups: Ints, num_groups: int, correct: Bools | None = None
) -> Groups:
    outcomes = run.outcomes
    return group_accuracy(
        outcomes.correct if correct is None else correct,
        groups,
        num_groups,
        outcomes.client_index,
        len(run.task.clients.scored),
        seeding.rng(run.settings.loop.seed, "bootstrap"),
    )


def _extremes(found: Groups, words: Sequence[str]) -> str:
    """A sentence about the best and the worst group, of those with enough targets."""
    many = np.flatnonzero(found.targets >= FEW)
    if len(many) < 2:
        return f"fewer than two groups have {FEW} test check-ins, too few to tell them apart"
    best = many[np.argmax(found.accuracy[many])]
    worst = many[np.argmin(found.accuracy[many])]
    return (
        f"test acc@1 is highest {words[best]} ({found.accuracy[best]:.3f} of "
        f"{found.targets[best]:,} check-ins) and lowest {words[worst]} "
        f"({found.accuracy[worst]:.3f} of {found.targets[worst]:,})"
    )


def _by_activity(runs: Sequence[ReportedRun]) -> tuple[Markup, Markup]:
    """Figure and table of accuracy by the client's number of check-ins."""
    first = runs[0]
    lengths, series, said = first.task.clients.scored.lengths, [], []
    groups, bounds = activity_groups(lengths)
    for run in runs:
        found = _grouped(run, groups[run.outcomes.client_index], len(bounds))
        series.append((run.number, run.label, found))
        said.append(
            f"{who(runs, run)}test acc@1 is {found.accuracy[0]:.3f} for clients with "
            f"{bounds[0][0]:,} to {bounds[0][1]:,} check-ins and {found.accuracy[-1]:.3f} for "
            f"those with {bounds[-1][0]:,} to {bounds[-1][1]:,}"
        )
    sums, counts = first.client_sums()
    accuracy = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    plot = figures.activity(lengths, accuracy, groups, bounds, series)
    caption = sentence(runs, said)
    if len(runs) == 1:
        caption += " Dots are clients; the line joins groups of about equal size."
    rows: list[list[str | None]] = [
        [
            f"{low:,} to {high:,}",
            f"{(groups == group).sum():,}",
            f"{series[0][2].targets[group]:,}",
            *(_with_interval(found, group) for _, _, found in series),
        ]
        for group, (low, high) in enumerate(bounds)
    ]
    header = ["check-ins", "clients", "test targets", *each_label(runs, "acc@1")]
    return (
        figure("by-activity", "Accuracy by activity", plot, caption),
        table(header, rows, "acc@1 by the client's check-ins, with 95 % intervals", width=2),
    )


def _with_interval(found: Groups, group: int) -> str | None:
    accuracy, low, high = found.accuracy[group], found.low[group], found.high[group]
    if accuracy != accuracy:
        return None
    return f"{accuracy:.3f}" if low != low else f"{accuracy:.3f} ({low:.3f} to {high:.3f})"


def _by_visit(runs: Sequence[ReportedRun]) -> Markup:
    """The figure of accuracy at venues that the client had visited before, and at new ones."""
    series, said = [], []
    for run in runs:
        kind, rank = run.outcomes.first_visit.astype(int), run.outcomes.rank
        top1, top5 = _grouped(run, kind, 2), _grouped(run, kind, 2, rank <= 5)
        series.append((run.number, run.label, top1, top5))
        said.append(
            f"{who(runs, run)}test acc@1 is {top1.accuracy[0]:.3f} at revisits and "
            f"{top1.accuracy[1]:.3f} at first visits"
        )
    targets = series[0][2].targets
    names = [f"revisits\n({targets[0]:,})", f"first visits\n({targets[1]:,})"]
    plot = figures.visits(series, names)
    share = 100 * targets[1] / targets.sum()
    caption = f"{sentence(runs, said)} First visits are {share:.0f} % of the test check-ins."
    return figure("by-visit", "Revisits and first visits", plot, caption)
