"""The folder of data sets: import, save, open and list them.

A data set is a folder with two files. `checkins.parquet` has one row per check-in in order of
time; its columns are those of `fedgru.data.checkins.CheckIns`, texts as dictionaries and missing
values as nulls; a column of the user's own is called own:NAME. `passport.json` describes its source
and the changes at import.

A large data set also has a second copy of its columns, which opens in constant time through memory
maps (`fedgru.data.columns`), and parts of tasks made by runs (`fedgru.task.stored`). Users can
delete both; they are made again.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedgru.config import EMBEDDED
from fedgru.core.errors import DataError
from fedgru.core.types import AnyPath, Floats
from fedgru.data import columns, parquet_files
from fedgru.data.categories import apply_scheme, load_scheme
from fedgru.data.checkins import CheckIns
from fedgru.data.ledger import Ledger
from fedgru.data.passport import FORMAT, check_passport, fingerprint, make_passport
from fedgru.data.reading.registry import find_reader
from fedgru.data.reading.timestamps import MAX_OFFSET_MIN
from fedgru.storage import mapped
from fedgru.storage.files import open_plain
from fedgru.storage.folders import check_plain, mend, writing_folder

if TYPE_CHECKING:
    from fedgru.data.synthetic import City

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_NAME_CHARACTERS = 100  # file systems allow 255 bytes, including what is added to the name
_YEARS_S = (-62135596800, 253402300799)  # years 1 to 9999, the range of a passport
MAX_PASSPORT_BYTES = 1 << 20
MAPPED_FROM = 10_000  # check-ins; larger data sets are opened through memory maps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """A data set, open.

    Attributes:
        name: of its folder, or "embedded".
        check_ins: `CheckIns`.
        passport: dict, as in passport.json.
        best_prob: float32 [num_checkins], the probability that the best possible predictor is
            right about this check-in's category; None unless the city is made up.
        folder, maps: the folder of a large data set and the `fedgru.storage.mapped.Mapped` of its
            columns; None if they are in memory.
    """

    name: str
    check_ins: CheckIns
    passport: dict[str, Any]
    best_prob: Floats | None = None
    folder: Path | None = None
    maps: mapped.Mapped | None = None


def import_file(
    format_name: str,
    path: AnyPath,
    name: str,
    data_dir: AnyPath,
    categories: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> DataSet:
    """Import a file of check-ins.

    Args:
        format_name: name of a reader, such as "tsmc2014" or "csv"; see
            `fedgru.data.reading.registry`.
        path: the file.
        name: name of the new data set.
        data_dir: folder of data sets, made if it does not exist.
        categories: "coarse", "raw", or the path of a table; see
            `fedgru.data.categories.load_scheme`. None takes the reader's default.
        overwrite: replace a data set of that name.
        options: options of the reader, see `Reader.options`; missing ones have their defaults.

    Returns:
        The `DataSet`, saved. If anything fails, nothing in `data_dir` has changed.

    Raises:
        ConfigError: if there is no such format, or an option is wrong.
        DataError: if the name is taken or not a valid name, if the file or the categories cannot
            be used, or if `categories` would have no effect.
    """
    reader = find_reader(format_name)
    options = reader.complete(options)
    categories = reader.categories if categories is None else categories
    _check_free(name, data_dir, overwrite)
    if not reader.has_categories and categories != reader.categories:
        raise DataError(
            f"`categories` {categories} has no effect: the format {reader.name} has no categories."
        )
    reader.check(options, categories)
    scheme = load_scheme(categories)
    reading = reader.read(path, options)
    return save_data_set(
        name,
        data_dir,
        apply_scheme(reading.check_ins, scheme, reading.source.file),
        source={
            "kind": reader.name,
            **asdict(reading.source),
            "rows": reading.num_rows,
            "time_layout": reading.time_layout,
            "delimiter": reading.delimiter,
        },
        settings=reading.settings,
        categories={"scheme": scheme.name, "sha256": scheme.sha256},
        ledger=reading.ledger,
        overwrite=overwrite,
    )


def save_city(name: str, data_dir: AnyPath, city: "City", overwrite: bool = False) -> DataSet:
    """Save a made-up city of `fedgru.data.synthetic.make_city`; see `save_data_set`."""
    return save_data_set(
        name,
        data_dir,
        city.check_ins,
        **_city_facts(city),
        best_prob=city.best_prob,
        overwrite=overwrite,
    )


def _city_facts(city: "City") -> dict[str, Any]:
    return {
        "source": {"kind": "made-up city"},
        "settings": asdict(city.config),
        "categories": {"scheme": "coarse", "sha256": None},
    }


def save_data_set(
    name: str,
    data_dir: AnyPath,
    check_ins: CheckIns,
    *,
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    categories: Mapping[str, Any],
    ledger: Ledger = Ledger(),  # noqa: B008 (frozen)
    best_prob: Floats | None = None,
    overwrite: bool = False,
) -> DataSet:
    """Write a data set completely or not at all.

    Args:
        name: letters, digits, dots, underscores and hyphens, starting with a letter or digit.
        data_dir: folder of data sets, made if it does not exist.
        check_ins: `CheckIns`, at least one, in order of time.
        source: dict for the passport; "kind" is the kind of source.
        settings: dict for the passport.
        categories: dict for the passport; "scheme" names the scheme of `check_ins.category`.
        ledger: rows dropped or changed at import.
        best_prob: float32 [num_checkins], or None.
        overwrite: replace a data set of that name.

    Returns:
        The `DataSet`, equal to that of `open_data_set`.

    Raises:
        DataError: if the name is taken or not a valid name, the check-ins break a rule of
            `CheckIns`, or the folder cannot be written.
    """
    _check_free(name, data_dir, overwrite)
    try:
        check_ins, best_prob = parquet_files.as_saved(
            check_ins, best_prob, are_many=len(check_ins) >= MAPPED_FROM
        )
    except pa.ArrowException as error:  # columns of different length, or a code without a value
        raise DataError(f"{name}: the columns do not fit together: {error}.") from None
    _check_values(name, check_ins, best_prob)

    def describe() -> dict[str, Any]:
        return make_passport(name, check_ins, best_prob, source, settings, categories, ledger)

    passport = _write(Path(data_dir), name, describe, check_ins, best_prob, overwrite)
    return DataSet(name, check_ins, passport, best_prob)


def _write(
    data_dir: Path,
    name: str,
    describe: Callable[[], dict[str, Any]],
    check_ins: CheckIns,
    best_prob: Floats | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Write a data set and return its passport; `describe` makes it during the Parquet writing."""
    is_new = not data_dir.exists()
    target = data_dir / name
    try:
        with writing_folder(target, overwrite, private=True) as new:
            parquet = new / "checkins.parquet"
            with ThreadPoolExecutor(1) as beside:
                written = beside.submit(parquet_files.write, parquet, check_ins, best_prob)
                passport = describe()

                def bound_to() -> dict[str, Any]:
                    written.result()
                    return columns.made_from(parquet, passport)

                if len(check_ins) >= MAPPED_FROM:
                    columns.save(new, check_ins, best_prob, bound_to)
                written.result()
            text = json.dumps(passport, indent=2, ensure_ascii=False) + "\n"
            (new / "passport.json").write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}.") from None
    finally:
        if is_new and data_dir.is_dir() and not any(data_dir.iterdir()):
            data_dir.rmdir()
    return passport


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME_CHARACTERS:
        raise DataError(
            f"{name[:20]!r}... cannot name a data set: it has {len(name)} characters, expected at "
            f"most {MAX_NAME_CHARACTERS}."
        )
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{name!r} cannot name a data set: expected letters, digits, '.', '_' and '-', "
            "starting with a letter or digit."
        )


