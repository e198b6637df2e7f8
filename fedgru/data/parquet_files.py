"""The Parquet file of a data set: write check-ins to a table, read and validate them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedgru.core.errors import DataError
from fedgru.core.types import AnyPath, Floats
from fedgru.data.checkins import CheckIns, Coded, code_texts, in_order
from fedgru.data.passport import OWN

_TEXT = pa.dictionary(pa.int32(), pa.string())
_TEXT_COLUMNS = ("user", "venue", "category", "raw_category")
_SCHEMA = pa.schema(
    [(column, _TEXT) for column in _TEXT_COLUMNS]
    + [
        ("time_s", pa.int64()),
        ("offset_min", pa.int32()),
        ("lat_deg", pa.float64()),
        ("lon_deg", pa.float64()),
    ]
)
_BEST_PROB = pa.field("best_prob", pa.float32())
_NEVER_MISSING = ("user", "venue", "time_s", "offset_min", "best_prob")
# Limits when reading. An imported text of `sources.MAX_TEXT_BYTES` stays far below both.
MAX_CHECK_INS = 200_000_000
MAX_BYTES = 1 << 34
ROW_GROUP = 1 << 20  # check-ins


def as_saved(
    check_ins: CheckIns, best_prob: Floats | None, are_many: bool
) -> tuple[CheckIns, Floats | None]:
    """Return (check_ins, best_prob) as a later opening of the data set returns them.

    Args:
        check_ins, best_prob: as in `fedgru.data.datasets.DataSet`.
        are_many: whether to save memory, by not making a table of them.

    Raises:
        pa.ArrowException: if the columns do not fit together.
    """
    if not are_many:
        return _from_table(_to_table(check_ins, best_prob))
    num = len(check_ins)
    numbers: dict[str, Any] = {
        field.name: np.asarray(getattr(check_ins, field.name), field.type.to_pandas_dtype())
        for field in _SCHEMA
        if field.name not in _TEXT_COLUMNS
    }
    coded = {name: getattr(check_ins, name) for name in _TEXT_COLUMNS}
    own = check_ins.own
    if best_prob is not None:
        best_prob = np.asarray(best_prob, np.float32)
    for values in (*numbers.values(), *(() if best_prob is None else (best_prob,))):
        if len(values) != num:
            raise pa.ArrowInvalid(f"a column has {len(values)} values, expected {num}")
    for column in (*coded.values(), *own.values()):
        if len(column.codes) != num or not -1 <= column.codes.min() <= column.codes.max() < len(
            column.values
        ):
            raise pa.ArrowInvalid("a column has a wrong number of codes, or codes out of range")
    coded = {name: _in_order(column) for name, column in coded.items()}
    own = {name: _in_order(column) for name, column in own.items()}
    return CheckIns(**coded, **numbers, own=own), best_prob


def _in_order(coded: Coded) -> Coded:
    """Return a text column as Parquet would return it, without making all its texts."""
    distinct = set(coded.values)
    if len(distinct) == len(coded.values) and all(map(str.strip, distinct)):
        return in_order(coded)
    return code_texts(_to_dictionary(coded).cast(pa.string()))


def write(path: AnyPath, check_ins: CheckIns, best_prob: Floats | None) -> None:
    """Write check-ins, as in `fedgru.data.datasets.DataSet`, a row group at a time."""
    dictionaries = {
        id(column): pa.array(column.values, pa.string())
        for column in (
            *(getattr(check_ins, name) for name in _TEXT_COLUMNS),
            *check_ins.own.values(),
        )
    }
    schema = _to_table(check_ins, best_prob, dictionaries, slice(0, 0)).schema
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for begin in range(0, len(check_ins), ROW_GROUP):
            part = slice(begin, begin + ROW_GROUP)
            writer.write_table(_to_table(check_ins, best_prob, dictionaries, part), ROW_GROUP)


def _to_table(
    check_ins: CheckIns,
    best_prob: Floats | None,
    dictionaries: Mapping[int, pa.StringArray] | None = None,
    rows: slice = slice(None),
) -> pa.Table:
    """Return some rows as a table; `dictionaries`: {id of a Coded: its values}, made before."""

    def coded(column: Coded) -> pa.DictionaryArray:
        values = None if dictionaries is None else dictionaries[id(column)]
        return _to_dictionary(column, values, rows)

    columns = [coded(getattr(check_ins, column)) for column in _TEXT_COLUMNS]
    columns += [
        # NaN is a null
        pa.array(getattr(check_ins, field.name)[rows], field.type, from_pandas=True)
        for field in _SCHEMA
        if field.name not in _TEXT_COLUMNS
    ]
    schema = _SCHEMA
    for name, column in check_ins.own.items():
        columns.append(coded(column))
        schema = schema.append(pa.field(f"{OWN}{name}", _TEXT))
    if best_prob is not None:
        columns.append(pa.array(best_prob[rows], pa.float32()))
        schema = schema.append(_BEST_PROB)
    return pa.table(columns, schema)


def _to_dictionary(
    coded: Coded, values: pa.StringArray | None = None, rows: slice = slice(None)
) -> pa.DictionaryArray:
    codes = coded.codes[rows]
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, pa.int32(), mask=codes < 0),
        pa.array(coded.values, pa.string()) if values is None else values,
    )


def _from_table(table: pa.Table) -> tuple[CheckIns, Floats | None]:
    """Return (check_ins, best_prob); values are in order of first appearance again."""

    def code(name: str) -> Coded:
        return code_texts(table[name].combine_chunks().cast(pa.string()))

    columns: dict[str, Any] = {column: code(column) for column in _TEXT_COLUMNS}
    for field in _SCHEMA:
        if field.name not in _TEXT_COLUMNS:
            column = table[field.name].combine_chunks()
            columns[field.name] = column.to_numpy(zero_copy_only=False)
    own = {name.removeprefix(OWN): code(name) for name in _own_columns(table)}
    best_prob = None
    if _BEST_PROB.name in table.column_names:
        best_prob = table[_BEST_PROB.name].to_numpy()
    return CheckIns(**columns, own=own), best_prob


def _own_columns(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name.startswith(OWN)]


def read(path: AnyPath, num_rows: int) -> tuple[CheckIns, Floats | None]:
    """Return (check_ins, best_prob), as in `fedgru.data.datasets.DataSet`.

    Args:
        path: path of a file that `write` wrote.
        num_rows: its expected number of check-ins; a file with another number is not unpacked.

    Raises:
        DataError: if it is missing, damaged, or not such a file.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            facts = file.metadata
            sizes = [facts.row_group(i).total_byte_size for i in range(facts.num_row_groups)]
            if facts.num_rows != num_rows:
                raise DataError(
                    f"{path} has {facts.num_rows:,} rows, but passport.json expects "
                    f"{num_rows:,}. Import the data set again."
                )
            if num_rows > MAX_CHECK_INS or sum(sizes) > MAX_BYTES:
                raise DataError(
                    f"{path} unpacks to {num_rows:,} rows and {sum(sizes):,} bytes; the limit is "
                    f"{MAX_CHECK_INS:,} rows and {MAX_BYTES:,} bytes."
                )
            table = file.read()
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException):  # ValueError: metadata that is not text
        raise DataError(f"{path} is missing or damaged. Import the data set again.") from None
    own = [pa.field(name, _TEXT) for name in _own_columns(table)]
    for field in [*_SCHEMA, *own, _BEST_PROB]:
        if field.name not in table.column_names:
            if field is _BEST_PROB:
                continue
            raise DataError(f"{path} has no column {field.name!r}. Import the data set again.")
        found = table.schema.field(field.name).type
        if found != field.type:
            raise DataError(
                f"{path}, column {field.name!r}: type is {found}, expected {field.type}. "
                "Import the data set again."
            )
        if field.name in _NEVER_MISSING and table[field.name].null_count:
            raise DataError(
                f"{path}, column {field.name!r} has missing values. Import the data set again."
            )
    return _from_table(table)
