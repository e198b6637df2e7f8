"""Verify a data set: its check-ins, and what is stored beside them to be read faster."""

from pathlib import Path

from fedgru.core.errors import DataError
from fedgru.data import columns, datasets
from fedgru.storage import mapped
from fedgru.task import stored


def check_data_set(name, data_dir="data"):
    """Verify every byte of a data set and of what is laid out beside it.

    Args:
        name: of a data set in `data_dir`.
        data_dir: folder of data sets.

    Returns:
        (DataSet, folders): those of columns and prepared tasks; all is as it was written.

    Raises:
        DataError: as `datasets.open_data_set`, and if a file that is laid out is damaged.
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
                f"{path} is damaged ({', '.join(damaged)}); checkins.parquet is as it was saved. "
                f"Delete {path}: it is made again when it is needed."
            )
    return data_set, folders
