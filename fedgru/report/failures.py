"""Errors: confusion of categories, calibration, the map; and what the representation leaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from fedgru.report import figures
from fedgru.report.figures import FEW, FEW_ON_MAP
from fedgru.report.numbers import Reliability, confuse, map_cells, reliability
from fedgru.report.page import Section, figure, grid, paragraph, stack, table
from fedgru.report.words import four, of_run, sentence, who

if TYPE_CHECKING:
    from fedgru.report.runs import ReportedRun

VIEWS = ("representation", "logits")
NO_CATEGORY = "(none)"


def what_goes_wrong(runs: Sequence[ReportedRun]) -> Section:
    """Confusion of categories, calibration, and where predictions fail."""
    boxes, missing = [], []
    for boxes_of, lack in (
        (_confusions, "The data set has no categories, so none are confused."),
        (_calibration, "No run gives probabilities, so none can be calibrated."),
        (_maps, "The check-ins have no coordinates, or all the same: there is no map."),
    ):
        found = boxes_of(runs)
        boxes += found
        missing += [] if found else [paragraph(lack)]
    return Section("wrong", "What goes wrong", stack(grid(*boxes), *missing))


def _confusions(runs: Sequence[ReportedRun]) -> list[Markup]:
    """What was predicted for targets of the commonest categories, a figure for each run."""
    drawn = []
    for run in runs:
        names = _categories(run)
        if names is None:
            continue
        targets, predicted = names
        found = confuse(targets, predicted)
        wrong = found.shares - np.diag(np.diag(found.shares))
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        caption = (
            f"Each row is a target, in per cent of the row; below 0.5 is blank. The largest "
            f"confusion is {found.labels[row]} taken for {found.labels[column]}: "
            f"{100 * wrong[row, column]:.0f} % of {found.targets[row]:,}."
        )
        title = f"Confusion of categories{of_run(runs, run)}"
        key = f"confusion-{run.number}"
        drawn.append(figure(key, title, figures.confusion(found), caption))
    return drawn


def _categories(run: ReportedRun) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """The categories of targets and predictions; a venue's is that of its last check-in."""
    outcomes, check_ins = run.outcomes, run.task.check_ins
    if run.settings.inputs.target == "category":
        has_none = np.array([name is None for name in outcomes.target])
        return np.where(has_none, NO_CATEGORY, outcomes.target), outcomes.predicted
    if not len(check_ins.category.values):
        return None
    values = np.array([*check_ins.category.values, NO_CATEGORY], object)
    of_venue = dict(zip(check_ins.venue.codes, check_ins.category.codes, strict=True))
    named = {check_ins.venue.values[venue]: values[code] for venue, code in of_venue.items()}
    targets, predicted = (
        np.array([named[name] for name in names], object)
        for names in (outcomes.target, outcomes.predicted)
    )
    return targets, predicted


def _calibration(runs: Sequence[ReportedRun]) -> list[Markup]:
    """The reliability diagram of the runs that give probabilities."""
    said, series = [], []
    for run in runs:
        found = reliability(run.outcomes.prob, run.outcomes.correct)
        if found is None:
            said.append(f"{who(runs, run)}no probabilities, so no calibration")
            continue
        series.append((run.number, run.label, found))
        said.append(
            f"{who(runs, run)}the expected calibration error is {found.ece:.3f}"
            f"{_furthest_off(found)}"
        )
        if found.left_out:
            said.append(f"{found.left_out:,} targets without a probability are left out")
    if not series:
        return []
    plot = figures.calibration(series)
    caption = f"{sentence(runs, said)} Points of fewer than {FEW} check-ins are not drawn."
    return [figure("reliability", "Calibration", plot, caption)]


def _furthest_off(found: Reliability) -> str:
    many = np.flatnonzero(found.targets >= FEW)
    if not len(many):
        return ""
    gaps = found.confidence - found.accuracy
    at = many[np.argmax(np.abs(gaps[many]))]
    return (
        f"; in the bin with the largest gap ({found.targets[at]:,} check-ins) the mean confidence "
        f"is {found.confidence[at]:.2f} and the accuracy {found.accuracy[at]:.2f}"
    )


