"""The arrays that the kernel prior computes with: what it compares check-ins by, and its base.

Arrays [rows, num_own] are made for the rows of one block. So a client with a long history and many
classes needs no array [n, num_own].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.core.types import Bools, Doubles, Floats, Int32s, Ints
from fedgru.data.distances import KM_PER_DEG
from fedgru.task.priors import History, own_classes

HALF_LIFE_S = 15 * 86400.0  # of the recent frequencies
MONTH_S = 30 * 86400.0
SHARED_WEIGHT = 5.0  # check-ins that the shared frequencies count for
ROWS_AT_ONCE = 512  # whose frequencies are held in float64


@dataclass(frozen=True)
class Pasts:
    """Check-ins of some clients, on the first axis, padded to the longest.

    The earlier check-ins are those whose following class is known, sorted by that class: the
    summands of one count are contiguous.

    Attributes:
        lengths: pairs of each client, n - 1.
        num_followed: int [num_own] of each client, how often each class followed.
        codes: int32 [clients, 5, n], what is compared for equality: venue, category, weekend,
            category before, venue before; missing ones equal none.
        points: float32 [clients, 6 or 7, n], what else is compared: north, east at the equator, by
            how much east is narrower here, cosine and sine of the hour, months; with `asked_at` the
            log of the hours until the next check-in.
        located: bool [clients, n], whether there are coordinates.
        earlier_codes, earlier_points, earlier_located: the same [clients, ..., 1, num_earlier].
        earlier: int32 [clients, 1, num_earlier], the places of these check-ins; n in padding.
        targets: int64 [clients, n], the class of the check-in after each, as its place in the
            support; -1 where it is unknown, and in padding.
        base_from: the check-in that the first row of the next two is of.
        log_base: float32 [clients, n - base_from, num_own], log base on the support, 0 in padding.
        log_base_rest: float32 [clients, n - base_from], what log shared is added to elsewhere.
        exists: float32 [clients, 1, num_own], 1 on the support, 0 in padding.
        log_others: float32 [clients, most], log shared of the classes that a client has not.
        is_other: float32 [clients, most], 1 there, 0 in padding.
    """

    lengths: list[int]
    num_followed: list[Ints]
    codes: Int32s
    points: Floats
    located: Bools
    earlier_codes: Int32s
    earlier_points: Floats
    earlier_located: Bools
    earlier: Int32s
    targets: Ints
    base_from: int
    log_base: Floats
    log_base_rest: Floats
    exists: Floats
    log_others: Floats
    is_other: Floats


def lay_out(histories: Sequence[History], shared: Doubles, asked_at: bool = False) -> Pasts:
    """Return the Pasts of some clients, of all their check-ins.

    Args:
        histories: one History for each client, of 2 check-ins or more.
        shared: float64 [num_classes], frequencies of all clients.
        asked_at: as for ClientPast.
    """
    pasts = [ClientPast(history, shared, asked_at) for history in histories]
    parts = [past.part(0, len(h), 0) for past, h in zip(pasts, histories, strict=True)]
    return _stacked(parts, 0)


class ClientPast:
    """One client's check-ins, from which Pasts are made, part by part.

    Args:
        history: History of n check-ins.
        shared: float64 [num_classes].
        asked_at: whether the moment of the next check-in is known: hour and weekend of a check-in
            are then those of the one after it.

    Attributes:
        support: int32 [num_own], the classes that the client ever counts.
    """

    def __init__(self, history: History, shared: Doubles, asked_at: bool = False) -> None:
        self.support, self._places = own_classes(history)
        self._own_shared = shared[self.support]
        self._log_others = np.log(np.delete(shared, self.support)).astype(np.float32)
        self._kept = 0.5 ** (np.diff(history.time_s, prepend=history.time_s[0]) / HALF_LIFE_S)
        self._running, self._counted = np.zeros(len(self.support)), 0

        located = np.isfinite(history.lat_deg) & np.isfinite(history.lon_deg)
        lat_deg, lon_deg = (
            np.where(located, values, 0.0) for values in (history.lat_deg, history.lon_deg)
        )
        first = np.argmax(located)
        unit = KM_PER_DEG / np.sqrt(2)  # nearness is exp(-distance^2) then
        moments = history.asked if asked_at else history.moments
        hour_turn = 2 * np.pi * moments.local_hour / 24
        measured = [
            # from the first check-in: small numbers keep float32 precise
            unit * (lat_deg - lat_deg[first]),
            unit * (lon_deg - lon_deg[first]),
            np.cos(np.radians(lat_deg)),
            np.cos(hour_turn),
            np.sin(hour_turn),
            (history.time_s - history.time_s[0]) / MONTH_S,
        ]
        if asked_at:
            measured.append(history.log_asked_gap)
        before = [np.append(-1, values[:-1]) for values in (history.categories, history.venues)]
        codes = np.stack([history.venues, history.categories, moments.weekend, *before])
        self._codes, self._located = codes.astype(np.int32), located
        self._points = np.stack(measured).astype(np.float32)

    def pasts(self, begin: int, end: int, base_from: int) -> Pasts:
        """Return the Pasts of check-ins `begin` to `end`, which are counted from 0 there.

        Args:
            begin, end: a range of the check-ins.
            base_from: the first of them that something is predicted from; not before that of an
                earlier call.
        """
        return _stacked([self.part(begin, end, base_from)], base_from - begin)

    def part(self, begin: int, end: int, base_from: int) -> dict[str, npt.NDArray[Any]]:
        """Return {name: array} of these check-ins, named and shaped as in Pasts; see `pasts`."""
        codes, points = self._codes[:, begin:end], self._points[:, begin:end]
        located, num_own = self._located[begin:end], len(self.support)
        targets = np.append(self._places[begin + 1 : end], -1)
        known = np.flatnonzero(targets >= 0)
        earlier = known[np.argsort(targets[known], kind="stable")]
        log_base, log_base_rest = self._log_base(base_from, end - 1)
        return {
            "num_followed": np.bincount(targets[known], minlength=num_own),
            "codes": np.where(codes < 0, -2, codes),
            "points": points,
            "located": located,
            "earlier_codes": codes[:, None, earlier],
            "earlier_points": points[:, None, earlier],
            "earlier_located": located[None, earlier],
            "earlier": earlier[None].astype(np.int32),
            "targets": targets,
            "log_base": log_base,
            "log_base_rest": log_base_rest,
            "exists": np.ones((1, num_own), np.float32),
            "log_others": self._log_others,
            "is_other": np.ones_like(self._log_others),
        }

    def _log_base(self, begin: int, end: int) -> tuple[Floats, Floats]:
        """Return `log_base` and `log_base_rest` of check-ins `begin` to `end`."""
        self._count_until(begin)
        log_base = np.empty((end - begin, len(self.support)), np.float32)
        log_base_rest = np.empty(end - begin, np.float32)
        for start in range(begin, end, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, end)
            frequencies = np.empty((stop - start, len(self.support)))
            for i in range(start, stop):
                self._count_until(i + 1)
                frequencies[i - start] = self._running
            total = frequencies.sum(axis=1) + SHARED_WEIGHT
            rest = SHARED_WEIGHT / total
            own = frequencies / total[:, None] + rest[:, None] * self._own_shared
            log_base[start - begin : stop - begin] = np.log(own)
            log_base_rest[start - begin : stop - begin] = np.log(rest)
        return log_base, log_base_rest

    def _count_until(self, end: int) -> None:
        """Let the running frequencies count the check-ins before `end`."""
        for i in range(self._counted, end):
            self._running *= self._kept[i]
            if self._places[i] >= 0:
                self._running[self._places[i]] += 1
        self._counted = max(self._counted, end)


def _stacked(clients: Sequence[dict[str, npt.NDArray[Any]]], base_from: int) -> Pasts:
    """Bring what `ClientPast.part` gives for some clients into one Pasts."""
    names = ["codes", "points", "earlier_codes", "earlier_points", "log_base", "log_base_rest"]
    names += ["exists", "log_others", "is_other"]
    most = max(len(client["located"]) for client in clients)
    return Pasts(
        lengths=[len(client["located"]) - 1 for client in clients],
        num_followed=[client["num_followed"] for client in clients],
        earlier=_stack([client["earlier"] for client in clients], most),
        located=_stack([client["located"] for client in clients], True),
        earlier_located=_stack([client["earlier_located"] for client in clients], True),
        targets=_stack([client["targets"] for client in clients], -1),
        base_from=base_from,
        **{name: _stack([client[name] for client in clients]) for name in names},
    )


def _stack(arrays: Sequence[npt.NDArray[Any]], padding: int = 0) -> npt.NDArray[Any]:
    """Put arrays behind one another on a new first axis, padded to the largest of each axis."""
    shape = np.max([array.shape for array in arrays], axis=0)
    stacked = np.full((len(arrays), *shape), padding, arrays[0].dtype)
    for place, array in zip(stacked, arrays, strict=True):
        place[tuple(slice(size) for size in array.shape)] = array
    return stacked
