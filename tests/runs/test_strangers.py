"""Run folders and data sets that a stranger made: nothing outside is touched, nothing hangs."""

import io
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from fedgru.cli.main import main
from fedgru.core.errors import RunError
from fedgru.runs.folder import RunFolder

SMALL = ["--hidden-dim", 4, "--batch-size", 2, "--seq-len", 5, "--threads", 1, "--rounds", 1]
COMMANDS = [["runs", "list"], ["runs", "show"], ["eval"], ["train", "--resume", "theirs"]]


def typed(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            ["data", "synth", "--name", "hamlet", "--users", 4, "--checkins-per-user", 40],
            ["train", "--data", "hamlet", "--prior", "none", *SMALL],
        ):
            result = typed(*words)
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def theirs(folder, tmp_path, monkeypatch):
    """A run in a copy of its folder that is the current one; victim.txt lies beside it."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (run,) = Path("log").iterdir()
    run = run.rename("log/theirs")
    Path("victim.txt").write_text("mine\n")
    Path("victims").mkdir()
    return run


def link(target):
    return lambda path: path.symlink_to(os.path.relpath(target, path.parent))


def bind(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    "name, make, what",
    [
        ("run.log", link("victim.txt"), "is a link that leads out of the folder"),
        (".best.npz.part", link("victim.txt"), "is a link that leads out of the folder"),
        (".lock", link("victim.txt"), "is a link that leads out of the folder"),
        ("faults.csv", link("nothing-there"), "is a link that leads out of the folder"),
        ("eval", link("victims"), "is a link that leads out of the folder"),
        ("best.npz", lambda p: p.symlink_to("/dev/zero"), "is a link that leads out of the folder"),
        ("test.json", os.mkfifo, "is a pipe, expected a plain file or a folder"),
        ("val/events", os.mkfifo, "is a pipe, expected a plain file or a folder"),
        ("last.npz", bind, "is a socket, expected a plain file or a folder"),
        ("val/loop", lambda p: p.symlink_to("loop"), "cannot be read: Too many levels of symbolic"),
    ],
)
def test_what_no_run_folder_has_is_refused_by_name(theirs, name, make, what):
    file = theirs / name
    if file.is_dir():
        shutil.rmtree(file)
    file.unlink(missing_ok=True)
    make(file)
    for command in COMMANDS:
        result = typed(*command)
        told = result.stdout if command == ["runs", "list"] else result.stderr
        assert result.exit_code == (0 if command == ["runs", "list"] else 1), result.output
        assert f"log/theirs/{name} {what}" in told, result.output
    assert Path("victim.txt").read_text() == "mine\n"
    assert [*Path("victims").iterdir()] == []


def test_links_that_stay_inside_are_allowed(theirs):
    (theirs / "last.npz").unlink()
    (theirs / "last.npz").symlink_to("best.npz")
    assert typed("eval").exit_code == 0


@pytest.mark.parametrize("size", [2 * 10**9, 10**400])
def test_a_model_larger_than_its_weights_is_not_made(theirs, size):
    toml = theirs / "config.toml"
    toml.write_text(toml.read_text().replace("hidden_dim = 4", f"hidden_dim = {size}"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for command in (["eval"], ["predict", "--client", "1"], ["audit"], ["check"], ["report"]):
        result = typed(*command)
        assert result.exit_code == 1 and "defect" not in result.output, result.output
    if size < 10**10:
        assert "the model of log/theirs/config.toml at least 48,000,000,000,000,000,000." in (
            result.output
        )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 << 10  # KiB; the recurrent weights alone would be 48 EB


def test_arrays_of_another_size_are_not_read(theirs):
    """A sparse file of 64 GiB: its header does not have the model's shape."""
    file = theirs / "best.npz"
    with np.load(file) as arrays:
        arrays = dict(arrays)
    arrays["recurrent"] = np.broadcast_to(np.float32(0), (4096, 4096))
    np.savez(file, **arrays)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = typed("eval")
    assert result.stderr.splitlines()[-1].startswith(
        "Error: log/theirs/best.npz is damaged: its recurrent is float32 [4096, 4096], expected "
        "float32 [4, 12]."
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10


@pytest.mark.parametrize("name", ["run.json", "test.json"])
def test_a_round_of_400_digits(theirs, name):
    file = theirs / name
    facts = json.loads(file.read_text())
    facts |= {"best_round": 1, "round": 1}
    file.write_text(json.dumps(facts).replace('round": 1', f'round": {10**399}'))
    shown = typed("runs", "show").stderr
    assert "is damaged, it is not JSON: a whole number has 400 digits" in shown
    for command in COMMANDS:
        result = typed(*command)
        assert "defect" not in result.output, (command, result.output)
        assert isinstance(result.exception, SystemExit | None)


def test_files_too_large_for_what_they_are(theirs):
    run = RunFolder(theirs)
    for name, read in (("test.json", run.test), ("clients.csv", run.client_table)):
        os.truncate(theirs / name, 1 << 40)  # sparse
        with pytest.raises(RunError, match=f"{name} is damaged"):
            read()


def test_a_pipe_in_a_data_set_does_not_hang(theirs):
    for name in ("passport.json", "checkins.parquet"):
        file = Path("data/hamlet", name)
        file.rename("kept")
        os.mkfifo(file)
        for command in (["data", "list"], ["data", "describe", "hamlet"], ["eval"]):
            done = subprocess.run(
                [sys.executable, "-m", "fedgru", *command],
                capture_output=True,
                text=True,
                timeout=60,
            )
            if command != ["data", "list"] or name == "passport.json":
                assert done.returncode == 1 and "Error: " in done.stderr, done
                assert str(file) in done.stderr, done
        file.unlink()
        Path("kept").rename(file)


def alike(text, rows):
    codes = pyarrow.array(np.zeros(rows, np.int32))
    return pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array([text]))


def bomb(rows, compression):
    """A table of predictions in which all rows are alike."""
    texts = dict.fromkeys(("client_id", "target", "predicted"), alike("a" * 1000, rows))
    columns = {**texts, "row": pyarrow.array(np.zeros(rows, np.int64))}
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), content, compression=compression)
    return content.getvalue()


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_predictions_that_unpack_to_far_more_than_their_file(theirs, compression):
    file = theirs / "predictions.parquet"
    file.write_bytes(bomb(3_000_000, compression))
    assert file.stat().st_size < 1 << 20  # and as texts of their own the ids would be 3 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RunError, match="predictions.parquet is damaged"):
        RunFolder(theirs).predictions()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10


def test_texts_of_predictions_are_read_once_each(theirs):
    """Not a text of 1 MB for each of 3,000 rows."""
    rows = 3000
    texts = ("client_id", "target", "predicted")
    table = pyarrow.table(dict.fromkeys(texts, alike("a" * 1_000_000, rows)))
    # and nothing in the file says that they are a dictionary
    pyarrow.parquet.write_table(
        table, theirs / "predictions.parquet", compression="none", store_schema=False
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = RunFolder(theirs).predictions(["client_id"])["client_id"]
    assert len(found) == rows and found[0] is found[-1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10
