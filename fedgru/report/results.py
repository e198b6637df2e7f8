"""The test results: key results, the table with counting baselines, the spread over clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from fedgru.core import metrics, seeding
from fedgru.core.types import Doubles
from fedgru.core.verdict import Gain, Standing, judge, to_gain
from fedgru.evaluation import best_counting, comparison
from fedgru.report import figures
from fedgru.report.numbers import deciles
from fedgru.report.page import Section, figure, grid, paragraph, stack, table, tiles, verdict
from fedgru.report.words import count, four, of_run, sentence, who

if TYPE_CHECKING:
    from fedgru.report.runs import ReportedRun

METRICS = ("acc@1", "acc@5", "acc@10", "mrr", "ndcg", "loss")


def glance(runs: Sequence[ReportedRun]) -> Markup:
    """Return the verdict on each run, then the key results: a row of tiles for each run."""
    standings = comparison.standings([run.folder for run in runs])
    verdicts = [
        verdict(run.number, run.label if len(runs) > 1 else "", judge(standing))
        for run, standing in zip(runs, standings, strict=True)
    ]
    rows = [
        tiles(run.number, _key_results(runs, run, standing))
        for run, standing in zip(runs, standings, strict=True)
    ]
    return stack(*verdicts, *rows)


def _key_results(
    runs: Sequence[ReportedRun], run: ReportedRun, standing: Standing
) -> list[tuple[str, str | None, str]]:
    """(name, value, detail) of each key result of a run."""
    prefix, test = who(runs, run), run.test
    items: list[tuple[str, str | None, str]] = [
        (f"{prefix}test {name}", value, _interval(test, name))
        for name in ("acc@1", "acc@5", "loss")
        if (value := four(test.get(f"test/{name}/micro")))
    ]
    accuracy = client_accuracy(run)
    worst = metrics.worst_tenth(accuracy)
    detail = f"mean acc@1 of {len(worst)} out of {count(len(accuracy), 'client')}"
    items.append((f"{prefix}worst tenth", four(accuracy[worst].mean()), detail))
    if standing.baseline is not None and standing.accuracy is not None:
        difference, interval, significance = _difference(test, standing.accuracy)
        name = standing.baseline.replace("_", " ")
        items.append((f"{prefix}acc@1 over {name}", difference, f"{interval}, {significance}"))
    return items


def client_accuracy(run: ReportedRun) -> Doubles:
    """Return float64 [clients with test targets], the acc@1 of each, most check-ins first."""
    sums, counts = run.client_sums()
    return sums[counts > 0] / counts[counts > 0]


def _loss_of_worst(run: ReportedRun) -> str:
    """The mean loss of the worst tenth, in words; empty where nothing measured it."""
    loss = run.test.get("worst_tenth", {}).get("loss")
    return "" if loss is None else f" and a mean loss of {loss:.3f}"


def _interval(test: dict[str, Any], name: str) -> str:
    """The 95 % interval of a metric in words; it needs at least two clients."""
    interval = test["intervals"].get(f"test/{name}/micro")
    if interval is None or test["test/clients"] == 1:
        return "no interval: one client"
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def _difference(test: dict[str, Any], gain: Gain) -> tuple[str, str, str]:
    """Texts of a difference, its interval, and whether it is significant."""
    if test["test/clients"] == 1:
        return f"{gain.difference:+.4f}", "no interval", "one client"
    if gain.interval is None:
        return f"{gain.difference:+.4f}", "no interval", "another run's counting"
    low, high = gain.interval
    said = "significant" if gain.is_significant else "not significant"
    return f"{gain.difference:+.4f}", f"{low:+.4f} to {high:+.4f}", said


def beside_counting(runs: Sequence[ReportedRun]) -> Section:
    """The test table with baselines and intervals, and the differences."""
    rows = []
    for run in runs:
        test, name = run.test, run.label if len(runs) > 1 else "model"
        rows.append(_row(name, test, _interval(test, "acc@1")))
        if "cold" in test:
            rows.append(_row(f"{name}, cold state", test["cold"]))
        if "fine_tuned" in test:
            tuned = test["fine_tuned"]
            epochs = count(tuned["epochs"], "local epoch")
            rows.append(_row(f"{name}, each copy fine-tuned for {epochs}", tuned))
    best = runs[0].test.get("best_possible")
    if best is not None:
        rows.append(_row("best possible", {"test/acc@1/micro": best}))
    baselines = _baselines(runs)
    for name in sorted(baselines, key=lambda name: -baselines[name]["test/acc@1/micro"]):
        rows.append(_row(name, baselines[name]))
    first = runs[0].test
    caption = (
        f"{count(first['test/targets'], 'test target')} of {count(first['test/clients'], 'client')}"
        ", each scored once"
    )
    note = paragraph(
        "Averages over check-ins, except acc@1 macro, where each client counts once. Higher is "
        "better, except for the loss. 95 % intervals are over clients: the bootstrap resamples "
        "clients, not check-ins. To see whether two rows differ, read the interval of their paired "
        f"difference below; overlap of their own intervals does not say it.{_chosen(runs)}"
    )
    header = ["", *METRICS, "acc@1 macro", "95 % interval of acc@1"]
    boxes = [table(header, rows, caption, width=3), *_differences(runs)]
    return Section("test", "Test result", stack(note, grid(*boxes)))


def _chosen(runs: Sequence[ReportedRun]) -> str:
    """A sentence on which counting is the best; empty if nothing was counted on validation."""
    name = best_counting.choose([run.test for run in runs])
    if name is None:
        return ""
    return (
        f" The best counting, {name.replace('_', ' ')}, was chosen by acc@1 on validation"
        f"{', one for all runs' if len(runs) > 1 else ''}."
    )


def _row(name: str, result: dict[str, Any], interval: str | None = None) -> list[str | None]:
    cells = [four(result.get(f"test/{metric}/micro")) for metric in METRICS]
    return [name, *cells, four(result.get("test/acc@1/macro")), interval]


def _baselines(runs: Sequence[ReportedRun]) -> dict[str, dict[str, Any]]:
    """The baselines of all runs; one of the same name with other results gets the run's label."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, result in run.test["baselines"].items():
            name = name.replace("_", " ")
            if found.setdefault(name, result) != result:
                found[f"{name} ({run.label})"] = result
    return found


