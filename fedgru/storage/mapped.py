"""Arrays and texts in a folder, read through memory maps: opened in constant time and memory.

Each array is a .npy file, or a field of one of records; a column of texts is two, its bytes and
where each text ends. What the folder was made from stands in `manifest.json`, with the size and
the CRC-32 of every file; whoever opens it compares the former and the sizes, and `check` compares
the rest.
"""

import json
import math
import mmap
import os
import shutil
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from fedgru.core.errors import DataError
from fedgru.storage.folders import writing_folder

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
KEPT_BYTES = 1 << 25  # of a folder's files, that stay in memory once they were read
RECORDS = "records.npy"
_AT_ONCE = 1 << 24  # bytes that a checksum reads in one go
RECORDS_AT_ONCE = 1 << 18  # that are written in one go
MAX_GAP_BYTES = 1 << 13  # between two records that are still read in one go


class Texts(Sequence):
    """Texts that stay on the disk until they are asked for; equal to a tuple of the same ones.

    >>> texts = Texts(np.array([1, 1, 3]), np.frombuffer("aé".encode(), np.uint8))
    >>> list(texts), texts[-1], texts[1:], len(texts), texts.index("é"), texts == ("a", "", "é")
    (['a', '', 'é'], 'é', ('', 'é'), 3, 2, True)
    >>> list(texts.chosen(np.array([2, 0])))
    ['é', 'a']
    """

    __hash__ = None

    def __init__(self, ends, content, places=None):
        """`ends`: int64 [n], ends in `content`, uint8 UTF-8; `places`: which of them, or None."""
        self._ends, self._content, self._places = ends, content, places

    def __len__(self):
        return len(self._ends if self._places is None else self._places)

    def __getitem__(self, key):
        if isinstance(key, slice):
            return tuple(self[i] for i in range(*key.indices(len(self))))
        place = range(len(self))[key]
        if self._places is not None:
            place = int(self._places[place])
        begin = int(self._ends[place - 1]) if place else 0
        return self._content[begin : int(self._ends[place])].tobytes().decode()

    def __eq__(self, other):
        if not isinstance(other, (Texts, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def chosen(self, places):
        """Return the texts at some places, int [n], of a column that is all there."""
        return Texts(self._ends, self._content, places)


def text_arrays(texts):
    """Return (ends, content) of `Texts`, int64 [n] and uint8, for a sequence of str."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), dtype=np.int64)
    return ends, np.frombuffer(b"".join(encoded), np.uint8)


class Records:
    """Arrays that lie side by side in a file, read from it and not through a memory map.

    A page that was read through a map stays resident until it is given back, with up to 2 MiB that
    the system maps around it, and both take longer than to read the few entries of one client.

    Args:
        path: of the .npy file.
        dtype, length, begin: of its records; begin is where the first lies, in bytes.
        field_of: name of an array -> its field.
    """

    def __init__(self, path, dtype, length, begin, field_of):
        self._path, self._dtype, self._length, self._begin = path, dtype, length, begin
        self._field_of = field_of
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self):
        raise TypeError("an open file cannot be given to another process")

    def read(self, names, places):
        """Return some arrays at some places: a slice of step 1, or int of any shape, not negative.

        Raises:
            IndexError: if there is no such place.
            DataError: if the file has become shorter.
        """
        if isinstance(places, slice):
            found = self._range(*places.indices(self._length)[:2])
        else:
            found = self._at(np.asarray(places))
        return [found[self._field_of[name]] for name in names]

    def read_ranges(self, names, begins, ends):
        """Return some arrays at ranges of places, lists of int, one range after the other.

        The disk is asked for all of them before the first is waited for.
        """
        size = self._dtype.itemsize
        if hasattr(os, "posix_fadvise"):
            for begin, end in zip(begins, ends, strict=True):
                at, length = self._begin + begin * size, (end - begin) * size
                if length:  # 0 would be all that follows
                    os.posix_fadvise(self._file, at, length, os.POSIX_FADV_WILLNEED)
        content = b"".join(map(self._bytes, begins, ends))
        found = np.frombuffer(content, self._dtype)
        return [np.ascontiguousarray(found[self._field_of[name]]) for name in names]

    def _range(self, begin, end):
        return np.frombuffer(self._bytes(begin, end), self._dtype)

    def _bytes(self, begin, end):
        size, at = (n * self._dtype.itemsize for n in (max(end - begin, 0), begin))
        content = os.pread(self._file, size, self._begin + at)
        while len(content) < size:  # one call may give less than is asked for
            more = os.pread(self._file, size - len(content), self._begin + at + len(content))
            if not more:
                raise DataError(
                    f"{self._path} has become shorter while it was in use. Start again: it is then "
                    "laid out anew."
                )
            content += more
        return content

    def _at(self, places):
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
        records: Records of those arrays that lie in one file, if there are any.
    """

    arrays: dict[str, np.ndarray]
    facts: dict
    maps: tuple[mmap.mmap, ...]
    records: Records | None = None

    def texts(self, name):
        """Return the Texts that `save_texts` named."""
        return Texts(self.arrays[f"{name}.ends"], self.arrays[f"{name}.content"])

    @cached_property
    def is_small(self):
        """Whether all of it may stay in memory."""
        return sum(map(len, self.maps)) <= KEPT_BYTES

    def release(self):
        """Give back the memory of the pages that were read; the arrays can be read as before.

        Where all of them are few it keeps them: to be read anew they would cost more than they are.
        """
        if not self.is_small:
            for pages in self.maps:
                pages.madvise(mmap.MADV_DONTNEED)


def named_texts(name, texts):
    """Return what `save` takes for a column of texts: {name: array}."""
    ends, content = text_arrays(texts)
    return {f"{name}.ends": ends, f"{name}.content": content}


def save(folder, arrays, facts, made_from, records=()):
    """Write a folder whole or not at all, in place of one that is there.

    Args:
        folder: path; its parents are made if need be.
        arrays: name -> array of numbers; what is given under two names is written once.
        facts: dict that JSON can hold.
        made_from: dict that JSON can hold, `load` wants the same one; or a function that gives
            it, called when the arrays are written.
        records: names of arrays as long as each other, whose entries are to lie side by side: to
            read some of each then takes the pages of one file.

    Raises:
        OSError: if it cannot be written.
    """
    with writing_folder(folder, overwrite=True) as new:
        place_of = {id(arrays[name]): [RECORDS, name] for name in records}
        fields = {field: arrays[field] for _, field in place_of.values()}
        files = {RECORDS: _write_records(new / RECORDS, fields)} if records else {}
        for name, array in arrays.items():
            if id(array) not in place_of:
                place_of[id(array)] = f"{name}.npy"
                files[f"{name}.npy"] = _write(new / f"{name}.npy", array)
        names = {name: place_of[id(array)] for name, array in arrays.items()}
        made_from = made_from() if callable(made_from) else made_from
        manifest = {"made_from": made_from, "arrays": names, "files": files, "facts": facts}
        (new / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _write(path, array):
    np.save(path, array, allow_pickle=False)
    return _facts(path)


def _write_records(path, fields):
    """Write arrays, name -> array, as the fields of one of records, some records at a time."""
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
            stream.write(block)
    return _facts(path)


def _facts(path):
    return {"size_bytes": path.stat().st_size, "crc32": _crc32(path)}


def _crc32(path):
    crc = 0
    with open(path, "rb") as stream:
        while part := stream.read(_AT_ONCE):
            crc = zlib.crc32(part, crc)
    return crc


def load(folder, made_from):
    """Open a folder.

    Returns:
        Mapped; None if there is none, it was made from something else, or files are missing or
        of another size: then it is to be made again.
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


def _field(place):
    """Return the field of the records that a manifest names."""
    file, field = place
    if file != RECORDS or not isinstance(field, str):
        raise ValueError(f"{place} is no field of the records")
    return field


def _read_manifest(folder):
    path = Path(folder, MANIFEST)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ValueError("it is too large")
    return json.loads(path.read_bytes())


def _open(path, size_bytes):
    """Return (array, its memory map) of a .npy file of that size."""
    with open(path, "rb") as stream:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError("its header is another one")
        try:
            shape, fortran_order, dtype = npy.read_array_header_1_0(stream)
        except Exception as error:  # what numpy raises depends on the damaged byte
            raise ValueError("its header is damaged") from error
        begin = stream.tell()
        size = os.fstat(stream.fileno()).st_size
        if size != size_bytes or size != begin + math.prod(shape) * dtype.itemsize:
            raise ValueError("its size is another one")
        kinds = [dtype[name].base for name in dtype.names] if dtype.names else [dtype]
        if fortran_order or any(kind.kind not in "fiub" for kind in kinds):
            raise ValueError("it holds something else")
        pages = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
    if not math.prod(shape):
        return np.empty(shape, dtype), pages
    return np.frombuffer(pages, dtype, offset=begin).reshape(shape), pages


def check(folder):
    """Return the names of files that are not as they were written, every byte compared.

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


def remove(folder):
    """Delete a folder, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
