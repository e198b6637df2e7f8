"""Unpack gzip and zip files, within limits: a small file must not fill the disk."""

import gzip
import zipfile
import zlib
from typing import IO

from fedgru.core.errors import DataError

# A file that unpacks to more than both of these is a bomb: text usually shrinks to a tenth.
BOMB_BYTES, BOMB_RATIO = 1 << 30, 200
_PART_BYTES = 1 << 24


def _copy(
    packed: IO[bytes] | gzip.GzipFile, raw: IO[bytes], name: str, limit: int, believable: int
) -> None:
    """Unpack a file; refuse more than the limit, and more than a text could be."""
    size = 0
    while part := packed.read(min(_PART_BYTES, min(limit, believable) + 1 - size)):
        size += len(part)
        if size > limit:
            raise DataError(too_large(name, limit))
        if size > believable:
            raise DataError(
                f"{name} unpacks to more than {BOMB_RATIO} times its size: it is not a table."
            )
        raw.write(part)


def unpack_gzip(stored: IO[bytes], raw: IO[bytes], name: str, limit: int, size_bytes: int) -> None:
    """Unpack a gzip file of `size_bytes`.

    Raises:
        DataError: if it is damaged, or unpacks to more than the limit or than a text can.
    """
    try:
        with gzip.GzipFile(fileobj=stored) as file:
            _copy(file, raw, name, limit, max(BOMB_BYTES, BOMB_RATIO * size_bytes))
    except EOFError:
        raise DataError(
            f"{name} ends too early: the gzip file is cut off. Download it again."
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is a damaged gzip file ({error}). Download it again.") from None


def unpack_zip(stored: IO[bytes], raw: IO[bytes], name: str, limit: int, size_bytes: int) -> None:
    """Unpack the only file of a zip file of `size_bytes`.

    Raises:
        DataError: as `unpack_gzip`; or if it holds no file, several, or one that needs a password.
    """
    try:
        with zipfile.ZipFile(stored) as archive:
            members = [
                info
                for info in archive.infolist()
                if not info.is_dir() and not info.filename.startswith("__MACOSX/")
            ]
            if len(members) != 1:
                names = ", ".join(info.filename for info in members[:5]) or "none"
                more = ", ..." if len(members) > 5 else ""
                raise DataError(
                    f"{name} holds {len(members)} files ({names}{more}), expected one. "
                    "Unpack it and import the file you mean."
                )
            with archive.open(members[0]) as file:
                _copy(file, raw, name, limit, max(BOMB_BYTES, BOMB_RATIO * size_bytes))
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"{name} is a damaged zip file ({error}). Download it again.") from None
    except (RuntimeError, NotImplementedError) as error:  # a password, or an unknown compression
        raise DataError(
            f"{name} cannot be unpacked: {error}. Unpack it yourself and import the file inside."
        ) from None


def too_large(name: str, limit: int) -> str:
    """Return the message about a file with more text than the limit."""
    return (
        f"{name} holds more than {limit / 2**20:,.0f} MiB of text, "
        "which is the limit. Import a part of it."
    )
