"""Reader of GeoLife's GPS trajectories: stay points become check-ins."""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedgru.core.errors import ConfigError, DataError
from fedgru.core.types import AnyPath, Doubles, Ints
from fedgru.data.ledger import Ledger, Line
from fedgru.data.reading.base import OFFSET, SKIP_BAD_ROWS, Option, Reader, Reading
from fedgru.data.reading.row_checks import BadRows, check_coordinates, check_times, settle
from fedgru.data.reading.rows import read_rows
from fedgru.data.reading.sources import Rows, Source, open_text, split_rows

HEADER_ROWS, NUM_COLUMNS = 6, 7  # latitude, longitude, 0, altitude, days, date, time
STAY_M, STAY_MIN, CELL_M = 200.0, 20.0, 200.0
M_PER_DEGREE = 111_195.0  # of latitude, on a sphere of 6371 km
_AHEAD = 64  # points compared at once


def read_geolife(
    path: AnyPath,
    stay_m: float = STAY_M,
    stay_min: float = STAY_MIN,
    cell_m: float = CELL_M,
    offset_min: int | None = None,
    skip_bad_rows: bool = False,
) -> Reading:
    """Read the stay points of GeoLife's users as check-ins.

    Each `.plt` file has six lines of header, then latitude, longitude, 0, altitude, days, date and
    time (UTC). The points of all files of a user, in order of time, are one trajectory. A check-in
    is at the start of a stay, at the mean of its points; its venue is the grid cell of the mean.

    Args:
        path: the folder with USER/Trajectory/*.plt somewhere below it.
        stay_m, stay_min: see `stay_points`.
        cell_m: side of a grid cell, in metres.
        offset_min: minutes from UTC of every local clock (Beijing: 480), or None.
        skip_bad_rows: drop and count bad rows of the files instead of stopping at the first.

    Returns:
        `Reading`; its rows are stays, and the ledger counts the points.

    Raises:
        ConfigError: if a threshold is not positive.
        DataError: if there is no such file, a file cannot be read, a row is bad, or there is no
            stay.

    Source: Zheng, Xie, Ma 2010 (IEEE Data Eng. Bull. 33(2)), GeoLife; stays: see `stay_points`.
    """
    for name, value in (("stay_m", stay_m), ("stay_min", stay_min), ("cell_m", cell_m)):
        if not value > 0:
            raise ConfigError(f"`{name}` is {value:g}, expected more than 0.")
    folder = Path(path)
    files = sorted(folder.rglob("*.plt")) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} is not a folder with files USER/Trajectory/*.plt.")
    digest, size_bytes, num_points, num_dropped = hashlib.sha256(), 0, 0, 0
    texts: dict[str, list[str]] = {name: [] for name in ("user", "venue", "time", "lat", "lon")}
    for user, of_user in groupby(files, _user_of):
        tracks = []
        for file in of_user:
            *points, facts, dropped = _read_plt(file, skip_bad_rows)
            tracks.append(points)
            digest.update(facts.sha256.encode())
            size_bytes += facts.size_bytes
            num_dropped += dropped
        time_s, lat_deg, lon_deg = (np.concatenate(column) for column in zip(*tracks, strict=True))
        order = np.argsort(time_s, kind="stable")
        num_points += len(order)
        for begin, end in stay_points(
            time_s[order], lat_deg[order], lon_deg[order], stay_m, stay_min
        ):
            rows = order[begin:end]
            lat, lon = float(lat_deg[rows].mean()), float(lon_deg[rows].mean())
            values: tuple[str, ...] = (
                user,
                cell_of(lat, lon, cell_m),
                str(time_s[rows[0]]).zfill(9),
            )
            values += (f"{lat:.6f}", f"{lon:.6f}")
            for name, text in zip(texts, values, strict=True):
                texts[name].append(text)
    if not texts["user"]:
        raise DataError(
            f"{folder}: no stay of {stay_min:g} min within {stay_m:g} m among {num_points:,} "
            "points."
        )
    source = Source(folder.name, digest.hexdigest(), size_bytes, "none", "utf-8")
    lines = [
        Line("kept", f"points in {len(files):,} files, of which the stays were made", num_points)
    ]
    if num_dropped:
        lines.append(Line("missing", "bad rows of the files, left out", num_dropped))
    settings = {"stay_m": stay_m, "stay_min": stay_min, "cell_m": cell_m, "offset_min": offset_min}
    columns = [pa.array(values, pa.string()) for values in texts.values()]
    fields = ("user", "venue", "time", "latitude", "longitude")
    return read_rows(
        source,
        iter([Rows(columns, np.arange(1, len(columns[0]) + 1), [])]),
        lambda parts: (dict(zip(fields, parts, strict=True)), {}),
        time_layout="unix",
        delimiter=",",
        skip_bad_rows=skip_bad_rows,
        settings=settings | {"skip_bad_rows": skip_bad_rows},
        offset_min=offset_min,
        ledger=Ledger(tuple(lines)),
    )


def _user_of(file: Path) -> str:
    """Return the name of the folder above Trajectory, or of the file's own folder."""
    return file.parents[1].name if file.parent.name == "Trajectory" else file.parent.name


def _read_plt(file: Path, skip: bool) -> tuple[Ints, Doubles, Doubles, Source, int]:
    """Return (Unix seconds, latitudes, longitudes, facts, rows left out) of a file."""
    points, bads = [], []
    with open_text(file) as text:
        for part in split_rows(text, NUM_COLUMNS, ",", quoted=False):
            misfits = [one for one in part.misfits if one.row_num > HEADER_ROWS]
            below = np.searchsorted(part.row_nums, HEADER_ROWS + 1)
            columns = [column.slice(below) for column in part.columns]
            rows = Rows(columns, part.row_nums[below:], misfits)
            bad = BadRows(rows)
            when = pc.binary_join_element_wise(columns[5], columns[6], "T")
            times = check_times(bad, pc.binary_join_element_wise(when, "Z", ""), "iso8601")
            fields = {"latitude": columns[0], "longitude": columns[1]}
            lat_deg, lon_deg = check_coordinates(bad, fields, "exchange columns 1 and 2")
            good = bad.close() & ~np.isnan(lat_deg)
            bads.append(bad)
            points.append((times.time_s[good], lat_deg[good], lon_deg[good]))
        dropped = settle(text.source.file, bads, skip, ",", "").rows("dropped")
        time_s, lat_deg, lon_deg = (np.concatenate(column) for column in zip(*points, strict=True))
        return time_s, lat_deg, lon_deg, text.source, dropped


def stay_points(
    time_s: Ints, lat_deg: Doubles, lon_deg: Doubles, stay_m: float, stay_min: float
) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of each stay: points within `stay_m` of its first for `stay_min`.

    From a point on, the points follow that are no further from it than `stay_m`. If the last of
    them is at least `stay_min` later, they are a stay, and the search goes on after them; if not,
    it goes on at the next point.

    Args:
        time_s: int64 [num_points], Unix seconds, ascending.
        lat_deg, lon_deg: float64 [num_points].
        stay_m: metres.
        stay_min: minutes.

    >>> list(stay_points(np.array([0, 600, 1300, 1400]), np.array([0, 1e-3, 0, 1]), np.zeros(4),
    ...                  200, 20))
    [(0, 3)]

    Source: Li et al. 2008 (ACM GIS), StayPoint_Detection. There the time to the first point
        outside counts, so that a gap in the records after leaving makes a stay; here the time to
        the last point inside. A stay at the end of the records counts here.
    """
    begin, num_points = 0, len(time_s)
    cosine = np.cos(np.radians(lat_deg))
    while begin < num_points - 1:
        end, ahead = begin + 1, _AHEAD
        while end < num_points:
            part = slice(end, min(end + ahead, num_points))
            north = lat_deg[part] - lat_deg[begin]
            east = (lon_deg[part] - lon_deg[begin] + 180) % 360 - 180
            away = np.flatnonzero(
                north**2 + (east * cosine[begin]) ** 2 > (stay_m / M_PER_DEGREE) ** 2
            )
            if len(away):
                end += int(away[0])
                break
            end, ahead = part.stop, 2 * ahead
        if time_s[end - 1] - time_s[begin] >= 60 * stay_min:
            yield begin, end
            begin = end
        else:
            begin += 1


def cell_of(lat_deg: float, lon_deg: float, cell_m: float) -> str:
    """Return the name of the grid cell of a place, `row_column`.

    Rows are `cell_m` high. Cells are as wide at the middle of their row.

    >>> cell_of(0.0001, 0.0001, 200), cell_of(0.0019, -0.0001, 200), cell_of(60.0, 0.0037, 200)
    ('0_0', '1_-1', '33358_1')
    """
    height = cell_m / M_PER_DEGREE
    row = int(np.floor(lat_deg / height))
    middle = np.cos(np.radians(min(abs((row + 0.5) * height), 89.9)))
    return f"{row}_{int(np.floor(lon_deg / (height / middle)))}"


def _read(path: AnyPath, options: Mapping[str, Any]) -> Reading:
    return read_geolife(path, **options)


READER = Reader(
    name="geolife",
    help="Import the stay points of GeoLife's trajectories. FILE is their folder.",
    details="Below the folder are files USER/Trajectory/*.plt. A check-in is a stay: points within "
    "--stay-m metres of its first one for --stay-min minutes. Its venue is a grid cell of --cell-m "
    "metres. A table of stay points made elsewhere is imported by fedgru data import csv.",
    example=("fedgru data import geolife Geolife/Data --name geolife --offset 480",),
    read=_read,
    options=(
        Option(
            "stay_m",
            f"How far a stay reaches.  [default: {STAY_M:g}]",
            type=float,
            metavar="METRES",
            default=STAY_M,
        ),
        Option(
            "stay_min",
            f"How long a stay lasts at least.  [default: {STAY_MIN:g}]",
            type=float,
            metavar="MINUTES",
            default=STAY_MIN,
        ),
        Option(
            "cell_m",
            f"Side of the grid cells that are the venues.  [default: {CELL_M:g}]",
            type=float,
            metavar="METRES",
            default=CELL_M,
        ),
        OFFSET,
        SKIP_BAD_ROWS,
    ),
    has_categories=False,
)
