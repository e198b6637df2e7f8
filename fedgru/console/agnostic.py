"""Text about agnostic training: image networks, and federated runs over alpha."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median_high
from typing import Any

from fedgru.console.tables import align, count

_COLUMNS = (
    ("target_on_target", "target head"),
    ("counter", "counter-examples"),
    ("context_on_context", "context head"),
    ("probe", "best fresh probe"),
)


def describe_cross_domain(rows: Sequence[Mapping[str, Any]], last_epoch: int) -> str:
    """Return the table of `cross_domain.run`: accuracy in percent, mean over seeds."""
    lines: list[Sequence[str]] = [("trained on", "tested on targets", "tested on contexts")]
    for network in ("target", "context"):
        last = [r for r in rows if r["network"] == network and r["epoch"] == last_epoch]
        values = [_percent(fmean(r[name] for r in last)) for name in ("on_target", "on_context")]
        lines.append((f"{network}s", *values))
    return _table(lines)


def describe_sweep(
    table: Sequence[Mapping[str, Any]], repeats: int, preferred: Mapping[str, float | None]
) -> str:
    """Return the results of a sweep over alpha.

    Args:
        table: from `images.sweep.summarise`, a row per method and alpha.
        repeats: number of seeds of each row.
        preferred: {method: the alpha that validation prefers, None if there is none}.
    """
    lines = [("method", "alpha", *(title for _, title in _COLUMNS))]
    for line in table:
        cells = [
            "-"
            if line[name] is None
            else f"{_percent(line[name])} ± {_percent(line[f'{name}_sd'])}"
            for name, _ in _COLUMNS
        ]
        lines.append((line["method"], f"{line['alpha']:g}", *cells))
    text = [
        _table(lines),
        f"Commonest context {_percent(table[0]['floor'])}, best probe of the raw images "
        f"{_percent(table[0]['ceiling'])}; mean and standard deviation over "
        f"{count(repeats, 'seed')}, in percent.",
    ]
    text += [
        f"Alpha that validation prefers with {method}: {alpha:g}"
        for method, alpha in preferred.items()
        if alpha is not None
    ]
    return "\n".join(text)


def describe_maps(correlations: Sequence[float]) -> str:
    """Return the similarity of the two response maps of each hold-out image, in words."""
    return (
        f"Correlation of the two maps: median {median_high(correlations):.2f} of "
        f"{len(correlations)} hold-out images."
    )


def describe_pareto(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of `report.pareto.collect`: each run's accuracy and the best probe's."""
    lines = [("method", "alpha", "seed", "acc@1", "best probe", "commonest")]
    for row in rows:
        numbers = (f"{row[key]:.4f}" for key in ("acc@1", "probe", "floor"))
        lines.append((row["method"], f"{row['alpha']:g}", str(row["seed"]), *numbers))
    return _table(lines)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return align(rows, right=range(1, len(rows[0])))
