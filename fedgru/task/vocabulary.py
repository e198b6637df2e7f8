"""Value <-> id, with id 0 for 'unknown': the only place where ids are assigned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedgru.core.types import AnyInts, Int32s, Ints
from fedgru.data.checkins import Coded

UNKNOWN = 0


@dataclass(frozen=True)
class Vocabulary:
    """Ids 1 to len(self) for the known values of one column.

    Attributes:
        values: the known values; values[i] has id i + 1.
        id_of_code: int32 [num_codes], the id of each code of the data set's column.
    """

    values: Sequence[str]
    id_of_code: Int32s

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, codes: AnyInts) -> Int32s:
        """Return int32 ids, the shape of `codes`; missing (-1) and unknown values get 0.

        >>> Vocabulary(("b",), np.array([0, 1], np.int32)).encode(np.array([-1, 0, 1]))
        array([0, 0, 1], dtype=int32)
        """
        padded = np.append(self.id_of_code, np.int32(UNKNOWN))  # code -1 finds the last entry
        return padded[codes]


def from_train(column: Coded, train_rows: Ints) -> Vocabulary:
    """Build the vocabulary of the values seen in train, in order of first appearance.

    Args:
        column: Coded, the data set's column.
        train_rows: int64 [n], the rows of all clients' train splits.
    """
    seen = np.unique(column.codes[train_rows])
    seen = seen[seen >= 0]
    id_of_code = np.zeros(len(column.values), np.int32)
    id_of_code[seen] = np.arange(1, len(seen) + 1)
    return Vocabulary(tuple(column.values[code] for code in seen), id_of_code)


def from_ids(column: Coded, ids: Mapping[str, int], size: int) -> Vocabulary:
    """Build the vocabulary of one column with ids that were assigned elsewhere.

    Args:
        column: Coded, the data set's column.
        ids: {value: id}, ids from 1 to size.
        size: how many ids there are; one that no value has is called "".

    >>> from fedgru.data.checkins import Coded
    >>> column = Coded(np.array([0, 1]), ("c", "a"))
    >>> from_ids(column, {"a": 1, "b": 2}, 3)
    Vocabulary(values=('a', 'b', ''), id_of_code=array([0, 1], dtype=int32))
    """
    values = [""] * size
    for value, number in ids.items():
        values[number - 1] = value
    id_of_code = [ids.get(value, UNKNOWN) for value in column.values]
    return Vocabulary(tuple(values), np.array(id_of_code, np.int32))


def from_range(column: Coded, rows: Ints) -> Vocabulary:
    """Build the reference notebook's vocabulary: numbers below the count of distinct values.

    The notebook declares the vocabulary as range(n), n the number of distinct values among the
    chosen users, but what it looks up are numbers that run over the whole file: user ids as
    they are, other columns by first appearance. Whatever is n or more is unknown. It is kept
    to measure what that costs; use `from_train` for anything else.

    Args:
        column: Coded, the data set's column.
        rows: int64 [n], the rows of the chosen users, all splits.
    """
    num_distinct = len(np.unique(column.codes[rows]))
    if all(value.isdecimal() for value in column.values):
        numbers = np.array([int(value) for value in column.values], np.int64)
    else:
        numbers = np.arange(len(column.values))
    known = numbers < num_distinct
    values = [str(number) for number in range(num_distinct)]
    for code in np.flatnonzero(known):
        values[numbers[code]] = column.values[int(code)]
    return Vocabulary(tuple(values), np.where(known, numbers + 1, UNKNOWN).astype(np.int32))
