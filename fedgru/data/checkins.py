"""Check-ins as columns, the input of every later stage."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fedgru.core.types import Doubles, Ints
from fedgru.data.text_columns import is_empty

# The meanings that a column of a source file can have; the first three are required.
FIELDS = ("user", "venue", "time", "latitude", "longitude", "category", "raw_category", "offset")
# Names that a kept column cannot have, because `agnostic_to` uses them for something else.
NAMES_TAKEN = (*FIELDS, "zone", "weekend", "client", "category-group")


@dataclass(frozen=True)
class Coded:
    """A text column as codes into the list of its distinct values.

    Attributes:
        codes: int32 [num_checkins], index into `values`; -1 is a missing value.
        values: distinct values in order of first appearance in time; a tuple, or texts in a file.
    """

    codes: npt.NDArray[np.int32]
    values: Sequence[str]


@dataclass(frozen=True)
class CheckIns:
    """Check-ins in order of time.

    Check-ins of the same second are in order of the fractions that the source has, else in the
    order of the source file; a source with the newest row first is read from its end.

    Attributes:
        user: the person. Never missing.
        venue: the place. Never missing.
        category: the venue's kind in the scheme chosen at import (for TSMC2014 by default the 27
            coarse ones). Missing everywhere if the source has no category.
        raw_category: the source's category id (its name if the source has no ids).
        time_s: int64 [num_checkins], Unix seconds, UTC.
        offset_min: int32 [num_checkins], minutes to add to UTC for local time.
        lat_deg: float64 [num_checkins], degrees, NaN where missing.
        lon_deg: float64 [num_checkins], degrees, NaN where missing.
        own: the source's columns kept under their own names, as protected concepts, in the order
            of the setting `keep`.
    """

    user: Coded
    venue: Coded
    category: Coded
    raw_category: Coded
    time_s: Ints
    offset_min: npt.NDArray[np.int32]
    lat_deg: Doubles
    lon_deg: Doubles
    own: dict[str, Coded] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def local_time_s(self) -> Ints:
        """int64 [num_checkins], seconds since 1970-01-01 00:00 on the local clock."""
        return self.time_s + 60 * self.offset_min.astype(np.int64)


def in_order(coded: Coded) -> Coded:
    """Return a Coded with its values in order of first appearance, without unused values.

    >>> in_order(Coded(np.array([2, -1, 0, 2], np.int32), ("a", "b", "c")))
    Coded(codes=array([ 0, -1,  1,  0], dtype=int32), values=('c', 'a'))
    """
    codes, num_values = coded.codes, len(coded.values)
    known = np.flatnonzero(codes >= 0)[::-1]
    first = np.full(num_values, len(codes))
    first[codes[known]] = known  # of several writes to one place the last one counts
    order = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(codes))]
    if len(order) == num_values and (np.diff(order) == 1).all():
        return coded
    new = np.full(num_values + 1, -1, np.int32)  # code -1 takes the last entry
    new[order] = np.arange(len(order))
    return Coded(new[codes], tuple(coded.values[i] for i in order.tolist()))


def code_texts(texts: pa.StringArray) -> Coded:
    """Return a column of texts as `Coded`; empty and null texts are missing values.

    Args:
        texts: pyarrow string array [num_checkins], in order of time.

    >>> code_texts(pa.array(["b", "", "a", "b"]))
    Coded(codes=array([ 0, -1,  1,  0], dtype=int32), values=('b', 'a'))
    """
    coded = encode(texts)
    return Coded(codes_of(coded), tuple(coded.dictionary.to_pylist()))


def encode(texts: pa.StringArray) -> pa.DictionaryArray:
    """Return a column of texts as a pyarrow dictionary array; empty texts are null."""
    empty = is_empty(texts)
    if empty.any():
        texts = pc.if_else(pa.array(empty), None, texts)
    return texts.dictionary_encode()


def codes_of(coded: pa.DictionaryArray) -> npt.NDArray[np.int32]:
    """Return int32 [num_checkins], the codes of a pyarrow dictionary array, -1 for null."""
    return coded.indices.fill_null(-1).to_numpy().astype(np.int32, copy=False)
