"""A property of every command of the Click tree: what it prints and writes, no program obeys.

Names drawn of escape sequences, marks of direction, formulas and new lines are users, venues and
categories of a data set, folders, runs, sweeps, concepts, and values of files. Each command is
typed where it succeeds, and where it fails on a name. A command without a case here is an error.
"""

import csv
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fedgru.cli.main import main
from fedgru.storage.tables import from_cell
from tests.hostile import COLUMNS, NAMES, OBEYED, draw, write_check_ins

BAD = "no \x1b]0;t\x07\u202e\x9b2J=1 name"
SMALL = ["--hidden-dim", 4, "--batch-size", 2, "--seq-len", 5, "--threads", 1, "--rounds", 1]
ALL = [*NAMES, *dict.fromkeys(draw(random.Random(seed)) for seed in range(6))]
NUMBER = re.compile(r"[+-]?([0-9.]+([eE][+-]?[0-9]+)?|inf|nan)")
IMAGES = ["--target", "images", "--context", "images", "--epochs", 1]
READERS = ("csv", "geolife", "getnext", "libcity", "snap", "tist2015", "tsmc2014", "weeplaces")
TRAINED = ["--data", "theirs", "--prior", "none", *SMALL]
# of each command: words that succeed, then words that fail; `succeeds` says how many succeed
CASES = {
    "data import csv": [
        ["theirs.csv", "--name", "again", *COLUMNS],
        ["bad.csv", "--name", "y", "--skip-bad-rows", *COLUMNS],
        ["theirs.csv", "--name", "x", "--column", f"user={BAD}"],
        [BAD, "--name", "x", *COLUMNS],
        ["theirs.csv", "--name", BAD, *COLUMNS],
        ["bad.csv", "--name", "x", *COLUMNS],
    ],
    "data export libcity": [["theirs", "--to", "libcity"], [BAD, "--to", "x"]],
    "data import libcity": [["libcity", "--name", "back", "--categories", "raw"]],
    **{
        f"data import {name}": [[file, "--name", "x"] for file in ("bad.csv", "folder", BAD)]
        for name in READERS[1:]
        if name != "libcity"
    },
    "data list": [[], ["--json"], ["--data-dir", BAD]],
    "data describe": [["theirs", "--html", "page.html"], ["theirs", "--json"], [BAD]],
    "data check": [["theirs"], [BAD]],
    "data sources": [[], ["--json"]],
    "data synth": [["--name", "city", "--users", 3], ["--name", BAD]],
    "train": [
        [*TRAINED, "--name", "it", "--seed", 1, "--json"],
        [*TRAINED, "--no-eval", "--name", BAD],
        ["--config", BAD],
        ["--config", "bad.toml"],
        ["--resume", BAD],
    ],
    "eval": [["--fine-tune", 1], ["--json"], [BAD], ["--must-beat", BAD]],
    "audit": [
        ["--concept", "client", "--probe", "logistic"],
        ["--concept", "category", "--probe", "logistic", "--json"],
        ["--concept", BAD],
    ],
    "check": [[], ["--json"], [BAD]],
    "baseline": [
        ["running-backoff", *TRAINED[:2]],
        ["local", *TRAINED],
        ["frequency", "--data", BAD],
        [BAD],
    ],
    "compare": [
        ["first", "running-backoff"],
        ["first", "running-backoff", "--json"],
        ["{run}", BAD],
    ],
    "predict": [
        *(["{run}", "--client", name, "--top", 99] for name in ALL[:9]),
        *(["{run}", "--client", name, "--top", 99, "--json"] for name in ALL[9:]),
        ["{run}", "--client", BAD],
        ["{run}", "--client", ALL[0], "--history", BAD],
        ["{run}", "--client", ALL[0], "--history", "bad.csv", *COLUMNS],
    ],
    "export": [
        ["{run}", "--to", "weights", "--output", "out", "--names"],
        ["{run}", "--to", "weights", "--output", "out", "--json", "--overwrite"],
        ["{run}", "--to", "weights", "--output", BAD, "--client", BAD],
        [BAD, "--to", "weights"],
    ],
    "report": [["--names"], [], [BAD], ["--output", f"{BAD}/x"]],
    "runs list": [[], ["--json"], ["--log-dir", BAD]],
    "runs show": [[], ["--json"], [BAD]],
    "runs share": [["--output", "shared"], ["--output", "shared", "--overwrite", "--json"], [BAD]],
    "runs bytes": [
        ["{run}", "--output", "folder/bytes.csv"],
        ["{run}", "--output", "folder/bytes.csv", "--json"],
        [BAD, "--output", "x.csv"],
    ],
    "card": [["{run}"], [BAD]],
    "doctor": [[], ["--json"], ["--log-dir", BAD]],
    "runs rm": [["gone", "--yes"], [BAD, "--yes"]],
    "sweep": [
        [*TRAINED, "--client-lr", "0.1,0.2", "--name", "s"],
        ["--resume", "s", "--json"],
        ["--resume", BAD],
        [*TRAINED, "--client-lr", "0.1,0.2", "--name", BAD],
        [*TRAINED, "--client-lr", BAD],
    ],
    "agnostic pareto": [["--concept", "client"], ["--concept", BAD], [BAD, "--concept", "client"]],
    "agnostic cross-domain": [[*IMAGES], ["--context", BAD], ["--context", "bad-images"]],
    "agnostic maps": [[*IMAGES, "--alpha", 0.5], ["--context", BAD], ["--method", BAD]],
    "agnostic sweep": [
        [*IMAGES, "--alpha", 0.5, "--repeats", 1, "--threads", 1],
        ["--method", BAD],
        ["--target", BAD],
    ],
    "algorithms": [[], ["--json"], [BAD]],
    "config show": [[], ["--config", "bad.toml"], ["--config", BAD]],
    "deploy app": [
        ["app", "--data", "theirs", "--features", "category", "--hidden-dim", 4, "--prior", "none"],
        [BAD, "--data", BAD],
    ],
    "deploy certificate": [[BAD, "--host", BAD]],
    "deploy key": [[f"{BAD}/x"]],
    "deploy server": [[BAD, "--clients", 2], ["app", "--clients", 2, "--keys", BAD]],
    "deploy client": [
        ["--data", BAD, "--server", "localhost:1", "--insecure"],
        ["--data", "theirs.csv", *COLUMNS, "--server", BAD, "--insecure"],
        ["--data", "bad.csv", *COLUMNS, "--server", "localhost:1", "--insecure"],
    ],
    "tensorboard": [[BAD]],  # it goes on until Ctrl-C
}
# how many of a command's cases end in 0; of the others the first
SUCCEEDS = {
    **dict.fromkeys(("data list", "runs list", "doctor"), 3),
    **dict.fromkeys(("data sources", "algorithms", "data import csv"), 2),
    **dict.fromkeys(("data describe", "train", "audit", "check", "eval", "runs show"), 2),
    **dict.fromkeys(
        ("compare", "baseline", "export", "report", "runs share", "sweep", "runs bytes"), 2
    ),
    **{"train": 1, "predict": len(ALL)},
    **{f"data import {name}": 0 for name in READERS if name not in ("csv", "libcity")},
    **dict.fromkeys([f"deploy {n}" for n in ("certificate", "key", "server", "client")], 0),
    "tensorboard": 0,
}


