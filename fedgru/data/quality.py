"""What a data set looks like, and what in it deserves a second look."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.data.checkins import CheckIns
from fedgru.data.distances import distances_km
from fedgru.data.passport import check_time_zone
from fedgru.data.reading.rows import find_alike

PLANE_KMH, JUMP_KM = 1000.0, 10.0  # faster and further than this is a jump
# shares from which a sentence is worth it
MANY_JUMPS, MANY_REPEATS, MANY_ONE_VISIT, MANY_AT_ORIGIN = 0.001, 0.01, 0.5, 0.001


def describe_quality(check_ins: CheckIns) -> dict[str, Any]:
    """Return counts over days, hours and users, and warnings, as a dict for JSON.

    Args:
        check_ins: `CheckIns`, at least one.

    Returns:
        "per_day": {"first": local date, "counts": check-ins of each day to the last};
        "per_local_hour": 24 counts;
        "users_by_check_ins": users with 1, 2 to 3, 4 to 7, 8 to 15 ... check-ins;
        "repeats": check-ins of the user, venue and second of an earlier one;
        "moves": pairs of successive check-ins of a user with coordinates;
        "jumps": moves of more than `JUMP_KM` km, faster than `PLANE_KMH` km/h;
        "one_visit_venues": venues with one check-in;
        "at_origin": check-ins at coordinates 0, 0;
        "warnings": sentences.
    """
    local_s = check_ins.local_time_s
    day = local_s // 86400
    first_day = int(day.min())
    per_user = np.bincount(check_ins.user.codes)
    per_venue = np.bincount(check_ins.venue.codes)
    alike = find_alike(check_ins.user.codes, check_ins.venue.codes, check_ins.time_s)
    moves, jumps = _count_jumps(check_ins)
    found: dict[str, Any] = {
        "per_day": {
            "first": str(np.datetime64(first_day, "D")),
            "counts": np.bincount(day - first_day).tolist(),
        },
        "per_local_hour": np.bincount(local_s // 3600 % 24, minlength=24).tolist(),
        "users_by_check_ins": np.bincount(np.log2(per_user).astype(int)).tolist(),
        "repeats": _count_repeats(check_ins, alike),
        "moves": moves,
        "jumps": jumps,
        "one_visit_venues": int((per_venue == 1).sum()),
        "at_origin": int(((check_ins.lat_deg == 0) & (check_ins.lon_deg == 0)).sum()),
    }
    return found | {"warnings": _warnings(check_ins, found)}


def _count_repeats(check_ins: CheckIns, alike: npt.NDArray[Any]) -> int:
    """Return how many of some rows have the user, venue and second of an earlier one."""
    columns = (check_ins.user.codes, check_ins.venue.codes, check_ins.time_s)
    keys = np.stack([column[alike].astype(np.int64) for column in columns])
    return len(alike) - np.unique(keys, axis=1).shape[1]


def _count_jumps(check_ins: CheckIns) -> tuple[int, int]:
    """Return (moves, jumps), see `describe_quality`."""
    rows = np.flatnonzero(~np.isnan(check_ins.lat_deg) & ~np.isnan(check_ins.lon_deg))
    rows = rows[np.argsort(check_ins.user.codes[rows], kind="stable")]
    user = check_ins.user.codes[rows]
    pair = np.flatnonzero(user[1:] == user[:-1])
    before, after = rows[pair], rows[pair + 1]
    km = distances_km(
        check_ins.lat_deg[before],
        check_ins.lon_deg[before],
        check_ins.lat_deg[after],
        check_ins.lon_deg[after],
    )
    hours = (check_ins.time_s[after] - check_ins.time_s[before]) / 3600
    return len(pair), int(((km > JUMP_KM) & (km > PLANE_KMH * hours)).sum())


def _warnings(check_ins: CheckIns, found: dict[str, Any]) -> list[str]:
    num, num_venues = len(check_ins), len(check_ins.venue.values)
    sentences = []
    if clock := check_time_zone(check_ins)["warning"]:
        sentences.append(clock)
    if found["jumps"] > MANY_JUMPS * found["moves"]:
        sentences.append(
            f"{found['jumps']:,} of {found['moves']:,} moves "
            f"({found['jumps'] / found['moves']:.1%}) are faster than a plane ({PLANE_KMH:,.0f} "
            f"km/h over more than {JUMP_KM:g} km): shared accounts, invented check-ins, or wrong "
            "coordinates."
        )
    if found["repeats"] > MANY_REPEATS * num:
        sentences.append(
            "Check-ins that repeat the user, venue and second of an earlier one: "
            f"{found['repeats']:,} ({found['repeats'] / num:.1%})."
        )
    if found["one_visit_venues"] > MANY_ONE_VISIT * num_venues:
        sentences.append(
            f"{found['one_visit_venues'] / num_venues:.0%} of the venues have one check-in: no "
            "model can predict it from the past of that venue."
        )
    if found["at_origin"] > MANY_AT_ORIGIN * num:
        sentences.append(
            f"Check-ins at coordinates 0, 0, often a missing value: {found['at_origin']:,}."
        )
    return sentences