def _maps(runs: Sequence[ReportedRun]) -> list[Markup]:
    """Where predictions fail, a figure for each run."""
    drawn = []
    for run in runs:
        rows, check_ins = run.outcomes.row, run.task.check_ins
        cells = map_cells(check_ins.lat_deg[rows], check_ins.lon_deg[rows], run.outcomes.correct)
        if cells is None or cells.targets.max() < FEW_ON_MAP:
            continue
        sparse = cells.targets[cells.targets < FEW_ON_MAP].sum()
        caption = (
            f"Each circle stands for one grid cell of {cells.side_km:.1f} km; its area is "
            f"proportional to the cell's test check-ins, at most {cells.targets.max():,}."
        )
        many = np.flatnonzero(cells.targets >= FEW)
        if len(many):
            worst = many[np.argmax(cells.error_rate[many])]
            caption += (
                f" Of the cells with {FEW} or more, the one at {cells.lat_deg[worst]:.3f}, "
                f"{cells.lon_deg[worst]:.3f} has the most errors: "
                f"{100 * cells.error_rate[worst]:.0f} % of {cells.targets[worst]:,}."
            )
        caption += (
            f" Not drawn: {sparse:,} in cells with fewer than {FEW_ON_MAP}, {cells.outside:,} "
            "outside the map or without coordinates."
        )
        title = f"Where predictions fail{of_run(runs, run)}"
        drawn.append(figure(f"map-{run.number}", title, figures.error_map(cells), caption))
    return drawn


def leakage(runs: Sequence[ReportedRun]) -> Section:
    """The accuracy of newly trained probes on the representation."""
    floors: dict[str, float] = {}
    parts, said, series, rows = [], [], [], []
    for run in runs:
        for name, found in run.test.get("leakage", {}).items():
            if "not_audited" in found:
                why = f"{who(runs, run)}{name} was not audited: {found['not_audited']}"
                parts.append(paragraph(why))
                continue
            floors.setdefault(name, found["floor"])
            read = [found["worst"].get(view) for view in VIEWS]
            said.append(f"{who(runs, run)}{name} {read[0]:.3f} ({found['floor']:.3f})")
            rows.append(
                [run.label, name, f"{found['num_values']:,}", four(found["floor"])]
                + [four(value) for value in read]
            )
    for run in runs:
        found = run.test.get("leakage", {})
        worst = [found.get(name, {}).get("worst", {}) for name in floors]
        if any(worst):
            read = [[views.get(view) for views in worst] for view in VIEWS]
            series.append((run.number, run.label, *read))
    boxes = []
    if series:
        plot = figures.leakage(list(floors.items()), series)
        caption = (
            "Accuracy of a newly trained logistic regression on the representation, a lower bound "
            "of what it reveals (in brackets: always naming the commonest value): "
            f"{'; '.join(said)}."
        )
        header = ["run", "concept", "values", "commonest", *VIEWS]
        boxes = [
            figure("probes", "What a new classifier recovers", plot, caption),
            table(header, rows, "Accuracy of a newly trained logistic regression", width=2),
        ]
    parts += [
        paragraph(sentence(runs, [f"{who(runs, run)}audited is {run.test['audited']}"]))
        for run in runs
        if "audited" in run.test
    ]
    boxes += [_audit_table(runs, run) for run in runs if run.audit]
    if boxes:
        parts.append(grid(*boxes))
    parts += [
        paragraph(f"For stronger probes{of_run(runs, run)}: fedgru audit {run.folder.path}")
        for run in runs
        if not run.audit and run.folder.kind.shares_model
    ]
    return Section("leakage", "Leakage", stack(*parts))


def _audit_table(runs: Sequence[ReportedRun], run: ReportedRun) -> Markup:
    rows = []
    for name, found in run.audit["concepts"].items():
        for reading in found["readings"]:
            low, high = reading["interval"]
            rows.append(
                [name, reading["view"], reading["probe"], four(reading["accuracy"])]
                + [f"{low:.4f} to {high:.4f}", four(reading["control"]), four(found["floor"])]
                + ["yes" if reading["converged"] else "no: a lower bound"]
            )
    header = ["concept", "view", "probe", "accuracy", "95 % interval", "shuffled", "commonest"]
    caption = f"The audit{of_run(runs, run)} (fedgru audit), round {run.audit['round']}"
    return table([*header, "converged"], rows, caption, width=3)
