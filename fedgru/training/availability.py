"""Who is on when, in simulated time: from the clients' own clocks, or from a trace in a file."""

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from fedgru.algorithms.simulated import MS_PER_HOUR
from fedgru.config.settings import short
from fedgru.core.errors import DataError
from fedgru.core.types import Bools, Ints
from fedgru.task.task import Task

DAY_MS = 24 * MS_PER_HOUR
WINDOW_H = 8  # if `window_h` is not given
ALWAYS_MS = 1 << 62  # the end of a window without one
MAX_HOURS = 1_000_000
COLUMNS = ("client", "start", "end")


@dataclass(frozen=True, eq=False)
class Windows:
    """When each client is on. After `period_ms` all of it begins again.

    A window holds its first millisecond, not its end. No two windows of a client touch.

    Attributes:
        client: int64 [num_windows], ascending.
        start_ms: int64 [num_windows], not negative, below `period_ms`.
        length_ms: int64 [num_windows], at least 1; a window can end in the next period. One as
            long as the period has no end.
        period_ms: whole days.
        sha256: of the trace's file, 64 hex digits; None without one.
        notes: what is logged about them.
    """

    client: Ints
    start_ms: Ints
    length_ms: Ints
    period_ms: int
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    def on_until(self, clients: Ints, time_ms: int) -> Ints:
        """Return int64 [num_clients], when each client that is on goes off; -1 if it is off.

        >>> night = Windows(np.array([0, 2]), np.array([20, 3]), np.array([8, 24]), 24)
        >>> night.on_until(np.arange(3), 1).tolist() == [4, -1, ALWAYS_MS]
        True
        """
        first, end = (np.searchsorted(self.client, clients, side) for side in ("left", "right"))
        owner = np.repeat(np.arange(len(clients)), end - first)
        # the windows of these clients alone, client after client
        before = np.cumsum(end - first) - (end - first)
        places = np.arange(len(owner)) + np.repeat(first - before, end - first)
        since = (time_ms - self.start_ms[places]) % self.period_ms
        length_ms = self.length_ms[places]
        until = np.where(self._endless[places], ALWAYS_MS, time_ms + length_ms - since)
        is_on = since < length_ms
        found = np.full(len(clients), -1)
        found[owner[is_on]] = until[is_on]
        return found

    def first_with(self, number: int, time_ms: int) -> int:
        """Return the first time, not before `time_ms`, at which this many clients are on.

        Raises:
            ValueError: if there never are; see `most_on`.

        >>> night = Windows(np.array([0, 2]), np.array([20, 3]), np.array([8, 9]), 24)
        >>> night.most_on, night.first_with(2, 0), night.first_with(2, 5), night.first_with(1, 13)
        (2, 3, 27, 20)
        """
        times, counts = self._changes
        since = time_ms % self.period_ms
        if counts[np.searchsorted(times, since, "right") - 1] >= number:
            return time_ms
        enough = times[counts >= number]
        if not len(enough):
            raise ValueError(f"at most {self.most_on} clients are on at once, not {number}")
        return time_ms - since + _next(enough, since, self.period_ms)

    def next_start(self, time_ms: int) -> int:
        """Return the first time after `time_ms` at which a client comes on."""
        since = time_ms % self.period_ms
        return time_ms - since + _next(self._start_times, since, self.period_ms)

    @property
    def most_on(self) -> int:
        """The largest number of clients that are on at once."""
        return int(self._changes[1].max())

    @cached_property
    def _endless(self) -> Bools:
        return self.length_ms >= self.period_ms

    @cached_property
    def _start_times(self) -> Ints:
        return np.unique(self.start_ms)

    @cached_property
    def _changes(self) -> tuple[Ints, Ints]:
        """Times in a period, ascending from 0, and how many clients are on from each of them."""
        starts = np.sort(self.start_ms[~self._endless])
        stops = self.start_ms[~self._endless] + self.length_ms[~self._endless]
        before = np.count_nonzero(stops >= self.period_ms) + np.count_nonzero(self._endless)
        stops = np.sort(stops % self.period_ms)
        times = np.unique(np.concatenate([[0], starts, stops]))
        begun, over = (np.searchsorted(t, times, "right") for t in (starts, stops))
        return times, before + begun - over


