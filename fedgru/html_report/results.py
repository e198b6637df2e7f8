"""How good the model is: key results, the test table beside counting, the spread over clients."""

import numpy as np

from fedgru import metrics, seeding
from fedgru.html_report import figures
from fedgru.html_report.numbers import deciles, worst_tenth
from fedgru.html_report.page import Section, figure, grid, paragraph, table, tiles
from fedgru.html_report.words import count, four, of_run, sentence, verdict, who

METRICS = ("acc@1", "acc@5", "acc@10", "mrr", "ndcg", "loss")


def glance(runs):
    """Return the key results as HTML: a row of tiles for each run."""
    return "\n".join(tiles(run.number, _key_results(runs, run)) for run in runs)


def _key_results(runs, run):
    """(name, value, detail) of each key result of a run."""
    prefix, test = who(runs, run), run.test
    items = [
        (f"{prefix}test {name}", value, _interval(test, name))
        for name in ("acc@1", "acc@5", "loss")
        if (value := four(test.get(f"test/{name}/micro")))
    ]
    accuracy = client_accuracy(run)
    worst = worst_tenth(accuracy)
    detail = f"mean acc@1 of {len(worst)} out of {count(len(accuracy), 'client')}"
    items.append((f"{prefix}worst tenth", four(accuracy[worst].mean()), detail))
    name, gain = _smallest_gain(test)
    if gain:
        low, high = gain["interval"]
        detail = f"acc@1, {low:+.4f} to {high:+.4f}, {verdict(low, high)}"
        items.append((f"{prefix}against {name}", f"{gain['difference']:+.4f}", detail))
    return items


def client_accuracy(run):
    """Return float64 [clients with test targets], the acc@1 of each, most check-ins first."""
    sums, counts = run.client_sums()
    return sums[counts > 0] / counts[counts > 0]


def _interval(test, name):
    interval = test.get("intervals", {}).get(f"test/{name}/micro")
    if not interval or test["test/clients"] == 1:
        return "no interval: one client"
    return f"{interval[0]:.4f} to {interval[1]:.4f} over clients"


def _smallest_gain(test):
    """The baseline that comes closest in acc@1, of those compared client by client."""
    gains = {name: gain["test/acc@1/micro"] for name, gain in test.get("gains", {}).items()}
    if not gains:
        return None, None
    name = min(gains, key=lambda name: gains[name]["difference"])
    return name.replace("_", " "), gains[name]


def beside_counting(runs):
    """The test table with baselines and intervals, and the differences."""
    rows, dots = [], []
    for run in runs:
        test, own = run.test, []
        low, high = test["intervals"]["test/acc@1/micro"]
        name = run.label if len(runs) > 1 else "model"
        own.append((name, test))
        own += [(f"{name}, cold state", test["cold"])] if "cold" in test else []
        rows += [_row(*pair, _span(low, high) if i == 0 else None) for i, pair in enumerate(own)]
        dots.append((name, test["test/acc@1/micro"], low, high, run.number))
    baselines = _baselines(runs)
    for name, result in sorted(baselines.items(), key=lambda pair: -pair[1]["test/acc@1/micro"]):
        rows.append(_row(name, result, None))
        dots.append((name, result["test/acc@1/micro"], None, None, None))
    told = []
    for run in runs:
        name, gain = _smallest_gain(run.test)
        if gain:
            low, high = gain["interval"]
            told.append(
                f"{who(runs, run)}test acc@1 is {run.test['test/acc@1/micro']:.4f}, "
                f"{gain['difference']:+.4f} against {name}, the running counts that come closest "
                f"({verdict(low, high)})"
            )
        else:
            told.append(f"{who(runs, run)}test acc@1 is {run.test['test/acc@1/micro']:.4f}")
        if "best_possible" in run.test:
            told.append(
                f"the best possible in this made-up city is {run.test['best_possible']:.4f}"
            )
    header = ["", *METRICS, "acc@1 macro", "95 % interval of acc@1"]
    first = runs[0].test
    caption = (
        f"{count(first['test/targets'], 'test target')} of {count(first['test/clients'], 'client')}"
        ", each scored once"
    )
    note = paragraph(
        "Averages over check-ins, but for acc@1 macro, where each client counts once. Intervals "
        "are over clients: people are drawn again, not check-ins."
    )
    plot = figures.dots_with_intervals(dots, "test acc@1 (share of check-ins)")
    drawn = figure("against", "Test accuracy beside counting", plot, sentence(runs, told))
    content = grid(table(header, rows, caption, width=3), drawn, *_gain_tables(runs))
    return Section("test", "Test result", f"{note}\n{content}")


