"""The figures of a report. Each function draws one and returns the matplotlib figure.

A series has one entry per run, which starts with the run's number (its colour and its marker) and
its label. Accuracies are shares, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedgru.core.figures import new_figure
from fedgru.core.types import Doubles, Ints
from fedgru.report.svg import COLOURS, FAINT, INK, MARKERS, PAPER, WIDTH, in_page_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedgru.report.numbers import Cells, Confusion, Groups, Reliability

FEW = 20  # a share of fewer targets than this is not reliable
FEW_ON_MAP = 5
LARGEST_PT2 = 300  # area of the map's largest circle
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _legend(axis: Axes, many: bool = True, **options: Any) -> None:
    if many:
        axis.legend(**{"handlelength": 1.5, "borderaxespad": 0.2} | options)


def _legend_above(axis: Axes, many: bool = True, columns: int = 2) -> None:
    _legend(axis, many, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, columnspacing=1.2)


@in_page_style
def learning_curves(
    series: Sequence[tuple[int, str, Doubles, Doubles, Doubles, int | None]], y_label: str
) -> Figure:
    """Draw train (dashed) and val values over the rounds; a hollow marker is on the kept round.

    Args:
        series: (run, label, rounds, train, val, best_round) per run, float arrays; best_round is
            None if each client has its own.
        y_label: of the metric, with its unit.
    """
    from matplotlib.ticker import MaxNLocator

    figure, ((axis,),) = new_figure(1, 1, WIDTH, 3.0)
    for i, label, rounds, train, val, best in series:
        prefix = f"{label}, " if len(series) > 1 else ""
        axis.plot(rounds, val, color=COLOURS[i], lw=1.8, label=f"{prefix}val")
        axis.plot(rounds, train, color=COLOURS[i], lw=1.2, ls="--", label=f"{prefix}train")
        kept = rounds == (np.nan if best is None else best)
        axis.plot(rounds[kept], val[kept], MARKERS[i], color=COLOURS[i], ms=8, mfc=PAPER, mew=1.8)
    axis.set(xlabel="round", ylabel=y_label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(axis)
    return figure


Dot: TypeAlias = tuple[str, float, float | None, float | None, int | None]


@in_page_style
def dots_with_intervals(rows: Sequence[Dot], x_label: str, zero: bool = False) -> Figure:
    """Draw a row for each result: a dot, and its interval where it has one.

    Args:
        rows: (label, value, low, high, run) from top to bottom; low and high can be None; run is
            the number of the run or None for a baseline.
        x_label: with its unit.
        zero: whether a line marks zero.
    """
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 0.75 + 0.24 * len(rows))
    if zero:
        axis.axvline(0, color=INK, lw=1, ls=":")
    for y, (_, value, low, high, run) in enumerate(rows):
        colour = INK if run is None else COLOURS[run]
        marker = "|" if run is None else MARKERS[run]
        if low is not None:
            axis.plot([low, high], [y, y], color=colour, lw=2)
        axis.plot(value, y, marker, color=colour, ms=9 if run is None else 7, mew=2)
    axis.set_yticks(range(len(rows)), [row[0] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel(x_label)
    axis.grid(axis="y", visible=False)
    return figure


@in_page_style
def client_histogram(series: Sequence[tuple[int, str, Doubles]]) -> Figure:
    """Draw the number of clients in each bin of accuracy, 0.05 wide.

    Args:
        series: (run, label, accuracies of clients) per run.
    """
    from matplotlib.ticker import MaxNLocator

    figure, ((axis,),) = new_figure(1, 1, WIDTH, 3.0)
    edges = np.linspace(0, 1, 21)
    for i, label, values in series:
        axis.hist(
            values,
            edges,
            histtype="stepfilled" if len(series) == 1 else "step",
            color=COLOURS[i],
            lw=1.8,
            label=label,
        )
    axis.set(xlabel="acc@1 of the client", ylabel="clients", xlim=(0, 1))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(axis, len(series) > 1)
    return figure


@in_page_style
def client_curve(series: Sequence[tuple[int, str, Doubles]]) -> Figure:
    """Draw the clients' accuracies in ascending order; the worst tenth is shaded.

    Args:
        series: (run, label, accuracies of clients) per run.
    """
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 3.0)
    axis.axvspan(0, 10, color=FAINT, alpha=0.35, lw=0)
    for i, label, values in series:
        share = 100 * (np.arange(len(values)) + 1) / len(values)
        axis.step(share, np.sort(values), where="pre", color=COLOURS[i], lw=1.8, label=label)
    axis.set(xlabel="clients, worst first (%)", ylabel="acc@1 of the client", xlim=(0, 100))
    axis.set_ylim(bottom=0)
    axis.text(1.5, axis.get_ylim()[1] * 0.97, "worst tenth", va="top", rotation=90)
    _legend_above(axis, len(series) > 1)
    return figure


@in_page_style
def accuracy_and_counts(
    series: Sequence[tuple[int, str, Groups]],
    ticks: Sequence[tuple[int, str]],
    x_label: str,
    joined: bool = True,
) -> Figure:
    """Draw accuracy with its interval over groups; below it, the number of targets of each group.

    Args:
        series: (run, label, Groups) per run, of the same targets.
        ticks: [(position, text)] of the horizontal axis.
        x_label: what the groups are.
        joined: whether a line joins the groups, which then have an order.
    """
    figure, axes = new_figure(2, 1, WIDTH, 3.4, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    above, below = axes[:, 0]
    spread = 0.12 if len(series) > 1 else 0.0
    for at, (i, label, groups) in enumerate(series):
        x = np.arange(len(groups.accuracy)) + spread * (at - (len(series) - 1) / 2)
        errors = np.stack([groups.accuracy - groups.low, groups.high - groups.accuracy])
        above.errorbar(
            x,
            groups.accuracy,
            np.maximum(np.nan_to_num(errors), 0),
            color=COLOURS[i],
            marker=MARKERS[i],
            ms=5,
            lw=1.4 if joined else 0,
            elinewidth=1.2,
            label=label,
        )
    above.set_ylabel("acc@1")
    above.set_ylim(bottom=0)
    below.bar(np.arange(len(series[0][2].targets)), series[0][2].targets, color=FAINT)
    below.set_ylabel("test\ncheck-ins")
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.set_xlabel(x_label)
    below.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
    below.grid(axis="x", visible=False)
    figure.align_ylabels()
    _legend_above(above, len(series) > 1)
    return figure


@in_page_style
def activity(
    checkins: Ints,
    accuracies: Doubles,
    groups: Ints,
    bounds: Sequence[tuple[int, int]],
    series: Sequence[tuple[int, str, Groups]],
) -> Figure:
    """Draw each client's accuracy over its number of check-ins, and the groups' accuracy.

    Args:
        checkins: int [num_clients].
        accuracies: float [num_clients], of the first run; drawn if there is no other.
        groups: int [num_clients], from `activity_groups`.
        bounds: (fewest, most check-ins) of each group.
        series: (run, label, Groups) per run, of the clients' targets.
    """
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 3.0)
    if len(series) == 1:
        axis.plot(checkins, accuracies, "o", color=COLOURS[series[0][0]], ms=3.5, mew=0, alpha=0.45)
    middles = [float(np.median(checkins[groups == group])) for group in range(len(bounds))]
    for i, label, found in series:
        errors = np.stack([found.accuracy - found.low, found.high - found.accuracy])
        axis.errorbar(
            middles,
            found.accuracy,
            np.maximum(np.nan_to_num(errors), 0),
            color=COLOURS[i],
            marker=MARKERS[i],
            ms=6,
            lw=1.8,
            label=label,
        )
    axis.set_xscale("log")
    low, high = checkins.min(), checkins.max()
    steps = [number for power in range(7) for number in (10**power, 2 * 10**power, 5 * 10**power)]
    shown = [number for number in steps if low <= number <= high]
    axis.set_xticks(shown, [f"{number:,}" for number in shown])
    axis.minorticks_off()
    axis.set(xlabel="check-ins of the client (log scale)", ylabel="acc@1")
    axis.set_ylim(bottom=0)
    _legend_above(axis, len(series) > 1)
    return figure


@in_page_style
def visits(series: Sequence[tuple[int, str, Groups, Groups]], names: Sequence[str]) -> Figure:
    """Draw acc@1 with its interval, and acc@5, of revisits and first visits.

    Args:
        series: (run, label, Groups of acc@1, Groups of acc@5) per run.
        names: of the groups, with their numbers of targets.
    """
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 3.0)
    width = 0.8 / len(series)
    for at, (i, label, top1, top5) in enumerate(series):
        x = np.arange(len(names)) + width * (at - (len(series) - 1) / 2)
        prefix = f"{label}, " if len(series) > 1 else ""
        for groups, alpha, name in ((top5, 0.3, "acc@5"), (top1, 1.0, "acc@1")):
            axis.bar(
                x, groups.accuracy, 0.85 * width, color=COLOURS[i], alpha=alpha, label=prefix + name
            )
            errors = np.stack([groups.accuracy - groups.low, groups.high - groups.accuracy])
            axis.errorbar(
                x, groups.accuracy, np.maximum(np.nan_to_num(errors), 0), fmt="none", ecolor=INK
            )
    axis.set_xticks(range(len(names)), names)
    axis.set(ylabel="share of test check-ins", ylim=(0, 1))
    axis.grid(axis="x", visible=False)
    _legend_above(axis)
    return figure


@in_page_style
def confusion(found: Confusion) -> Figure:
    """Draw a Confusion as a table of per cents, darker for more.

    Args:
        found: Confusion.
    """
    size = len(found.labels)
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 1.5 + 0.26 * size)
    most = max(found.shares.max(), 0.5)
    axis.imshow(found.shares, cmap="Blues", vmin=0, vmax=most, aspect="auto")
    for row, column in np.ndindex(size, size):
        share = 100 * found.shares[row, column]
        if share >= 0.5:
            colour = "#ffffff" if share > 60 * most else "#111111"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour)
    labels = [_shorten(label) for label in found.labels]
    axis.set_xticks(range(size), labels, rotation=90)
    axis.set_yticks(range(size), labels)
    axis.set(xlabel="predicted", ylabel="target")
    axis.tick_params(length=0)
    axis.grid(visible=False)
    return figure


@in_page_style
def calibration(series: Sequence[tuple[int, str, Reliability]]) -> Figure:
    """Draw accuracy over confidence, and below it the number of predictions in each bin.

    Args:
        series: (run, label, Reliability) per run that gives probabilities.
    """
    figure, axes = new_figure(2, 1, WIDTH, 3.6, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    above, below = axes[:, 0]
    above.plot([0, 1], [0, 1], color=FAINT, ls="--", lw=1.2, label="calibrated")
    for i, label, found in series:
        label = label if len(series) > 1 else "model"
        filled = found.targets >= FEW
        above.plot(
            found.confidence[filled],
            found.accuracy[filled],
            color=COLOURS[i],
            marker=MARKERS[i],
            ms=5,
            lw=1.8,
            label=label,
        )
        edges = np.linspace(0, 1, len(found.targets) + 1)
        below.stairs(found.targets, edges, color=COLOURS[i], lw=1.4, fill=len(series) == 1)
    above.set(ylabel="acc@1", xlim=(0, 1), ylim=(0, 1))
    below.set_ylabel("test\ncheck-ins")
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.set_xlabel("probability of the predicted class")
    figure.align_ylabels()
    _legend_above(above, columns=3)
    return figure


@in_page_style
def error_map(cells: Cells) -> Figure:
    """Draw where predictions fail: a circle per square, area by targets, colour by error rate.

    Squares with fewer than FEW_ON_MAP targets are not drawn.

    Args:
        cells: Cells.
    """
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 4.4)
    shown = np.flatnonzero(cells.targets >= FEW_ON_MAP)
    order = shown[np.argsort(-cells.targets[shown], kind="stable")]  # small circles on top
    drawn = axis.scatter(
        cells.lon_deg[order],
        cells.lat_deg[order],
        s=LARGEST_PT2 * cells.targets[order] / cells.targets.max(),
        c=cells.error_rate[order],
        cmap="cividis",
        vmin=0,
        vmax=1,
        linewidths=0.4,
        edgecolors=INK,
    )
    axis.set_aspect(1 / np.cos(np.radians(np.mean(axis.get_ylim()))))
    axis.set(xlabel="longitude (degrees)", ylabel="latitude (degrees)")
    axis.ticklabel_format(useOffset=False)
    axis.locator_params(axis="x", nbins=4)
    bar = figure.colorbar(drawn, ax=axis, orientation="horizontal", aspect=30, pad=0.02)
    bar.set_label("share of wrong predictions")
    bar.outline.set_visible(False)
    return figure


@in_page_style
def leakage(
    concepts: Sequence[tuple[str, float]],
    series: Sequence[tuple[int, str, Sequence[float | None], Sequence[float | None]]],
) -> Figure:
    """Draw the accuracy of a new probe for each concept, and of always naming the commonest value.

    Args:
        concepts: (name, floor) from top to bottom.
        series: (run, label, representation, logits) per run: accuracies, None where not audited.
    """
    height = 0.8 + 0.2 * len(series) + (0.25 + 0.15 * len(series)) * len(concepts)
    figure, ((axis,),) = new_figure(1, 1, WIDTH, height)
    for at, (i, label, representation, logits) in enumerate(series):
        prefix = f"{label}, " if len(series) > 1 else ""
        spread = 0.6 / len(series) * (at - (len(series) - 1) / 2)
        for values, fill, name in (
            (representation, COLOURS[i], "representation"),
            (logits, PAPER, "logits"),
        ):
            shown = [(v, y + spread) for y, v in enumerate(values) if v is not None]
            if shown:
                axis.plot(
                    *zip(*shown, strict=True),
                    MARKERS[i],
                    color=COLOURS[i],
                    mfc=fill,
                    mew=1.6,
                    ms=7,
                    ls="none",
                    clip_on=False,
                    label=prefix + name,
                )
    floors = [floor for _, floor in concepts]
    axis.plot(floors, range(len(concepts)), "|", color=INK, ms=16, mew=2, label="commonest value")
    axis.set_yticks(range(len(concepts)), [name for name, _ in concepts])
    axis.set_ylim(len(concepts) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xlabel("accuracy of a fresh probe")
    _legend_above(axis, columns=2)
    return figure


@in_page_style
def seconds(series: Sequence[tuple[int, str, Doubles, Doubles, Doubles]]) -> Figure:
    """Draw the seconds of each round.

    Args:
        series: (run, label, rounds, train_s, val_s) per run.
    """
    from matplotlib.ticker import MaxNLocator

    figure, ((axis,),) = new_figure(1, 1, WIDTH, 3.0)
    for i, label, rounds, train_s, val_s in series:
        prefix = f"{label}, " if len(series) > 1 else ""
        axis.plot(
            rounds, train_s, color=COLOURS[i], marker=MARKERS[i], ms=4, label=f"{prefix}training"
        )
        axis.plot(rounds, val_s, color=COLOURS[i], lw=1.2, ls=":", label=f"{prefix}validation")
    axis.set(xlabel="round", ylabel="seconds")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(axis)
    return figure


@in_page_style
def transfers(series: Sequence[tuple[int, str, Ints, Ints]]) -> Figure:
    """Draw the bytes of a round for each client, in ascending order.

    Args:
        series: (run, label, down_bytes, up_bytes) per run, int [clients that train].
    """
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 3.0)
    for i, label, down, up in series:
        prefix = f"{label}, " if len(series) > 1 else ""
        share = 100 * (np.arange(len(down)) + 1) / len(down)
        for values, name, width, alpha in ((down, "down", 5, 0.35), (up, "up", 1.6, 1.0)):
            axis.step(
                share,
                np.sort(values) / 1e3,
                color=COLOURS[i],
                lw=width,
                alpha=alpha,
                label=f"{prefix}{name}",
            )
    axis.set(xlabel="clients, least traffic first (%)", ylabel="kB per client and round")
    axis.set_ylim(bottom=0)
    axis.set_xlim(0, 100)
    _legend_above(axis)
    return figure


def _shorten(label: str, longest: int = 18) -> str:
    return label if len(label) <= longest else f"{label[: longest - 1]}…"
