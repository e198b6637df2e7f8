"""The header of a table: its names, its delimiter, and the rows below it."""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from fedgru.core.errors import DataError
from fedgru.core.types import AnyPath
from fedgru.data.ledger import Ledger
from fedgru.data.reading.row_checks import DELIMITERS
from fedgru.data.reading.sources import Rows, Text, open_text, split_rows

_HEAD_BYTES = 1 << 16  # the header ends before


@dataclass(frozen=True)
class Table:
    """A table with quoting, open.

    Attributes:
        names: of its columns; without a header their numbers, "1" and on.
        delimiter: the character between its fields.
        first: the first `Rows` below the header.
        parts: all `Rows` below the header, with `first`.
        ledger: blank lines that were skipped.
    """

    names: list[str]
    delimiter: str
    first: Rows
    parts: Iterator[Rows]
    ledger: Ledger


def open_table(
    text: Text, wanted: Mapping[str, str], delimiter: str | None, no_header: bool = False
) -> Table:
    """Find the header of a table and split what is below it into rows.

    Args:
        text: `Text`, open as long as the rows are read.
        wanted: {option as typed: the column name that it needs}.
        delimiter: one character; None takes the one of comma, semicolon, tab and bar that finds
            most of the wanted names, or, without a header, most columns.
        no_header: whether the first row is a check-in; the columns are called by their numbers.

    Raises:
        DataError: if a wanted column is missing or there twice, or there are no rows.
    """
    text, num_blank = _without_blank_lines(text)
    names, delimiter = _read_header(text, wanted, delimiter, no_header)
    parts = split_rows(text, len(names), delimiter, quoted=True, first_row=num_blank + 1)
    if not no_header:
        parts = _without_header(parts, text.source.file, num_blank + 1)
    first = next(parts)
    reason = f"blank line before the {'first row' if no_header else 'header'}, skipped"
    ledger = Ledger().add("repaired", reason, range(1, num_blank + 1))
    return Table(names, delimiter, first, itertools.chain([first], parts), ledger)


def read_column_names(path: AnyPath) -> list[str]:
    """Return the names in the header row of a table, split by the delimiter with most names."""
    with open_text(path) as text:
        return _read_header(_without_blank_lines(text)[0], {}, None, no_header=False)[0]


def _without_blank_lines(text: Text) -> tuple[Text, int]:
    """Return a text without the blank lines before its first row, and their number."""
    head = text.head(_HEAD_BYTES)
    blank = re.match(rb"(?:[ \t]*(?:\r\n|\n|\r))*", head)
    size = blank.end() if blank else 0
    lines = head[:size].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")
    return replace(text, begin=text.begin + size), lines


def _read_header(
    text: Text, wanted: Mapping[str, str], delimiter: str | None, no_header: bool
) -> tuple[list[str], str]:
    """Return the column names, and the delimiter that finds most of the wanted ones."""
    file = text.source.file
    head = text.head(_HEAD_BYTES).decode("utf-8", errors="ignore")
    headers = {}
    for candidate in [delimiter] if delimiter else DELIMITERS:
        cells = next(csv.reader(io.StringIO(head, newline=None), delimiter=candidate))
        names = (str(i + 1) for i in range(len(cells))) if no_header else map(str.strip, cells)
        headers[candidate] = list(names)
    needed = set(wanted.values())
    delimiter = max(headers, key=lambda key: (len(needed & set(headers[key])), len(headers[key])))
    header = headers[delimiter]
    between = DELIMITERS.get(delimiter, repr(delimiter))
    for option, name in wanted.items():
        if header.count(name) == 1:
            continue
        if no_header:
            raise DataError(
                f"{file} has no column {name!r} ({option}). Its first row, split at {between}, has "
                f"the columns 1 to {len(header)}."
            )
        found = f"{header.count(name)} columns" if name in header else "no column"
        raise DataError(
            f"{file} has {found} {name!r} ({option}). "
            f"Its header, split at {between}, has: {', '.join(header)}."
        )
    return header, delimiter


def _without_header(parts: Iterable[Rows], file: str, header_row: int) -> Iterator[Rows]:
    """Yield Rows without the row of the header."""
    for number, rows in enumerate(parts):
        if number > 0:
            yield rows
            continue
        if rows.row_nums[:1] != [header_row]:
            raise DataError(
                f"{file}, row {header_row}: the header cannot be read. Is a quote left open?"
            )
        if len(rows.row_nums) + len(rows.misfits) == 1:
            raise DataError(f"{file} has a header but no rows.")
        columns_below = [column.slice(1) for column in rows.columns]
        yield Rows(columns_below, rows.row_nums[1:], rows.misfits)
