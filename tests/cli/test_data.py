import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fedgru.cli.data import data
from fedgru.core.errors import DataError
from fedgru.data.reading.registry import READERS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"


def run(*args, code=0):
    result = CliRunner().invoke(data, [str(arg) for arg in args])
    if result.exit_code != code or (result.exception and code == 0):
        raise AssertionError(result.output) from result.exception
    return result


def without_quality(text):
    """What describe prints less what an import does not: plots, counts and warnings."""
    begin, end = text.index("Check-ins from"), text.index("Rows changed or dropped")
    return text[:begin] + text[end:]


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDGRU_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_import_tsmc2014_prints_what_it_found(data_dir):
    result = run("import", "tsmc2014", DATA / "checkins_latin1.txt", "--name", "tiny")
    assert result.stdout == (
        "tiny: 6 check-ins of 2 users at 4 venues\n"
        "\n"
        "  source          checkins_latin1.txt, 6 rows\n"
        "  read as         tsmc2014, Latin-1, times as TSMC2014\n"
        "  time            2012-04-03 18:00:09 to 2012-11-12 03:00:00 UTC\n"
        "  local clock     UTC-04:00 (5), UTC-05:00 (1)\n"
        "  categories      3 (coarse)\n"
        "  commonest       Home 50.0%, Cafe 33.3%, Park 16.7%\n"
        "  raw categories  3\n"
        "  latitude        40.7000 to 40.8000\n"
        "  longitude       -74.0000 to -73.9000\n"
        "\n"
        "Check-ins per user (mean 3.0)\n"
        "  min  10%  20%  30%  40%  median  60%  70%  80%  90%  max\n"
        "    3    3    3    3    3       3    3    3    3    3    3\n"
        "\n"
        "Rows changed or dropped at import\n"
        "  dropped   0   0.0%\n"
        "  repaired  0   0.0%\n"
        "  missing   1  16.7%  category id is empty   row 3\n"
        "  missing   1  16.7%  coordinates are empty  row 3\n"
    )
    assert result.stderr == f"Saved as {data_dir}/tiny.\n"
    assert without_quality(run("describe", "tiny").stdout) == result.stdout


def test_import_csv(data_dir, tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("who\tplace\twhen\nann\thome\t1333476009\nann\t\t1\n", encoding="utf-8")
    columns = ["--column", "user=who", "--column", "venue=place", "--column", "time=when"]
    result = run("import", "csv", path, "--name", "v", *columns, "--skip-bad-rows")
    lines = result.stdout.splitlines()
    assert lines[0] == "v: 1 check-in of 1 user at 1 venue"
    assert lines[3] == "  read as      csv, UTF-8, times as Unix seconds"
    assert lines[6] == "  categories   none"
    assert lines[-1] == "  dropped   1  50.0%  venue is empty  row 3"
    assert result.stderr == (
        "Note: no row has an offset from UTC, so local time is UTC. If it is not, give "
        f"--offset MINUTES or --column offset=NAME.\nSaved as {data_dir}/v.\n"
    )
    again = ["--overwrite", "--delimiter", "tab", "--offset", "-300", "--skip-bad-rows"]
    result = run("import", "csv", path, "--name", "v", *columns, *again)
    assert "  local clock  UTC-05:00 (1)" in result.stdout.splitlines()
    assert result.stderr == f"Saved as {data_dir}/v.\n"


def test_import_csv_shows_what_it_kept(tmp_path):
    path = tmp_path / "v.csv"
    rows = ["who,place,when,faith,pay", "ann,home,1333476009,sikh,", "bob,bar,1333476010,none,"]
    path.write_text("\n".join([*rows, "ann,bar,1333476011,sikh,", "cy,bar,1333476012,,"]))
    columns = ["--column", "user=who", "--column", "venue=place", "--column", "time=when"]
    result = run(
        *("import", "csv", path, "--name", "v", *columns, "--offset", 0),
        *("--keep", "pay", "--keep", "faith"),
    )
    lines = result.stdout.splitlines()
    # of 4 check-ins two are of a sikh, one of none, one of nobody knows what
    at = lines.index("  categories   none")
    assert lines[at + 1 : at + 4] == [
        "  kept pay     empty",
        "  kept faith   2 values: sikh 50.0%, none 25.0%",
        "",
    ]
    assert lines[-2:] == [
        "  missing   4  100.0%  pay is empty    rows 2, 3, 4, 5",
        "  missing   1   25.0%  faith is empty  row 5",
    ]
    assert without_quality(run("describe", "v").stdout) == result.stdout
    facts = json.loads(run("describe", "v", "--json").stdout)
    assert facts["own"] == {"pay": 0, "faith": 2}
    assert facts["commonest_own"]["faith"] == [["sikh", 2], ["none", 1]]


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        (["user"], "'user', expected FIELD=NAME such as user=user_id."),
        (["user="], "'user=', expected FIELD=NAME such as user=user_id."),
        (["user=a", "user=b"], "user is given twice."),
    ],
)
def test_columns_that_cannot_be_read(pairs, text):
    options = [word for pair in pairs for word in ("--column", pair)]
    result = run("import", "csv", "x.csv", "--name", "v", *options, code=2)
    assert result.stderr.splitlines()[-1] == f"Error: Invalid value for '--column': {text}"


