"""JSON files of a run folder with a value missing or of another type: never a defect of fedgru."""

import copy
import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedgru.cli.main import main
from fedgru.core.errors import RunError
from fedgru.runs.folder import RunFolder

SMALL = ["--hidden-dim", 4, "--batch-size", 2, "--seq-len", 5, "--threads", 1, "--rounds", 1]
VALUES = (
    *(None, True, 0, -1, 1.5, 10**18, float("nan"), "", "a text", [], [None], [1, 2, 3], {}),
    {"a": 1},
)
QUICK = [["runs", "list"], ["runs", "show"], ["runs", "list", "--json"]]
QUICK += [["compare", "{run}", "{run}"], ["runs", "share", "--output", "copy", "--overwrite"]]
SLOW = [["report"], ["predict", "--client", "1"], ["eval", "--fine-tune", "1"], ["check"]]
SLOW += [["export", "--to", "weights", "--output", "out", "--overwrite"]]
SLOW += [["audit", "--concept", "client", "--probe", "logistic"], ["train", "--resume", "it"]]
SLOW += [["agnostic", "pareto", "{run}", "--concept", "client"]]


def typed(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An evaluated and audited run; the current folder is the one with log/ and data/."""
    folder = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            ["data", "synth", "--name", "hamlet", "--users", 4, "--checkins-per-user", 40],
            ["train", "--data", "hamlet", "--prior", "none", "--name", "it", *SMALL],
            ["audit", "--concept", "client", "--probe", "logistic"],
        ):
            result = typed(*words)
            assert result.exit_code == 0, result.output
        (path,) = Path("log").iterdir()
        yield path


def places(value, path=()):
    """The path of every value in JSON, of a dict's or list's before those in it."""
    found = [path] if path else []
    inside = value.items() if isinstance(value, dict) else []
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, one in inside:
        found += places(one, (*path, key))
    return found


def changed(value, path, new=None, removes=False):
    """A copy in which the value at a path is another, or missing."""
    whole = copy.deepcopy(value)
    inside = whole
    for key in path[:-1]:
        inside = inside[key]
    if removes:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return whole


def try_all(run, name, commands, draws, each):
    """Damage a file, at `each` drawn places in each way that there is, and run the commands."""
    file = run / name
    content = file.read_text()
    whole, kept = json.loads(content), run.with_name("kept")
    shutil.copytree(run, kept)
    count = 0
    ways = [(path, new, False) for path in places(whole) for new in VALUES]
    ways += [(path, None, True) for path in places(whole)]
    if each is not None:
        ways = draws.sample(ways, min(each, len(ways)))
    for path, new, removes in ways:
        for command in commands:
            file.write_text(json.dumps(changed(whole, path, new, removes)))
            result = typed(*(word.replace("{run}", str(run)) for word in command))
            count += 1
            told = (name, path, new, removes, command, result.output)
            assert "defect" not in result.output, told
            assert isinstance(result.exception, SystemExit | None), told
            if command[0] not in ("runs", "compare", "report", "predict"):
                shutil.rmtree(run)
                shutil.copytree(kept, run)
            file.write_text(content)
    shutil.rmtree(kept)
    return count


@pytest.mark.parametrize("name", ["run.json", "test.json", "audit.json"])
def test_damaged_values(run, name):
    assert try_all(run, name, QUICK, random.Random(1), 24) == 24 * len(QUICK)
    assert try_all(run, name, SLOW[:1], random.Random(2), 4) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "test.json", "audit.json"])
def test_more_damaged_values(run, name):
    assert try_all(run, name, QUICK, random.Random(3), 300) == 300 * len(QUICK)
    assert try_all(run, name, SLOW, random.Random(4), 12) == 12 * len(SLOW)


@pytest.mark.parametrize(
    "name, path, new, said",
    [
        ("run.json", ("best_round",), "one", "best_round is 'one', expected a whole number."),
        ("run.json", ("started",), 5, "started is 5, expected a text."),
        ("run.json", ("coverage", 0, "clients"), None, "coverage/1/clients is None, expected a"),
        ("test.json", ("test/acc@1/micro",), "high", "test/acc@1/micro is 'high', expected a num"),
        ("test.json", ("intervals", "test/loss/micro"), [1], "/micro is [1], expected a list of"),
        ("audit.json", ("concepts", "client", "floor"), [], "client/floor is [], expected a num"),
    ],
)
def test_the_message_names_the_value(run, name, path, new, said):
    file = run / name
    content = file.read_text()
    try:
        file.write_text(json.dumps(changed(json.loads(content), path, new)))
        with pytest.raises(RunError) as error:
            for read in (RunFolder(run).facts, RunFolder(run).test, RunFolder(run).audit):
                read()
        assert str(error.value).startswith(f"{file} is damaged, ")
        assert said in str(error.value)
    finally:
        file.write_text(content)


def test_what_is_missing_is_named_when_it_is_asked_for(run):
    file = run / "test.json"
    content = file.read_text()
    try:
        file.write_text(json.dumps(changed(json.loads(content), ("gains",), removes=True)))
        found = RunFolder(run).test()
        assert found.get("gains") is None
        with pytest.raises(RunError) as error:
            found["gains"]
        assert str(error.value) == f"{file} is damaged, it has no gains."
    finally:
        file.write_text(content)
