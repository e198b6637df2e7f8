"""The run folders in a folder, the last started first, and when each was started."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedgru.core.errors import RunError
from fedgru.runs import shapes
from fedgru.storage.files import read_json_object

FACTS = "run.json"

logger = logging.getLogger(__name__)


def now() -> str:
    """Return the time in the format of run.json: a text that sorts by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_json(file: Path, shape: shapes.Shape) -> dict[str, Any]:
    """Return the Record in a JSON file of a run; empty if there is no such file.

    Args:
        file: path.
        shape: of `fedgru.runs.shapes`.

    Raises:
        RunError: if it is damaged.
    """
    try:
        found = read_json_object(file)
        shapes.check(found, shape)
    except ValueError as error:
        raise RunError(f"{file} is damaged, {error}.") from None
    return shapes.Record(found, file)


def started(path: Path) -> str:
    """Return when the run in a folder was started; "" (and a warning) if run.json is damaged."""
    try:
        return str(read_json(path / FACTS, shapes.RUN).get("started", ""))
    except RunError as error:
        logger.warning("skipped: %s", error)
        return ""


def by_start(log_dir: str | Path) -> list[Path]:
    """Return the paths of the run folders in a folder of runs, started last first."""
    files = Path(log_dir).glob(f"[!.]*/{FACTS}")  # a name with a dot: not complete yet
    return sorted((file.parent for file in files), key=started, reverse=True)


def warn_of_clock(log_dir: str | Path) -> None:
    """Log a warning if a new run would look older than an existing one."""
    paths = by_start(log_dir)
    if paths and (start := started(paths[0])) > now():
        logger.warning(
            "%s was started at %s, which is in the future: was the clock set back? "
            "The new run will look older.",
            paths[0],
            start,
        )