class WhoIsOn:
    """Which clients are on, for times that mostly go on by little.

    From one time to the next only those clients are looked at that came on or went off between.

    Args:
        windows: Windows.
        num_clients: of the task.

    >>> who = WhoIsOn(Windows(np.array([0, 2]), np.array([20, 3]), np.array([8, 9]), 24), 3)
    >>> who.at(3).tolist(), who.at(4).tolist(), who.at(36).tolist()
    ([True, False, True], [False, False, True], [False, False, False])
    """

    def __init__(self, windows: Windows, num_clients: int) -> None:
        self._windows, self._period_ms = windows, windows.period_ms
        changing = windows.length_ms < windows.period_ms
        client, start_ms = windows.client[changing], windows.start_ms[changing]
        end_ms = (start_ms + windows.length_ms[changing]) % windows.period_ms
        moments = np.concatenate([start_ms, end_ms])
        order = np.argsort(moments, kind="stable")
        self._moments = moments[order]
        self._client = np.concatenate([client, client])[order]
        self._comes_on = order < len(start_ms)
        self._on = np.zeros(num_clients, bool)
        self._time_ms: int | None = None

    def at(self, time_ms: int) -> Bools:
        """Return bool [num_clients]; valid until the next call."""
        before, self._time_ms = self._time_ms, time_ms
        if before is None or not 0 <= time_ms - before < self._period_ms:
            self._on[:] = self._windows.on_until(np.arange(len(self._on)), time_ms) >= 0
            return self._on
        begin, end = (
            int(np.searchsorted(self._moments, moment % self._period_ms, "right"))
            for moment in (before, time_ms)
        )
        wraps = time_ms // self._period_ms > before // self._period_ms
        for part in (slice(begin, None), slice(end)) if wraps else (slice(begin, end),):
            self._on[self._client[part]] = self._comes_on[part]  # of several the last one counts
        return self._on


def _next(times: Ints, since: int, period_ms: int) -> int:
    """Return the first of some times of a period, ascending, after `since`."""
    place = np.searchsorted(times, since, "right")
    return int(times[place]) if place < len(times) else int(times[0]) + period_ms


def of_clocks(task: Task, window_h: int = WINDOW_H) -> Windows:
    """Return Windows in which each client is on once a day, while its owner is quiet.

    A phone trains when it is idle and on charge, which is mostly at night. So a client is on in
    those `window_h` hours of its local day, one after the other, in which it has the fewest
    check-ins in its train split; of several such windows the first one after midnight. Its clock
    is ahead of UTC as at its last check-in in train.

    Args:
        task: Task; only its training clients get windows.
        window_h: hours, 1 to 24.

    Source: Bonawitz et al. 2019 (arXiv:1902.01046), section 9: devices take part at night, local
        time. Here the night of a client is found in its check-ins.
    """
    clients, history = task.clients, task.history
    in_train = clients.in_split("train")
    hours = history.local_time_s[in_train] // 3600 % 24
    cells = clients.client_of[in_train].astype(np.int64) * 24 + hours
    counts = np.bincount(cells, minlength=24 * len(clients)).reshape(len(clients), 24)
    start_h = quiet_hours(counts[task.training_clients], window_h)
    last = clients.train_ends[task.training_clients] - 1
    ahead_ms = 1000 * (history.local_time_s[last] - history.time_s[last])
    return Windows(
        client=np.asarray(task.training_clients),
        start_ms=(start_h * MS_PER_HOUR - ahead_ms) % DAY_MS,
        length_ms=np.full(len(start_h), window_h * MS_PER_HOUR),
        period_ms=DAY_MS,
    )


def quiet_hours(counts: Ints, window_h: int) -> Ints:
    """Return int64 [num_clients], the hour at which the quietest window of each day begins.

    Args:
        counts: int64 [num_clients, 24], check-ins in each hour of the local day.
        window_h: length of the window.

    One check-in at 2 and one at 12: the first 8 hours without one begin at 3.

    >>> quiet_hours(np.eye(24, dtype=int)[[2]] + np.eye(24, dtype=int)[[12]], 8).tolist()
    [3]
    """
    hours = (np.arange(24)[:, None] + np.arange(window_h)) % 24
    return np.argmin(counts[:, hours].sum(-1), -1)


