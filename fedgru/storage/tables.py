"""Tables and JSON on disk: written completely or not at all, except for appended rows."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fedgru.core.types import AnyPath
from fedgru.storage.files import naming, write_text, write_whole


def write_json(file: AnyPath, value: Any) -> None:
    """Write a value as JSON, completely or not at all; see `to_json`."""
    write_text(file, to_json(value) + "\n")


def write_csv(file: AnyPath, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table of dicts with the same keys, completely or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


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
            writer.writerow(row)
