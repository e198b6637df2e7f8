"""fedgru/storage/folders.py: the old folder or the new one, whenever its writer is killed."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedgru.storage import files, folders
from fedgru.storage.locks import is_locked

OLD = {"a.txt": "old", "inside/b.txt": "old too"}
NEW = {"a.txt": "new", "inside/c.txt": "new too"}
# Writes NEW over the folder CASE/n/data in a process that ends, as if killed, right before the n-th
# thing that it asks of the file system; prints how many were, the one that was not comes last.
KILLED = """
import json, os, sys
from pathlib import Path
from fedgru.storage import files, folders
case, new, swaps = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "True"
if not swaps:
    folders.exchange = lambda one, other: False

def write(last):
    calls = []
    def count(event, args):
        if event.split(".")[0] in ("open", "os", "shutil"):
            calls.append(event)
            if len(calls) > last:
                os._exit(9)
    sys.addaudithook(count)
    with folders.writing_folder(case / str(last) / "data", overwrite=True) as folder:
        for name, text in new.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    os._exit(0)

last = 0
while (case / str(last)).is_dir():
    if not (pid := os.fork()):
        write(last)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        break
    last += 1
print(last)
"""


def make(folder, files=OLD):
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def write(folder, files=NEW, **options):
    with folders.writing_folder(folder, **options) as new:
        make(new, files)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[True, False], ids=["swapped", "renamed twice"])
def swaps(request, monkeypatch):
    """Whether two folders can be exchanged in one step, which not every file system does."""
    if not request.param:
        monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    return request.param


def test_a_new_folder_takes_the_place_of_the_old(tmp_path, swaps):
    write(tmp_path / "deep/data", OLD)
    assert content(tmp_path / "deep/data") == OLD
    write(tmp_path / "deep/data", overwrite=True)
    assert content(tmp_path / "deep/data") == NEW  # without b.txt
    assert names(tmp_path / "deep") == ["data"]


def test_what_is_there_is_not_replaced_unasked(tmp_path):
    make(tmp_path / "data")
    with pytest.raises(FileExistsError) as error:
        write(tmp_path / "data")
    assert (error.value.filename, error.value.strerror) == (f"{tmp_path}/data", "File exists")
    assert (content(tmp_path / "data"), names(tmp_path)) == (OLD, ["data"])


def test_an_error_inside_leaves_the_old(tmp_path):
    make(tmp_path / "data")
    with (
        pytest.raises(KeyError),
        folders.writing_folder(tmp_path / "data", overwrite=True) as new,
    ):
        make(new, NEW)
        raise KeyError("x")
    assert (content(tmp_path / "data"), names(tmp_path)) == (OLD, ["data"])


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_leaves_the_old(tmp_path, monkeypatch):
    make(tmp_path / "data")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        write(tmp_path / "data", overwrite=True)
    assert Path(error.value.filename).name in ("a.txt", "c.txt")  # it says which file
    assert (content(tmp_path / "data"), names(tmp_path)) == (OLD, ["data"])


def test_the_second_of_two_renames_fails(tmp_path, monkeypatch):
    make(tmp_path / "data")
    monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda *a: (full if a[0].name == "new" else real)(*a))
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "data", overwrite=True)
    assert (content(tmp_path / "data"), names(tmp_path)) == (OLD, ["data"])


def test_all_has_reached_the_disk_before_it_is_there(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path.name, (tmp_path / "data").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "data", {"a.txt": "1", "inside/b.txt": "2"})
    # what is in a folder before the folder; the parent once the new one is in it
    assert sorted(synced[:-1]) == [(name, False) for name in ("a.txt", "b.txt", "inside", "new")]
    order = [name for name, _ in synced]
    assert order.index("b.txt") < order.index("inside") < order.index("new")
    assert synced[-1] == (tmp_path.name, True)


def test_killed_anywhere_it_is_the_old_or_the_new(tmp_path, swaps):
    for number in range(200):
        make(tmp_path / str(number) / "data")
    command = [sys.executable, "-c", KILLED, str(tmp_path), json.dumps(NEW), str(swaps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    kills, found = int(done.stdout), []
    assert 20 < kills < 199
    for number in range(kills):
        case = tmp_path / str(number)
        if swaps or (case / "data").exists():
            found.append(content(case / "data"))
        else:  # between the two renames: the next writer brings the old one back
            with folders.scratch_folder(case / "data"):
                found.append(content(case / "data"))
        write(case / "data", overwrite=True)
        assert (content(case / "data"), names(case)) == (NEW, ["data"])
    turn = found.index(NEW)
    assert found == [OLD] * turn + [NEW] * (kills - turn)
    assert 0 < turn < kills - 1


def test_the_folder_of_a_living_writer_is_left_alone(tmp_path):
    with folders.scratch_folder(tmp_path / "data") as mine:
        assert is_locked(mine)
        write(tmp_path / "data")
        assert names(tmp_path) == [mine.name, "data"]
    assert names(tmp_path) == ["data"]


def test_what_another_folder_left_is_left_alone(tmp_path):
    others = [".data-2-abcdefgh.part", ".data-abc.part", ".data-abcdefgh", ".dat-abcdefgh.part"]
    for name in [*others, ".data-abcdefgh.part"]:
        make(tmp_path / name / "old")
    write(tmp_path / "data", overwrite=True)
    assert names(tmp_path) == sorted([*others, "data"])
    assert content(tmp_path / "data") == NEW


def test_a_folder_that_was_deleted_since_does_not_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    make(tmp_path / "data")
    with monkeypatch.context() as patch:  # killed when it was done, before it had cleared up
        patch.setattr(shutil, "rmtree", lambda *args, **options: None)
        write(tmp_path / "data", overwrite=True)
    shutil.rmtree(tmp_path / "data")
    assert len(names(tmp_path)) == 1
    write(tmp_path / "data", {"a.txt": "third"})
    assert (content(tmp_path / "data"), names(tmp_path)) == ({"a.txt": "third"}, ["data"])


def test_what_killed_processes_left_is_mended_and_named(tmp_path, caplog):
    make(tmp_path / ".gone-abcdefgh.part/old")  # killed between two renames
    make(tmp_path / ".town-abcdefgh.part/new")  # killed while it was written
    make(tmp_path / "town")
    make(tmp_path / ".run-1-abcdefgh.part/removed")  # killed while it was deleted
    (tmp_path / ".report.html.part").write_text("<html>")
    (tmp_path / ".keep").write_text("mine")
    folders.mend(tmp_path)
    assert names(tmp_path) == [".keep", "gone", "town"]
    assert content(tmp_path / "gone") == content(tmp_path / "town") == OLD
    assert [record.message for record in caplog.records] == [
        f"restored {tmp_path}/gone: the process that was to replace it was stopped",
        f"removed {tmp_path}/.report.html.part, which a process left unfinished",
        f"finished the deletion of {tmp_path}/run-1, which was stopped",
        f"removed what a stopped process left of {tmp_path}/town (.town-abcdefgh.part)",
    ]


def test_what_a_living_process_writes_is_left_alone(tmp_path, caplog):
    def write_and_mend(stream):
        stream.write(b"half")
        folders.mend(tmp_path)
        assert names(tmp_path) == [".a.txt.part"]

    files.write_whole(tmp_path / "a.txt", write_and_mend)
    assert content(tmp_path) == {"a.txt": "half"}
    with folders.scratch_folder(tmp_path / "data") as mine:
        folders.mend(tmp_path)
        assert names(tmp_path) == [mine.name, "a.txt"]
    assert not caplog.records


def test_a_folder_is_gone_at_once(tmp_path, monkeypatch):
    make(tmp_path / "data")
    real = shutil.rmtree

    def rmtree(path, **options):
        assert not (tmp_path / "data").exists()
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    folders.removing_folder(tmp_path / "data")
    assert names(tmp_path) == []


def test_a_private_folder_is_for_its_owner_alone(tmp_path):
    before = os.umask(0o022)
    try:
        write(tmp_path / "data", private=True)
        write(tmp_path / "open")
    finally:
        os.umask(before)

    def modes(folder):
        return {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}

    assert modes(tmp_path / "data") == {0o700, 0o600}
    assert modes(tmp_path / "open") == {0o755, 0o644}
