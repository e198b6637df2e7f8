"""Arrays and texts in a folder, read through memory maps: opened in constant time and memory.

Each array is a .npy file; a column of texts is two, its bytes and where each text ends. What the
folder was made from stands in `manifest.json`, with the size and the CRC-32 of every file; whoever
opens it compares the former and the sizes, and `check` compares the rest.
"""

import json
import math
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
KEPT_BYTES = 1 << 25  # of a folder's files, that stay in memory once they were read
_AT_ONCE = 1 << 24  # bytes that a checksum reads in one go


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


@dataclass(frozen=True)
class Mapped:
    """A folder, open.

    Attributes:
        arrays: name -> array, read-only.
        facts: dict, as it was saved.
        maps: the memory maps behind the arrays.
    """

    arrays: dict[str, np.ndarray]
    facts: dict
    maps: tuple[mmap.mmap, ...]

    def texts(self, name):
        """Return the Texts that `save_texts` named."""
        return Texts(self.arrays[f"{name}.ends"], self.arrays[f"{name}.content"])

    @cached_property
    def _is_small(self):
        return sum(map(len, self.maps)) <= KEPT_BYTES

    def let_go(self):
        """Give back the memory of the pages that were read; the arrays can be read as before.

        Where all of them are few it keeps them: to be read anew they would cost more than they are.
        """
        if not self._is_small:
            for pages in self.maps:
                pages.madvise(mmap.MADV_DONTNEED)


def named_texts(name, texts):
    """Return what `save` takes for a column of texts: {name: array}."""
    ends, content = text_arrays(texts)
    return {f"{name}.ends": ends, f"{name}.content": content}


def save(folder, arrays, facts, made_from):
    """Write a folder whole or not at all, in place of one that is there.

    Args:
        folder: path; its parents are made if need be.
        arrays: name -> array of numbers; what is given under two names is written once.
        facts: dict that JSON can hold.
        made_from: dict that JSON can hold, `load` wants the same one; or a function that gives
            it, called when the arrays are written.

    Raises:
        OSError: if it cannot be written.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        files, file_of, names = {}, {}, {}
        for name, array in arrays.items():
            if id(array) not in file_of:
                file_of[id(array)] = f"{name}.npy"
                files[f"{name}.npy"] = _write(new / f"{name}.npy", array)
            names[name] = file_of[id(array)]
        made_from = made_from() if callable(made_from) else made_from
        manifest = {"made_from": made_from, "arrays": names, "files": files, "facts": facts}
        (new / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        new.rename(folder)


def _write(path, array):
    np.save(path, array, allow_pickle=False)
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
        arrays = {name: opened[file][0] for name, file in manifest["arrays"].items()}
        maps = tuple(pages for _, pages in opened.values())
        return Mapped(arrays, manifest["facts"], maps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


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
        shape, fortran_order, dtype = npy.read_array_header_1_0(stream)
        begin = stream.tell()
        size = os.fstat(stream.fileno()).st_size
        if size != size_bytes or size != begin + math.prod(shape) * dtype.itemsize:
            raise ValueError("its size is another one")
        if fortran_order or dtype.kind not in "fiub":
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
