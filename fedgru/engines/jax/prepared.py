"""A client's training data as the compiled loops take it."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedgru.core.trees import map_arrays
from fedgru.core.types import Bools, Int32s
from fedgru.models.candidate_head import NO_CANDIDATE, Trained, as_rows
from fedgru.task.task import LocalData

# Sizes that arrays are padded to, so that few shapes are compiled.
ROW_SIZES = (128, 256, 512, 1024, 2048, 4096)
CANDIDATE_SIZES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 257)
MIN_STEPS = 8

Arrays: TypeAlias = tuple[Any, ...]  # of NumPy or of JAX; None where a client has none


@dataclass(frozen=True, eq=False)  # by identity, so that NativeCode can remember what it has seen
class Prepared:
    """A client's LocalData as the compiled loops take it: time-major, own rows, padded.

    Attributes:
        row_ids: int32 [num_own], ascending.
        num_table: rows of the padded table.
        arrays: rows, numbers, targets, mask, beside, protected, each [steps, seq_len, batch,
            ...]; the last two can be None.
        steps: local steps in one pass, not counting padded ones.
        passes, num_examples: as in LocalData.
        resets: bool [padded steps, batch], as in LocalData; or None.
    """

    row_ids: Int32s
    num_table: int
    arrays: Arrays
    steps: int
    passes: int
    num_examples: int
    resets: Bools | None = None


def prepare(local: LocalData, for_xla: bool = True) -> Prepared:
    """Bring a client's LocalData into the form of `Prepared`.

    Args:
        local: LocalData.
        for_xla: whether candidates are padded, so that few shapes are compiled; the C code gets
            CandidateRows.
    """
    row_ids = np.unique(local.rows)
    row_ids = row_ids[row_ids >= 0].astype(np.int32)
    own = np.where(local.rows >= 0, np.searchsorted(row_ids, local.rows), -1).astype(np.int32)
    steps = len(local.mask)
    padded_steps = max(MIN_STEPS, 1 << (steps - 1).bit_length())

    def lay_out(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return _pad_steps(np.swapaxes(array, 1, 2), padded_steps)

    arrays: Arrays = (own, local.numbers, local.targets.astype(np.int32), local.mask)
    beside = _with_even_candidates(local.beside) if for_xla else local.beside
    arrays += (beside, local.protected)
    arrays = tuple(map_arrays(lay_out, array) for array in arrays)
    rows, numbers, targets, mask, beside, protected = arrays
    if isinstance(beside, Trained) and not for_xla:
        beside, targets = as_rows(beside, targets, mask)
    return Prepared(
        row_ids=row_ids,
        num_table=next((size for size in ROW_SIZES if size >= len(row_ids)), len(row_ids)),
        arrays=(rows, numbers, targets, mask, beside, protected),
        steps=steps,
        passes=local.passes,
        num_examples=local.num_examples,
        resets=None if local.resets is None else _pad_steps(local.resets, padded_steps),
    )


def _pad_steps(array: npt.NDArray[Any], padded_steps: int) -> npt.NDArray[Any]:
    """Return an array of local steps, zeros after the last one."""
    more = np.zeros((padded_steps - len(array), *array.shape[1:]), array.dtype)
    return np.concatenate([array, more])


def _with_even_candidates(beside: Any) -> Any:
    """Return what the head reads, candidates padded to one of a few sizes."""
    if not isinstance(beside, Trained):
        return beside
    num = beside.candidates.kinds.shape[-1]
    return pad_candidates(beside, next((s for s in CANDIDATE_SIZES if s >= num), num))


def pad_candidates(trained: Trained, size: int) -> Trained:
    """Return a Trained with `size` candidates for each prediction, those of padding included."""
    own = trained.candidates
    num = own.kinds.shape[-1]

    def pad(array: Any, value: float = 0) -> Any:
        axis = own.kinds.ndim - 1
        width = [(0, size - num if at == axis else 0) for at in range(array.ndim)]
        return np.pad(array, width, constant_values=value)

    padded = own._replace(
        features=pad(own.features),
        log_prior=pad(own.log_prior, NO_CANDIDATE),
        kinds=pad(own.kinds),
    )
    return trained._replace(candidates=padded)
