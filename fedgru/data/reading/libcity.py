"""Reader of check-ins in LibCity's atomic files: .geo, .usr, .dyna."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from fedgru.core.errors import DataError
from fedgru.core.types import AnyPath
from fedgru.data.checkins import Coded
from fedgru.data.ledger import Ledger, Line
from fedgru.data.reading.base import OFFSET, SKIP_BAD_ROWS, Reader, Reading
from fedgru.data.reading.delimited import read_place_table
from fedgru.data.reading.headers import open_table, read_column_names
from fedgru.data.reading.places import Places
from fedgru.data.reading.rows import Picked, read_rows
from fedgru.data.reading.sources import open_text, split_rows

CATEGORY_COLUMNS = {"category": "venue_category_name", "raw_category": "venue_category_id"}
VENUE_NAME, USER_NAME, OFFSET_MIN = "venue_name", "user_name", "utc_offset_min"


def read_libcity(
    path: AnyPath, offset_min: int | None = None, skip_bad_rows: bool = False
) -> Reading:
    """Read check-ins from LibCity's atomic files.

    NAME.dyna has the check-ins: dyna_id, type, time, entity_id (the user), location (a geo_id).
    NAME.geo has the places: geo_id, type, coordinates as `[longitude, latitude]` and, in some data
    sets, venue_category_id and venue_category_name. Columns that fedgru's export adds restore what
    LibCity has no place for: venue_name, user_name (in NAME.usr) and utc_offset_min (in NAME.dyna;
    the time is local then).

    Args:
        path: the folder, with one .dyna file; or that file.
        offset_min: minutes from UTC of every row's local clock, or None.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.

    Returns:
        `Reading`; relations (.rel) are counted and not used.

    Raises:
        DataError: as `fedgru.data.reading.delimited.read_csv`; or if a file is missing.

    Source: Wang et al. 2021 (SIGSPATIAL), LibCity, "atomic files". LibCity's own Foursquare files
        hold local times marked as UTC: hours of the day are right, moments are not.
    """
    dyna = _find_dyna(Path(path))
    geo, usr, rel = (dyna.with_suffix(end) for end in (".geo", ".usr", ".rel"))
    if not geo.exists():
        raise DataError(f"{dyna.parent} has no {geo.name}, the places of {dyna.name}.")
    geo_names = read_column_names(geo)
    wanted = {field: name for field, name in CATEGORY_COLUMNS.items() if name in geo_names}
    columns = {"venue": "geo_id", "point": "coordinates"} | wanted
    places, source = read_place_table(geo, columns, ",", skip_bad_rows)
    settings: dict[str, Any] = {"offset_min": offset_min, "skip_bad_rows": skip_bad_rows}
    settings["places"] = asdict(source)
    ledger = Ledger()
    if rel.exists():
        with open_text(rel) as text:
            num_columns = len(read_column_names(rel))
            number = sum(part.num_rows for part in split_rows(text, num_columns, ",", True)) - 1
        ledger += Ledger((Line("kept", f"relations in {rel.name}, not used", number),))
    reading = _read_dyna(dyna, offset_min, skip_bad_rows, settings, places, ledger)
    check_ins = reading.check_ins
    if VENUE_NAME in geo_names:
        named = _renamed(check_ins.venue, geo, "geo_id", VENUE_NAME)
        check_ins = replace(check_ins, venue=named)
    if usr.exists() and USER_NAME in read_column_names(usr):
        named = _renamed(check_ins.user, usr, "usr_id", USER_NAME)
        check_ins = replace(check_ins, user=named)
    return replace(reading, check_ins=check_ins)


def _find_dyna(path: Path) -> Path:
    if not path.is_dir():
        if path.suffix != ".dyna":
            raise DataError(f"{path} is not a folder of atomic files, nor a .dyna file.")
        return path
    found = sorted(path.glob("*.dyna"))
    if len(found) != 1:
        names = ", ".join(one.name for one in found[:5]) or "none"
        raise DataError(f"{path} has {len(found)} .dyna files ({names}), expected one.")
    return found[0]


def _read_dyna(
    path: Path,
    offset_min: int | None,
    skip_bad_rows: bool,
    settings: dict[str, Any],
    places: Places,
    ledger: Ledger,
) -> Reading:
    columns = {"user": "entity_id", "venue": "location", "time": "time"}
    if is_local := OFFSET_MIN in read_column_names(path):
        columns["offset"] = OFFSET_MIN
    wanted = {f"column {name}": name for name in columns.values()}
    with open_text(path) as text:
        table = open_table(text, wanted, ",")
        place_of = {field: table.names.index(name) for field, name in columns.items()}

        def pick(fields: Sequence[Any]) -> Picked:
            picked = {field: fields[place] for field, place in place_of.items()}
            if is_local:  # the Z of LibCity's times stands for no zone
                picked["time"] = pc.utf8_rtrim(picked["time"], "Z")
            return picked, {}

        return read_rows(
            text.source,
            table.parts,
            pick,
            time_layout="iso8601",
            delimiter=",",
            offset_min=None if is_local else offset_min,
            skip_bad_rows=skip_bad_rows,
            settings=settings,
            places=places,
            ledger=ledger + table.ledger,
        )


def _renamed(coded: Coded, path: Path, id_column: str, name_column: str) -> Coded:
    """Return a column of ids with the names that a table gives them."""
    with open_text(path) as text:
        table = open_table(text, {"column": id_column, "column of names": name_column}, ",")
        at_id, at_name = table.names.index(id_column), table.names.index(name_column)
        name_of: dict[str, str] = {}
        for rows in table.parts:
            ids, names = rows.columns[at_id].to_pylist(), rows.columns[at_name].to_pylist()
            name_of |= dict(zip(ids, names, strict=True))
    names = [name_of.get(value) or value for value in coded.values]
    if len(set(names)) < len(names):
        raise DataError(f"{path.name}: two ids of {id_column} have the same {name_column}.")
    return Coded(coded.codes, tuple(names))


def _read(path: AnyPath, options: Mapping[str, Any]) -> Reading:
    return read_libcity(path, **options)


READER = Reader(
    name="libcity",
    help="Import LibCity's atomic files. FILE is their folder.",
    details="NAME.dyna has the check-ins (dyna_id, type, time, entity_id, location), NAME.geo the "
    "places (geo_id, type, coordinates, and categories if there are any). Relations (NAME.rel) are "
    "counted and not used. fedgru data export libcity writes such files.",
    example=("fedgru data import libcity foursquare_tky --name tky",),
    read=_read,
    options=(OFFSET, SKIP_BAD_ROWS),
)
