"""Arrays and texts in a folder, read through memory maps: opened in constant time and memory.

Each array is a .npy file, or a field of a .npy file of records. A column of texts is two arrays:
its bytes, and the end of each text. `manifest.json` holds what the folder was made from, and the
size and CRC-32 of every file. `load` compares the first and the sizes, `check` the CRC-32s.
"""

import json
import math
import mmap
import os
import shutil
import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from fedgru.core.errors import DataError
from fedgru.core.types import AnyInts, AnyPath, Ints
from fedgru.storage.folders import writing_folder

MadeFrom: TypeAlias = Mapping[str, Any]  # what a folder was made from; JSON can hold it

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
KEPT_BYTES = 1 << 25  # the files of a folder up to this size stay in memory once read
RECORDS = "records.npy"
_AT_ONCE = 1 << 24  # bytes that a checksum reads at once
RECORDS_AT_ONCE = 1 << 18  # records written at once
MAX_GAP_BYTES = 1 << 13  # records with a smaller gap between them are read together


class Texts(Sequence[str]):
    """Texts that stay on disk until they are read; equal to a tuple of the same texts.

    >>> texts = Texts(np.array([1, 1, 3]), np.frombuffer("aé".encode(), np.uint8))
    >>> list(texts), texts[-1], texts[1:], len(texts), texts.index("é"), texts == ("a", "", "é")
    (['a', '', 'é'], 'é', ('', 'é'), 3, 2, True)
    >>> list(texts.chosen(np.array([2, 0])))
    ['é', 'a']
    """

    __hash__ = None  # type: ignore[assignment]  # as Python does for a class with __eq__ alone

    def __init__(
        self, ends: Ints, content: npt.NDArray[np.uint8], places: AnyInts | None = None
    ) -> None:
        """`ends`: int64 [n], ends in `content`, uint8 UTF-8; `places`: which of them, or None."""
        self._ends, self._content, self._places = ends, content, places

    def __len__(self) -> int:
        return len(self._ends if self._places is None else self._places)

    @overload
    def __getitem__(self, key: int) -> str: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[str, ...]: ...

    def __getitem__(self, key: int | slice) -> str | tuple[str, ...]:
        if isinstance(key, slice):
            return tuple(self[i] for i in range(*key.indices(len(self))))
        place = range(len(self))[key]
        if self._places is not None:
            place = int(self._places[place])
        begin = int(self._ends[place - 1]) if place else 0
        return self._content[begin : int(self._ends[place])].tobytes().decode()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Texts, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def chosen(self, places: AnyInts) -> "Texts":
        """Return the texts at some places, int [n]; only for a column that is complete."""
        return Texts(self._ends, self._content, places)


