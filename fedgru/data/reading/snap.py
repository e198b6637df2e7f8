"""Reader of the check-ins of Gowalla and Brightkite as SNAP publishes them."""

from collections.abc import Mapping
from typing import Any

from fedgru.core.types import AnyPath
from fedgru.data.ledger import Ledger, Line
from fedgru.data.reading.base import OFFSET, SKIP_BAD_ROWS, Option, Reader, Reading
from fedgru.data.reading.headerless import read_headerless
from fedgru.data.reading.sources import open_text, split_rows

FIELDS = ("user", "time", "latitude", "longitude", "venue")


def read_snap(
    path: AnyPath,
    friendships: AnyPath | None = None,
    offset_min: int | None = None,
    skip_bad_rows: bool = False,
) -> Reading:
    """Read check-ins in the layout of SNAP.

    Five columns separated by tabs, without header: user, UTC time such as `2010-10-19T23:55:27Z`,
    latitude, longitude, venue. There is no category and no local clock.

    Args:
        path: the file, such as `loc-gowalla_totalCheckins.txt.gz`.
        friendships: the file of pairs of users beside it; they are counted and not used.
        offset_min: minutes from UTC of every row's local clock, or None: local time is UTC.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.

    Returns:
        `Reading`.

    Raises:
        DataError: as `fedgru.data.reading.tsmc2014.read_tsmc2014`, and if a row of `friendships`
            is no pair.

    Source: E. Cho, S. A. Myers, J. Leskovec, Friendship and Mobility, KDD 2011.
    """
    settings: dict[str, Any] = {"offset_min": offset_min}
    ledger = Ledger()
    if friendships is not None:
        with open_text(friendships) as text:
            number = sum(rows.num_rows for rows in split_rows(text, 2, "\t", quoted=False))
            settings["friendships"] = {"file": text.source.file, "rows": number}
            reason = f"friendships in {text.source.file}, not used"
            ledger += Ledger((Line("kept", reason, number),))
    return read_headerless(
        path,
        FIELDS,
        time_layout="iso8601",
        skip_bad_rows=skip_bad_rows,
        settings=settings,
        offset_min=offset_min,
        swap_hint="exchange columns 3 and 4 of the file",
        ledger=ledger,
    )


def _read(path: AnyPath, options: Mapping[str, Any]) -> Reading:
    return read_snap(path, **options)


READER = Reader(
    name="snap",
    help="Import FILE of Gowalla or Brightkite, as SNAP publishes them.",
    details="Five columns separated by tabs, without header: user, UTC time "
    '("2010-10-19T23:55:27Z"), latitude, longitude, venue. There are no categories: predict '
    "venues, with fedgru train --target venue --features user,venue,clock,weekday.",
    example=(
        "fedgru data import snap loc-gowalla_totalCheckins.txt.gz --name gowalla \\",
        "  --friendships loc-gowalla_edges.txt.gz",
    ),
    read=_read,
    options=(
        Option(
            "friendships",
            "The file of friendships beside it: they are counted and not used.",
            metavar="FILE",
        ),
        OFFSET,
        SKIP_BAD_ROWS,
    ),
    has_categories=False,
)
