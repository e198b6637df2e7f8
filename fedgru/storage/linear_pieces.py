"""Long integer arrays that are piecewise linear, stored as a table of their few pieces."""

from typing import overload

import numpy as np
import numpy.typing as npt

from fedgru.core.types import AnyInts, Ints


class LinearPieces:
    """Some integer arrays of one length, computed at any place and not held in memory.

    Clients are ordered by their number of check-ins, so the first positions of clients with
    equally many are evenly spaced. If every client trains, the training clients are 0, 1, 2, ...

    >>> pieces = LinearPieces(compress([[0, 5, 10, 13, 16], [2, 7, 12, 14, 17]]))
    >>> pieces.at(2), [values.tolist() for values in pieces.at(np.array([4, 1]))]
    ([10, 12], [[16, 5], [17, 7]])
    """

    def __init__(self, table: Ints) -> None:
        """`table`: from `compress`."""
        num_arrays = (table.shape[1] - 1) // 2
        self._begins = np.ascontiguousarray(table[:, 0])
        self._values, self._steps = table[:, 1 : 1 + num_arrays], table[:, 1 + num_arrays :]

    @overload
    def at(self, places: int) -> list[int]: ...

    @overload
    def at(self, places: AnyInts) -> Ints: ...

    def at(self, places: int | AnyInts) -> list[int] | Ints:
        """Return the arrays at an int, as a list of ints, or at int [n], as int64 [num_arrays, n].

        Places must be within the arrays and not negative; this is not checked.
        """
        piece = np.searchsorted(self._begins, places, side="right") - 1
        beyond: Ints = np.asarray(places - self._begins[piece])[..., None]
        found: Ints = self._values[piece] + beyond * self._steps[piece]
        return found.T if found.ndim > 1 else found.tolist()


def compress(arrays: npt.ArrayLike) -> Ints:
    """Return the table of LinearPieces, int64 [num_pieces, 1 + 2 * num_arrays].

    A row for each piece: its first place, the arrays' values there, and their steps per place.

    Args:
        arrays: ints, [num_arrays, n], n at least 1.
    """
    arrays = np.asarray(arrays, np.int64)
    steps = np.diff(arrays, axis=1, append=arrays[:, -1:])
    changes = (steps[:, 1:] != steps[:, :-1]).any(axis=0)
    begins = np.flatnonzero(np.r_[True, changes])
    return np.column_stack([begins, arrays[:, begins].T, steps[:, begins].T])
