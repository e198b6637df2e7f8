"""Readers of tables whose column names are known: GETNext's CSVs, Weeplaces."""

from collections.abc import Mapping
from typing import Any

from fedgru.core.types import AnyPath
from fedgru.data.reading.base import OFFSET, SKIP_BAD_ROWS, Reader, Reading
from fedgru.data.reading.delimited import read_csv

GETNEXT_COLUMNS = {
    "user": "user_id",
    "venue": "POI_id",
    "time": "UTC_time",
    "latitude": "latitude",
    "longitude": "longitude",
    "category": "POI_catname",
    "raw_category": "POI_catid",
    "offset": "timezone",
}
WEEPLACES_COLUMNS = {
    "user": "userid",
    "venue": "placeid",
    "time": "datetime",
    "latitude": "lat",
    "longitude": "lon",
    "category": "category",
}


def _read_getnext(path: AnyPath, options: Mapping[str, Any]) -> Reading:
    skip = options["skip_bad_rows"]
    return read_csv(path, GETNEXT_COLUMNS, ",", skip_bad_rows=skip, times_without_zone="utc")


def _read_weeplaces(path: AnyPath, options: Mapping[str, Any]) -> Reading:
    return read_csv(path, WEEPLACES_COLUMNS, ",", options["offset_min"], options["skip_bad_rows"])


GETNEXT = Reader(
    name="getnext",
    help="Import FILE, a table of GETNext such as NYC_train.csv.",
    details="A CSV with a header; the columns that are read are user_id, POI_id, POI_catid, "
    "POI_catname, latitude, longitude, timezone (minutes from UTC) and UTC_time. UTC_time without "
    "a zone is UTC. The papers that build on GETNext use the same columns.",
    example=("fedgru data import getnext NYC_train.csv --name nyc-getnext",),
    read=_read_getnext,
    options=(SKIP_BAD_ROWS,),
)
WEEPLACES = Reader(
    name="weeplaces",
    help="Import FILE, the check-ins of Weeplaces.",
    details="A CSV with the header userid,placeid,datetime,lat,lon,city,category; the city is not "
    "used. The times have no zone and no document says whether they are local: they are read as "
    "UTC, or as local time by --offset.",
    example=("fedgru data import weeplaces weeplace_checkins.csv --name weeplaces",),
    read=_read_weeplaces,
    options=(OFFSET, SKIP_BAD_ROWS),
)
