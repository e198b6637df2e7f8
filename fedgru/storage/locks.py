"""One writer: the lock that a process holds on a run folder for as long as it writes there.

The lock is the kernel's: it goes with the process, however that ends. A file left behind by a
process that was killed holds nothing up, and a process number used again confuses nobody.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from fedgru.core.errors import RunError
from fedgru.storage.files import naming

FILE = ".lock"
_TRIES, _WAIT_S = 5, 0.05  # `is_locked` of another process holds the file for a moment


class Lock:
    """The lock on one folder; `acquire` and `release`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._file = self.folder / FILE
        self._descriptor = None

    def acquire(self):
        """Take the lock.

        Raises:
            RunError: if another process has it; names that process.
            OSError: if the folder cannot be written.
        """
        with naming(self.folder):
            while self._descriptor is None:
                self._descriptor = self._take()
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def _take(self):
        """Return the descriptor of the locked file, or None if the file was just removed."""
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _try_lock(descriptor, fcntl.LOCK_EX, _TRIES):
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunError(
                f"{self.folder} is being written by process {owner or '(unknown)'}. Wait until it "
                f"has ended, or end it with: kill {owner}".rstrip(" :")
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(self._file)):
                return descriptor
        os.close(descriptor)
        return None

    def release(self):
        """Give the lock back and remove its file."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            with suppress(OSError):
                self._file.unlink()  # while it is still ours
        finally:
            os.close(descriptor)


def is_locked(folder):
    """Whether a process, this one included, writes to a folder now."""
    try:
        descriptor = os.open(Path(folder, FILE), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH, tries=1)
    finally:
        os.close(descriptor)


def _try_lock(descriptor, kind, tries):
    for attempt in range(tries):
        if attempt:
            time.sleep(_WAIT_S)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
    return False