def _differences(runs: Sequence[ReportedRun]) -> list[Markup]:
    """Differences in acc@1 to counting, and between the runs, paired by client."""
    over = [
        (run, name.replace("_", " "), to_gain(gains["test/acc@1/micro"]))
        for run in runs
        for name, gains in run.test["gains"].items()
    ]
    between = [(run, runs[0].label, _over_first(runs[0], run)) for run in runs[1:]]
    boxes, header = [], ["run", "over", "acc@1", "95 % interval", ""]
    if over and runs[0].test["test/clients"] > 1:
        drawn = [_dot(run, f"{who(runs, run)}{name}", gain) for run, name, gain in over]
        label = "gain in acc@1 (95 % interval)"
        boxes.append(
            figure(
                "gains",
                "Gain in accuracy over counting",
                figures.dots_with_intervals(drawn, label, zero=True),
                _on_gains(runs, over),
            )
        )
    for caption, rows in (
        ("Gain in acc@1 over counting, paired by client", over),
        (f"Gain in acc@1 over {runs[0].label}, paired by client", between),
    ):
        if rows:
            texts = [[r.label, name, *_difference(r.test, gain)] for r, name, gain in rows]
            boxes.append(table(header, texts, caption, width=2))
    return boxes


def _dot(run: ReportedRun, label: str, gain: Gain) -> figures.Dot:
    low, high = gain.interval or (None, None)
    return label, gain.difference, low, high, run.number


def _on_gains(runs: Sequence[ReportedRun], over: Sequence[tuple[ReportedRun, str, Gain]]) -> str:
    """A sentence on how many of the baselines each run beats."""
    said = []
    for run in runs:
        gains = [gain for other, _, gain in over if other is run]
        beaten = sum(gain.is_significant and gain.difference > 0 for gain in gains)
        said.append(
            f"{who(runs, run)}an interval right of zero means that the run is better: it is so for "
            f"{beaten} of {count(len(gains), 'baseline')}"
        )
    return sentence(runs, said)


def _over_first(first: ReportedRun, run: ReportedRun) -> Gain:
    (sums, counts), (theirs, _) = run.client_sums(), first.client_sums()
    rng = seeding.rng(first.settings.loop.seed, "bootstrap")
    low, high = metrics.paired_bootstrap_interval(sums, theirs, counts, rng)
    return Gain(float((sums.sum() - theirs.sum()) / counts.sum()), (low, high))


def over_clients(runs: Sequence[ReportedRun]) -> Section:
    """How accuracy is spread over clients: distribution, deciles, the worst tenth."""
    series, said, worst_parts, tenths, tables = [], [], [], [], []
    for run in runs:
        sums, counts = run.client_sums()
        kept = np.flatnonzero(counts)
        accuracy = sums[kept] / counts[kept]
        worst = metrics.worst_tenth(accuracy)
        series.append((run.number, run.label, accuracy))
        tenths.append(deciles(accuracy))
        said.append(
            f"{who(runs, run)}half of the clients are at {tenths[-1][5]:.3f} or below, the worst "
            f"is at {tenths[-1][0]:.3f} and the best at {tenths[-1][10]:.3f}"
        )
        worst_parts.append(
            f"{who(runs, run)}the worst tenth ({count(len(worst), 'client')}) has a mean acc@1 of "
            f"{accuracy[worst].mean():.3f}{_loss_of_worst(run)}, all clients of "
            f"{accuracy.mean():.3f}"
        )
        names, lengths = run.client_names, run.task.clients.lengths
        rows = [
            [names[kept[i]], f"{lengths[kept[i]]:,}", f"{counts[kept[i]]:,}", f"{accuracy[i]:.3f}"]
            for i in worst[:10]
        ]
        caption = f"The {count(len(rows), 'client')} with the lowest acc@1{of_run(runs, run)}"
        tables.append(table(["client", "check-ins", "test targets", "acc@1"], rows, caption))
    percents = [f"{percent} %" for percent in range(0, 101, 10)]
    rows = [
        [run.label, *(f"{value:.3f}" for value in values)]
        for run, values in zip(runs, tenths, strict=True)
    ]
    content = grid(
        figure(
            "clients-histogram",
            "Clients by accuracy",
            figures.client_histogram(series),
            sentence(runs, said),
        ),
        figure(
            "clients-curve",
            "From the worst client to the best",
            figures.client_curve(series),
            sentence(runs, worst_parts),
        ),
        *tables,
        table(
            ["run", *percents],
            rows,
            "Percentiles of acc@1 over the clients",
            width=3,
        ),
    )
    return Section("clients", "Accuracy over clients", content)
