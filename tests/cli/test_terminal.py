"""What stands between data and the terminal, and output that cannot be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fedgru
from fedgru.cli.main import main
from fedgru.core.visible import encodable, in_one_line, visible
from tests.hostile import COLUMNS, NAMES, OBEYED, write_check_ins

SMALL = ["--hidden-dim", 4, "--batch-size", 2, "--seq-len", 5, "--threads", 1, "--rounds", 1]


def typed(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder with a data set and an evaluated run of people and places with hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    write_check_ins(folder / "theirs.csv", NAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            ["data", "import", "csv", "theirs.csv", "--name", "theirs", *COLUMNS],
            ["train", "--data", "theirs", *SMALL],
            ["audit", "--concept", "client", "--probe", "logistic"],
        ):
            result = typed(*words)
            assert result.exit_code == 0, result.output
            assert not OBEYED.search(result.output), result.output
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["data", "describe", "theirs"],
        ["data", "list"],
        ["data", "check"],
        ["eval"],
        ["check"],
        ["compare", "{run}", "{run}"],
        ["runs", "list"],
        ["runs", "show"],
        *(["predict", "--client", name, "--top", "9"] for name in NAMES),
        ["predict", "--client", "nobody \x1b[2J"],
        ["runs", "show", "no \x1b[2J run"],
        ["train", "--data", "no \x1b[2J set"],
        ["predict", "--client", NAMES[0], "--history", "no \x1b[2J.csv"],
        ["export", "--to", "weights", "--output", "out \x1b[2J", "--overwrite"],
    ],
)
def test_no_command_prints_what_a_terminal_obeys(hostile, monkeypatch, words):
    monkeypatch.chdir(hostile)
    (run,) = Path("log").iterdir()
    words = [word.replace("{run}", str(run)) for word in words]
    result = typed(*words)
    assert not OBEYED.search(result.output), result.output
    assert "defect" not in result.output, result.output
    if words[0] in ("data", "eval", "predict", "runs") and "--json" not in words:
        plain = typed(*words, "--json")
        if plain.exit_code == 0:
            assert not OBEYED.search(plain.output), plain.output


def test_json_means_the_same_characters(hostile, monkeypatch):
    monkeypatch.chdir(hostile)
    found = json.loads(typed("predict", "--client", NAMES[4], "--top", 99, "--json", "-q").stdout)
    assert found["user"] == NAMES[4]
    assert {row["value"] for row in found["top"]} == {*NAMES}


def test_a_name_of_two_lines_is_shown_in_one(hostile, monkeypatch):
    monkeypatch.chdir(hostile)
    lines = typed("predict", "--client", "two\nlines", "--top", 9, "-q").stdout.splitlines()
    assert lines[0].startswith("two\\u000alines after 40 check-ins, the last at ")
    assert len(lines) == 10
    assert not any(line.startswith("lines") for line in lines)


def test_the_log_of_a_run_shows_them_too(hostile):
    (run,) = (hostile / "log").iterdir()
    assert not OBEYED.search((run / "run.log").read_text("utf-8"))


def test_what_is_made_visible():
    assert visible("a\tb\x07\x7f\x9b\u2066c\nd é 中 \U0001f355") == (
        "a\\u0009b\\u0007\\u007f\\u009b\\u2066c\nd é 中 \U0001f355"
    )
    assert visible("half of a pair \udc80") == "half of a pair \\udc80"
    assert in_one_line("a\nb") == "a\\u000ab"
    # U+1F355 is D83C DF55 in UTF-16
    assert encodable("é \U0001f355", "latin-1") == "é \\ud83c\\udf55"
    assert encodable("é \U0001f355", "ascii") == "\\u00e9 \\ud83c\\udf55"
    assert encodable("é \U0001f355", "utf-8") == "é \U0001f355"


def program(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "fedgru", *words], stderr=subprocess.PIPE, **options
    )


@pytest.mark.parametrize(
    "words", [["runs", "list"], ["runs", "list", "--json"], ["--help"], ["data", "list"]]
)
def test_a_full_disk_under_the_output_is_one_line(hostile, words):
    with open("/dev/full", "w") as full:
        done = program(*words, stdout=full, cwd=hostile)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
    assert done.stderr.endswith(b": No space left on device.\n")
    with open("/dev/full", "w") as full:  # nowhere to say it
        done = subprocess.run(
            [sys.executable, "-m", "fedgru", *words], stdout=full, stderr=full, cwd=hostile
        )
    assert done.returncode == 1


def test_a_reader_that_goes_away_is_no_error(hostile):
    reading, writing = os.pipe()
    os.close(reading)
    done = program("data", "describe", "theirs", stdout=writing, cwd=hostile)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_all_characters(hostile, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    options = {"stdout": subprocess.PIPE, "cwd": hostile, "env": environment}
    done = program("predict", "--client", NAMES[8], "--top", "9", **options)
    assert done.returncode == 0, done.stderr
    cafe = "café" if encoding == "latin-1" else "caf\\u00e9"
    assert f"{cafe} \\ud83c\\udf55 after 40 check-ins" in done.stdout.decode(encoding)
    done = program("predict", "--client", NAMES[8], "--top", "9", "--json", **options)
    assert json.loads(done.stdout.decode(encoding))["user"] == NAMES[8]


def test_every_command_prints_through_the_one_function():
    """`echo` of fedgru/cli/options.py; Click's own is there, and where no output can be written."""
    folder = Path(fedgru.__file__).parent
    found = {
        str(file.relative_to(folder)): file.read_text("utf-8").count("click.echo(")
        for file in folder.rglob("*.py")
    }
    assert {name: n for name, n in found.items() if n} == {"cli/options.py": 1, "cli/main.py": 1}
