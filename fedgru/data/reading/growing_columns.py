"""Columns that come in parts and grow in place, so that memory holds each column once."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedgru.data.checkins import codes_of

VALUES_AT_LEAST = 1 << 20  # in the dictionaries that are joined at once


class NumberColumn:
    """A column of numbers that comes in parts: one array that grows in place.

    Freeing thousands of small arrays would leave gaps that are not returned to the system.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._values, self._size = np.empty(1 << 16, dtype), 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add an array [num]."""
        end = self._size + len(values)
        if end > len(self._values):
            self._values.resize(max(end, len(self._values) * 5 // 4), refcheck=False)
        self._values[self._size : end] = values
        self._size = end

    def join(self) -> npt.NDArray[Any]:
        """Return the whole column."""
        self._values.resize(self._size, refcheck=False)
        return self._values


class TextColumn:
    """A column of texts that comes in parts, each with its own dictionary.

    The dictionaries of several parts are joined once they are together as large as the joined one.
    So memory holds each value about twice, and each value is looked up only a few times.
    """

    def __init__(self) -> None:
        self._codes, self._num_waiting = NumberColumn(np.int32), 0
        self._waiting: list[pa.DictionaryArray] = []
        self._values = pa.array([], pa.string())

    def add(self, texts: pa.DictionaryArray) -> None:
        """Add a pyarrow dictionary array."""
        self._waiting.append(texts)
        self._num_waiting += len(texts.dictionary)
        if self._num_waiting >= max(VALUES_AT_LEAST, len(self._values)):
            self._unify()

    def _unify(self) -> None:
        known = pa.array(np.arange(len(self._values), dtype=np.int32))
        known = pa.DictionaryArray.from_arrays(known, self._values)
        joined = pa.chunked_array([known, *self._waiting]).unify_dictionaries()
        if not joined.chunk(0).indices.equals(known.indices):
            raise AssertionError("pyarrow has given known values another code")
        for chunk in joined.chunks[1:]:
            self._codes.add(codes_of(chunk))
        self._values = joined.chunk(0).dictionary
        self._waiting, self._num_waiting = [], 0

    def join(self) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
        """Return (codes, values) of all parts."""
        self._unify()
        return self._codes.join(), tuple(self._values.to_pylist())
