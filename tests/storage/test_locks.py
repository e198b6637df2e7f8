"""fedgru/storage/locks.py: one writer for each run folder."""

import os
import subprocess
import sys
import time

import pytest
from filelock import lock_descriptor, unlock_descriptor

from fedgru.core.errors import RunError
from fedgru.storage import locks

HOLD = """
import sys
from fedgru.storage.locks import Lock
lock = Lock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_is_refused_with_the_first_ones_number(tmp_path, other):
    assert locks.is_locked(tmp_path)
    with pytest.raises(RunError) as error:
        locks.Lock(tmp_path).acquire()
    assert str(error.value) == (
        f"{tmp_path} is being written by process {other.pid}. Wait until it has ended, or end it "
        f"with: kill {other.pid}"
    )
    assert (tmp_path / locks.FILE).read_text() == f"{other.pid}\n"


def test_a_killed_process_holds_nothing_up(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / locks.FILE).read_text() == f"{other.pid}\n"  # left behind
    assert not locks.is_locked(tmp_path)
    lock = locks.Lock(tmp_path)
    lock.acquire()
    assert (tmp_path / locks.FILE).read_text() == f"{os.getpid()}\n"
    lock.release()
    assert list(tmp_path.iterdir()) == []
    lock.release()  # again: nothing


def test_two_in_one_process(tmp_path):
    first, second = locks.Lock(tmp_path), locks.Lock(tmp_path)
    first.acquire()
    with pytest.raises(RunError, match=f"by process {os.getpid()}"):
        second.acquire()
    first.release()
    second.acquire()
    assert locks.is_locked(tmp_path)
    second.release()


def test_a_file_removed_between_opening_and_locking_is_not_taken(tmp_path, monkeypatch):
    # the other process releases, and with that removes, the file that we have just opened
    opens, opened = os.open, []

    def open_and_remove(path, *args, **given):
        descriptor = opens(path, *args, **given)
        if not opened:
            os.unlink(path)
        opened.append(path)
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_and_remove)
        lock = locks.Lock(tmp_path)
        lock.acquire()
    assert len(opened) == 2
    assert locks.is_locked(tmp_path)
    lock.release()


def test_asking_leaves_a_folder_as_it_is(tmp_path):
    assert not locks.is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / locks.FILE).write_text("1\n")  # left behind
    (tmp_path / locks.FILE).chmod(0o400)
    assert not locks.is_locked(tmp_path)
    assert (tmp_path / locks.FILE).read_text() == "1\n"


def test_who_asks_for_a_moment_neither_looks_like_a_writer_nor_bars_one(tmp_path, monkeypatch):
    (tmp_path / locks.FILE).touch()
    lock, sleep, waits = locks.Lock(tmp_path), time.sleep, []
    with open(tmp_path / locks.FILE, "rb") as asking, monkeypatch.context() as patch:

        def answered_meanwhile(seconds):
            waits.append(seconds)
            unlock_descriptor(asking.fileno())
            sleep(seconds)

        patch.setattr(time, "sleep", answered_meanwhile)
        assert lock_descriptor(asking.fileno(), blocking=False)
        assert not locks.is_locked(tmp_path)
        assert lock_descriptor(asking.fileno(), blocking=False)
        lock.acquire()
        assert len(waits) == 2
    assert locks.is_locked(tmp_path)
    lock.release()


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError) as error:
        locks.Lock(tmp_path / "missing").acquire()
    assert error.value.filename == str(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
