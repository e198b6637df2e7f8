"""Every command's help ends in an example, and all examples run, on the embedded data."""

import glob
import gzip
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fedgru.cli.main import main
from tests import mutated_files

ROOT = Path(__file__).parents[2]
# later commands read what earlier ones made; what is not named here comes before the last
ORDER = ("data", "baseline", "train", "eval", "audit", "OTHERS", "runs")
# Full training takes minutes: where a command has one of these options, it is added. The rest of
# the example runs as it is written.
SMALL = {
    "rounds": 1,
    "hidden_dim": 8,
    "users": 6,
    "threads": 1,
    "trials": 2,
    "probes": "logistic",
    "repeats": 1,
    "epochs": 1,
    "draws": 8,
}
SMALL_OF = {  # where only some of them are taken
    "data": (),  # what is made there is small as it is
    "baseline": ("users",),  # counting has no rounds
}
# {file of an example: its rows}, small files in the published layouts
PUBLISHED = {
    "Geolife/Data/000/Trajectory/20081023.plt": mutated_files.PUBLISHED["geolife"],
    "NYC_train.csv": mutated_files.PUBLISHED["getnext"],
    "weeplace_checkins.csv": mutated_files.PUBLISHED["weeplaces"],
    "foursquare_tky/foursquare_tky.dyna": mutated_files.PUBLISHED["libcity"],
    "foursquare_tky/foursquare_tky.geo": mutated_files.PUBLISHED["libcity places"],
    "loc-gowalla_totalCheckins.txt.gz": mutated_files.PUBLISHED["snap"],
    "loc-gowalla_edges.txt.gz": ["0\t1", "1\t0"],
    "dataset_TIST2015/dataset_TIST2015_Checkins.txt": mutated_files.PUBLISHED["tist2015"],
    "dataset_TIST2015/dataset_TIST2015_POIs.txt": mutated_files.PUBLISHED["tist2015 places"],
    "dataset_TIST2015/dataset_TIST2015_Cities.txt": ["Istanbul\t41.5\t28.1\tTR\tTurkey\tOther"],
}
# They run until they are stopped, or wait for others, and have tests of their own.
SERVERS = (("tensorboard",), ("deploy", "server"), ("deploy", "client"))
NEED_FLOWER = (("deploy", "certificate"), ("deploy", "key"))


def context_of(command):
    """A context as the program makes it: Click keeps the help option that the first asks for."""
    return click.Context(command, **main.context_settings)


def walk(command=main, words=()):
    """Yield (words, command) of every command and group below one, the groups first."""
    yield words, command
    if isinstance(command, click.Group):
        context = context_of(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*words, name))


COMMANDS = dict(walk())


@pytest.fixture(autouse=True)
def help_options_as_the_program_makes_them():
    """Click keeps a command's first help option, and other tests call commands without `main`."""
    for command in COMMANDS.values():
        command._help_option = None


def example(words):
    """The words of the example at the end of a command's help, without `fedgru`."""
    result = CliRunner().invoke(main, [*words, "-h"], prog_name="fedgru")
    assert result.exit_code == 0, result.output
    *_, text = result.stdout.split("Example:")
    lines = [line.strip() for line in text.strip().splitlines()]
    assert all(line.endswith("\\") for line in lines[:-1]), f"{words}: more than an example"
    program, *rest = shlex.split(" ".join(line.removesuffix("\\") for line in lines))
    assert program == "fedgru"
    return rest


def test_the_walk_finds_the_commands():
    assert {(), ("train",), ("data", "import", "csv"), ("agnostic", "pareto")} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "fedgru")
def test_every_help_ends_in_an_example_of_the_command(words):
    found = example(words)
    assert found[: len(words)] == list(words)
    both = [CliRunner().invoke(main, [*words, flag]).stdout for flag in ("-h", "--help")]
    assert both[0] == both[1]
    text = both[0].split("Example:")[0]
    assert re.search(r"^  \S", text, re.MULTILINE), "no line that says what it does"


@pytest.mark.slow
def test_every_example_runs(tmp_path, monkeypatch):
    """About 50 seconds of a core: federated training and the images' networks compile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    for name, rows in PUBLISHED.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{row}\n" for row in rows).encode()
        file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)
    leaves = [words for words, command in COMMANDS.items() if not isinstance(command, click.Group)]
    leaves.sort(key=lambda words: ORDER.index(words[0] if words[0] in ORDER else "OTHERS"))
    for words in leaves:
        if words in SERVERS or (words in NEED_FLOWER and find_spec("flwr") is None):
            continue
        if words == ("train",):  # examples of other commands read a run of the default name too
            run(words, ["train", "--no-eval"])
            run(("eval",), ["eval"])
        run(words, example(words))


def run(words, typed):
    """Run a command as typed, made small."""
    taken = SMALL_OF.get(words[0], SMALL)
    for param in COMMANDS[words].get_params(context_of(COMMANDS[words])):
        if param.name in SMALL and param.name in taken:
            typed = [*typed, param.opts[0], str(SMALL[param.name])]
    # as a shell does it: a pattern becomes the paths that it fits
    typed = [path for word in typed for path in (sorted(glob.glob(word)) or [word])]
    result = CliRunner().invoke(main, typed, prog_name="fedgru")
    assert result.exit_code == 0, f"fedgru {shlex.join(typed)}\n{result.output}"
    assert result.stdout, f"fedgru {shlex.join(typed)} says nothing"


def test_version():
    result = CliRunner().invoke(main, ["--version"], prog_name="fedgru")
    assert re.fullmatch(r"fedgru, version \d+\.\d+\.\d+\n", result.stdout)
