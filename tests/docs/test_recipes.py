"""docs/recipes.md, followed to the letter: each block goes where it says, each command is run."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import fedgru
from fedgru.agnostic import protection
from fedgru.runs import listing
from fedgru.task.own_features import ClientCheckIns
from tests.conftest import make_check_ins
from tests.engines.test_engines import CASES

ROOT = Path(__file__).parents[2]
KEEPS = "Clients that keep something"
OWN = "As one of fedgru's own"
FEATURE = "A feature of fedgru's own"
NAMED = "Features and models by a name"
LATITUDES = [40.70, 40.71, 40.70, 40.72]
# pip builds with the setuptools that is here, and installs to a folder of the test
PIP = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"}
HEAD = re.compile(
    r"`(?P<path>[^`]+)`, (?:(?P<new>new file)|(?P<where>after|before|in place of) the line "
    r"`(?P<line>[^`]+)`):"
)


@dataclass(frozen=True)
class Block:
    """A block of a recipe: commands if it has no path, else text for a file.

    Attributes:
        text: of the block.
        path: of the file.
        where: after, before or in place of `line`; None for a new file.
        line: of the file, without its indentation.
    """

    text: str
    path: str | None = None
    where: str | None = None
    line: str | None = None


def blocks_of(text):
    """Return the blocks of a part of the page, in its order."""
    found = []
    fenced = re.findall(r"(?:^([^\n]*)\n\n)?^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.M)
    assert 2 * len(fenced) == text.count("```"), "a block that has no kind, or no end"
    for head, kind, block in fenced:
        match = HEAD.fullmatch(head)
        assert (match is None) == (kind == "sh"), f"a {kind} block is headed by {head!r}"
        if match is None:
            found.append(Block(block))
        else:
            found.append(Block(block, match["path"], match["where"], match["line"]))
    return found


def parts():
    """Return {heading: text below it}."""
    _, *found = re.split(r"^##+ (.*)\n", (ROOT / "docs/recipes.md").read_text("utf-8"), flags=re.M)
    return dict(zip(found[::2], found[1::2], strict=True))


def recipe(*headings):
    return [block for heading in headings for block in blocks_of(parts()[heading])]


def follow(blocks, folder, code=ROOT, **environment):
    """Follow blocks in a folder, with the fedgru that lies in `code`; return what was printed."""
    printed = []
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    kept |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(code),
        **environment,
    }
    for block in blocks:
        if block.path is not None:
            put(block, folder / block.path)
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", block.text], cwd=folder, env=kept, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    return "".join(printed)


def put(block, path):
    """Do to a file what a block says."""
    if block.where is None:
        assert not path.exists(), f"{block.path} is there already"
        path.write_text(block.text)
        return
    lines = path.read_text("utf-8").splitlines(keepends=True)
    places = [at for at, line in enumerate(lines) if line.strip() == block.line]
    assert len(places) == 1, f"{block.path} has {len(places)} times the line {block.line}"
    begin = places[0] + (block.where == "after")
    end = places[0] + (block.where != "before")
    path.write_text("".join([*lines[:begin], block.text, *lines[end:]]))


@pytest.fixture
def copy(tmp_path):
    """A folder with a copy of fedgru and its tests."""
    for name in ("fedgru", "tests"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def num_passed(printed):
    """How many tests passed in each run of pytest. One that fails ends its recipe."""
    return [int(number) for number in re.findall(r"^(\d+) passed", printed, re.M)]


def only_run(folder):
    (run,) = listing.all_runs(folder / "log")
    return run


@pytest.mark.slow
def test_an_algorithm_in_a_module_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where its module is
    printed = follow(recipe("An algorithm"), tmp_path)
    assert "a run that is stopped and resumed ends in the same bytes" in printed
    assert "it knows no correction of the gradient but FedProx's) equals reference" in printed
    assert "Any mean and server optimizer, with weight decay at the clients" in printed
    run = fedgru.open_run(log_dir=tmp_path / "log")
    assert "it knows no correction of the gradient" in run.facts["computes_with"]  # the client half
    start, end = protection.init_weights(run.task), run.weights("last")
    moved = np.sqrt(sum(np.square(end[name] - start[name]).sum() for name in start))
    assert moved == pytest.approx(0.1, abs=1e-5)  # MAX_NORM: the server half


@pytest.mark.slow
def test_clients_that_keep_something(tmp_path):
    printed = follow(recipe(KEEPS), tmp_path)
    assert " 1 passed in " in printed
    assert "  audited: the model that a new client starts with" in printed
    assert (only_run(tmp_path).path / "clients.sqlite").exists()
    page = (tmp_path / "half_now.html").read_text("utf-8")
    assert "Audited is the model that a new client starts with" in page


@pytest.mark.slow
def test_a_keras_model_of_ones_own(tmp_path):
    follow(recipe("A Keras model of your own"), tmp_path)
    assert "own_model:build" in (tmp_path / "own_model.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("right", "wrong", "seen"),
    [
        ("correction=Decay", "corection=Decay", "unexpected keyword argument 'corection'"),
        (
            "--algorithm clipped_decay:ClippedDecay",
            "--algorithm clipped_decay:ClippedDekay",
            r"Did you mean ClippedDecay\?",
        ),
    ],
)
def test_a_typo_in_a_block_is_seen(tmp_path, right, wrong, seen):
    rule, _, commands = recipe("An algorithm")
    _, _, last = commands.text.partition("fedgru train")
    blocks = [rule, replace(commands, text=f"fedgru train{last}")]
    assert sum(right in block.text for block in blocks) == 1
    blocks = [replace(block, text=block.text.replace(right, wrong)) for block in blocks]
    with pytest.raises(AssertionError, match=seen):
        follow(blocks, tmp_path)


def test_a_typo_in_a_head_is_seen(tmp_path):
    (tmp_path / "a.py").write_text("one = 1\ntwo = 2\n")
    text = "Then:\n\n`a.py`, after the line `{}`:\n\n```python\nmore = 3\n```\n"
    for line, message in (("ome = 1", "a.py has 0 times the line ome = 1"), ("one = 1", None)):
        (block,) = blocks_of(text.format(line))
        if message is None:
            put(block, tmp_path / "a.py")
        else:
            with pytest.raises(AssertionError, match=message):
                put(block, tmp_path / "a.py")
    assert (tmp_path / "a.py").read_text() == "one = 1\nmore = 3\ntwo = 2\n"
    with pytest.raises(AssertionError, match="a python block is headed by"):
        blocks_of(text.format("x").replace(", after", " after"))


def test_every_heading_is_followed_here():
    followed = {"An algorithm", KEEPS, OWN, "A reader", "A feature", NAMED, FEATURE, "A model"}
    followed |= {"A Keras model of your own", "An engine"}
    assert parts().keys() == followed
    assert all(recipe(heading) for heading in followed)


@pytest.mark.slow
def test_an_algorithm_of_fedgrus_own(copy):
    follow(recipe("An algorithm")[:1], copy, copy)
    printed = follow(recipe(OWN), copy, copy)
    assert num_passed(printed) == [1]
    facts = only_run(copy).facts()
    assert "it knows no correction of the gradient" in facts["computes_with"]
    assert "client_decay = 0.2" in (only_run(copy).path / "config.toml").read_text()


def test_a_reader_in_a_package_of_its_own(tmp_path):
    site, folder = tmp_path / "site", tmp_path / "package"
    folder.mkdir()
    path = os.pathsep.join(map(str, (ROOT, site)))
    printed = follow(recipe("A reader"), folder, path, PIP_TARGET=str(site), **PIP)
    assert "gowalla: 2 check-ins of 1 user at 2 venues" in printed.splitlines()
    passport = json.loads((folder / "data/gowalla/passport.json").read_text("utf-8"))
    assert passport["source"]["kind"] == "gowalla"


@pytest.mark.slow
def test_a_feature_in_a_module_of_its_own(tmp_path):
    printed = follow(recipe("A feature"), tmp_path)
    assert "12 checks: 12 ok." in printed
    described = json.loads((tmp_path / "exported/model.json").read_text("utf-8"))
    names = [one["name"] for one in described["inputs"]]
    own = ["km_from_home", "new_and_night_1", "new_and_night_2"]
    assert names == ["category", "clock_sin", "clock_cos", *own]
    # home is where two of the first three check-ins are; 0.01 degrees of latitude are 1.11 km
    sys.path.insert(0, str(tmp_path))
    try:
        import places
    finally:
        sys.path.remove(str(tmp_path))
    check_ins = make_check_ins(["a"] * 4, [None] * 4, ["h", "x", "h", "y"], lat_deg=LATITUDES)
    given = ClientCheckIns.of(check_ins, np.arange(4), "a")
    assert places.km_from_home(given).tolist() == pytest.approx([0, 1.112, 0, 2.224], abs=1e-3)
    assert places.new_and_night(given).tolist() == [[1, 1], [1, 1], [0, 1], [1, 1]]  # 0:00 to 3:00


def test_a_feature_and_a_model_by_name(tmp_path):
    site, folder = tmp_path / "site", tmp_path / "package"
    folder.mkdir()
    path = os.pathsep.join(map(str, (ROOT, site)))
    follow(recipe(NAMED), folder, path, PIP_TARGET=str(site), **PIP)
    config = (only_run(folder).path / "config.toml").read_text("utf-8")
    assert 'features = "category,weekend"' in config and 'model = "small-gru"' in config
    weights, _ = only_run(folder).load_weights("last")
    assert weights["gru/gru_cell/kernel"].shape == (12 + 1, 3 * 6)  # categories, weekend; gates


@pytest.mark.slow
def test_a_feature_of_fedgrus_own(copy):
    printed = follow(recipe(FEATURE), copy, copy)
    by_hand, streamed = num_passed(printed)
    assert by_hand == 2 and streamed >= 1
    # category, and sine and cosine of the hour
    described = json.loads((copy / "exported/model.json").read_text("utf-8"))
    names = [one["name"] for one in described["inputs"]]
    assert names == ["category", "hour_of_week_sin", "hour_of_week_cos"]
    assert described["inputs"][2]["what"] == (
        "cos of 2 pi times the hour_of_week's turn, in local time"
    )
    with np.load(copy / "exported/weights.npz") as weights:
        assert len(weights["numbers"]) == 2 and weights["numbers"].any(1).all()


@pytest.mark.slow
def test_a_model(copy):
    printed = follow(recipe("A model"), copy, copy)
    # the backward pass, the state carried, padding, Keras with and without a prior; the engines'
    assert num_passed(printed) == [5, 2]
    run = only_run(copy)
    assert "it knows no tanh" in run.facts()["computes_with"]
    weights, _ = run.load_weights("last")
    assert weights["recurrent"].shape == (8, 8) and weights["bias"].any()


@pytest.mark.slow
def test_an_engine(copy):
    printed = follow(recipe("An engine"), copy, copy)
    left_out = ("reversal", "candidates", "sessions")
    others = [case for case in CASES if case.split(",")[0] not in left_out]
    assert num_passed(printed) == [len(others)]
    same, steps = listing.all_runs(copy / "log")
    assert steps.facts()["computes_with"] == "stepwise"
    expected, found = same.rounds(), steps.rounds()
    assert expected.keys() == found.keys() and len(expected["round"]) == 2
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-4, nan_ok=True), name
    (expected, _), (found, _) = (run.load_weights("last") for run in (same, steps))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-4)
