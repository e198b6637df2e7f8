"""The table of `comparison.compare` as text, Markdown, LaTeX and CSV."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from fedgru.console.tables import count

Facts: TypeAlias = Mapping[str, Any]

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def metrics_of(found: Facts) -> list[str]:
    """Return the names of the metrics that were compared."""
    return [key for key in found["rows"][0] if key not in ("label", "runs", "seeds")]


def as_text(found: Facts) -> str:
    """Return lines for a screen; the metrics stand one below the other."""
    names, (head, *rows) = metrics_of(found), _table(found)
    width = max(len(row[0]) for row in rows)
    lines = [*_describe_verdicts(found), _caption(found)]
    for place, name in enumerate(names):
        values = [row[2 + 2 * place : 4 + 2 * place] for row in rows]
        value_width = max(len(value) for value, _ in values)
        lines += ["", f"{name:{width + 2}}  seeds  {'':{value_width}}  {head[3 + 2 * place]}"]
        for row, (value, difference) in zip(rows, values, strict=True):
            line = f"  {row[0]:{width}}  {row[1]:>5}  {value:{value_width}}  {difference}"
            lines.append(line.rstrip())
    return "\n".join([*lines, "", *_below(found)]).rstrip()


def as_markdown(found: Facts) -> str:
    """Return a table of Markdown, with the verdicts before it."""
    head, *rows = _table(found)
    marked = [head, ["---"] * len(head), *rows]
    verdicts = [line for row in _describe_verdicts(found) for line in (row, "")]
    lines = [f"| {' | '.join(cells)} |" for cells in marked] + ["", _caption(found) + "."]
    return "\n".join(verdicts + lines + [f"\n{line}" for line in _below(found)])


def as_latex(found: Facts) -> str:
    """Return a table environment of LaTeX, for the package booktabs."""
    names = metrics_of(found)
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'ll' * len(names)}}}"]
    lines.append(r"\toprule")
    heads = ["", *(cell for name in names for cell in (name, "difference"))]
    lines += [f"{' & '.join(map(_escaped, heads))} \\\\", r"\midrule"]
    for row in found["rows"]:
        cells = [_escaped(row["label"])]
        for name in names:
            cells += map(_in_latex, _compared_cells(row[name], row is found["rows"][0]))
        lines.append(f"{' & '.join(cells)} \\\\")
    said = [f"{_caption(found)}; * significant; the reference is {found['reference']}."]
    said += _describe_verdicts(found)
    caption = _escaped(" ".join([*said, *_describe_best_counting(found)]))
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join(lines)


def to_rows(found: Facts) -> Iterator[dict[str, Any]]:
    """Yield a row of a CSV for each row and metric, whole numbers and floats unrounded."""
    verdicts = {
        row["label"]: row["verdict"] for row in found.get("best_counting", {}).get("rows", ())
    }
    for row in found["rows"]:
        for name in metrics_of(found):
            cell = row[name] or {}
            gap = cell.get("difference") or {}
            low, high = gap.get("interval", (None, None))
            yield {
                "label": row["label"],
                "seeds": len(row["seeds"]),
                "metric": name,
                **{key: cell.get(key) for key in ("mean", "lowest", "highest")},
                "reference": found["reference"],
                "difference": gap.get("difference"),
                "low": low,
                "high": high,
                "significant": gap.get("significant"),
                "verdict": verdicts.get(row["label"], {}).get("outcome"),
            }


def _table(found: Facts) -> list[list[str]]:
    """Return the head and the rows, texts."""
    names, head = metrics_of(found), ["", "seeds"]
    for name in names:
        head += [name, f"{name} against {found['reference']}"]
    rows = [head]
    for row in found["rows"]:
        cells = [row["label"], str(len(row["seeds"]))]
        for name in names:
            cells += _compared_cells(row[name], row is found["rows"][0])
        rows.append(cells)
    return rows


def _caption(found: Facts) -> str:
    return (
        f"{found['task'].capitalize()}: {found['targets']:,} targets of "
        f"{count(found['clients'], 'client')}; means over seeds (smallest to largest); differences "
        "with paired 95 % intervals over clients"
    )


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _in_latex(cell: str) -> str:
    """A cell with minus signs; what is significant is said by a star."""
    for said, mark in ((", not significant)", ")"), (", significant)", ")*")):
        cell = cell.replace(said, mark)
    return _escaped(cell).replace("-", "$-$") if cell != "-" else "--"


def _below(found: Facts) -> list[str]:
    """Lines below the table: the best counting, the worst tenth of clients, simulated time."""
    worst = []
    for row in found["worst_tenth"]:
        value, _ = _compared_cells(row | {"difference": None}, True)
        worst.append(f"{row['label']} {value}")
    return [
        f"Mean acc@1 of the worst tenth of clients: {'; '.join(worst)}.",
        *_describe_best_counting(found),
        *_describe_hours(found),
        *_describe_epsilons(found),
        *_describe_bytes(found),
    ]


def _describe_best_counting(found: Facts) -> list[str]:
    """A line with the counting that is best on validation, if there is one."""
    best = found.get("best_counting")
    if best is None:
        return []
    return [
        "Best counting, by acc@1 on validation, one for all rows: "
        f"{best['name'].replace('_', ' ')}, acc@1 {best['mean']:.4f}."
    ]


def _describe_verdicts(found: Facts) -> list[str]:
    """A line for each row: whether it beats the best counting; none without such counting."""
    rows = found.get("best_counting", {}).get("rows", ())
    return [f"{row['label']}: {row['verdict']['headline']}" for row in rows]


def _describe_hours(found: Facts) -> list[str]:
    """A line with the rounds and simulated hours up to the best round; none without such hours."""
    shown = [
        f"{row['label']} {row['rounds']:.4g} rounds, {row['hours']:.4g} hours"
        for row in found.get("simulated", ())
    ]
    return [f"Simulated time up to the best round: {'; '.join(shown)}."] if shown else []


def _describe_epsilons(found: Facts) -> list[str]:
    """A line with epsilon and delta of the private rows; none without such rows."""
    shown = [
        f"{row['label']} epsilon {row['epsilon']:.3f}, delta {row['delta']:g}"
        for row in found.get("privacy", ())
    ]
    return [f"Differential privacy: {'; '.join(shown)}."] if shown else []


def _describe_bytes(found: Facts) -> list[str]:
    """A line with the bytes of all rounds; none without such rows."""
    shown = [
        f"{row['label']} {row['down_bytes'] / 1e6:,.2f} + {row['up_bytes'] / 1e6:,.2f}"
        for row in found.get("exchanged", ())
    ]
    return [f"Megabytes to clients + from clients: {'; '.join(shown)}."] if shown else []


def _compared_cells(cell: Facts | None, is_reference: bool) -> list[str]:
    """Return a metric's value over seeds, and its difference from the reference, as text."""
    if cell is None:
        return ["-", "" if is_reference else "-"]
    value = f"{cell['mean']:.4f}"
    if cell["lowest"] < cell["highest"]:
        value += f" ({cell['lowest']:.4f} to {cell['highest']:.4f})"
    if cell["difference"] is None:
        return [value, "" if is_reference else "-"]
    return [value, describe_gain(cell["difference"])]


def describe_gain(gain: Facts) -> str:
    """Return a difference with its interval, and whether it is significant.

    >>> describe_gain({"difference": 0.01, "interval": [-0.0025, 0.0225]})
    '+0.0100 (-0.0025 to +0.0225, not significant)'
    """
    low, high = gain["interval"]
    verdict = "not significant" if low <= 0 <= high else "significant"
    return f"{gain['difference']:+.4f} ({low:+.4f} to {high:+.4f}, {verdict})"