def test_errors_are_left_to_the_program(data_dir):
    result = run("import", "tsmc2014", DATA / "empty.txt", "--name", "x", code=1)
    assert isinstance(result.exception, DataError)
    assert str(result.exception) == "empty.txt is empty."
    assert not data_dir.exists()


def test_describe_without_a_name_says_what_it_uses():
    result = run("describe")
    assert result.stdout.startswith("embedded: ")
    assert "best possible accuracy" in result.stdout
    assert result.stderr == "Using the embedded data set, a made-up city.\n"
    facts = json.loads(run("describe", "--json").stdout)
    assert facts["name"] == "embedded"
    assert 0 < facts["best_possible_accuracy"] < 1


def test_list(data_dir):
    run("import", "tsmc2014", DATA / "checkins.txt", "--name", "a-long-name")
    header, embedded, tiny = run("list").stdout.splitlines()
    assert header.split() == ["name", "check-ins", "users", "venues", "first", "last", "source"]
    assert embedded.split()[0] == "embedded"
    words = "a-long-name 6 2 4 2012-04-03 2012-11-12 checkins.txt"
    assert tiny.split() == words.split()
    assert tiny.index("6") == header.index("check-ins") + len("check-ins") - 1
    names = [passport["name"] for passport in json.loads(run("list", "--json").stdout)]
    assert names == ["embedded", "a-long-name"]


def test_synth(data_dir):
    args = ["synth", "--name", "town", "--users", 4, "--checkins-per-user", 20, "--seed", 3]
    result = run(*args)
    title, *lines = result.stdout.splitlines()
    assert " of 4 users at " in title
    facts = json.loads(run("describe", "town", "--json").stdout)
    assert facts["settings"]["seed"] == 3
    best = f"  best possible accuracy  {facts['best_possible_accuracy']:.4f} over all check-ins"
    assert best in lines
    assert isinstance(run(*args, code=1).exception, DataError)
    run(*args, "--overwrite")


def commands(group, *names):
    """Every command and group below, as typed."""
    yield names, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *names, name)


@pytest.mark.parametrize(
    "command", [pytest.param(command, id=" ".join(names)) for names, command in commands(data)]
)
def test_help_ends_with_an_example_that_works(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    mark, title, *lines = command.epilog.splitlines()
    assert (mark, title) == ("\b", "Example:")
    program, group, *args = shlex.split(" ".join(lines).replace("\\ ", " "))
    assert (program, group) == ("fedgru", "data")
    if "--to" in args:  # else it would stay in the repository
        args[args.index("--to") + 1] = tmp_path / "out"
    run(*args)
    help_text = command.get_help(click.Context(command, info_name="x"))
    assert [line.strip() for line in help_text.splitlines()][-len(lines) :] == [
        line.strip() for line in lines
    ]


def test_importing_the_commands_needs_only_click():
    code = "import sys, fedgru.cli.data; print({'numpy', 'pandas', 'pyarrow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_check(data_dir, monkeypatch):
    run("import", "tsmc2014", DATA / "checkins.txt", "--name", "tiny")
    line = f"{data_dir}/tiny: 6 check-ins, fingerprint "
    fingerprint = json.loads(run("describe", "tiny", "--json").stdout)["fingerprint"]
    expected = f"{line}{fingerprint[:12]}, intact.\n"
    assert run("check", "tiny").stdout == run("check").stdout == expected
    monkeypatch.setattr("fedgru.data.datasets.MAPPED_FROM", 6)
    run("describe", "tiny")
    first, second = run("check", "tiny").stdout.splitlines()
    assert first.startswith(line)
    assert second == f"{data_dir}/tiny/columns: intact."


def test_sources_name_a_reader_each_and_every_reader_has_one():
    found = json.loads(run("sources", "--json").stdout)
    assert {one["format"] for one in found} == set(READERS) - {"csv"}
    by_name = {one["name"]: one for one in found}
    assert by_name["Gowalla"]["counts"] == (
        "6,442,890 check-ins, 196,591 users, 950,327 friendships"
    )
    assert all(one["address"].startswith("https://") for one in found)
    text = run("sources").stdout
    assert "Weeplaces\n  import by  fedgru data import weeplaces\n" in text
    assert "  SHA-256    unknown" in text


def test_a_format_without_clock_says_so(tmp_path):
    file = tmp_path / "g.txt"
    file.write_text("7\t2010-10-19T23:55:27Z\t30.25\t-97.75\tv1\n")
    words = ("import", "snap", file, "--name", "g", "--data-dir", tmp_path)
    note = "Note: no row has an offset from UTC, so local time is UTC. If it is not, give --offset "
    assert f"{note}MINUTES.\n" in run(*words).stderr
    assert "Note" not in run(*words, "--overwrite", "--offset", 0).stderr
