"""The arrays of a run folder: weights and predictions, checked before they are believed."""

import numpy as np

from fedgru.storage.files import check_like, read_arrays, write_arrays

_PREDICTION_KINDS = {  # NumPy's letters for text, whole numbers, numbers and bool
    **dict.fromkeys(("client_id", "target", "predicted"), "O"),
    **{"row": "i", "rank": "f", "log_prob": "f", "prob": "f", "first_visit": "b"},
}


def write_weights(file, weights, round_num):
    """Write {name: array} and the round that they are of, whole or not at all."""
    write_arrays(file, {"round_num": np.int64(round_num), **weights})


def read_weights(file, like=None):
    """Return (weights, round_num) of a file that `write_weights` wrote.

    Args:
        file: path.
        like: name -> float32 array, whose names and shapes the weights must have; None takes any.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or its weights are not such; says how.
    """
    weights = read_arrays(file)
    round_num = weights.pop("round_num", None)
    if round_num is None or round_num.shape or round_num.dtype.kind != "i":
        raise ValueError("it does not say of which round it is")
    if like is not None:
        check_like(weights, like)
    return weights, int(round_num)


def read_predictions(file, columns=None):
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
