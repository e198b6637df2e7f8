"""Reader of tables: CSV with any delimiter, with or without a header row."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fedgru.core.errors import ConfigError, DataError
from fedgru.core.types import AnyPath
from fedgru.data.checkins import FIELDS, NAMES_TAKEN
from fedgru.data.reading.base import SKIP_BAD_ROWS, Option, Reader, Reading
from fedgru.data.reading.conversions import CountedTime, split_points
from fedgru.data.reading.headers import open_table
from fedgru.data.reading.places import FIELDS as PLACE_FIELDS
from fedgru.data.reading.places import Places, read_places
from fedgru.data.reading.rows import Picked, read_rows
from fedgru.data.reading.sources import Source, open_text
from fedgru.data.reading.timestamps import MAX_OFFSET_MIN, guess_layout

_KEPT_NAME = re.compile(r"[A-Za-z0-9_-]+")


def read_csv(
    path: AnyPath,
    columns: dict[str, str],
    delimiter: str | None = None,
    offset_min: int | None = None,
    skip_bad_rows: bool = False,
    keep: Sequence[str] = (),
    times_without_zone: str | None = None,
    no_header: bool = False,
    time_unit: str | None = None,
    epoch: str | None = None,
    places: Places | None = None,
) -> Reading:
    """Read check-ins from a table with standard quoting, with or without a header row.

    Times are recognised as ISO 8601, Unix seconds or the TSMC2014 layout. Fractions of a second
    are cut off after sorting, and counted. The local clock of a row is, in this order,
    `offset_min`, the row's offset column, the zone in the time, or UTC. A time without a zone is
    local time by that clock, or UTC with `times_without_zone` "utc"; the ledger counts such rows.

    Args:
        path: the file; plain, .gz or .zip, UTF-8, Latin-1 or Windows-1252.
        columns: dict from `FIELDS` and "point" to names in the header; user, venue and time must
            be there. A point is `POINT (longitude latitude)` or `[longitude, latitude]`. If
            raw_category or category is missing, the other one is used for it.
        delimiter: one character; None takes the one of comma, semicolon, tab and bar that splits
            the header into these columns.
        offset_min: minutes from UTC of every row's local clock, or None.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.
        keep: names in the header of text columns to keep as `CheckIns.own`. An empty field is a
            missing value.
        times_without_zone: "local" or "utc"; None for local time where an offset is given, else
            UTC, but not if other times have a zone.
        no_header: whether the first row is a check-in; columns are called by number, from "1".
        time_unit: times are numbers of this unit since `epoch`, see `CountedTime`; None if not.
        epoch: see `time_unit`; 1970 by default.
        places: coordinates and categories of the venues, if they have a file of their own.

    Returns:
        `Reading`.

    Raises:
        ConfigError: if the columns, delimiter, offset, unit or epoch are wrong, or a kept column is
            in use, named twice, or has a name that a concept cannot have.
        DataError: as in `read_tsmc2014`, and if the header lacks a column or has it twice.
    """
    _check_csv_settings(columns, delimiter, offset_min)
    _check_zone_setting(times_without_zone, offset_min is not None or "offset" in columns)
    _check_kept_names(keep, columns)
    counted = _counted_time(time_unit, epoch)
    wanted = {f"`columns` {field}={name}": name for field, name in columns.items()}
    wanted |= {f"`keep` {name}": name for name in keep}
    given = {
        "keep": list(keep),
        "times_without_zone": times_without_zone,
        "no_header": no_header,
        "time_unit": time_unit,
        "epoch": epoch,
    }
    settings: dict[str, Any] = {
        "columns": columns,
        "offset_min": offset_min,
        "skip_bad_rows": skip_bad_rows,
        **{name: value for name, value in given.items() if value},
    }
    swap_hint = "use `columns` latitude={longitude} `columns` longitude={latitude}"
    with open_text(path) as text:
        table = open_table(text, wanted, delimiter, no_header)
        place_of = {name: place for place, name in enumerate(table.names)}

        def pick(fields: Sequence[Any]) -> Picked:
            picked = {field: fields[place_of[name]] for field, name in columns.items()}
            if (points := picked.pop("point", None)) is not None:
                picked["latitude"], picked["longitude"] = split_points(points)
            if counted is not None:
                picked["time"] = counted.to_unix(picked["time"])
            return picked, {name: fields[place_of[name]] for name in keep}

        return read_rows(
            text.source,
            table.parts,
            pick,
            time_layout=guess_layout(pick(table.first.columns)[0]["time"]),
            delimiter=table.delimiter,
            offset_min=offset_min,
            times_without_zone=times_without_zone,
            swap_hint=swap_hint.format(**columns) if "latitude" in columns else "",
            skip_bad_rows=skip_bad_rows,
            settings=settings,
            places=places,
            ledger=table.ledger,
        )


def read_place_table(
    path: AnyPath,
    columns: Mapping[str, str],
    delimiter: str | None = None,
    skip_bad_rows: bool = False,
    no_header: bool = False,
) -> tuple[Places, Source]:
    """Return the Places in a table, and the facts about its file.

    Args:
        path: the file.
        columns: dict from `fedgru.data.reading.places.FIELDS` and "point" to names in the header;
            venue must be there, and something else.
        delimiter, skip_bad_rows, no_header: as in `read_csv`.

    Raises:
        ConfigError: if the columns are wrong.
        DataError: as in `read_csv`.
    """
    _check_place_columns(columns)
    wanted = {f"`place_columns` {field}={name}": name for field, name in columns.items()}
    with open_text(path) as text:
        table = open_table(text, wanted, delimiter, no_header)
        place_of = {name: place for place, name in enumerate(table.names)}

        def pick(fields: Sequence[Any]) -> dict[str, Any]:
            picked = {field: fields[place_of[name]] for field, name in columns.items()}
            if (points := picked.pop("point", None)) is not None:
                picked["latitude"], picked["longitude"] = split_points(points)
            return picked

        file = text.source.file
        found = read_places(file, list(table.parts), pick, table.delimiter, skip_bad_rows)
        return found, text.source


def _counted_time(time_unit: str | None, epoch: str | None) -> CountedTime | None:
    if time_unit is None:
        if epoch is not None:
            raise ConfigError(
                "`epoch` has no effect without `time_unit`, the unit of the times since then."
            )
        return None
    return CountedTime.of(time_unit, *(() if epoch is None else (epoch,)))


def _check_place_columns(columns: Mapping[str, str]) -> None:
    known = (*PLACE_FIELDS, "point")
    for field, name in columns.items():
        if field not in known:
            raise ConfigError(
                f"`place_columns` {field}={name}: {field!r} is not a field of places, expected one "
                f"of {', '.join(known)}."
            )
    if "venue" not in columns or len(columns) == 1:
        raise ConfigError(
            "`places` needs `place_columns` venue=NAME, the id, and the columns of what it gives: "
            f"{', '.join(known[1:])}."
        )
    _check_coordinate_columns(columns, "`place_columns`")


def _check_coordinate_columns(columns: Mapping[str, str], option: str) -> None:
    if ("latitude" in columns) != ("longitude" in columns):
        given, other = ("latitude", "longitude")[:: 1 if "latitude" in columns else -1]
        raise ConfigError(f"{option} {given}={columns[given]} needs {option} {other}=NAME too.")
    if "point" in columns and "latitude" in columns:
        raise ConfigError(
            f"{option} point={columns['point']} and latitude={columns['latitude']} say the same: "
            "give one of them."
        )


def _check_csv_settings(
    columns: Mapping[str, str], delimiter: str | None, offset_min: int | None
) -> None:
    if "order" in columns and "time" not in columns:
        raise ConfigError(
            f"`columns` order={columns['order']}: an order alone gives no time, and splits, clocks "
            "and gaps need one. If its steps have a known length, take it as the time: `columns` "
            f"time={columns['order']} `time_unit` h `epoch` 2000-01-01."
        )
    for field in columns:
        if field not in (*FIELDS, "point"):
            raise ConfigError(
                f"`columns` {field}={columns[field]}: {field!r} is not a field, "
                f"expected one of {', '.join(FIELDS)}, point."
            )
    for field in FIELDS[:3]:
        if field not in columns:
            raise ConfigError(
                f"`columns` {field}=NAME is missing: user, venue and time are needed."
            )
    _check_coordinate_columns(columns, "`columns`")
    if delimiter is not None and (not delimiter.isascii() or len(delimiter) != 1):
        raise ConfigError(f"`delimiter` is {delimiter!r}, expected one character.")
    if offset_min is None:
        return
    if "offset" in columns:
        raise ConfigError(
            "`offset_min` and `columns` offset=... exclude each other: give one of them."
        )
    if abs(offset_min) > MAX_OFFSET_MIN:
        raise ConfigError(
            f"`offset_min` is {offset_min}, expected {-MAX_OFFSET_MIN} to {MAX_OFFSET_MIN} minutes."
        )


def _check_zone_setting(times_without_zone: str | None, has_offset: bool) -> None:
    if times_without_zone not in (None, "local", "utc"):
        raise ConfigError(
            f"`times_without_zone` is {times_without_zone!r}, expected 'local' or 'utc'."
        )
    if times_without_zone == "local" and not has_offset:
        raise ConfigError(
            "`times_without_zone` local needs the clock: give `offset_min` or `columns` "
            "offset=NAME."
        )


def _check_kept_names(keep: Sequence[str], columns: Mapping[str, str]) -> None:
    field_of = {name: field for field, name in columns.items()}
    for i, name in enumerate(keep):
        if name in keep[:i]:
            raise ConfigError(f"`keep` {name} is given twice.")
        if name in field_of:
            raise ConfigError(
                f"`keep` {name}: that column is in use already (`columns` {field_of[name]}={name})."
            )
        if not _KEPT_NAME.fullmatch(name):
            raise ConfigError(
                f"`keep` {name!r} cannot name a concept: expected letters, digits, '_' and '-'. "
                "Rename the column in the file's header."
            )
        if name in NAMES_TAKEN:
            raise ConfigError(
                f"`keep` {name}: that name is reserved, like "
                f"{', '.join(other for other in NAMES_TAKEN if other != name)}. Rename the column "
                "in the file's header."
            )


def _read(path: AnyPath, options: Mapping[str, Any]) -> Reading:
    given = dict(options)
    delimiter = "\t" if given["delimiter"] in _TABS else given["delimiter"]
    given["delimiter"] = delimiter
    file, columns = given.pop("places"), given.pop("place_columns") or {}
    if file is None:
        if columns:
            raise ConfigError("`place_columns` has no effect without `places`, the file.")
        return read_csv(path, **given)
    for field in sorted({*given["columns"]} & {*columns} - {"venue"}):
        raise ConfigError(
            f"`columns` {field}={given['columns'][field]} and `place_columns` "
            f"{field}={columns[field]} say the same: give one of them."
        )
    places, source = read_place_table(
        file, columns, None, options["skip_bad_rows"], options["no_header"]
    )
    reading = read_csv(path, **given, places=places)
    settings = {"places": asdict(source), "place_columns": columns}
    return replace(reading, settings=reading.settings | settings)


def _check_categories(options: Mapping[str, Any], categories: str) -> None:
    fields = {*options["columns"], *(options["place_columns"] or {})}
    if categories != "raw" and not {"category", "raw_category"} & fields:
        raise DataError(f"`categories` {categories} has no effect without `columns` category=NAME.")


_TABS = ("tab", "\\t")  # as people type a tab

READER = Reader(
    name="csv",
    help="Import FILE, a table with or without a header row.",
    details="It needs columns for user, venue and time. Times are ISO 8601 "
    '("2012-04-03T18:00:09Z"), Unix seconds, or as in TSMC2014; the layout is found and shown.',
    example=(
        "fedgru data import csv tests/data/visits.csv --name visits \\",
        "  --column user=who --column venue=place --column time=when",
    ),
    read=_read,
    options=(
        Option(
            "columns",
            "The name of a column in the header. FIELD is user, venue, time (these three are "
            "needed), latitude, longitude, point (WKT, or [longitude, latitude]), category, "
            "raw_category or offset (minutes from UTC).",
            type=dict,
            flag="--column",
            required=True,
        ),
        Option(
            "no_header",
            "The first row is a check-in. Columns are called by number then: --column user=1.",
            type=bool,
            default=False,
        ),
        Option(
            "places",
            "A table of the places, joined by the venue's id: see --place-column. The first of "
            "equal ids counts.",
            metavar="FILE",
        ),
        Option(
            "place_columns",
            "With --places: the name of a column in its header. FIELD is venue (needed), latitude, "
            "longitude, point, category or raw_category.",
            type=dict,
            flag="--place-column",
        ),
        Option(
            "time_unit",
            "Times are numbers of this unit since --epoch.",
            metavar="ms|s|min|h|d",
        ),
        Option(
            "epoch",
            "With --time-unit: the moment 0, UTC.  [default: 1970-01-01]",
            metavar="DATE",
        ),
        Option(
            "keep",
            "Also import this column of the table, such as religion or income_band: it can then be "
            "protected, by fedgru train --agnostic-to and fedgru audit --concept. Can be repeated.",
            metavar="COLUMN",
            multiple=True,
            default=(),
        ),
        Option(
            "delimiter",
            "Character between fields; 'tab' for a tab.  [default: comma, semicolon, tab or bar, "
            "found from the header]",
            metavar="CHARACTER",
        ),
        Option(
            "offset_min",
            "Minutes from UTC of the local clock, for every row.  [default: the offset column, the "
            "zone in the time, or UTC]",
            type=int,
            flag="--offset",
            metavar="MINUTES",
        ),
        Option(
            "times_without_zone",
            "Clock of the times without a zone.  [default: local if --offset or an offset column "
            "is given, else utc; needed if other times have a zone]",
            metavar="local|utc",
        ),
        SKIP_BAD_ROWS,
    ),
    check=_check_categories,
)
