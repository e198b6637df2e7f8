"""One writer: the lock that a process holds on a run folder while it writes there.

It is a lock of the kernel, taken by filelock, and ends with the process, however that ends. So the
file of a killed process blocks nobody, and a reused process id does no harm. This module adds two
things that filelock lacks: the id of the process that has the lock, for the error message; and
whether a folder is locked, without writing to it, because it can belong to somebody else.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

from fedgru.core.errors import RunError
from fedgru.core.types import AnyPath
from fedgru.storage.files import naming

FILE = ".lock"
_PATIENCE_S, _WAIT_S = 0.2, 0.05  # `is_locked` of another process holds the file for a moment
_ASKS, _ASK_AGAIN_S = 3, 0.005  # two processes that ask at the same time can see each other


class Lock:
    """The lock on one folder. It is also released when this object is deleted."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = Path(folder)
        self._file = self.folder / FILE
        self._lock = FileLock(
            self._file,
            timeout=_PATIENCE_S,
            mode=0o644,
            thread_local=False,
            poll_interval=_WAIT_S,
            fallback_to_soft=False,  # a soft lock would outlive its process
        )

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunError: if another process has it; names that process.
            OSError: if the folder cannot be written.
        """
        with naming(self.folder):
            if self._lock.is_locked:
                return
            os.stat(self.folder)  # fail here: filelock would make a missing folder
            try:
                self._lock.acquire()
            except Timeout:
                raise RunError(self._describe_owner()) from None
            self._file.write_text(f"{os.getpid()}\n")

    def _describe_owner(self) -> str:
        with suppress(OSError):
            if owner := self._file.read_text(errors="replace").strip():
                return (
                    f"{self.folder} is being written by process {owner}. Wait until it has ended, "
                    f"or end it with: kill {owner}"
                )
        return f"{self.folder} is being written by another process. Wait until it has ended."

    def release(self) -> None:
        """Release the lock and remove its file."""
        if not self._lock.is_locked:
            return
        try:
            with suppress(OSError):
                self._file.unlink()  # before the release: later the file can be another's
        finally:
            self._lock.release()


def is_locked(folder: AnyPath) -> bool:
    """Return whether a process, this one included, now writes to a folder."""
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
