"""Reader of the global check-ins of TIST2015: check-ins, places and cities in three files."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fedgru.core.errors import DataError
from fedgru.core.types import AnyPath
from fedgru.data.distances import distances_km
from fedgru.data.ledger import Ledger, Line
from fedgru.data.reading.base import SKIP_BAD_ROWS, Option, Reader, Reading
from fedgru.data.reading.headerless import read_headerless
from fedgru.data.reading.places import Places, read_places
from fedgru.data.reading.row_checks import BadRows, check_coordinates, settle
from fedgru.data.reading.sources import open_text, split_rows

NAME = "dataset_TIST2015_{}.txt"
FIELDS = ("user", "venue", "time", "offset")
PLACE_FIELDS = ("venue", "latitude", "longitude", "category")  # and a country code
CITY_FIELDS = 6  # name, latitude, longitude, country code, country name, kind of city
RADIUS_KM = 25.0

City: TypeAlias = tuple[str, float, float, str]  # name, latitude, longitude, country code


def read_tist2015(
    path: AnyPath,
    city: str | None = None,
    radius_km: float = RADIUS_KM,
    skip_bad_rows: bool = False,
) -> Reading:
    """Read the check-ins of TIST2015, with their places.

    Check-ins have four columns separated by tabs: user, venue, UTC time as in TSMC2014, minutes
    from UTC. Places have five: venue, latitude, longitude, category name, country code. Cities
    have six: name, latitude, longitude, country code, country name, kind.

    Args:
        path: the folder with `dataset_TIST2015_Checkins.txt`, `..._POIs.txt` and, for a city,
            `..._Cities.txt`; each plain, .gz or .zip.
        city: keep only the check-ins at places within `radius_km` of this city's
            centre; `NAME` or `NAME,COUNTRY CODE`. None for all.
        radius_km: see `city`. The files do not say which place belongs to which city.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.

    Returns:
        `Reading`; `settings` hold the facts of the other files.

    Raises:
        DataError: as `fedgru.data.reading.tsmc2014.read_tsmc2014`; if a file is missing; if there
            is no such city, or several.

    Source: Yang, Zhang, Qu 2016 (ACM TIST 7(3)), the files published with it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder, expected one with {NAME.format('Checkins')} and "
            f"{NAME.format('POIs')}."
        )
    settings: dict[str, Any] = {"city": city}
    places_file = _find(folder, "POIs")
    with open_text(places_file) as text:
        settings["places"] = asdict(text.source)
        parts = list(split_rows(text, len(PLACE_FIELDS) + 1, "\t", quoted=False))
        places = read_places(
            text.source.file,
            parts,
            lambda columns: dict(zip(PLACE_FIELDS, columns, strict=False)),
            "\t",
            skip_bad_rows,
            "exchange columns 2 and 3 of the file",
        )
    if city is not None:
        settings["radius_km"] = radius_km
        places = _only(places, _find(folder, "Cities"), city, radius_km, skip_bad_rows)
    del parts
    return read_headerless(
        _find(folder, "Checkins"),
        FIELDS,
        time_layout="tsmc2014",
        skip_bad_rows=skip_bad_rows,
        settings=settings,
        places=places,
    )


def _find(folder: Path, kind: str) -> Path:
    """Return the path of one of the three files, plain or packed."""
    name = NAME.format(kind)
    found = [path for end in ("", ".gz", ".zip") if (path := folder / f"{name}{end}").exists()]
    if not found:
        raise DataError(f"{folder} has no {name}, plain, .gz or .zip.")
    return found[0]


def _only(
    places: Places, cities_file: Path, city: str, radius_km: float, skip_bad_rows: bool
) -> Places:
    """Return Places with those of a city marked."""
    name, _, country = city.partition(",")
    rows, ledger = _read_cities(cities_file, skip_bad_rows)
    found = [
        cells
        for cells in rows
        if cells[0].strip().lower() == name.strip().lower()
        and country.strip().lower() in ("", cells[3].strip().lower())
    ]
    if len(found) != 1:
        known = ", ".join(f"{cells[0]},{cells[3]}" for cells in (found or rows)[:10])
        raise DataError(
            f"{cities_file.name} has {len(found)} cities {city!r}, expected one of: {known}"
            f"{' ...' if len(found or rows) > 10 else ''}."
        )
    _, lat_deg, lon_deg, _ = found[0]
    assert places.lat_deg is not None and places.lon_deg is not None, "the table has them"
    away_km = distances_km(places.lat_deg, places.lon_deg, lat_deg, lon_deg)
    where = f"{radius_km:g} km around {found[0][0]}"
    return replace(places.only(away_km <= radius_km, where), ledger=places.ledger + ledger)


def _read_cities(file: Path, skip_bad_rows: bool) -> tuple[list[City], Ledger]:
    """Return the rows of the Cities file, and what was left out of it."""
    cities: list[City] = []
    bads = []
    with open_text(file) as text:
        for part in split_rows(text, CITY_FIELDS, "\t", quoted=False):
            names, lat, lon, countries = part.columns[:4]
            bad = BadRows(part)
            degrees = check_coordinates(
                bad, {"latitude": lat, "longitude": lon}, "exchange columns 2 and 3 of the file"
            )
            missing = bad.good & np.isnan(degrees[0])
            bad.flag(missing, "city has no centre", lambda i: "the city has no coordinates.")
            good = np.flatnonzero(bad.close())
            bads.append(bad)
            columns = names.to_pylist(), *(d.tolist() for d in degrees), countries.to_pylist()
            cities += [(columns[0][i], columns[1][i], columns[2][i], columns[3][i]) for i in good]
        dropped = settle(text.source.file, bads, skip_bad_rows, "\t", "")
    lines = [Line("missing", f"in {file.name}: {one.reason}", one.rows) for one in dropped.lines]
    return cities, Ledger(tuple(lines))


def _read(path: AnyPath, options: Mapping[str, Any]) -> Reading:
    return read_tist2015(path, **options)


READER = Reader(
    name="tist2015",
    help="Import TIST2015, Foursquare's global check-ins. FILE is their folder.",
    details="The folder has dataset_TIST2015_Checkins.txt (user, venue, UTC time, offset in "
    "minutes), dataset_TIST2015_POIs.txt (venue, latitude, longitude, category name, country) and, "
    "for --city, dataset_TIST2015_Cities.txt. All are separated by tabs, without header; they can "
    "be .gz or .zip.",
    example=("fedgru data import tist2015 dataset_TIST2015 --city Istanbul --name istanbul",),
    read=_read,
    options=(
        Option(
            "city",
            "Keep only check-ins near the centre of a city of the Cities file: NAME, or "
            "NAME,COUNTRY where the name is not enough.",
            metavar="NAME",
        ),
        Option(
            "radius_km",
            f"With --city: how near.  [default: {RADIUS_KM:g}]",
            type=float,
            metavar="KM",
            default=RADIUS_KM,
        ),
        SKIP_BAD_ROWS,
    ),
)
