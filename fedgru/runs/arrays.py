"""The arrays of a run folder: weights and predictions, checked when they are read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedgru.core.types import Columns, Weights
from fedgru.storage.files import check_like, read_arrays, write_arrays

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
        with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as parquet:
            table = parquet.read(columns)
        table.validate(full=True)
        found = {name: table[name].to_pandas().to_numpy() for name in table.column_names}
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError("it is no table of predictions") from error
    for name in columns or found:
        if name not in found or found[name].dtype.kind != _PREDICTION_KINDS.get(name):
            raise ValueError(f"it has no column {name} of predictions")
    return found
