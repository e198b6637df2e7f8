"""Check-ins -> clients: who takes part, in what order, and where each one's splits end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from fedgru.core.errors import ConfigError, DataError
from fedgru.core.types import AnyInts, Bools, Int32s, Ints
from fedgru.data.checkins import CheckIns

SPLITS = ("train", "val", "test")
TEST_SHARE = 0.2
FIRST_OF_SESSION = "  first of a later session, not predicted"
VAL_SHARE = 0.2  # of the check-ins before the test split: 64/16/20 in all


class Ends(NamedTuple):
    """Where the check-ins of some clients begin, and where each split and all of them end.

    Each is a position per client, int64 [num_chosen].
    """

    start: Ints
    train_end: Ints
    val_end: Ints
    end: Ints

    def bounds(self, split: str) -> tuple[Ints, Ints]:
        """Return first and end positions of a split's check-ins, as Ends are."""
        return {
            "train": (self.start, self.train_end),
            "val": (self.train_end, self.val_end),
            "test": (self.val_end, self.end),
        }[split]

    def target_bounds(self, split: str) -> tuple[Ints, Ints]:
        """Return int64 first and end positions [num_chosen] of a split's targets.

        The first check-in of a client has nothing before it and is no target.
        """
        first, end = self.bounds(split)
        first = np.maximum(first, self.start + 1)
        return first, np.maximum(first, end)

    def positions(self, split: str) -> Ints:
        """Return int64 [n], all that lie in `target_bounds`, client after client."""
        return _concatenate_ranges(*self.target_bounds(split))


class ClientEnds(NamedTuple):
    """The same of one client."""

    start: int
    train_end: int
    val_end: int
    end: int


@dataclass(frozen=True)
class Clients:
    """Each client's check-ins in order of time, and the ends of its splits.

    A *position* is an index into `rows`. Every position but a client's first is one target,
    predicted from the position before it; it belongs to the split it lies in. With sessions the
    first position of each session is no target either.

    Attributes:
        client_ids: most check-ins first; ties in order of first appearance.
        rows: int64 [num_positions], rows of CheckIns, client after client.
        starts: int64 [num_clients + 1]; client i owns positions starts[i] to starts[i + 1].
        train_ends: int64 [num_clients], first position after client i's train split.
        val_ends: int64 [num_clients], first position after client i's val split.
        num_scored: how many clients are scored, the most active ones; None for all.
        session_starts: bool [num_positions], where a session begins: the state before it is zero,
            and it is no target. A client's first position is one. None: there are no sessions.
        unscored: bool [num_positions], further positions of val and test that are no targets; None
            for none.
    """

    client_ids: Sequence[str]
    rows: Ints
    starts: Ints
    train_ends: Ints
    val_ends: Ints
    num_scored: int | None = None
    session_starts: Bools | None = None
    unscored: Bools | None = None

    def __len__(self) -> int:
        return len(self.client_ids)

    @property
    def lengths(self) -> Ints:
        """int64 [num_clients], check-ins of each client."""
        return np.diff(self.starts)

    @property
    def client_of(self) -> Int32s:
        """int32 [num_positions], index of the client that owns each position."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.lengths)

    @property
    def scored(self) -> "Clients":
        """The Clients that are scored; their indices and positions are the same as here."""
        number = self.num_scored
        if number is None:
            return self
        kept = slice(self.starts[number])
        starts, unscored = self.session_starts, self.unscored
        return Clients(
            client_ids=self.client_ids[:number],
            rows=self.rows[kept],
            starts=self.starts[: number + 1],
            train_ends=self.train_ends[:number],
            val_ends=self.val_ends[:number],
            session_starts=None if starts is None else starts[kept],
            unscored=None if unscored is None else unscored[kept],
        )

    def by_split(self) -> dict[str, "Clients"]:
        """Return {split: whose check-ins in it are used}: all clients' in train, else `scored`."""
        scored = self.scored
        return {split: self if split == "train" else scored for split in SPLITS}

    def ends(self, chosen: slice | AnyInts = slice(None)) -> Ends:
        """Return the Ends of some clients, by a slice or an array of indices; all by default."""
        every = self.starts[:-1], self.train_ends, self.val_ends, self.starts[1:]
        return Ends(*(positions[chosen] for positions in every))

    def bounds(self, split: str) -> tuple[Ints, Ints]:
        """See `Ends.bounds`."""
        return self.ends().bounds(split)

    def target_bounds(self, split: str) -> tuple[Ints, Ints]:
        """See `Ends.target_bounds`."""
        return self.ends().target_bounds(split)

    def target_positions(self, split: str, chosen: slice | AnyInts = slice(None)) -> Ints:
        """Return int64 [num_targets], the split's targets, of all or of some clients in turn."""
        positions = self.ends(chosen).positions(split)
        return positions[self.are_targets(positions)]

    def are_targets(self, positions: Ints) -> Bools:
        """Return bool, which of some positions are targets; none is a client's first."""
        are = np.ones(positions.shape, bool)
        for no_targets in (self.session_starts, self.unscored):
            if no_targets is not None:
                are &= ~no_targets[positions]
        return are

    def runs(self, first: Ints, end: Ints) -> tuple[Ints, Ints]:
        """Cut ranges of positions where a session begins.

        Args:
            first, end: int64 [num_ranges], disjoint ranges, ascending; some can be empty.

        Returns:
            (first, end) of the pieces, int64 [num_pieces]: the state is zero before each.

        Three ranges, sessions begin at 0, 2, 4, 6 and 8:

        >>> starts = np.array([True, False] * 5)
        >>> clients = Clients(("a",), np.arange(10), np.array([0, 10]), np.array([6]),
        ...                   np.array([8]), session_starts=starts)
        >>> [ends.tolist() for ends in clients.runs(np.array([1, 5, 7]), np.array([5, 5, 10]))]
        [[1, 2, 4, 5, 7, 8], [2, 4, 5, 5, 8, 10]]
        """
        if self.session_starts is None:
            return first, end
        inside = _concatenate_ranges(first + 1, end)
        cuts = inside[self.session_starts[inside]]
        return np.sort(np.concatenate([first, cuts])), np.sort(np.concatenate([end, cuts]))

    def in_split(self, split: str) -> Bools:
        """Return bool [num_positions], whether each position lies in the split."""
        first, end = self.bounds(split)
        inside = np.zeros(len(self.rows), bool)
        inside[_concatenate_ranges(first, end)] = True
        return inside


