"""Evaluation: the check-ins of many clients, laid end to end in rows for one forward pass."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from fedgru.core.types import AnyInts, Bools, Floats, Int32s, Ints
from fedgru.task.task import Task

KEPT_PLACES = 1 << 18  # check-ins and padding of a forward pass that is kept, some 15 MiB


PackedRow: TypeAlias = tuple[Ints, Bools]  # positions, and where a range of them begins


class Form(NamedTuple):
    """How a forward pass is cut.

    Attributes:
        num_rows: rows of each thread.
        fewest_rows: rows of each thread where one client is longer than an even share of all rows:
            with more rows, all but the longest one would be mostly padding.
        seq_len: check-ins in each row of a part.
        whole: whether the last part is padded to the length of the others, so that XLA compiles
            one shape.
    """

    num_rows: int
    fewest_rows: int
    seq_len: int
    whole: bool


class Part(NamedTuple):
    """Some steps of a forward pass through the rows of a thread.

    Attributes:
        positions: int64 [length, num_rows], -1 after the end of a row.
        starts: bool [length, num_rows], where a client's first check-in is.
        rows: int32 [length, num_rows, num_id_features], table rows, -1 unknown.
        numbers: float32 [length, num_rows, num_numbers].
    """

    positions: Ints
    starts: Bools
    rows: Int32s
    numbers: Floats


Passes: TypeAlias = Sequence[Iterable[Part]]  # one of each thread


class ForwardPasses:
    """Makes forward passes and keeps the last one: every round is validated on the same clients.

    Args:
        task: Task.
        threads: number of threads that share a forward pass.
        form: Form.
    """

    def __init__(self, task: Task, threads: int, form: Form) -> None:
        self._task, self._threads, self._form = task, threads, form
        self._last: tuple[Ints, Passes] | None = None  # bounds, and the passes over them

    def lay_out(self, first_positions: Ints, end_positions: Ints) -> Passes:
        """Return for each thread an iterable of Part, for ranges of positions, int64 [num_ranges].

        Every range lies in one row, each row is of one thread, and so are its parts in order.
        """
        bounds = np.stack([first_positions, end_positions])
        if self._last is not None and np.array_equal(bounds, self._last[0]):
            return self._last[1]
        lengths = bounds[1] - bounds[0]
        is_uneven = lengths.max(initial=0) * self._form.num_rows * self._threads > lengths.sum()
        num_rows = self._form.fewest_rows if is_uneven else self._form.num_rows
        rows = pack(first_positions, end_positions, num_rows * self._threads)
        shares = [rows[number :: self._threads] for number in range(self._threads)]
        forward: Passes = [self._parts(share) for share in shares]
        if num_rows * sum(map(self._length, shares)) <= KEPT_PLACES:
            forward = [list(parts) for parts in forward]
            self._last = bounds, forward
        return forward

    def _length(self, rows: Sequence[PackedRow]) -> int:
        longest, seq_len = max(len(positions) for positions, _ in rows), self._form.seq_len
        return -(-longest // seq_len) * seq_len if self._form.whole else longest

    def _parts(self, rows: Sequence[PackedRow]) -> Iterator[Part]:
        length, seq_len = self._length(rows), self._form.seq_len
        positions = np.full((length, len(rows)), -1)
        starts = np.zeros(positions.shape, bool)
        for row, (row_positions, row_starts) in enumerate(rows):
            positions[: len(row_positions), row] = row_positions
            starts[: len(row_starts), row] = row_starts
        for begin in range(0, length, seq_len):
            part = slice(begin, begin + seq_len)
            read = np.maximum(positions[part], 0)
            inputs = self._task.read(["inputs.rows", "inputs.numbers"], read)
            yield Part(positions[part], starts[part], *map(np.ascontiguousarray, inputs))


def places_among(wanted: AnyInts | Sequence[int]) -> Callable[[Ints], Ints]:
    """Return a function: positions -> their places in `wanted`, -1 for those that are not there.

    >>> places_among([4, 2])(np.array([[1, 2], [4, -1]])).tolist()
    [[-1, 1], [0, -1]]
    """
    order = np.argsort(wanted, kind="stable")
    ascending = np.asarray(wanted, np.int64)[order]

    def places(positions: Ints) -> Ints:
        if not len(order):
            return np.full(positions.shape, -1)
        at = np.minimum(np.searchsorted(ascending, positions), len(order) - 1)
        return np.where(ascending[at] == positions, order[at], -1)

    return places


def pack(
    first_positions: AnyInts | Sequence[int], end_positions: AnyInts | Sequence[int], num_rows: int
) -> list[PackedRow]:
    """Lay ranges of positions end to end in rows, longest first, each into the shortest row.

    Returns:
        list of (positions, starts) per row, int64 and bool [row length]; starts marks where a
        range begins.

    >>> [positions.tolist() for positions, _ in pack([0, 10, 20], [2, 13, 21], 2)]
    [[0, 1, 20], [10, 11, 12]]
    """
    lengths = np.subtract(end_positions, first_positions)
    rows: list[tuple[int, int, list[Ints]]] = [(0, row, []) for row in range(num_rows)]
    for client in np.argsort(-lengths, kind="stable"):
        if lengths[client] > 0:
            length, row, ranges = heapq.heappop(rows)
            ranges.append(np.arange(first_positions[client], end_positions[client]))
            heapq.heappush(rows, (length + int(lengths[client]), row, ranges))
    packed = []
    for _, _, ranges in sorted(rows, key=lambda row: row[:2]):
        starts = [np.arange(len(positions)) == 0 for positions in ranges]
        none = np.zeros(0, np.int64)
        packed.append((np.concatenate([none, *ranges]), np.concatenate([none > 0, *starts])))
    return packed[::-1]
