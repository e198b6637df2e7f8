"""Commands killed at each thing that they ask of the file system: nothing is lost, nothing hidden.

A command runs in a process that ends, as by kill -9, right before its n-th event under the current
folder: a file opened to be written, a rename, a removal, a new folder. Then the next command runs.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedgru.cli.main import main

SMALL = ["--hidden-dim", 4, "--batch-size", 2, "--seq-len", 5, "--threads", 1, "--rounds", 1]
# run in the folder of a case: SCRIPT STRIDE, then JSON of the commands: killed, next, check
SCRIPT = r"""
import json, os, shutil, sys
from pathlib import Path

import pyarrow.parquet, pandas, jinja2, tensorboardX, matplotlib.figure
import fedgru.cli.data, fedgru.cli.runs, fedgru.cli.predict, fedgru.cli.report, fedgru.cli.sweep
import fedgru.workflows.score, fedgru.console.describe, fedgru.api.run, fedgru.sweep.sweep
from fedgru.cli.main import main

stride, (killed, following) = int(sys.argv[1]), json.loads(sys.argv[2])
EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "open"}

def kill_at(last, folder):
    count = 0
    def hook(event, args):
        nonlocal count
        if event not in EVENTS:
            return
        if event == "open":
            mode, flags = args[1], args[2] or 0
            writes = isinstance(mode, str) and any(c in mode for c in "wax+")
            if not writes and not flags & (os.O_WRONLY | os.O_RDWR):
                return
        paths = [a for a in args[:2] if isinstance(a, (str, bytes, os.PathLike))]
        inside = any(os.path.abspath(os.fsdecode(p)).startswith(folder) for p in paths)
        if not inside and event not in ("os.remove", "os.rmdir"):
            return
        count += 1
        if count > last:
            os._exit(9)
    sys.addaudithook(hook)

def run(words, folder, last=None):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.chdir(folder)
    output = os.open(f"{folder}.out", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if last is not None:
        kill_at(last, folder)
    try:
        main(words, prog_name="fedgru")
    except SystemExit as error:
        code = error.code
    sys.stdout.flush()
    os._exit(code or 0)

def names(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))

found, last = [], 0
while True:
    folder = os.path.abspath(f"../killed/{last}")
    shutil.copytree(".", folder)
    code = run(killed, folder, last)
    before = names(folder)
    then = [run(words, folder) for words in following]
    said = Path(f"{folder}.out").read_text()
    found.append({"code": code, "before": before, "then": then, "said": said, "folder": folder})
    if code != 9:
        break
    last += stride
print(json.dumps(found))
"""


def typed(*words):
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def case(tmp_path, monkeypatch):
    """The current folder, with a data set and a run that is not evaluated."""
    folder = tmp_path / "case"
    folder.mkdir()
    monkeypatch.chdir(folder)
    typed("data", "synth", "--name", "town", "--users", 4, "--checkins-per-user", 40)
    typed("train", "--data", "town", "--prior", "none", "--no-eval", "--name", "it", *SMALL)
    return folder


def kill(killed, *following, stride=1):
    """Return what was found after each kill; the last one is of a command that was not killed."""
    words = [[str(w) for w in killed], [[str(w) for w in one] for one in following]]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(stride), json.dumps(words)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one["code"] for one in found] == [9] * (len(found) - 1) + [0]
    sys.stderr.write(f"{len(found) - 1} kills of fedgru {killed[0]}\n")
    return found


def hidden(names):
    return [name for name in names if re.search(r"(^|/)\..*part", name)]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def check_mended(found):
    """Nothing hidden is left, and what was is named by the command after the kill."""
    for one in found:
        assert one["then"] == [0] * len(one["then"]), one
        assert not hidden(files(one["folder"])), one
        if hidden(one["before"]):
            said = re.search(r"removed|restored|finished the deletion of", one["said"])
            assert said, (hidden(one["before"]), one["said"])


def check_some_hidden(found):
    """Some kill fell where something hidden was there: the stride did not step over all."""
    assert any(hidden(one["before"]) for one in found)


def test_import_over_a_data_set(case):
    def fingerprint(folder):
        return json.loads(Path(folder, "data/town/passport.json").read_text())["fingerprint"]

    old = fingerprint(case)
    again = ["data", "synth", "--name", "town", "--users", 6, "--checkins-per-user", 40]
    found = kill([*again, "--overwrite"], ["data", "check", "town"])
    new = fingerprint(found[-1]["folder"])
    assert {fingerprint(one["folder"]) for one in found} == {old, new} and old != new
    check_mended(found)
    check_some_hidden(found)


def test_a_first_import(case):
    again = ["data", "synth", "--name", "new", "--users", 4, "--checkins-per-user", 40]
    found = kill(again, ["data", "list"])
    for one in found:
        names = files(Path(one["folder"], "data"))
        assert [n for n in names if n.startswith("new")] in (
            [],
            ["new", "new/checkins.parquet", "new/passport.json"],
        )
    check_mended(found)
    check_some_hidden(found)


def test_removing_a_run(case):
    (run,) = Path("log").iterdir()
    whole = files(run)
    found = kill(["runs", "rm", "it", "--yes"], ["runs", "list"])
    lists = [files(Path(one["folder"], run)) for one in found]
    for names in lists:  # the lock of a dead process means nothing
        names[:] = [name for name in names if name != ".lock"]
    assert all(names in ([], whole) for names in lists)
    assert [] in lists and whole in lists
    check_mended(found)
    check_some_hidden(found)


def test_a_report(case):
    typed("eval")
    typed("report", "--output", "whole.html")
    whole = Path("whole.html").read_bytes()
    (run,) = Path("log").iterdir()
    (run / "report.html").write_bytes(b"old")
    found = kill(["report"], ["runs", "show"])
    contents = {Path(one["folder"], run, "report.html").read_bytes() for one in found}
    assert contents == {b"old", whole}
    check_mended(found)
    check_some_hidden(found)


@pytest.mark.slow
def test_export_over_an_export(case):
    typed("export", "--to", "weights", "--output", "out")
    words = ["export", "--to", "weights", "--output", "out", "--overwrite"]
    found = kill(words, words)
    for one in found:
        assert {"out/model.json", "out/weights.npz"} <= {*one["before"]}
    check_mended(found)
    check_some_hidden(found)


@pytest.mark.slow
def test_eval(case):
    (run,) = Path("log").iterdir()
    found = kill(["eval"], ["runs", "show"], ["eval"], stride=3)
    names = ("test.json", "predictions.parquet", "clients.csv", "best.npz", "metrics.csv")
    results = {tuple(Path(one["folder"], run, n).read_bytes() for n in names) for one in found}
    assert len(results) == 1
    check_mended(found)


@pytest.mark.slow
def test_sweep(case):
    words = ["sweep", "--data", "town", "--client-lr", "0.1,0.2", "--name", "s", *SMALL]
    words += ["--prior", "none"]
    typed(*words)
    table = Path("log/sweeps/s/sweep.csv").read_text()
    whole = [line.split(",")[:3] for line in table.splitlines()]
    shutil.rmtree("log/sweeps")
    found = kill(words, words, stride=9)
    for one in found:
        table = Path(one["folder"], "log/sweeps/s/sweep.csv").read_text()
        assert [line.split(",")[:3] for line in table.splitlines()] == whole
    check_mended(found)