def _row(name, result, interval):
    cells = [four(result.get(f"test/{metric}/micro")) for metric in METRICS]
    return [name, *cells, four(result.get("test/acc@1/macro")), interval]


def _span(low, high):
    return f"{low:.4f} to {high:.4f}"


def _baselines(runs):
    """Each baseline once: those of the same name differ between runs only if they were learnt."""
    found = {}
    for run in runs:
        for name, result in run.test.get("baselines", {}).items():
            name = name.replace("_", " ")
            if name in found and found[name] != result:
                name = f"{name} of {run.label}"
            found[name] = result
    return found


def _gain_tables(runs):
    """Differences in acc@1 to the running counts, and between the runs, paired by client."""
    tables = []
    rows = [
        [*([run.label] if len(runs) > 1 else []), name.replace("_", " "), *_difference(gain)]
        for run in runs
        for name, gains in run.test.get("gains", {}).items()
        for gain in [gains["test/acc@1/micro"]]
    ]
    header = ["against", "acc@1", "95 % interval", ""]
    if rows:
        header = header if len(runs) == 1 else ["run", *header]
        tables.append(
            table(header, rows, "Difference in acc@1 to counting, paired by client", width=2)
        )
    if len(runs) > 1:
        first, rows = runs[0], []
        for run in runs[1:]:
            (sums, counts), (theirs, _) = run.client_sums(), first.client_sums()
            rng = seeding.rng(first.settings.loop.seed, "bootstrap")
            interval = metrics.paired_bootstrap_interval(sums, theirs, counts, rng)
            difference = (sums.sum() - theirs.sum()) / counts.sum()
            rows.append([run.label, *_difference({"difference": difference, "interval": interval})])
        caption = f"Difference in acc@1 to {first.label}, paired by client"
        tables.append(table(["run", *header[2:]], rows, caption, width=3))
    return tables


def _difference(gain):
    low, high = gain["interval"]
    return [f"{gain['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}", verdict(low, high)]


def over_clients(runs):
    """How accuracy is spread over clients: distribution, deciles, the worst tenth."""
    series, told, worst_told, tenths, tables = [], [], [], [], []
    for run in runs:
        sums, counts = run.client_sums()
        kept = np.flatnonzero(counts)
        accuracy = sums[kept] / counts[kept]
        worst = worst_tenth(accuracy)
        series.append((run.number, run.label, accuracy))
        tenths.append(deciles(accuracy))
        told.append(
            f"{who(runs, run)}half of the clients are at {tenths[-1][5]:.3f} or below, the worst "
            f"is at {tenths[-1][0]:.3f} and the best at {tenths[-1][10]:.3f}"
        )
        worst_told.append(
            f"{who(runs, run)}the worst tenth ({count(len(worst), 'client')}) has a mean acc@1 of "
            f"{accuracy[worst].mean():.3f}, all clients of {accuracy.mean():.3f}"
        )
        ids, lengths = run.task.clients.client_ids, run.task.clients.lengths
        rows = [
            [ids[kept[i]], f"{lengths[kept[i]]:,}", f"{counts[kept[i]]:,}", f"{accuracy[i]:.3f}"]
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
            sentence(runs, told),
        ),
        figure(
            "clients-curve",
            "From the worst client to the best",
            figures.client_curve(series),
            sentence(runs, worst_told),
        ),
        *tables,
        table(
            ["run", *percents],
            rows,
            "Deciles: the acc@1 that so many per cent of the clients do not exceed",
            width=3,
        ),
    )
    return Section("clients", "Accuracy over clients", content)