def read_trace(file: str | Path, task: Task) -> Windows:
    """Return the Windows in a CSV file.

    Its columns are `client`, an id of the data set, and `start` and `end`, in simulated hours. A
    client is on in each of its rows, in any order; those that touch or overlap are one. Clients
    that are not in it are never on. After its last end, rounded up to whole days, the trace begins
    again.

    Args:
        file: path.
        task: Task; only its training clients get windows.

    Raises:
        DataError: if it cannot be read, is no such table, a row does not fit (names the row), or
            it names no training client.
    """
    try:
        content = Path(file).read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"`availability` is {str(file)!r}, expected none, clock or a CSV file; there is no "
            "such file."
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}.") from None
    except ValueError:
        raise DataError(f"{file} is not text in UTF-8.") from None
    training = task.training_clients.tolist()
    ids = task.clients.client_ids
    place = {ids[client]: client for client in training}
    named, unknown, windows, last_ms = set(), set(), [], 0
    for client_id, start_ms, end_ms in _read_rows(file, text):
        last_ms = max(last_ms, end_ms)
        if client_id in place:
            named.add(client_id)
            windows.append((place[client_id], start_ms, end_ms))
        else:
            unknown.add(client_id)
    if not windows:
        found = f"it has {_listed(sorted(unknown))}" if unknown else "it has no rows"
        raise DataError(
            f"{file} names none of the {len(place):,} clients with training data: {found}, the "
            f"data set has {_listed(list(place))}."
        )
    notes = []
    if never := len(place) - len(named):
        notes.append(f"{file} does not name {never:,} of {len(place):,} clients: they are never on")
    if unknown:
        notes.append(f"{file} also names clients that do not take part: {len(unknown):,}")
    sha256 = hashlib.sha256(content).hexdigest()
    client, start, end = np.array(windows, np.int64).T
    joined = join_windows(client, start, end, -(-last_ms // DAY_MS) * DAY_MS)
    return replace(joined, sha256=sha256, notes=tuple(notes))


def _read_rows(file: str | Path, text: str) -> Iterator[tuple[str, int, int]]:
    """Yield (client_id, start_ms, end_ms) of each row of a trace."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    places: list[int] = []
    try:
        for row_num, cells in enumerate(reader, start=1):
            if row_num == 1:
                header = [cell.strip() for cell in cells]
                if sorted(header) != sorted(COLUMNS):
                    raise DataError(
                        f"{file}, row 1: the header is {short(','.join(cells))!r}, expected "
                        "'client,start,end'."
                    )
                places = [header.index(name) for name in COLUMNS]
                continue
            if not cells:
                continue
            if len(cells) != len(COLUMNS):
                raise DataError(
                    f"{file}, row {row_num}: it has {len(cells)} cells, expected {len(COLUMNS)}."
                )
            client_id, *bounds = (cells[place] for place in places)
            start_ms, end_ms = (
                _milliseconds(f"{file}, row {row_num}: {name}", cell)
                for name, cell in zip(COLUMNS[1:], bounds, strict=True)
            )
            if end_ms <= start_ms:
                raise DataError(
                    f"{file}, row {row_num}: start is {bounds[0]} and end is {bounds[1]}, expected "
                    "an end at least a millisecond after the start."
                )
            yield client_id, start_ms, end_ms
    except csv.Error as error:
        raise DataError(f"{file}, row {reader.line_num}: {error}.") from None
    if not places:
        raise DataError(f"{file} is empty, expected the header 'client,start,end'.")


def _milliseconds(where: str, cell: str) -> int:
    """Return hours as whole milliseconds."""
    try:
        hours = float(cell)
    except ValueError:
        hours = math.nan
    if not 0 <= hours <= MAX_HOURS:  # False for NaN
        raise DataError(f"{where} is {short(cell)!r}, expected hours from 0 to {MAX_HOURS:,}.")
    return round(hours * MS_PER_HOUR)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(short, names[:3])) + (" ..." if len(names) > 3 else "")


def join_windows(client: Ints, start_ms: Ints, end_ms: Ints, period_ms: int) -> Windows:
    """Return Windows of some intervals; those of a client that touch or overlap are one.

    Args:
        client, start_ms, end_ms: int64 [num_intervals], in any order, within the period.
        period_ms: at its end the first interval follows the last one.

    >>> day = join_windows(np.array([5, 5, 5]), np.array([20, 0, 6]), np.array([24, 2, 9]), 24)
    >>> day.client.tolist(), day.start_ms.tolist(), day.length_ms.tolist()
    ([5, 5], [6, 20], [3, 6])
    """
    of_client: dict[int, list[tuple[int, int]]] = {}
    for owner, *interval in sorted(
        zip(client.tolist(), start_ms.tolist(), end_ms.tolist(), strict=True)
    ):
        start, end = interval
        own = of_client.setdefault(owner, [])
        if own and start <= own[-1][1]:
            start, before = own.pop()
            end = max(end, before)
        own.append((start, end))
    for own in of_client.values():
        if len(own) > 1 and own[0][0] == 0 and own[-1][1] == period_ms:
            own[-1] = own[-1][0], period_ms + own.pop(0)[1]
    rows = [(owner, *interval) for owner, own in of_client.items() for interval in own]
    owners, starts, ends = np.array(rows, np.int64).T
    return Windows(owners, starts, ends - starts, period_ms)
