"""Long integer arrays that rise evenly in stretches, kept as the few places where they do not."""

import numpy as np


class LinearPieces:
    """Some integer arrays of one length, known at every place without being held in memory.

    Clients stand in order of their number of check-ins, so their first positions are evenly spaced
    among all that have equally many; and where everybody trains, the training clients are 0, 1, 2.

    >>> pieces = LinearPieces(compress([[0, 5, 10, 13, 16], [2, 7, 12, 14, 17]]))
    >>> pieces.at(2), [values.tolist() for values in pieces.at(np.array([4, 1]))]
    ([10, 12], [[16, 5], [17, 7]])
    """

    def __init__(self, table):
        """`table`: from `compress`."""
        num_arrays = (table.shape[1] - 1) // 2
        self._begins = np.ascontiguousarray(table[:, 0])
        self._values, self._steps = table[:, 1 : 1 + num_arrays], table[:, 1 + num_arrays :]

    def at(self, places):
        """Return the arrays at an int, as a list of ints, or at int [n], as int64 [num_arrays, n].

        Places are not negative, and nobody looks whether there are so many.
        """
        piece = np.searchsorted(self._begins, places, side="right") - 1
        beyond = np.asarray(places - self._begins[piece])[..., None]
        found = self._values[piece] + beyond * self._steps[piece]
        return found.T if found.ndim > 1 else found.tolist()


def compress(arrays):
    """Return the table of LinearPieces, int64 [num_pieces, 1 + 2 * num_arrays].

    For each piece where it begins, the arrays' values there, and their steps from place to place.

    Args:
        arrays: ints, [num_arrays, n], n at least 1.
    """
    arrays = np.asarray(arrays, np.int64)
    steps = np.diff(arrays, axis=1, append=arrays[:, -1:])
    changes = (steps[:, 1:] != steps[:, :-1]).any(axis=0)
    begins = np.flatnonzero(np.r_[True, changes])
    return np.column_stack([begins, arrays[:, begins].T, steps[:, begins].T])
