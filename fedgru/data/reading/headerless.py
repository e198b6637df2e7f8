"""Tables without a header and without quoting, whose columns stand in a known order."""

from collections.abc import Sequence
from typing import Any

from fedgru.core.types import AnyPath
from fedgru.data.reading.base import Reading
from fedgru.data.reading.rows import read_rows
from fedgru.data.reading.sources import open_text, split_rows


def read_headerless(
    path: AnyPath,
    fields: Sequence[str | None],
    *,
    time_layout: str,
    skip_bad_rows: bool,
    delimiter: str = "\t",
    **given: Any,
) -> Reading:
    """Read check-ins from a table without a header.

    Args:
        path: the file; plain, .gz or .zip, UTF-8, Latin-1 or Windows-1252.
        fields: what each column is, out of `fedgru.data.checkins.FIELDS`; None for a column that is
            not used.
        time_layout, skip_bad_rows, delimiter: as in `fedgru.data.reading.rows.read_rows`.
        given: further arguments of `read_rows`; `settings` of the passport get `skip_bad_rows`.

    Returns:
        `Reading`.

    Raises:
        DataError: if the file cannot be read, a row is bad, or no row is good.
    """
    used = [(place, field) for place, field in enumerate(fields) if field is not None]
    settings = {"skip_bad_rows": skip_bad_rows} | given.pop("settings", {})
    with open_text(path) as text:
        return read_rows(
            text.source,
            split_rows(text, len(fields), delimiter, quoted=False),
            lambda columns: ({field: columns[place] for place, field in used}, {}),
            time_layout=time_layout,
            delimiter=delimiter,
            skip_bad_rows=skip_bad_rows,
            settings=settings,
            **given,
        )
