"""Folders that are written completely or not at all.

A new folder is written in a hidden folder beside the old one, `.NAME-xxxxxxxx.part`. Its files are
flushed to disk. Then it replaces the old folder in one step. A process killed before that step
leaves the old folder, one killed after it leaves the new one. `mend` removes the hidden folders and
files of dead processes: the kernel's lock shows which writers are alive.
"""

import ctypes
import errno
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedgru.core.errors import RunError
from fedgru.core.types import AnyPath
from fedgru.storage.files import naming, remove_left, sync_folder
from fedgru.storage.locks import Lock, is_locked

_CANNOT_SWAP = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV)
_FROM_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux

_OLD, _REMOVED = "old", "removed"  # in a hidden folder: the folder replaced, the one deleted
_HIDDEN_FOLDER = re.compile(r"\.(.+)-[a-z0-9_]{8}\.part")
_HIDDEN_FILE = re.compile(r"\.(.+)\.part")  # of `write_whole`

logger = logging.getLogger(__name__)


@contextmanager
def writing_folder(path: AnyPath, overwrite: bool = False, private: bool = False) -> Iterator[Path]:
    """Yield a new folder to write in. It becomes `path` when the block ends without an error.

    Args:
        path: the folder's final path; missing parents are made.
        overwrite: whether to replace an existing folder.
        private: whether only the owner may read it, and the files in it.

    Yields:
        Path of the new folder, empty.

    Raises:
        FileExistsError: if `path` already exists and `overwrite` is False.
        OSError: if it cannot be written; the old folder is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path) as scratch:
        if path.exists() and not overwrite:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        new = scratch / "new"
        new.mkdir()
        yield new
        if private:
            make_private(new)
        sync_tree(new)
        if path.exists():
            _replace(path, new, scratch / _OLD)
        else:
            new.rename(path)
        sync_folder(path.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside a path, removed at the end.

    It first removes the hidden folders of dead writers. Only the owner can look into it.

    Args:
        path: the path that the folder is for; its parent must exist.

    Yields:
        Path of the folder, which is locked and holds only its lock.
    """
    mend(path.parent, path.name)
    scratch, lock = _make_scratch(path)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


def _make_scratch(path: Path) -> tuple[Path, Lock]:
    while True:
        made = tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent)
        lock = Lock(made)
        try:
            lock.acquire()
        except (RunError, FileNotFoundError):  # another writer removes it as a leftover
            continue
        return Path(made), lock


def removing_folder(path: Path) -> None:
    """Remove a folder: it is gone for every reader at once, and then its files are deleted.

    A process killed in between leaves a hidden folder, which `mend` deletes.

    Raises:
        OSError: if it cannot be removed.
    """
    with scratch_folder(path) as scratch:
        removed = path.rename(scratch / _REMOVED)
        sync_folder(path.parent)
        shutil.rmtree(removed)


def mend(parent: AnyPath, name: str | None = None) -> None:
    """Finish or remove what killed processes left in a folder; a warning names each.

    An unfinished new folder or file is removed, and the deletion of a folder is finished. Where an
    old folder was renamed away and no new one took its place, it is restored. What a living process
    works on stays, and so does what we have no permission to change.

    Args:
        parent: the folder; it need not exist.
        name: of the folder or file that was being written; None for all.
    """
    try:
        left = sorted(os.scandir(parent), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in left:
        if entry.is_dir(follow_symlinks=False):
            found = _HIDDEN_FOLDER.fullmatch(entry.name)
            if found and name in (None, found[1]):
                _mend_folder(Path(entry.path), Path(parent, found[1]))
        elif entry.is_file(follow_symlinks=False):
            found = _HIDDEN_FILE.fullmatch(entry.name)
            if found and name in (None, found[1]) and remove_left(Path(entry.path)):
                logger.warning("removed %s, which a process left unfinished", entry.path)


def _mend_folder(left: Path, path: Path) -> None:
    if is_locked(left):
        return
    lock = Lock(left)
    try:
        lock.acquire()
    except (RunError, OSError):  # another process removes it, or we lack permission
        return
    try:
        old, was_removed = left / _OLD, (left / _REMOVED).exists()
        if restores := old.exists() and not path.exists():  # killed in `_replace`
            old.rename(path)
        shutil.rmtree(left, ignore_errors=True)
    finally:
        lock.release()
    if restores:
        logger.warning("restored %s: the process that was to replace it was stopped", path)
    elif was_removed:
        logger.warning("finished the deletion of %s, which was stopped", path)
    else:
        logger.warning("removed what a stopped process left of %s (%s)", path, left.name)


def _replace(path: Path, new: Path, old: Path) -> None:
    if exchange(path, new):
        return
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    old.rename(old.with_name("replaced"))  # so that `mend` does not restore it


def exchange(one: AnyPath, other: AnyPath) -> bool:
    """Exchange two folders in one step; return False if this system cannot do that.

    Linux can, on most file systems; Python has no function for it.

    Raises:
        OSError: if the system can exchange folders, but not these two.
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


def make_private(folder: AnyPath) -> None:
    """Let only the owner read a folder and all that is in it."""
    for inside, _, names in os.walk(folder):
        os.chmod(inside, 0o700)
        for name in names:
            os.chmod(os.path.join(inside, name), 0o600)


def sync_tree(folder: AnyPath) -> None:
    """Flush a folder to disk, with all files and folders in it."""
    for inside, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(inside, name)
            with naming(file), open(file, "rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(inside)


def check_plain(folder: AnyPath) -> None:
    """Raise an error unless a folder holds only plain files and folders of its own.

    A folder from a stranger can hold links to other places, which would be read, or written to, in
    its place; and pipes and devices, which have no end. A link to something inside it is allowed.

    Raises:
        ValueError: names what was found, and what it is.
    """
    root = os.path.realpath(folder)
    for inside, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(inside, name)
            try:
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode):
                    target = os.path.realpath(path)
                    if os.path.commonpath([root, target]) != root:
                        raise ValueError(f"{path} is a link that leads out of the folder")
                    mode = os.stat(path).st_mode
            except FileNotFoundError:  # removed since it was listed; or a link to nothing, inside
                continue
            except OSError as error:  # such as a circle of links
                raise ValueError(f"{path} cannot be read: {error.strerror}") from None
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ValueError(f"{path} is a {_kind(mode)}, expected a plain file or a folder")


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"
