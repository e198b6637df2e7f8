"""Reader of the layout of the TSMC2014 data sets."""

from fedgru.core.types import AnyPath
from fedgru.data.reading.base import SKIP_BAD_ROWS, Reader, Reading
from fedgru.data.reading.headerless import read_headerless

FIELDS = (
    "user",
    "venue",
    "raw_category",
    "category",
    "latitude",
    "longitude",
    "offset",
    "time",
)


def read_tsmc2014(path: AnyPath, skip_bad_rows: bool = False) -> Reading:
    """Read check-ins in the layout of the TSMC2014 data sets.

    Eight columns separated by tabs, without header and without quoting: user, venue, category
    id, category name, latitude, longitude, time-zone offset in minutes, and a time such as
    `Tue Apr 03 18:00:09 +0000 2012`. Plain, .gz or .zip; UTF-8 or Latin-1.

    An empty category id or name, and an empty pair of coordinates, are missing values. Rows out of
    order are sorted, rows that repeat another one are kept, and the ledger counts both.

    Args:
        path: the file.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.

    Returns:
        `Reading`.

    Raises:
        DataError: if the file cannot be read, a row is bad (wrong number of fields; no user or
            venue; unreadable time; a coordinate out of range, without the other, or exchanged with
            it; an offset that is not a number of minutes within 14 h), or no row is good.

    Source: Yang et al. 2015 (IEEE Trans. SMC: Systems 45(1)), the files published with it.
    """
    return read_headerless(
        path,
        FIELDS,
        time_layout="tsmc2014",
        skip_bad_rows=skip_bad_rows,
        swap_hint="exchange columns 5 and 6 of the file",
        layout_hint=" For a table with a header use `fedgru data import csv`.",
    )


READER = Reader(
    name="tsmc2014",
    help="Import FILE in the layout of TSMC2014.",
    details="That is the layout of the Foursquare check-ins of New York and Tokyo published in "
    "2014. Eight columns separated by tabs, without header: user, venue, category id, category "
    'name, latitude, longitude, offset from UTC in minutes, UTC time ("Tue Apr 03 18:00:09 +0000 '
    '2012").',
    example=("fedgru data import tsmc2014 tests/data/checkins.txt --name tiny",),
    read=lambda path, options: read_tsmc2014(path, options["skip_bad_rows"]),
    options=(SKIP_BAD_ROWS,),
    categories="coarse",
)
