"""The same check-ins with another future, which must not change any earlier prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgru.core.types import Ints
from fedgru.data.checkins import CheckIns, Coded

if TYPE_CHECKING:
    from fedgru.task.clients import Clients

TEXT_COLUMNS = ("user", "venue", "category", "raw_category")
_DAY_S = 86400


def rewritten(
    check_ins: CheckIns,
    clients: Clients,
    first: Ints,
    rng: np.random.Generator,
    keeps_moment: bool = False,
) -> CheckIns:
    """Return CheckIns in which each client's check-ins from a position on are replaced.

    Venue, category and kept columns get other values of the data set, coordinates are random,
    times are 10 to 50 days later and local time is an hour later. The clients, their numbers of
    check-ins and the order stay: a position means the same check-in in both.

    Args:
        check_ins: CheckIns.
        clients: Clients over these check-ins.
        first: int64 [num_clients], the first replaced position of each client; for a client that
            does not change, the end of its positions.
        rng: numpy Generator.
        keeps_moment: whether the time of each client's first replaced check-in stays, on both
            clocks: a model of `asked_at` knows it, and nothing else of that check-in.
    """
    positions = np.arange(len(clients.rows))
    rows = clients.rows[positions >= first[clients.client_of]]

    def other(column: Coded) -> Coded:
        num = len(column.values)
        codes = column.codes.copy()
        if num > 1:
            codes[rows] = (codes[rows] + rng.integers(1, num, len(rows))) % num
        return Coded(codes, column.values)

    shift_s = rng.integers(10 * _DAY_S, 50 * _DAY_S, len(clients))
    shift_of_row = np.zeros(len(check_ins), np.int64)
    moved = positions >= first[clients.client_of] + keeps_moment
    shift_of_row[clients.rows] = np.where(moved, shift_s[clients.client_of], 0)
    lat_deg, lon_deg = check_ins.lat_deg.copy(), check_ins.lon_deg.copy()
    located = rows[np.isfinite(lat_deg[rows])]
    lat_deg[located] = rng.uniform(-60, 60, len(located))
    lon_deg[located] = rng.uniform(-170, 170, len(located))
    offset_min = check_ins.offset_min.copy()
    offset_min[clients.rows[moved]] += 60
    return _in_order_of_time(
        replace(
            check_ins,
            venue=other(check_ins.venue),
            category=other(check_ins.category),
            raw_category=other(check_ins.raw_category),
            time_s=check_ins.time_s + shift_of_row,
            offset_min=offset_min,
            lat_deg=lat_deg,
            lon_deg=lon_deg,
            own={name: other(column) for name, column in check_ins.own.items()},
        )
    )


def run_backwards(
    check_ins: CheckIns, clients: Clients, first: Ints, end: Ints, keeps_moment: bool = False
) -> CheckIns:
    """Return CheckIns in which a range of each client's positions is reversed.

    The range holds the same values as before, so everything fitted on the whole range
    (vocabularies, means and deviations, frequencies) stays the same; only the order changes. The
    times between check-ins are reversed too; those after the range stay.

    Args:
        check_ins: CheckIns.
        clients: Clients over these check-ins.
        first, end: int64 [num_clients], the range; empty for a client that does not change. It
            does not begin with a client's first check-in.
        keeps_moment: as for `rewritten`; offsets from UTC then stay in their order.
    """
    source = np.arange(len(check_ins))
    time_s = check_ins.time_s.copy()
    for start, stop in zip(first, end, strict=True):
        if start < stop:
            rows = clients.rows[start:stop]
            source[rows] = rows[::-1]
            before_s = check_ins.time_s[clients.rows[start - 1]]
            gaps_s = np.diff(check_ins.time_s[rows], prepend=before_s)
            kept = int(keeps_moment)  # gaps at the start that stay
            time_s[rows] = before_s + np.cumsum([*gaps_s[:kept], *gaps_s[kept:][::-1]])
    reversed_ = _taken(check_ins, source)
    if keeps_moment:
        reversed_ = replace(reversed_, offset_min=check_ins.offset_min)
    return _in_order_of_time(replace(reversed_, time_s=time_s))


def _in_order_of_time(check_ins: CheckIns) -> CheckIns:
    return _taken(check_ins, np.argsort(check_ins.time_s, kind="stable"))


def _taken(check_ins: CheckIns, rows: Ints) -> CheckIns:
    """The check-ins of some rows, in their order."""

    def take(column: Coded) -> Coded:
        return Coded(column.codes[rows], column.values)

    columns: dict[str, Any] = {name: take(getattr(check_ins, name)) for name in TEXT_COLUMNS}
    for name in ("time_s", "offset_min", "lat_deg", "lon_deg"):
        columns[name] = getattr(check_ins, name)[rows]
    return replace(
        check_ins, **columns, own={name: take(column) for name, column in check_ins.own.items()}
    )
