"""Data sets: import, open, list, make and describe, as `fedgru data` does."""

from pathlib import Path
from typing import Any

from fedgru.data import datasets, passport
from fedgru.data.datasets import DataSet
from fedgru.data.synthetic import CityConfig
from fedgru.data.synthetic import make_city as make_city_of


def open_data(name: str = datasets.EMBEDDED, data_dir: str | Path = "data") -> DataSet:
    """Open a data set; by default the made-up city that comes with fedgru.

    Raises:
        DataError: if it is not there or damaged.
    """
    return datasets.open_data_set(name, data_dir)


def import_data(
    path: str | Path,
    format: str,
    name: str,
    *,
    data_dir: str | Path = "data",
    categories: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> DataSet:
    """Make a data set from a file of check-ins.

    Args:
        path: the file, plain, .gz or .zip.
        format: "tsmc2014", "csv", or that of a reader from another package.
        name: what to call the data set.
        data_dir: folder of data sets.
        categories: "coarse", "raw", or the path of a table; None takes the format's own.
        overwrite: replace a data set of that name.
        options: of the format, such as `columns={"user": "userid", "time": "when"}` for csv.

    Raises:
        ConfigError: if there is no such format or option.
        DataError: if the file cannot be used; says where and why.
    """
    return datasets.import_file(format, path, name, data_dir, categories, overwrite, **options)


def make_city(
    name: str,
    *,
    data_dir: str | Path = "data",
    overwrite: bool = False,
    **config: int,
) -> DataSet:
    """Make a city of people with habits, whose best possible accuracy is known.

    Args:
        name: what to call the data set.
        data_dir: folder of data sets.
        overwrite: replace a data set of that name.
        config: `num_users`, `checkins_per_user`, `seed`.
    """
    return datasets.save_city(name, data_dir, make_city_of(CityConfig(**config)), overwrite)


def list_data(data_dir: str | Path = "data") -> list[str]:
    """Return the names of the data sets in a folder."""
    return [found["name"] for found in datasets.list_data_sets(data_dir)]


def describe_data(data_set: DataSet) -> dict[str, Any]:
    """Return counts, time span, and what was dropped on import, as a dict."""
    return passport.describe(data_set)
