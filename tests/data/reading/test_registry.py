"""Formats of check-in files that other packages bring, by entry points."""

import json
import sys

import pytest
from click.testing import CliRunner

from fedgru.cli.main import main
from fedgru.core.errors import ConfigError
from fedgru.data.datasets import import_file
from fedgru.data.reading.registry import READERS, find_reader, reader_names

# Rows like those of Gowalla: user, time, latitude, longitude, venue; no header, no category.
SOURCE = """
from fedgru.data.reading.base import SKIP_BAD_ROWS, Option, Reader
from fedgru.data.reading.rows import read_rows
from fedgru.data.reading.sources import open_text, split_rows

FIELDS = ("user", "time", "latitude", "longitude", "venue")


def read(path, options):
    def pick(columns):
        fields = dict(zip(FIELDS, columns))
        if options["northern"]:
            del fields["latitude"], fields["longitude"]
        return fields, {}

    with open_text(path) as text:
        return read_rows(
            text.source,
            split_rows(text, len(FIELDS), options["cut_at"], quoted=False),
            pick,
            time_layout="iso8601",
            delimiter=options["cut_at"],
            skip_bad_rows=options["skip_bad_rows"],
            settings={"cut_at": options["cut_at"]},
        )


GOWALLA = Reader(
    name="gowalla",
    help="Import FILE in the layout of Gowalla.",
    read=read,
    options=(
        Option("cut_at", "Between fields.", default="\\t"),
        Option("northern", "Leave coordinates out.", type=bool, default=False),
        SKIP_BAD_ROWS,
    ),
)
NOT_ONE = {"name": "gowalla"}
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a package with these entry points on the path; call it with their lines."""

    def put(*lines, name="far-readers"):
        folder = tmp_path / f"site-{name}"
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(["[fedgru.readers]", *lines, ""]))
        (folder / "far_readers.py").write_text(SOURCE)
        monkeypatch.syspath_prepend(folder)

    yield put
    sys.modules.pop("far_readers", None)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "gowalla.txt"
    rows = ["7|2010-10-19T23:55:27Z|30.25|-97.75|v1", "7|2010-10-18T22:17:43Z|30.5|-97.5|v2"]
    path.write_text("\n".join([*rows, "7|soon|30.5|-97.5|v2"]))
    return path


def invoke(*words, code):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def test_a_reader_of_another_package_imports_by_the_command_line(package, file, tmp_path):
    package("gowalla = far_readers:GOWALLA")
    words = ("data", "import", "gowalla", file, "--name", "g", "--data-dir", tmp_path / "data")
    assert invoke(*words, "--cut-at", "|", code=1).stderr == (
        "Error: gowalla.txt, row 3: time is 'soon', expected a date and time like ISO 8601 "
        "('2012-04-03T18:00:09Z').\n1 bad row in all; --skip-bad-rows drops and counts bad rows.\n"
    )
    result = invoke(*words, "--cut-at", "|", "--skip-bad-rows", code=0)
    assert result.stdout.splitlines()[0] == "g: 2 check-ins of 1 user at 2 venues"
    assert "  read as      gowalla, UTF-8, times as ISO 8601" in result.stdout.splitlines()
    passport = json.loads((tmp_path / "data/g/passport.json").read_text("utf-8"))
    assert passport["source"]["kind"] == "gowalla"
    assert passport["settings"] == {"cut_at": "|"}
    # 1287440263 is 2010-10-18 22:17:43 UTC, the second row: rows are put in order of time
    data_set = import_file(
        "gowalla", file, "h", tmp_path / "data", cut_at="|", northern=True, skip_bad_rows=True
    )
    assert data_set.check_ins.time_s.tolist() == [1287440263, 1287532527]
    assert data_set.check_ins.venue.values == ("v2", "v1")
    assert data_set.passport["counts"]["check_ins"] == 2


def test_formats_are_listed_with_a_line_of_help(package):
    assert reader_names() == sorted(READERS)
    package("gowalla = far_readers:GOWALLA")
    assert reader_names() == sorted([*READERS, "gowalla"])
    listed = invoke("data", "import", "--help", code=0).stdout.split("Commands:\n")[1]
    lines = listed.splitlines()
    assert "  gowalla    Import FILE in the layout of Gowalla." in lines
    assert "  tsmc2014   Import FILE in the layout of TSMC2014." in lines


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "gowalla = far_readers_misspelt:GOWALLA",
            "far_readers_misspelt:GOWALLA of the package far-readers (fedgru.readers) cannot be "
            "loaded: ModuleNotFoundError: No module named 'far_readers_misspelt'. Upgrade the "
            "package, or uninstall it.",
        ),
        (
            "gowalla = far_readers:NOT_ONE",
            "far_readers:NOT_ONE of the package far-readers (fedgru.readers) is a dict, expected a "
            "Reader.",
        ),
        (
            "brightkite = far_readers:GOWALLA",
            "far_readers:GOWALLA of the package far-readers (fedgru.readers) is called 'gowalla', "
            "but its entry point 'brightkite'.",
        ),
        (
            "csv = far_readers:GOWALLA",
            "the package far-readers brings a reader 'csv' (fedgru.readers), which fedgru has "
            "itself. Uninstall the package.",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_named(package, line, text):
    package(line)
    assert invoke("data", "import", "--help", code=1).stderr == f"Error: {text}\n"
    assert find_reader("csv") is READERS["csv"]  # what comes with fedgru needs no other package


def test_two_packages_with_one_format(package):
    package("gowalla = far_readers:GOWALLA")
    package("gowalla = far_readers:GOWALLA", name="near-readers")
    with pytest.raises(ConfigError) as error:
        find_reader("gowalla")
    assert str(error.value) == (
        "the packages near-readers and far-readers both bring 'gowalla' (fedgru.readers). "
        "Uninstall one of them."
    )


def test_unknown_formats_and_options(tmp_path):
    def message(*args, **options):
        with pytest.raises(ConfigError) as error:
            import_file(*args, **options)
        return str(error.value)

    assert message("xls", "x", "x", tmp_path) == (
        f"there is no format 'xls', only {', '.join(sorted(READERS))}."
    )
    assert message("tsmc2014", "x", "x", tmp_path, keep=["a"]) == (
        "keep is not an option of the format tsmc2014, expected skip_bad_rows."
    )
    assert message("csv", "x", "x", tmp_path) == ("columns is missing: the format csv needs it.")
    result = invoke("data", "import", "xls", "x", code=2)
    assert result.stderr.splitlines()[-1] == "Error: No such command 'xls'."
