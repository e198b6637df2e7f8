"""Columns that come in parts and grow in place, so that memory holds each of them once."""

import numpy as np
import pyarrow as pa

from fedgru.data.checkins import codes_of

VALUES_AT_LEAST = 1 << 20  # in the dictionaries that are joined at once


class NumberColumn:
    """A column of numbers that comes in parts: one array that grows in place.

    Thousands of small arrays would be freed into holes that memory is not given back from.
    """

    def __init__(self, dtype):
        self._values, self._size = np.empty(1 << 16, dtype), 0

    def add(self, values):
        """Add an array [num]."""
        end = self._size + len(values)
        if end > len(self._values):
            self._values.resize(max(end, len(self._values) * 5 // 4), refcheck=False)
        self._values[self._size : end] = values
        self._size = end

    def join(self):
        """Return all of it."""
        self._values.resize(self._size, refcheck=False)
        return self._values


class TextColumn:
    """A column of texts that comes in parts, each with a dictionary of its own.

    The dictionaries of several parts are joined at once, as soon as they hold as much as the one
    so far: so memory holds each value about twice, and each is looked up a few times in all.
    """

    def __init__(self):
        self._codes, self._waiting, self._num_waiting = NumberColumn(np.int32), [], 0
        self._values = pa.array([], pa.string())

    def add(self, texts):
        """Add a pyarrow dictionary array."""
        self._waiting.append(texts)
        self._num_waiting += len(texts.dictionary)
        if self._num_waiting >= max(VALUES_AT_LEAST, len(self._values)):
            self._unify()

    def _unify(self):
        known = pa.array(np.arange(len(self._values), dtype=np.int32))
        known = pa.DictionaryArray.from_arrays(known, self._values)
        joined = pa.chunked_array([known, *self._waiting]).unify_dictionaries()
        if not joined.chunk(0).indices.equals(known.indices):
            raise AssertionError("pyarrow has given values that were known another code")
        for chunk in joined.chunks[1:]:
            self._codes.add(codes_of(chunk))
        self._values = joined.chunk(0).dictionary
        self._waiting, self._num_waiting = [], 0

    def join(self):
        """Return (codes, values) of all parts."""
        self._unify()
        return self._codes.join(), tuple(self._values.to_pylist())
