"""One writer: the lock that a process holds on a run folder for as long as it writes there.

The lock is the kernel's, taken by filelock: it goes with the process, however that ends. A file
left behind by a process that was killed holds nothing up, and a process number used again confuses
nobody. filelock keeps neither of two things that a person at the terminal needs, so they are here:
the number of the process that has the lock, and whether a folder is locked at all, asked without
writing to it, as it may be somebody else's.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

from fedgru.core.errors import RunError
from fedgru.storage.files import naming

FILE = ".lock"
_PATIENCE_S, _WAIT_S = 0.2, 0.05  # `is_locked` of another process holds the file for a moment
_ASKS, _ASK_AGAIN_S = 3, 0.005  # so two that ask at the same time may see each other


class Lock:
    """The lock on one folder; `acquire` and `release`. It goes with this object too."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._file = self.folder / FILE
        self._lock = FileLock(
            self._file,
            timeout=_PATIENCE_S,
            mode=0o644,
            thread_local=False,
            poll_interval=_WAIT_S,
            fallback_to_soft=False,  # which would outlive its process
        )

    def acquire(self):
        """Take the lock.

        Raises:
            RunError: if another process has it; names that process.
            OSError: if the folder cannot be written.
        """
        with naming(self.folder):
            if self._lock.is_locked:
                return
            os.stat(self.folder)  # filelock would make one that is not there
            try:
                self._lock.acquire()
            except Timeout:
                raise RunError(self._describe_owner()) from None
            self._file.write_text(f"{os.getpid()}\n")

    def _describe_owner(self):
        with suppress(OSError):
            if owner := self._file.read_text(errors="replace").strip():
                return (
                    f"{self.folder} is being written by process {owner}. Wait until it has ended, "
                    f"or end it with: kill {owner}"
                )
        return f"{self.folder} is being written by another process. Wait until it has ended."

    def release(self):
        """Give the lock back and remove its file."""
        if not self._lock.is_locked:
            return
        try:
            with suppress(OSError):
                self._file.unlink()  # while it is still ours
        finally:
            self._lock.release()


def is_locked(folder):
    """Whether a process, this one included, writes to a folder now."""
    try:
        descriptor = os.open(Path(folder, FILE), os.O_RDONLY)
    except OSError:
        return False
    try:
        for _ in range(_ASKS):
            if lock_descriptor(descriptor, blocking=False):
                return False
            time.sleep(_ASK_AGAIN_S)
        return True
    finally:
        os.close(descriptor)
