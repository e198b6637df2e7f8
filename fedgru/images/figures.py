"""Figures of the image experiments, as PNG. matplotlib is imported when one is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedgru.core.figures import new_figure
from fedgru.core.types import AnyPath

TARGET, CONTEXT, PROBE, FLOOR = "#1f5fa8", "#d0661c", "#a01c4e", "#808080"


def _accuracy_axis(axis: Any, x_label: str) -> None:
    axis.set_ylim(0, 1.03)
    axis.set_xlabel(x_label)
    axis.set_ylabel("accuracy")
    axis.grid(alpha=0.25)


def draw_cross_domain(path: AnyPath, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw figure 2: a panel for each of the two networks, a curve for each hold-out.

    Args:
        path: of the PNG.
        rows: from `cross_domain.run`.
    """
    figure, axes = new_figure(1, 2, 8, 3.4)
    for axis, network in zip(axes[0], ("target", "context"), strict=True):
        mine = [row for row in rows if row["network"] == network]
        epochs = sorted({row["epoch"] for row in mine})
        for name, colour in (("on_target", TARGET), ("on_context", CONTEXT)):
            means, spreads = [], []
            for epoch in epochs:
                mean, spread = _mean_and_sd([r[name] for r in mine if r["epoch"] == epoch])
                means.append(mean)
                spreads.append(spread)
            _curve(axis, epochs, means, spreads, f"{name.replace('_', ' ')} hold-out", colour)
        _accuracy_axis(axis, "epoch")
        axis.set_title(f"trained on {network}s")
        axis.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


def draw_sweep(
    path: AnyPath, table: Sequence[Mapping[str, Any]], methods: Sequence[str], has_counter: bool
) -> None:
    """Draw figure 3, a row for each method; on the right the accuracy of fresh probes.

    Args:
        path: of the PNG.
        table: from `sweep.summarise`.
        methods: names.
        has_counter: whether there are counter-examples.
    """
    figure, axes = new_figure(len(methods), 2, 9, 2.9 * len(methods) + 0.4)
    for (left, right), method in zip(axes, methods, strict=True):
        lines = [line for line in table if line["method"] == method]
        for name, label, colour, style in (
            ("target_on_target", "target head on targets", TARGET, "-"),
            ("target_on_context", "target head on contexts", TARGET, ":"),
            ("context_on_context", "context head on contexts", CONTEXT, "-"),
            ("context_on_target", "context head on targets", CONTEXT, ":"),
        ):
            _column(left, lines, name, label, colour, style)
        if has_counter:
            _column(right, lines, "counter", "target head on counter-examples", TARGET, "-")
        _column(right, lines, "probe", "best fresh probe of the context", PROBE, "-")
        if any(line["noiseless"] != line["probe"] for line in lines):
            _column(right, lines, "noiseless", "the same without the noise", PROBE, ":")
        right.axhline(lines[0]["ceiling"], color=FLOOR, ls="--", lw=1, label="probe of raw images")
        right.axhline(lines[0]["floor"], color=FLOOR, ls=":", lw=1, label="commonest context")
        for axis in (left, right):
            _accuracy_axis(axis, "alpha")
            axis.legend(loc="lower left", fontsize=7)
        left.set_title(f"{method}: heads on both hold-outs", fontsize=10)
        right.set_title(f"{method}: what the heads do not show", fontsize=10)
    figure.savefig(path, dpi=100)


def draw_maps(
    path: AnyPath, examples: Sequence[Mapping[str, Any]], alphas: Sequence[float]
) -> None:
    """Draw figure 4: images, and the places of the strongest response of two networks.

    Args:
        path: of the PNG.
        examples: dicts with `image` uint8 [height, width, channels], `maps`, one float [rows,
            columns] for each alpha, drawn over the whole image, and `title`.
        alphas: two floats.
    """
    figure, axes = new_figure(3, len(examples), 1.35 * len(examples) + 0.6, 4.6)
    for column, example in zip(axes.T, examples, strict=True):
        image = example["image"]
        grey = image[..., 0] if image.shape[2] == 1 else image
        column[0].imshow(grey, cmap="gray" if image.shape[2] == 1 else None)
        column[0].set_title(example["title"], fontsize=7)
        for axis, response in zip(column[1:], example["maps"], strict=True):
            axis.imshow(grey, cmap="gray" if image.shape[2] == 1 else None)
            extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
            axis.imshow(
                response, cmap="inferno", alpha=0.6, extent=extent, interpolation="bilinear"
            )
        for axis in column:
            axis.set_xticks([])
            axis.set_yticks([])
    labels = ("image", *(f"alpha {alpha:g}" for alpha in alphas))
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label, fontsize=9)
    figure.savefig(path, dpi=110)


def _column(
    axis: Any, lines: Sequence[Mapping[str, Any]], name: str, label: str, colour: str, style: str
) -> None:
    alphas = [line["alpha"] for line in lines]
    means, spreads = ([line[key] for line in lines] for key in (name, f"{name}_sd"))
    _curve(axis, alphas, means, spreads, label, colour, style)


def _curve(
    axis: Any,
    x: Sequence[float],
    means: Sequence[float],
    spreads: Sequence[float],
    label: str,
    colour: str,
    style: str = "-",
) -> None:
    axis.plot(x, means, style, color=colour, label=label, marker="o", ms=3, lw=1.5)
    low = [m - s for m, s in zip(means, spreads, strict=True)]
    high = [m + s for m, s in zip(means, spreads, strict=True)]
    axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    import numpy as np

    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
