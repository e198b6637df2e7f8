"""The same check-ins with another future: what nothing said before it may depend on."""

from dataclasses import replace

import numpy as np

from fedgru.data.checkins import Coded

TEXT_COLUMNS = ("user", "venue", "category", "raw_category")
_DAY_S = 86400


def rewritten(check_ins, clients, first, rng):
    """Return CheckIns in which all that each client does from a position on is something else.

    Venue, category and kept columns take other values of the data set, places lie anywhere,
    clocks go ahead by 10 to 50 days and local time by an hour. Who it was, how many check-ins
    each client has and their order stay: a position means the same check-in in both.

    Args:
        check_ins: CheckIns.
        clients: Clients over these check-ins.
        first: int64 [num_clients], the first position of each client that changes; the end of the
            client's positions for one that stays as it is.
        rng: numpy Generator.
    """
    positions = np.arange(len(clients.rows))
    rows = clients.rows[positions >= first[clients.client_of]]

    def other(column):
        num = len(column.values)
        codes = column.codes.copy()
        if num > 1:
            codes[rows] = (codes[rows] + rng.integers(1, num, len(rows))) % num
        return Coded(codes, column.values)

    shift_s = rng.integers(10 * _DAY_S, 50 * _DAY_S, len(clients))
    shift_of_row = np.zeros(len(check_ins), np.int64)
    shift_of_row[clients.rows] = np.where(
        positions >= first[clients.client_of], shift_s[clients.client_of], 0
    )
    lat_deg, lon_deg = check_ins.lat_deg.copy(), check_ins.lon_deg.copy()
    located = rows[np.isfinite(lat_deg[rows])]
    lat_deg[located] = rng.uniform(-60, 60, len(located))
    lon_deg[located] = rng.uniform(-170, 170, len(located))
    offset_min = check_ins.offset_min.copy()
    offset_min[rows] += 60
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


def run_backwards(check_ins, clients, first, end):
    """Return CheckIns in which each client lives a stretch of its positions backwards.

    The stretch holds the same values as before, so what is fitted on the whole of it
    (vocabularies, means and deviations, frequencies) stays; only their order is another. The
    times between check-ins turn round too, those after the stretch stay.

    Args:
        check_ins: CheckIns.
        clients: Clients over these check-ins.
        first, end: int64 [num_clients], the stretch; empty for a client that stays as it is.
            It does not begin with a client's first check-in.
    """
    source = np.arange(len(check_ins))
    time_s = check_ins.time_s.copy()
    for start, stop in zip(first, end, strict=True):
        if start < stop:
            rows = clients.rows[start:stop]
            source[rows] = rows[::-1]
            before_s = check_ins.time_s[clients.rows[start - 1]]
            gaps_s = np.diff(check_ins.time_s[rows], prepend=before_s)
            time_s[rows] = before_s + np.cumsum(gaps_s[::-1])
    return _in_order_of_time(replace(_taken(check_ins, source), time_s=time_s))


def _in_order_of_time(check_ins):
    return _taken(check_ins, np.argsort(check_ins.time_s, kind="stable"))


def _taken(check_ins, rows):
    """The check-ins of some rows, in their order."""

    def take(column):
        return Coded(column.codes[rows], column.values)

    columns = {name: take(getattr(check_ins, name)) for name in TEXT_COLUMNS}
    for name in ("time_s", "offset_min", "lat_deg", "lon_deg"):
        columns[name] = getattr(check_ins, name)[rows]
    return replace(
        check_ins, **columns, own={name: take(column) for name, column in check_ins.own.items()}
    )
