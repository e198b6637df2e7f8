"""Files that are written whole or not at all, and arrays that are checked before they are believed.

A file is written under another name, flushed to the disk, and renamed; then its folder is flushed.
Whoever is killed in between leaves the old file, or none. Arrays lie in NumPy's .npz, which is a
zip file: uncompressed, so that it cannot grow when read, without pickles, and with a CRC-32 of
each array, which is compared when it is read.
"""

import json
import math
import os
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@contextmanager
def naming(file):
    """Let an OSError say which file it is about: those of writing and flushing do not."""
    try:
        yield
    except OSError as error:
        error.filename = str(file)
        raise


def write_whole(file, write):
    """Write a file whole or not at all; it has reached the disk when this returns.

    Args:
        file: path.
        write: called with a binary stream.

    Raises:
        OSError: with the file's name; the file is then as it was.
    """
    file = Path(file)
    part = file.with_name(f".{file.name}.part")
    with naming(file):
        try:
            with open(part, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        sync_folder(file.parent)


def write_text(file, text):
    """Write a text as UTF-8, see `write_whole`."""
    write_whole(file, lambda stream: stream.write(text.encode()))


def write_arrays(file, arrays):
    """Write named arrays as .npz, see `write_whole`; the same arrays give the same bytes."""
    write_whole(file, lambda stream: np.savez(stream, **arrays))


def sync_folder(folder):
    """Flush to the disk which files a folder holds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_arrays(file):
    """Return {name: array} of a file that `write_arrays` wrote, every byte of it checked.

    Never reads more than the file holds, and runs nothing.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged; says how.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.comment or member.extra for member in members):
                raise ValueError("its list of arrays is damaged")  # it hides some in a comment
            if len({member.filename for member in members}) < len(members):
                raise ValueError("it holds two arrays of one name")
            return {m.filename.removesuffix(".npy"): _read_member(archive, m) for m in members}
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # what zipfile and numpy raise depends on the damaged byte
        raise ValueError(str(error) or type(error).__name__) from error


def _read_member(archive, member):
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    with archive.open(member) as stream:
        shape, fortran_order, dtype = _READ_HEADER[npy.read_magic(stream)](stream)
        if dtype.kind not in "fiub":
            raise ValueError(f"{member.filename} holds {dtype}, not numbers")
        size_bytes = math.prod(shape) * dtype.itemsize
        content = stream.read()  # to the end: only there the CRC is compared
    if len(content) != size_bytes:
        raise ValueError(f"{member.filename} holds {len(content)} bytes, not {size_bytes}")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
    return array.copy()


def checksums(file):
    """Return {member: CRC-32} of an .npz, as written in it."""
    with zipfile.ZipFile(file) as archive:
        return {member.filename: member.CRC for member in archive.infolist()}


def check_like(arrays, like):
    """Refuse arrays that cannot take the place of others.

    Args:
        arrays: name -> array.
        like: name -> float32 array.

    Raises:
        ValueError: if names, shapes or types differ, or a number is not finite; says which.
    """
    if missing := sorted(like.keys() - arrays.keys()):
        raise ValueError(f"it has no {', '.join(missing)}")
    if unknown := sorted(arrays.keys() - like.keys()):
        raise ValueError(f"it has {', '.join(unknown)}, which this model has not")
    for name, expected in like.items():
        found, wanted = arrays[name], np.asarray(expected)
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"its {name} is {found.dtype} {list(found.shape)}, expected {wanted.dtype} "
                f"{list(wanted.shape)}"
            )
        if not np.isfinite(found).all():
            raise ValueError(f"its {name} holds numbers that are not finite")


def read_json_object(file):
    """Return the dict in a JSON file; empty if there is no such file.

    Raises:
        ValueError: if it holds something else; says what.
    """
    try:
        found = json.loads(Path(file).read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found
