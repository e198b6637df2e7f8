"""Verify a data set: its check-ins, and the copies stored with them for faster reading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedgru.core.errors import DataError
from fedgru.data import columns, datasets
from fedgru.storage import mapped
from fedgru.task import stored

if TYPE_CHECKING:
    from fedgru.data.datasets import DataSet


def check_data_set(name: str, data_dir: str | Path = "data") -> tuple[DataSet, list[Path]]:
    """Verify every byte of a data set and of the copies stored with it.

    Args:
        name: of a data set in `data_dir`.
        data_dir: folder of data sets.

    Returns:
        (DataSet, folders): the folders of stored columns and tasks; none is damaged.

    Raises:
        DataError: as `datasets.open_data_set`, and if a stored file is damaged.
    """
    data_set, folder = datasets.open_verified(name, data_dir), Path(data_dir, name)
    folders = sorted(
        path.parent
        for pattern in (columns.FOLDER, f"{stored.FOLDER}/*")
        for path in folder.glob(f"{pattern}/{mapped.MANIFEST}")
    )
    for path in folders:
        try:
            damaged = mapped.check(path)
        except (OSError, ValueError):
            damaged = [mapped.MANIFEST]
        if damaged:
            raise DataError(
                f"{path} is damaged ({', '.join(damaged)}); checkins.parquet is not. "
                f"Delete {path}: it is made again when it is needed."
            )
    return data_set, folders