def leaves(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[str]:
    """The words of every command under one."""
    if not isinstance(command, click.Group):
        yield " ".join(words)
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        yield from leaves(command.get_command(context, name), (*words, name))


def typed(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a data set, an evaluated run and its sweep, of hostile names alone."""
    folder = tmp_path_factory.mktemp("every")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_check_ins(Path("theirs.csv"), ALL)
        rows = Path("theirs.csv").read_text("utf-8").splitlines(keepends=True)
        Path("bad.csv").write_text("".join(rows[:3]) + f"{BAD},{BAD},{BAD},{BAD},9,{BAD}\n")
        Path("bad.toml").write_text(f"[loop]\n{json.dumps(BAD)} = {json.dumps(BAD)}\n")
        Path("folder").mkdir()
        Path("folder", BAD).write_text(BAD)
        Path("bad-images", BAD).mkdir(parents=True)
        pixels = np.random.default_rng(0)
        for number, name in enumerate(("=a \x1b[2J", "b \u202e\x07")):
            Path("images", name).mkdir(parents=True)
            for image in range(40):
                picture = pixels.integers(0, 100 + 100 * number, (16, 16), np.uint8)
                Image.fromarray(picture).save(Path("images", name, f"{image}.png"))
        for words in (
            ["data", "import", "csv", "theirs.csv", "--name", "theirs", *COLUMNS],
            ["train", *TRAINED, "--name", "gone", "--no-eval"],
            ["train", *TRAINED, "--name", "first"],
            ["audit", "--concept", "client", "--probe", "logistic"],
        ):
            result = typed(*words)
            assert result.exit_code == 0, result.output
        yield folder


def test_every_command_has_a_case():
    assert {*CASES} == {*leaves(main)}


@pytest.fixture(scope="module")
def printed(folder):
    """{command: list of (words, result)} of all cases, in their order."""
    (run,) = Path("log").glob("*-first")
    found = {}
    for command, cases in CASES.items():
        found[command] = []
        for case in cases:
            words = [*command.split(), *(str(word).replace("{run}", str(run)) for word in case)]
            found[command].append((words, typed(*words)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", CASES)
def test_what_is_printed(printed, command):
    for number, (words, result) in enumerate(printed[command]):
        assert not OBEYED.search(result.output), (words, result.output)
        assert "defect" not in result.output, (words, result.output)
        assert isinstance(result.exception, SystemExit | None), words
        succeeds = number < SUCCEEDS.get(command, 1)
        assert (result.exit_code == 0) == succeeds, (words, result.output)


@pytest.mark.slow
def test_what_is_written(folder, printed):
    """Every CSV, log and page of the folder, but those that were there before."""
    ids, tables = set(), 0
    for file in (path for path in folder.rglob("*") if path.is_file()):
        if file.suffix in (".csv", ".log", ".html", ".md", ".toml") and file.parent != folder:
            text = file.read_text("utf-8")
            assert not OBEYED.search(text), (file, OBEYED.search(text))
        if file.suffix != ".csv" or file.parent == folder:
            continue
        tables += 1
        with open(file, newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                ids |= {from_cell(row[name]) for name in row if name == "client_id"}
                for cell in (*row, *row.values()):
                    obeys = cell[:1] in ("=", "+", "-", "@", "\uff1d", "\t", "\r")
                    assert not obeys or NUMBER.fullmatch(cell), (file, cell)
    assert ids == {*ALL} and tables >= 12