@dataclass(frozen=True)
class CoverageLine:
    """What one step kept: clients and check-ins (or targets, where the step says so)."""

    step: str
    clients: int
    checkins: int


def choose_clients(
    check_ins: CheckIns,
    users: int | None = None,
    min_checkins: int = 5,
    train_users: int | Literal["all"] | None = None,
    session_gap_s: float | None = None,
) -> tuple[Clients, list[CoverageLine]]:
    """Choose who takes part and split each one's check-ins by time.

    Args:
        check_ins: CheckIns, in order of time.
        users: keep this many, most check-ins first, ties by first appearance; None keeps all.
        min_checkins: drop who has fewer check-ins than this.
        train_users: keep this many in place of `users`, of whom the first `users` are scored.
        session_gap_s: a check-in later than this after the client's last one begins a session; None
            for no sessions.

    Returns:
        Clients, and a list of CoverageLine: before, after each step that can drop somebody.

    Raises:
        ConfigError: if `users` or `train_users` is more than there are.
        DataError: if nobody is left.
    """
    counts = np.bincount(check_ins.user.codes, minlength=len(check_ins.user.values))
    order = order_clients(counts)
    coverage = [CoverageLine("in the data set", len(order), len(check_ins))]
    if len(order) and counts[order[0]] < min_checkins:
        raise DataError(
            f"no user has {min_checkins} check-ins; the most active one, "
            f"{check_ins.user.values[order[0]]!r}, has {counts[order[0]]}. "
            "Lower `min_checkins` (at least 3, so that train, val and test are not empty)."
        )
    order = order[counts[order] >= min_checkins]
    coverage.append(
        CoverageLine(f"with {min_checkins} or more check-ins", len(order), int(counts[order].sum()))
    )
    for name, number in (("users", users), ("train_users", train_users)):
        if isinstance(number, int) and number > len(order):
            raise ConfigError(
                f"`{name}` is {number}, but the data set has {len(order)} users "
                f"with {min_checkins} or more check-ins."
            )
    kept = users if train_users is None else train_users
    if isinstance(kept, int):
        order = order[:kept]
        coverage.append(
            CoverageLine(f"the {kept} most active", len(order), int(counts[order].sum()))
        )
    num_scored = users if users is not None and users < len(order) else None
    if num_scored is not None:
        checkins = int(counts[order[:num_scored]].sum())
        line = CoverageLine(f"  scored: {num_scored} most active", num_scored, checkins)
        coverage.append(line)
    rank = np.full(len(counts), -1)
    rank[order] = np.arange(len(order))
    rank_of_row = rank[check_ins.user.codes]
    rows = np.flatnonzero(rank_of_row >= 0)
    rows = rows[np.argsort(rank_of_row[rows], kind="stable")]
    lengths = counts[order]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    num_test, num_val = split_sizes(lengths)
    val_ends = starts[1:] - num_test
    clients = Clients(
        client_ids=tuple(check_ins.user.values[code] for code in order),
        rows=rows,
        starts=starts,
        train_ends=val_ends - num_val,
        val_ends=val_ends,
        num_scored=num_scored,
        session_starts=_session_starts(check_ins.time_s[rows], starts, session_gap_s),
    )
    if clients.session_starts is not None:
        later = clients.session_starts.copy()
        later[starts[:-1]] = False
        owners = len(np.unique(clients.client_of[later]))
        coverage.append(CoverageLine(FIRST_OF_SESSION, owners, int(later.sum())))
    return clients, coverage


def order_clients(counts: Ints) -> Ints:
    """Return int64, the codes of users with check-ins: most first, ties by first appearance."""
    order = np.argsort(-counts, kind="stable")
    return order[counts[order] > 0]


def _session_starts(time_s: Ints, starts: Ints, gap_s: float | None) -> Bools | None:
    """Return `Clients.session_starts` of check-ins in order of time, client after client."""
    if gap_s is None:
        return None
    begins = np.append(True, np.diff(time_s) > gap_s)
    begins[starts[:-1]] = True
    return begins


def split_sizes(lengths: Ints) -> tuple[Ints, Ints]:
    """Return int64 test and val sizes, rounded up as scikit-learn's train_test_split does.

    >>> split_sizes(np.array([5, 100, 101]))
    (array([ 1, 20, 21]), array([ 1, 16, 16]))
    """
    num_test = np.ceil(TEST_SHARE * lengths).astype(np.int64)
    num_val = np.ceil(VAL_SHARE * (lengths - num_test)).astype(np.int64)
    return num_test, num_val


def _concatenate_ranges(first: Ints, end: Ints) -> Ints:
    """Return the integers of [first[0], end[0]), [first[1], end[1]) and so on in one array."""
    lengths = np.maximum(end - first, 0)
    offsets = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(offsets - first, lengths)