def _check_free(name: str, data_dir: AnyPath, overwrite: bool) -> None:
    _check_name(name)
    if name == EMBEDDED:
        raise DataError(
            f"{EMBEDDED!r} is the made-up city that comes with fedgru: choose another name."
        )
    mend(data_dir)
    target = Path(data_dir, name)
    if not target.exists():
        return
    if not (target / "passport.json").is_file():
        raise DataError(f"{target} exists and is not a data set: choose another name.")
    if not overwrite:
        raise DataError(f"{target} already exists: choose another name, or add `overwrite`.")


def open_data_set(name: str = EMBEDDED, data_dir: AnyPath = "data") -> DataSet:
    """Open a data set, or make the embedded city in memory.

    Every byte of a data set is verified. A large data set is verified only when its columns are
    stored. Later only the size and modification time of `checkins.parquet` and the size of each
    column are compared. `fedgru data check` verifies everything.

    Args:
        name: name of a data set in `data_dir`, or "embedded".
        data_dir: folder of data sets.

    Returns:
        `DataSet`.

    Raises:
        DataError: if there is none of that name, or it was changed after it was saved.
    """
    if name == EMBEDDED:
        from fedgru.data.synthetic import CityConfig, make_city

        city = make_city(CityConfig())
        check_ins, best_prob = parquet_files.as_saved(
            city.check_ins, city.best_prob, are_many=False
        )
        facts = _city_facts(city)
        passport = make_passport(name, check_ins, best_prob, **facts, ledger=Ledger())
        return DataSet(name, check_ins, passport, best_prob)
    folder = _find(name, data_dir)
    passport = _read_passport(folder)
    if passport["counts"]["check_ins"] < MAPPED_FROM:
        return _open_whole(folder, passport)
    return _open_large(folder, passport)


def _find(name: str, data_dir: AnyPath) -> Path:
    """Return the folder of a data set."""
    _check_name(name)
    mend(data_dir)
    folder = Path(data_dir, name)
    if not folder.is_dir():
        names = [folder.name for folder in _folders(data_dir)]
        raise DataError(
            f"There is no data set {name!r} in {data_dir}, only {', '.join([*names, EMBEDDED])}. "
            "Make one with `fedgru data import` or `fedgru data synth`."
        )
    try:
        check_plain(folder)
    except ValueError as error:
        raise DataError(
            f"{error}: fedgru makes no such data set. Delete that file, or the data set."
        ) from None
    return folder


