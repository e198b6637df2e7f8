"""The section on differential privacy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedgru.privacy import covered
from fedgru.privacy.plan import Plan
from fedgru.report.page import Section, grid, paragraph, stack, table
from fedgru.report.words import who

if TYPE_CHECKING:
    from fedgru.report.runs import ReportedRun


def privacy(runs: Sequence[ReportedRun]) -> Section:
    """Epsilon of each private run, of which there is one at least, and what it covers."""
    rows, parts = [], []
    for run in runs:
        if "privacy" not in run.facts:
            continue
        plan = Plan.from_dict(run.facts["privacy"])
        after = run.rounds["train/epsilon/dp"]
        rows.append(
            [run.label, f"{after[-1]:.3f}", f"{plan.delta:g}", f"{plan.noise:.4g}"]
            + [f"{run.rounds['train/clip/dp'][-1]:.4g}", plan.sampling, f"{len(after) - 1:,}"]
        )
        lines = [[line.what, line.budget, line.how] for line in covered.lines(run.settings)]
        title = f"{who(runs, run)}what leaves a client, and what epsilon covers"
        parts.append(table(["what", "budget", "how"], lines, title, width=3))
    header = ["run", "epsilon", "delta", "noise", "clip", "cohorts", "rounds"]
    whole = table(
        header, rows, "Differential privacy for each client, all rounds together", width=3
    )
    note = paragraph(
        "Two data sets that differ in one client give models that nobody can tell apart better "
        "than epsilon and delta say, for what is covered. The noise of a simulation is drawn by "
        "its seed: whoever knows the seed can remove it."
    )
    return Section("privacy", "Privacy", stack(grid(whole, *parts), note))
