"""Write a data set as LibCity's atomic files; `fedgru.data.reading.libcity` reads them back."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fedgru.core.errors import DataError
from fedgru.core.types import AnyPath, Bools, Ints
from fedgru.data.checkins import CheckIns, Coded
from fedgru.data.reading.libcity import CATEGORY_COLUMNS, OFFSET_MIN, USER_NAME, VENUE_NAME
from fedgru.storage.folders import writing_folder


@dataclass(frozen=True)
class Exported:
    """What was written, and what the files cannot hold.

    Attributes:
        folder: of the files.
        check_ins, users, venues: numbers.
        differing: {field: check-ins whose value differs from that of their venue, the first one
            that is not missing}; LibCity has one value per venue.
        without_coordinates: venues without any.
        own: names of kept columns, which are left out.
    """

    folder: Path
    check_ins: int
    users: int
    venues: int
    differing: dict[str, int]
    without_coordinates: int
    own: tuple[str, ...]


def export_libcity(name: str, check_ins: CheckIns, folder: AnyPath) -> Exported:
    """Write check-ins as NAME.geo, NAME.usr, NAME.dyna and config.json.

    Ids are numbers in order of first appearance; the names are beside them. Times are local with
    the letter Z, as in LibCity's own Foursquare files, whose models take the hour from them; a
    last column of NAME.dyna has the minutes from UTC. Rows are in order of time.

    Args:
        name: of the files.
        check_ins: `CheckIns`.
        folder: new folder.

    Returns:
        `Exported`.

    Raises:
        DataError: if the folder exists or cannot be written.
    """
    venue, folder = check_ins.venue, Path(folder)
    if folder.exists():
        raise DataError(f"{folder} already exists: choose another folder.")
    first = {
        field: _first_of_venue(venue, known)
        for field, known in (
            ("coordinates", ~np.isnan(check_ins.lat_deg)),
            ("category", check_ins.category.codes >= 0),
            ("raw_category", check_ins.raw_category.codes >= 0),
        )
    }
    differing = _differing(check_ins, first)
    num_venues = len(venue.values)
    geo = {
        "geo_id": pa.array(np.arange(num_venues)),
        "type": pa.array(["Point"] * num_venues),
        "coordinates": _coordinates(check_ins, first["coordinates"]),
        VENUE_NAME: pa.array(venue.values, pa.string()),
    }
    for field in ("raw_category", "category"):
        geo[CATEGORY_COLUMNS[field]] = _texts(getattr(check_ins, field), first[field])
    num_users = len(check_ins.user.values)
    usr = {
        "usr_id": pa.array(np.arange(num_users)),
        USER_NAME: pa.array(check_ins.user.values, pa.string()),
    }
    local = pa.array(check_ins.local_time_s).cast(pa.timestamp("s"))
    dyna = {
        "dyna_id": pa.array(np.arange(len(check_ins))),
        "type": pa.array(["trajectory"]).take(pa.array(np.zeros(len(check_ins), np.int8))),
        "time": pc.strftime(local, "%Y-%m-%dT%H:%M:%SZ"),
        "entity_id": pa.array(check_ins.user.codes),
        "location": pa.array(venue.codes),
        OFFSET_MIN: pa.array(check_ins.offset_min),
    }
    try:
        with writing_folder(folder, overwrite=False) as new:
            for end, columns in (("geo", geo), ("usr", usr), ("dyna", dyna)):
                options = pa.csv.WriteOptions(quoting_style="needed")
                pa.csv.write_csv(pa.table(columns), new / f"{name}.{end}", options)
            (new / "config.json").write_text(json.dumps(_config(), indent=2) + "\n", "utf-8")
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}.") from None
    without = int((first["coordinates"] < 0).sum())
    own = tuple(check_ins.own)
    return Exported(folder, len(check_ins), num_users, num_venues, differing, without, own)


def _first_of_venue(venue: Coded, known: Bools) -> Ints:
    """Return int64 [num_venues], the first check-in of each venue with a value, -1 without."""
    first = np.full(len(venue.values), -1)
    rows = np.flatnonzero(known)[::-1]
    first[venue.codes[rows]] = rows  # of several writes to one place the last one counts
    return first


def _differing(check_ins: CheckIns, first: dict[str, Ints]) -> dict[str, int]:
    """Return how many check-ins have another value than the first of their venue, by field."""
    found = {}
    for field, rows in first.items():
        own = rows[check_ins.venue.codes]
        if field == "coordinates":
            columns = [np.nan_to_num(check_ins.lat_deg, nan=999)]
            columns.append(np.nan_to_num(check_ins.lon_deg, nan=999))
        else:
            columns = [getattr(check_ins, field).codes]
        differs = np.zeros(len(check_ins), bool)
        for column in columns:
            differs |= (own >= 0) & (column[own] != column)
        if differs.any():
            found[field] = int(differs.sum())
    return found


def _coordinates(check_ins: CheckIns, rows: Ints) -> pa.StringArray:
    """Return `[longitude,latitude]` of some rows; empty where a row is -1."""
    lon, lat = (
        pa.array(degrees[rows]).cast(pa.string())
        for degrees in (check_ins.lon_deg, check_ins.lat_deg)
    )
    inner = pc.binary_join_element_wise(lon, lat, ",")
    points = pc.binary_join_element_wise("[", inner, "]", "")
    return pc.if_else(pa.array(rows >= 0), points, "")


def _texts(coded: Coded, rows: Ints) -> pa.StringArray:
    """Return the texts of some rows; empty where a row is -1."""
    values = pa.array([*coded.values, ""], pa.string())
    return values.take(pa.array(np.where(rows >= 0, coded.codes[rows], len(coded.values))))


def _config() -> dict[str, object]:
    point = {CATEGORY_COLUMNS[field]: "enum" for field in ("raw_category", "category")}
    trajectory = {"entity_id": "usr_id", "location": "geo_id", OFFSET_MIN: "num"}
    return {
        "geo": {"including_types": ["Point"], "Point": {VENUE_NAME: "other", **point}},
        "usr": {"properties": {USER_NAME: "other"}},
        "dyna": {"including_types": ["trajectory"], "trajectory": trajectory},
        "info": {},
    }