def _open_large(folder: Path, passport: dict[str, Any]) -> DataSet:
    """Open the columns of a large data set; store them first if they are missing."""
    try:
        bound_to = columns.made_from(folder / "checkins.parquet", passport)
    except OSError:
        return _open_whole(folder, passport)  # raises the error
    if (found := columns.load(folder, bound_to)) is None:
        whole = _open_whole(folder, passport)
        logger.info("%s is large: storing its columns, so that it opens faster next time", folder)
        try:
            columns.save(folder, whole.check_ins, whole.best_prob, bound_to)
        except OSError as error:
            logger.warning(
                "the columns of %s cannot be stored (%s): all check-ins are held in memory",
                folder,
                error.strerror or error,
            )
            return whole
        del whole
        pa.default_memory_pool().release_unused()
        found = columns.load(folder, bound_to)
        if found is None:
            raise DataError(f"the columns of {folder} have changed since they were stored.")
    check_ins, best_prob, maps = found
    return DataSet(passport["name"], check_ins, passport, best_prob, folder, maps)


def _open_whole(folder: Path, passport: dict[str, Any]) -> DataSet:
    """Open a data set in memory and verify every byte of it."""
    file = folder / "checkins.parquet"
    check_ins, best_prob = parquet_files.read(file, passport["counts"]["check_ins"])
    _check_values(file, check_ins, best_prob)
    if fingerprint(check_ins, best_prob) != passport.get("fingerprint"):
        raise DataError(
            f"{folder}: checkins.parquet is not the one that passport.json was written for "
            "(their fingerprints differ). Import or make the data set again."
        )
    return DataSet(passport["name"], check_ins, passport, best_prob)


def open_verified(name: str, data_dir: AnyPath = "data") -> DataSet:
    """Open a saved data set in memory and verify every byte of `checkins.parquet`.

    Raises:
        DataError: as `open_data_set`.
    """
    folder = _find(name, data_dir)
    return _open_whole(folder, _read_passport(folder))


def read_passport(name: str, data_dir: AnyPath = "data") -> dict[str, Any]:
    """Return the passport of a data set, without opening it.

    Raises:
        DataError: if there is none of that name, or its passport cannot be read.
    """
    if name == EMBEDDED:
        return open_data_set().passport
    return _read_passport(_find(name, data_dir))


def _read_passport(folder: Path) -> dict[str, Any]:
    path = folder / "passport.json"
    try:
        with open_plain(path, MAX_PASSPORT_BYTES) as stream:
            passport = json.loads(stream.read())
        found = passport["format"]
    except FileNotFoundError:
        raise DataError(f"{folder} is not a data set: it has no passport.json.") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path} is not a passport of fedgru. Import the data set again.") from None
    if found != FORMAT:
        raise DataError(f"{path} has format {found}, expected {FORMAT}. Import the data set again.")
    try:
        check_passport(passport)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. Import the data set again.") from None
    return {**passport, "name": folder.name}


def _check_values(name: AnyPath, check_ins: CheckIns, best_prob: Floats | None) -> None:
    """Raise a DataError for check-ins that break a rule of `CheckIns`."""
    if not len(check_ins) or (np.diff(check_ins.time_s) < 0).any():
        raise DataError(f"{name}: check-ins must be in order of time, and at least one.")
    if (check_ins.user.codes < 0).any() or (check_ins.venue.codes < 0).any():
        raise DataError(f"{name}: every check-in needs a user and a venue.")
    ranges: dict[str, tuple[npt.NDArray[Any], float, float]] = {
        "time_s": (check_ins.time_s, *_YEARS_S),
        "offset_min": (check_ins.offset_min, -MAX_OFFSET_MIN, MAX_OFFSET_MIN),
        "lat_deg": (check_ins.lat_deg, -90, 90),
        "lon_deg": (check_ins.lon_deg, -180, 180),
        "best_prob": (np.zeros(0) if best_prob is None else best_prob, 0, 1),
    }
    for column, (values, low, high) in ranges.items():
        bad = np.flatnonzero((values < low) | (values > high))
        if len(bad):
            raise DataError(
                f"{name}, row {bad[0]}: {column} is {values[bad[0]]}, expected {low} to {high}."
            )


def list_data_sets(data_dir: AnyPath = "data") -> list[dict[str, Any]]:
    """Return the passports of the data sets in a folder, by name; skip folders without one.

    Raises:
        DataError: if a passport cannot be read.
    """
    mend(data_dir)
    return [_read_passport(folder) for folder in _folders(data_dir)]


def _folders(data_dir: AnyPath) -> list[Path]:
    return sorted(path.parent for path in Path(data_dir).glob("[!.]*/passport.json"))
