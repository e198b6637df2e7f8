"""Tables and JSON on the disk: written whole or not at all, but for rows that are appended."""

import csv
import io
import json
import math

from fedgru.storage.files import naming, write_text, write_whole


def write_json(file, value):
    """Write a value as JSON, whole or not at all; see `to_json`."""
    write_text(file, to_json(value) + "\n")


def write_csv(file, rows):
    """Write a table of dicts with the same keys, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def write_table(file, table):
    """Write a table {column: list} as CSV, whole or not at all."""
    rows = zip(*table.values(), strict=True)
    write_csv(file, [dict(zip(table, row, strict=True)) for row in rows])


def write_parquet(file, columns):
    """Write a table {column: array} as Parquet, whole or not at all; texts as dictionaries."""
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


def to_json(value, ensure_ascii: bool = True) -> str:
    """Return a value as JSON; NaN and infinities, which JSON cannot hold, become null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=ensure_ascii, allow_nan=False)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_csv(file, row):
    """Append a row to a table, under its columns; the first row makes them."""
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