def text_arrays(texts: Iterable[str]) -> tuple[Ints, npt.NDArray[np.uint8]]:
    """Return (ends, content) of `Texts`, int64 [n] and uint8, for a sequence of str."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), dtype=np.int64)
    return ends, np.frombuffer(b"".join(encoded), np.uint8)


class Records:
    """Arrays stored as records in one file, read from the file and not through a memory map.

    A page read through a map stays in memory until it is released, and the system maps up to 2 MiB
    around it. Both take longer than reading the few entries of one client.

    Args:
        path: path of the .npy file.
        dtype: type of a record.
        length: number of records.
        begin: offset of the first record in the file, in bytes.
        field_of: name of an array -> its field.
    """

    def __init__(
        self, path: Path, dtype: np.dtype[Any], length: int, begin: int, field_of: Mapping[str, str]
    ) -> None:
        self._path, self._dtype, self._length, self._begin = path, dtype, length, begin
        self._field_of = field_of
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open file cannot be sent to another process")

    def read(self, names: Sequence[str], places: slice | npt.ArrayLike) -> list[npt.NDArray[Any]]:
        """Return some arrays at some places: a slice of step 1, or int of any shape, not negative.

        Raises:
            IndexError: if a place is outside the arrays.
            DataError: if the file has become shorter.
        """
        if isinstance(places, slice):
            found = self._range(*places.indices(self._length)[:2])
        else:
            found = self._at(np.asarray(places))
        return [found[self._field_of[name]] for name in names]

    def read_ranges(
        self, names: Sequence[str], begins: Sequence[int], ends: Sequence[int]
    ) -> list[npt.NDArray[Any]]:
        """Return some arrays at ranges of places, lists of int, one range after the other.

        All ranges are requested from the disk before the first one is read.
        """
        size = self._dtype.itemsize
        if hasattr(os, "posix_fadvise"):
            for begin, end in zip(begins, ends, strict=True):
                at, length = self._begin + begin * size, (end - begin) * size
                if length:  # 0 would mean the rest of the file
                    os.posix_fadvise(self._file, at, length, os.POSIX_FADV_WILLNEED)
        content = b"".join(map(self._bytes, begins, ends))
        found = np.frombuffer(content, self._dtype)
        return [np.ascontiguousarray(found[self._field_of[name]]) for name in names]

    def _range(self, begin: int, end: int) -> npt.NDArray[Any]:
        return np.frombuffer(self._bytes(begin, end), self._dtype)

    def _bytes(self, begin: int, end: int) -> bytes:
        size, at = (n * self._dtype.itemsize for n in (max(end - begin, 0), begin))
        content = os.pread(self._file, size, self._begin + at)
        while len(content) < size:  # one call can return less than requested
            more = os.pread(self._file, size - len(content), self._begin + at + len(content))
            if not more:
                raise DataError(
                    f"{self._path} has become shorter while it was in use. Start again: then it is "
                    "stored anew."
                )
            content += more
        return content

    def _at(self, places: AnyInts) -> npt.NDArray[Any]:
        if not places.size:
            return np.empty(places.shape, self._dtype)
        distinct, inverse = np.unique(places, return_inverse=True)
        if not 0 <= distinct[0] <= distinct[-1] < self._length:
            raise IndexError(f"places {distinct[0]} to {distinct[-1]} of {self._length}")
        raw = np.dtype((np.void, self._dtype.itemsize))  # copied whole, not field by field
        found = np.empty(len(distinct), raw)
        far = np.diff(distinct) * raw.itemsize > MAX_GAP_BYTES
        begins = np.flatnonzero(np.r_[True, far])
        ends = np.r_[begins[1:], len(distinct)]
        parts = (begins, ends, distinct[begins], distinct[ends - 1] + 1)
        for begin, end, first, last in zip(*(part.tolist() for part in parts), strict=True):
            content = np.frombuffer(self._bytes(first, last), raw)
            has_gaps = len(content) > end - begin
            found[begin:end] = content[distinct[begin:end] - first] if has_gaps else content
        return found[inverse.reshape(places.shape)].view(self._dtype)


@dataclass(frozen=True)
class Mapped:
    """A folder, open.

    Attributes:
        arrays: name -> array, read-only.
        facts: dict, as it was saved.
        maps: the memory maps behind the arrays.
        records: Records of the arrays that are stored together in one file, if there are any.
    """

    arrays: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any]
    maps: tuple[mmap.mmap, ...]
    records: Records | None = None

    def texts(self, name: str) -> Texts:
        """Return the Texts that `save_texts` named."""
        return Texts(self.arrays[f"{name}.ends"], self.arrays[f"{name}.content"])

    @cached_property
    def is_small(self) -> bool:
        """Whether the files are small enough to stay in memory."""
        return sum(map(len, self.maps)) <= KEPT_BYTES

    def release(self) -> None:
        """Release the memory of the pages that were read; the arrays stay readable.

        A small folder stays in memory: reading it again would cost more than it saves.
        """
        if not self.is_small:
            for pages in self.maps:
                pages.madvise(mmap.MADV_DONTNEED)


def named_texts(name: str, texts: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """Return a column of texts as `save` takes it: {name: array}."""
    ends, content = text_arrays(texts)
    return {f"{name}.ends": ends, f"{name}.content": content}


def save(
    folder: AnyPath,
    arrays: Mapping[str, npt.NDArray[Any]],
    facts: Mapping[str, Any],
    made_from: MadeFrom | Callable[[], MadeFrom],
    records: Sequence[str] = (),
) -> None:
    """Write a folder completely or not at all; replace an existing one.

    Args:
        folder: path; missing parents are made.
        arrays: name -> array of numbers; an array under two names is written once.
        facts: dict that JSON can hold.
        made_from: dict that JSON can hold, `load` needs the same one; or a function that returns
            it, called after the arrays are written.
        records: names of arrays of the same length, stored together as records: a read of some
            entries of each then needs the pages of only one file.

    Raises:
        OSError: if it cannot be written.
    """
    with writing_folder(folder, overwrite=True) as new:
        field_of = {id(arrays[name]): name for name in records}
        place_of: dict[int, str | list[str]] = {
            key: [RECORDS, field] for key, field in field_of.items()
        }
        fields = {field: arrays[field] for field in field_of.values()}
        files = {RECORDS: _write_records(new / RECORDS, fields)} if records else {}
        for name, array in arrays.items():
            if id(array) not in place_of:
                place_of[id(array)] = f"{name}.npy"
                files[f"{name}.npy"] = _write(new / f"{name}.npy", array)
        names = {name: place_of[id(array)] for name, array in arrays.items()}
        made_from = made_from() if callable(made_from) else made_from
        manifest = {"made_from": made_from, "arrays": names, "files": files, "facts": facts}
        (new / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _write(path: Path, array: npt.NDArray[Any]) -> dict[str, int]:
    np.save(path, array, allow_pickle=False)
    return _facts(path)


def _write_records(path: Path, fields: Mapping[str, npt.NDArray[Any]]) -> dict[str, int]:
    """Write arrays, name -> array, as the fields of a file of records, some records at a time."""
    (length,) = {len(array) for array in fields.values()}
    kinds = [(name, array.dtype, array.shape[1:]) for name, array in fields.items()]
    dtype = np.dtype(kinds, align=True)
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    with open(path, "wb") as stream:
        npy.write_array_header_1_0(stream, header)
        for begin in range(0, length, RECORDS_AT_ONCE):
            part = slice(begin, begin + RECORDS_AT_ONCE)
            block = np.zeros(min(length - begin, RECORDS_AT_ONCE), dtype)
            for name, array in fields.items():
                block[name] = array[part]
            stream.write(block.data)
    return _facts(path)


def _facts(path: Path) -> dict[str, int]:
    return {"size_bytes": path.stat().st_size, "crc32": _crc32(path)}


def _crc32(path: Path) -> int:
    crc = 0
    with open(path, "rb") as stream:
        while part := stream.read(_AT_ONCE):
            crc = zlib.crc32(part, crc)
    return crc


def load(folder: AnyPath, made_from: MadeFrom) -> Mapped | None:
    """Open a folder.

    Returns:
        Mapped; None if there is none, if it was made from something else, or if files are missing
        or have another size: then the caller makes it again.
    """
    try:
        manifest = _read_manifest(folder)
        if manifest["made_from"] != made_from:
            return None
        opened = {
            file: _open(Path(folder, file), facts["size_bytes"])
            for file, facts in manifest["files"].items()
        }
        maps = tuple(pages for _, pages in opened.values())
        places = manifest["arrays"].items()
        arrays = {name: opened[place][0] for name, place in places if isinstance(place, str)}
        field_of = {name: _field(place) for name, place in places if not isinstance(place, str)}
        if not field_of:
            return Mapped(arrays, manifest["facts"], maps)
        whole, pages = opened[RECORDS]
        (length,), begin = whole.shape, len(pages) - whole.nbytes
        fields = {field: whole[field] for field in field_of.values()}  # the same for two names
        arrays |= {name: fields[field] for name, field in field_of.items()}
        records = Records(Path(folder, RECORDS), whole.dtype, length, begin, field_of)
        return Mapped(arrays, manifest["facts"], maps, records)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None


def _field(place: Sequence[Any]) -> str:
    """Return the field of the records that a manifest names."""
    file, field = place
    if file != RECORDS or not isinstance(field, str):
        raise ValueError(f"{place} is no field of the records")
    return field


def _read_manifest(folder: AnyPath) -> dict[str, Any]:
    path = Path(folder, MANIFEST)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ValueError("it is too large")
    return json.loads(path.read_bytes())


def _open(path: Path, size_bytes: int) -> tuple[npt.NDArray[Any], mmap.mmap]:
    """Return (array, its memory map) of a .npy file of that size."""
    with open(path, "rb") as stream:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError("its header has another version")
        try:
            shape, fortran_order, dtype = npy.read_array_header_1_0(stream)
        except Exception as error:  # what numpy raises depends on the damaged byte
            raise ValueError("its header is damaged") from error
        begin = stream.tell()
        size = os.fstat(stream.fileno()).st_size
        if size != size_bytes or size != begin + math.prod(shape) * dtype.itemsize:
            raise ValueError("its size is wrong")
        kinds = [dtype[name].base for name in dtype.names] if dtype.names else [dtype]
        if fortran_order or any(kind.kind not in "fiub" for kind in kinds):
            raise ValueError("it holds something else")
        pages = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
    if not math.prod(shape):
        return np.empty(shape, dtype), pages
    return np.frombuffer(pages, dtype, offset=begin).reshape(shape), pages


def check(folder: AnyPath) -> list[str]:
    """Return the names of files that differ from what was written; every byte is compared.

    Raises:
        OSError, ValueError: if the manifest cannot be read.
    """
    try:
        files = _read_manifest(folder)["files"]
        return [
            file
            for file, facts in files.items()
            if not Path(folder, file).is_file() or _crc32(Path(folder, file)) != facts["crc32"]
        ]
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{Path(folder, MANIFEST)} is damaged") from None


def remove(folder: AnyPath) -> None:
    """Delete a folder, if it exists."""
    shutil.rmtree(folder, ignore_errors=True)
