"""Files that are written completely or not at all, and arrays that are checked when read.

A file is written under another name, flushed to disk, and renamed; then its folder is flushed. A
process killed before that leaves the old file, or none. Arrays are stored in NumPy's .npz, a zip
file: uncompressed, so it cannot grow when read; without pickles; with a CRC-32 of each array,
which is checked on reading. A file to read can be a stranger's: pipes and devices are refused, and
sizes are compared before memory is taken.
"""

import json
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from filelock import lock_descriptor
from numpy.lib import format as npy

from fedgru.core.types import AnyPath

MAX_JSON_BYTES = 256 << 20  # the largest of fedgru's, a checkpoint of many rounds, has a few MiB
MAX_DIGITS = 20  # of a whole number in JSON: those of 64 bits, as Flower numbers its nodes
_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@contextmanager
def naming(file: AnyPath) -> Iterator[None]:
    """Add the file's name to an OSError: errors of writing and flushing have none."""
    try:
        yield
    except OSError as error:
        error.filename = str(file)
        raise


def write_whole(file: AnyPath, write: Callable[[BinaryIO], object]) -> None:
    """Write a file completely or not at all; it is on disk when this returns.

    Args:
        file: path.
        write: called with a binary stream.

    Raises:
        OSError: with the file's name; the old file is then unchanged.
    """
    file = Path(file)
    part = file.with_name(f".{file.name}.part")
    with naming(file):
        try:
            with _open_part(part) as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
                part.replace(file)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        sync_folder(file.parent)


def _open_part(part: Path) -> BinaryIO:
    """Open a new file that is locked until it is closed, so that `remove_left` leaves it alone."""
    while True:
        stream = open(part, "wb")  # noqa: SIM115 - the caller closes it
        lock_descriptor(stream.fileno(), blocking=False)
        # another process can have removed it before it was locked
        with suppress(OSError):
            if os.path.samestat(os.stat(part), os.fstat(stream.fileno())):
                return stream
        stream.close()


def remove_left(part: Path) -> bool:
    """Remove a file that a dead process left unfinished; return whether it was one.

    Args:
        part: file that `write_whole` wrote to, or another process still does.
    """
    with suppress(OSError), open(part, "rb") as stream:
        if lock_descriptor(stream.fileno(), blocking=False):
            part.unlink()
            return True
    return False


def write_text(file: AnyPath, text: str) -> None:
    """Write a text as UTF-8, see `write_whole`."""
    write_whole(file, lambda stream: stream.write(text.encode()))


def write_arrays(file: AnyPath, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write named arrays as .npz, see `write_whole`; the same arrays give the same bytes."""
    named: dict[str, Any] = dict(arrays)
    write_whole(file, lambda stream: np.savez(stream, **named))


def sync_folder(folder: AnyPath) -> None:
    """Flush a folder's list of files to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_plain(file: AnyPath, max_bytes: int | None = None) -> BinaryIO:
    """Open a plain file to read its bytes. A pipe or device is refused: it can have no end.

    Args:
        file: path.
        max_bytes: its largest size; None for any.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no plain file, or larger.
    """
    # without waiting for the other end of a pipe
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no plain file")
        if max_bytes is not None and found.st_size > max_bytes:
            raise ValueError(f"it has {found.st_size:,} bytes, expected at most {max_bytes:,}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_arrays(
    file: AnyPath, like: Mapping[str, npt.NDArray[Any]] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return {name: array} of a file that `write_arrays` wrote; every byte is checked.

    It never reads more than the file's size and runs no code from the file.

    Args:
        file: path.
        like: name -> array, whose names, shapes and types must be found before anything is read;
            None takes any.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or not like `like`; the message says how.
    """
    try:
        with open_plain(file) as stream, zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if any(member.comment or member.extra for member in members):
                # a zip comment can hide arrays
                raise ValueError("its list of arrays is damaged")
            if len({member.filename for member in members}) < len(members):
                raise ValueError("it holds two arrays with the same name")
            if like is not None:
                _check_shapes({_array_name(m): _read_header(archive, m) for m in members}, like)
            return {_array_name(m): _read_member(archive, m) for m in members}
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # what zipfile and numpy raise depends on the damaged byte
        raise ValueError(str(error) or type(error).__name__) from error


def _array_name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """An array of a member's shape and type that takes no memory."""
    with archive.open(member) as stream:
        shape, _, dtype = _READ_HEADER[npy.read_magic(stream)](stream)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    with archive.open(member) as stream:
        shape, fortran_order, dtype = _READ_HEADER[npy.read_magic(stream)](stream)
        if dtype.kind not in "fiub":
            raise ValueError(f"{member.filename} holds {dtype}, not numbers")
        size_bytes = math.prod(shape) * dtype.itemsize
        content = stream.read()  # to the end: zipfile checks the CRC only there
    if len(content) != size_bytes:
        raise ValueError(f"{member.filename} holds {len(content)} bytes, not {size_bytes}")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
    return array.copy()


def checksums(file: AnyPath) -> dict[str, int]:
    """Return {member: CRC-32} of an .npz, as stored in the file."""
    with open_plain(file) as stream, zipfile.ZipFile(stream) as archive:
        return {member.filename: member.CRC for member in archive.infolist()}


def check_like(
    arrays: Mapping[str, npt.NDArray[Any]], like: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Raise an error unless arrays can replace others.

    Args:
        arrays: name -> array.
        like: name -> float32 array.

    Raises:
        ValueError: if names, shapes or types differ, or a number is not finite; names the array.
    """
    _check_shapes(arrays, like)
    for name in like:
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"its {name} holds numbers that are not finite")


def _check_shapes(
    arrays: Mapping[str, npt.NDArray[Any]], like: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Raise a ValueError if names, shapes or types differ."""
    if missing := sorted(like.keys() - arrays.keys()):
        raise ValueError(f"it has no {', '.join(missing)}")
    if unknown := sorted(arrays.keys() - like.keys()):
        raise ValueError(f"it has {', '.join(unknown)}, which this model does not have")
    for name, expected in like.items():
        found, wanted = arrays[name], np.asarray(expected)
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"its {name} is {found.dtype} {list(found.shape)}, expected {wanted.dtype} "
                f"{list(wanted.shape)}"
            )


def read_json_object(file: AnyPath, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the dict in a JSON file; empty if there is no such file.

    Raises:
        ValueError: if it is not JSON, not an object, no plain file, or too large; or if a whole
            number has more than MAX_DIGITS digits.
    """
    try:
        with open_plain(file, max_bytes) as stream:
            content = stream.read()
    except FileNotFoundError:
        return {}
    try:
        found = json.loads(content, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _parse_int(text: str) -> int:
    if len(text.removeprefix("-")) > MAX_DIGITS:
        raise ValueError(f"a whole number has {len(text):,} digits")
    return int(text)
