"""A client's training data as the compiled loops take it."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedgru.core.types import Int32s
from fedgru.task.task import LocalData

# Sizes that arrays are padded to, so that few shapes are compiled.
ROW_SIZES = (128, 256, 512, 1024, 2048, 4096)
MIN_STEPS = 8

Arrays: TypeAlias = tuple[Any, ...]  # of NumPy or of JAX; None where a client has none


@dataclass(frozen=True, eq=False)  # by identity, so that NativeCode can remember what it has seen
class Prepared:
    """A client's LocalData as the compiled loops take it: time-major, own rows, padded.

    Attributes:
        row_ids: int32 [num_own], ascending.
        num_table: rows of the padded table.
        arrays: rows, numbers, targets, mask, log_prior, protected, each [steps, seq_len, batch,
            ...]; the last two can be None.
        steps: local steps in one pass, not counting padded ones.
        passes, num_examples: as in LocalData.
    """

    row_ids: Int32s
    num_table: int
    arrays: Arrays
    steps: int
    passes: int
    num_examples: int


def prepare(local: LocalData) -> Prepared:
    """Bring a client's LocalData into the form of `Prepared`."""
    row_ids = np.unique(local.rows)
    row_ids = row_ids[row_ids >= 0].astype(np.int32)
    own = np.where(local.rows >= 0, np.searchsorted(row_ids, local.rows), -1).astype(np.int32)
    steps = len(local.mask)
    padded_steps = max(MIN_STEPS, 1 << (steps - 1).bit_length())

    def lay_out(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array = np.swapaxes(array, 1, 2)
        return np.concatenate(
            [array, np.zeros((padded_steps - steps, *array.shape[1:]), array.dtype)]
        )

    arrays: Arrays = (own, local.numbers, local.targets.astype(np.int32), local.mask)
    arrays += (local.log_prior, local.protected)
    return Prepared(
        row_ids=row_ids,
        num_table=next((size for size in ROW_SIZES if size >= len(row_ids)), len(row_ids)),
        arrays=tuple(None if array is None else lay_out(array) for array in arrays),
        steps=steps,
        passes=local.passes,
        num_examples=local.num_examples,
    )
