"""Folders that are written whole or not at all.

A folder is written in a hidden one beside it, `.NAME-xxxxxxxx.part`, its files are flushed to the
disk, and then it takes the place of the old one in one step. Whoever is killed before leaves the
old folder, whoever is killed after leaves the new one; the hidden folder that is left is removed
by the next writer, who can tell it from that of a living one by the kernel's lock on it.
"""

import ctypes
import errno
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from fedgru.core.errors import RunError
from fedgru.storage.files import naming, sync_folder
from fedgru.storage.locks import Lock, is_locked

_CANNOT_SWAP = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV)
_FROM_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextmanager
def writing_folder(path, overwrite=False):
    """Give a new folder to write in, which becomes `path` when the block ends without an error.

    Args:
        path: of the folder; its parents are made if need be.
        overwrite: whether it replaces a folder that is there.

    Yields:
        Path of the new folder, empty.

    Raises:
        FileExistsError: if there is something at `path` already, and `overwrite` is not given.
        OSError: if it cannot be written; the old folder is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path) as scratch:
        if path.exists() and not overwrite:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        new = scratch / "new"
        new.mkdir()
        yield new
        sync_tree(new)
        if path.exists():
            _replace(path, new, scratch / "old")
        else:
            new.rename(path)
        sync_folder(path.parent)


@contextmanager
def scratch_folder(path):
    """Give a hidden folder beside a path, removed at the end; first remove those of dead writers.

    Args:
        path: what it is for; its parent must be there.

    Yields:
        Path of the folder, which is locked and holds nothing but its lock.
    """
    _clear(path)
    scratch, lock = _make_scratch(path)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


def _make_scratch(path):
    while True:
        made = tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent)
        lock = Lock(made)
        try:
            lock.acquire()
        except (RunError, FileNotFoundError):  # another writer took it for one that is left
            continue
        return Path(made), lock


def _clear(path):
    """Remove the hidden folders of writers that were killed."""
    hidden = re.compile(rf"\.{re.escape(path.name)}-[a-z0-9_]{{8}}\.part")
    for left in [other for other in path.parent.iterdir() if hidden.fullmatch(other.name)]:
        if is_locked(left):
            continue
        lock = Lock(left)
        try:
            lock.acquire()
        except (RunError, OSError):  # another one removes it, or it is not ours to remove
            continue
        try:
            if (left / "old").exists() and not path.exists():  # killed in `_replace`
                (left / "old").rename(path)
            shutil.rmtree(left, ignore_errors=True)
        finally:
            lock.release()


def _replace(path, new, old):
    if exchange(path, new):
        return
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    old.rename(old.with_name("replaced"))  # nobody is to bring it back


def exchange(one, other):
    """Let two folders take each other's place in one step; return whether that can be done here.

    It can on Linux, on most file systems; Python has no function for it.

    Raises:
        OSError: if it can be done, but not with these.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if not rename(_FROM_HERE, os.fsencode(one), _FROM_HERE, os.fsencode(other), _EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_SWAP:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def sync_tree(folder):
    """Flush to the disk a folder, and all files and folders in it."""
    for inside, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(inside, name)
            with naming(file), open(file, "rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(inside)
