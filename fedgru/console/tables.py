"""Columns of text on the terminal, and counted nouns."""

from collections.abc import Collection, Sequence

from fedgru.core.visible import in_one_line


def align(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Return rows of texts as lines: columns of the same width, two spaces apart.

    Args:
        rows: at least one, all with the same number of texts.
        right: indices of the columns that are aligned to the right.

    Control characters in a text are shown, see `in_one_line`: a row is always one line.

    >>> print(align([("name", "check-ins"), ("town", "12"), ("b", "1,234")], right=[1]))
    name  check-ins
    town         12
    b         1,234
    """
    rows = [[in_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def count(number: int, noun: str) -> str:
    """Return a number with a noun, such as '1 client' or '1,200 clients'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
