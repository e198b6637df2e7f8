"""The arrays of a run folder: weights and predictions, checked when they are read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.core.types import Columns, Weights
from fedgru.storage.files import check_like, open_plain, read_arrays, write_arrays

_PREDICTION_KINDS = {  # NumPy's letters for text, whole numbers, numbers and bool
    **dict.fromkeys(("client_id", "target", "predicted"), "O"),
    **{"row": "i", "rank": "f", "log_prob": "f", "prob": "f", "first_visit": "b"},
}


def write_weights(file: Path, weights: Weights, round_num: int) -> None:
    """Write {name: array} and the number of their round, whole or not at all."""
    write_arrays(file, {"round_num": np.array(round_num, np.int64), **weights})


def read_weights(file: Path, like: Weights | None = None) -> tuple[Weights, int]:
    """Return (weights, round_num) of a file that `write_weights` wrote.

    Args:
        file: path.
        like: name -> float32 array, whose names and shapes the weights must have; None takes any.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or its weights do not fit `like`; names the fault.
    """
    expected: Weights | None = (
        None if like is None else {"round_num": np.zeros((), np.int64), **like}
    )
    weights = read_arrays(file, expected)
    round_num = weights.pop("round_num", None)
    if round_num is None or round_num.shape or round_num.dtype.kind != "i":
        raise ValueError("it does not name its round")
    if like is not None:
        check_like(weights, like)
    return weights, int(round_num)


def read_predictions(file: Path, columns: Sequence[str] | None = None) -> Columns:
    """Return predictions.parquet as {column: array}, see `evaluate.prediction_table`.

    Args:
        file: path.
        columns: which; None for all.

    Raises:
        ValueError: if it is damaged, or a column is missing or of another type.
    """
    import pyarrow.parquet

    try:
        with open_plain(file) as stream:
            there = pyarrow.parquet.read_schema(stream).names
            texts = [name for name in there if _PREDICTION_KINDS.get(name) == "O"]
            stream.seek(0)
            parquet = pyarrow.parquet.ParquetFile(
                stream, page_checksum_verification=True, read_dictionary=texts
            )
            _check_unpacked(parquet.metadata, os.fstat(stream.fileno()).st_size)
            table = parquet.read(columns)
        table.validate(full=True)
        found = {name: _to_array(table[name]) for name in table.column_names}
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise ValueError("it is no table of predictions") from error
    for name in columns or found:
        if name not in found or found[name].dtype.kind != _PREDICTION_KINDS.get(name):
            raise ValueError(f"it has no column {name} of predictions")
    return found


def _to_array(column: Any) -> npt.NDArray[Any]:
    """A column of pyarrow as an array; of texts that are alike there is one in memory."""
    import pyarrow

    if not pyarrow.types.is_dictionary(column.type):
        return column.to_pandas().to_numpy()
    parts = [np.empty(0, object)]
    for part in column.chunks:
        texts = np.array([*part.dictionary.to_pylist(), np.nan], object)  # the last for a null
        parts.append(texts[part.indices.fill_null(len(texts) - 1).to_numpy()])
    return np.concatenate(parts)


def _check_unpacked(facts: Any, size_bytes: int) -> None:
    """Raise a ValueError for a Parquet file that would take far more memory than it has bytes.

    A row of predictions takes more than a byte, as each has another number; and Snappy, by which
    they are packed, makes nothing more than 22 times smaller.
    """
    if facts.num_rows > size_bytes:
        raise ValueError(f"{facts.num_rows:,} rows in {size_bytes:,} bytes")
    for group in map(facts.row_group, range(facts.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.compression not in ("SNAPPY", "UNCOMPRESSED"):
                raise ValueError(f"{column.path_in_schema} is packed by {column.compression}")
