"""Tables and JSON on disk: written completely or not at all, except for appended rows.

A spreadsheet takes a cell that begins with = as a formula, also where it is the name of a client.
So a text that could be one gets an apostrophe before it in a CSV, and control characters, new lines
too, are escapes. `from_cell` takes both back.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fedgru.core.types import AnyPath
from fedgru.core.visible import in_one_line
from fedgru.storage.files import naming, write_text, write_whole

# what spreadsheets take as the begin of a formula, full-width characters too
_FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")


def to_cell(value: Any) -> Any:
    r"""Return a value for a CSV; what a program that opens the CSV would obey is defused.

    >>> for value in ('=HYPERLINK("http://example.org")', "-2", "'=1", -2, "\x1b[2J"):
    ...     print(to_cell(value))
    '=HYPERLINK("http://example.org")
    -2
    ''=1
    -2
    \u001b[2J
    """
    if not isinstance(value, str):
        return value
    value = in_one_line(value.replace("\\u", "\\u005cu"))
    return f"'{value}" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


def from_cell(text: str) -> str:
    r"""Return the text that `to_cell` was given.

    >>> from_cell("'=1"), from_cell("''=1"), from_cell("'tis"), from_cell(r"\u000a")
    ('=1', "'=1", "'tis", '\n')
    """
    if text.startswith("'") and _FORMULA.match(text):
        text = text[1:]
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def write_json(file: AnyPath, value: Any) -> None:
    """Write a value as JSON, completely or not at all; see `to_json`."""
    write_text(file, to_json(value) + "\n")


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of dicts with the same keys as CSV, its head in the first line."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows([{name: to_cell(value) for name, value in row.items()} for row in rows])
    return text.getvalue()


def write_csv(file: AnyPath, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table of dicts with the same keys, completely or not at all."""
    write_text(file, to_csv(rows))


def write_table(file: AnyPath, table: Mapping[str, Iterable[Any]]) -> None:
    """Write a table {column: list} as CSV, completely or not at all."""
    rows = zip(*table.values(), strict=True)
    write_csv(file, [dict(zip(table, row, strict=True)) for row in rows])


def write_parquet(file: AnyPath, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write {column: array} as Parquet, completely or not at all; texts dictionary-encoded."""
    import pyarrow
    import pyarrow.parquet

    arrays = {
        name: pyarrow.array(values).dictionary_encode()
        if values.dtype == object
        else pyarrow.array(values)
        for name, values in columns.items()
    }
    table = pyarrow.table(arrays)
    write_whole(
        file,
        lambda stream: pyarrow.parquet.write_table(table, stream, write_page_checksum=True),
    )


def to_json(value: Any, ensure_ascii: bool = True) -> str:
    """Return a value as JSON; NaN and infinities, which JSON cannot hold, become null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=ensure_ascii, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_csv(file: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a table, in the order of its columns; the first row sets the columns."""
    columns = list(row)
    with naming(file):
        if file.exists():
            with open(file, newline="", encoding="utf-8") as stream:
                columns = next(csv.reader(stream))
        with open(file, "a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, lineterminator="\n")
            if stream.tell() == 0:
                writer.writeheader()
            writer.writerow({name: to_cell(value) for name, value in row.items()})
