"""More than a thousand damaged files: none ends in a traceback, a hang, or a half-made folder."""

import gzip
import json
import os
import time
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedgru import config
from fedgru.core.errors import ConfigError, DataError
from fedgru.data import categories, datasets, parquet_files
from fedgru.data.reading import sources
from tests import mutated_files

NUMBERS = {
    "tsmc2014": 420,
    "csv": 420,
    **dict.fromkeys(mutated_files.PUBLISHED, 126),
    "categories": 168,
    "config.toml": 138,
    "config.yaml": 150,
    "passport.json": 120,
    "checkins.parquet": 160,
}
SLOWEST_S = 5.0  # of processor time; the slowest took 1.2 s


@pytest.mark.parametrize("kind", NUMBERS)
def test_damaged_files(kind, tmp_path, monkeypatch):
    # some 20 s of processor time for all kinds together: the number of files is the point
    mutated_files.limit_text(monkeypatch)
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    outcomes, slowest_s = mutated_files.run(kind, NUMBERS[kind], folder)
    assert slowest_s < SLOWEST_S
    assert sum(sum(found.values()) for found in outcomes.values()) == NUMBERS[kind]
    for way in (
        "zip that lies about its size",
        "gzip cut off",
        "zip that grows",
        "gzip that grows",
    ):
        if way in outcomes:
            assert set(outcomes[way]) == {"refused"}
    refused = sum(found["refused"] for found in outcomes.values())
    assert refused > 0.5 * NUMBERS[kind]


def test_the_same_files_every_time(monkeypatch):
    first = list(mutated_files.files("csv", 50))
    now = time.time()
    monkeypatch.setattr(
        time, "time", lambda: now + 1e6
    )  # gzip and zip can hold when they were made
    second = list(mutated_files.files("csv", 50))
    assert first == second
    assert len({data for _, _, data in first}) > 40
    assert sum(NUMBERS.values()) >= 1000


# single faults that were found, each with its whole message


def message(call, *args, kind=DataError, **kwargs):
    with pytest.raises(kind) as error:
        call(*args, **kwargs)
    return str(error.value)


def test_what_has_no_end_is_not_read(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        assert message(sources.read_text, path) == (
            f"{path} is a pipe or a device: write its content to a file first."
        )
    text = message(config.load, config_file="/dev/zero", kind=ConfigError)
    assert text == "/dev/zero holds more than 1,024 KiB: it is not a config file."
    assert message(sources.read_text, "a\0b") == "a\0b cannot be read: embedded null byte."
    link = tmp_path / "link"
    link.symlink_to(link)
    assert message(sources.read_text, link).startswith(f"{link} cannot be read: Too many ")


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    large = tmp_path / "large.txt"
    with open(large, "wb") as stream:
        stream.truncate((1 << 30) + 1)  # takes no room on the disk
    assert message(sources.read_text, large) == (
        "large.txt holds more than 1,024 MiB of text, which is the limit. Import a part of it."
    )


def test_a_bomb_is_refused_after_no_more_than_the_limit(tmp_path, monkeypatch):
    mutated_files.limit_text(monkeypatch)
    read = []
    own = gzip.GzipFile.read
    monkeypatch.setattr(
        gzip.GzipFile, "read", lambda self, size: read.append(len(out := own(self, size))) or out
    )
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(64 << 20)))
    assert bomb.stat().st_size < 100_000
    assert message(sources.read_text, bomb).startswith("bomb.gz holds more than 2 MiB of text")
    assert read == [(2 << 20) + 1]


def test_a_zip_never_writes_what_it_holds(tmp_path):
    file = tmp_path / "deep" / "er" / "a.zip"
    file.parent.mkdir(parents=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(mutated_files.DATA / "checkins.txt", "../../escaped.txt")
    datasets.import_file("tsmc2014", file, "made", tmp_path / "data", "raw")
    assert [p.name for p in tmp_path.rglob("*.txt")] == []


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "..", ".hidden", "a\0b", "", "x" * 300])
def test_a_name_does_not_leave_the_data_folder(tmp_path, name):
    source = mutated_files.DATA / "checkins.txt"
    before = sorted(tmp_path.rglob("*"))
    for call in (
        lambda: datasets.open_data_set(name, tmp_path),
        lambda: datasets.read_passport(name, tmp_path),
        lambda: datasets.import_file("tsmc2014", source, name, tmp_path, "raw"),
    ):
        with pytest.raises(DataError):
            call()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.toml", "a = " + "[" * 50_000, "it is nested too deep."),
        ("a.yaml", "[" * 50_000, "it is nested too deep."),
        ("a.toml", "[loop]\nrounds = " + "9" * 5000, "Exceeds the limit (4300 digits) "),
        ("a.yaml", "loop: {rounds: " + "9" * 5000 + "}", "Exceeds the limit (4300 digits) "),
        ("a.yaml", "loop: &x\n  rounds: *x\n", "line 2, column 11: alias *x is not accepted."),
        (
            "a.yaml",
            "loop: !!python/object/apply:os.abort []",
            "line 1, column 7: could not determine a ",
        ),
    ],
)
def test_configs_that_lie(tmp_path, name, text, why):
    file = tmp_path / name
    file.write_text(text)
    kind = {".toml": "TOML", ".yaml": "YAML"}[file.suffix]
    found = message(config.load, config_file=file, kind=ConfigError)
    assert found.startswith(f"{file} is not a {kind} file: {why}")


def test_a_long_value_is_shown_short():
    text = message(config.load, {"cell": "x" * 5000}, kind=ConfigError)
    assert text == f"`cell` is {'x' * 77}..., expected gru or lstm."


@pytest.fixture
def tiny(tmp_path):
    datasets.import_file("tsmc2014", mutated_files.DATA / "checkins.txt", "tiny", tmp_path, "raw")
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("lat_deg", 91.0, "row 0: lat_deg is 91.0, expected -90 to 90."),
        ("offset_min", 841, "row 0: offset_min is 841, expected -840 to 840."),
        (
            "time_s",
            -(2**62),
            f"row 0: time_s is {-(2**62)}, expected -62135596800 to 253402300799.",
        ),
    ],
)
def test_a_data_set_out_of_range(tiny, column, value, why):
    file = tiny / "checkins.parquet"
    table = pq.read_table(file)
    index = table.column_names.index(column)
    values = [value, *table[column].to_pylist()[1:]]
    pq.write_table(table.set_column(index, column, pa.array(values, table[column].type)), file)
    assert message(datasets.open_data_set, "tiny", tiny.parent) == f"{file}, {why}"


def test_a_data_set_with_missing_times(tiny):
    file = tiny / "checkins.parquet"
    table = pq.read_table(file)
    index = table.column_names.index("time_s")
    values = pa.array([None, *table["time_s"].to_pylist()[1:]], pa.int64())
    pq.write_table(table.set_column(index, "time_s", values), file)
    assert message(datasets.open_data_set, "tiny", tiny.parent) == (
        f"{file}, column 'time_s' has missing values. Import the data set again."
    )


def test_a_parquet_bomb_is_not_unpacked(tiny, monkeypatch):
    # 3 million rows in less than 100 KiB; what the passport does not speak of is not read
    file = tiny / "checkins.parquet"
    pq.write_table(pa.table({"time_s": np.zeros(3_000_000, np.int64)}), file)
    assert file.stat().st_size < 100_000
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_: pytest.fail("it was unpacked"))
    assert message(datasets.open_data_set, "tiny", tiny.parent) == (
        f"{file} has 3,000,000 rows, but passport.json expects 6. Import the data set again."
    )
    passport = json.loads((tiny / "passport.json").read_text())
    passport["counts"]["check_ins"] = 3_000_000
    (tiny / "passport.json").write_text(json.dumps(passport))
    monkeypatch.setattr(parquet_files, "MAX_CHECK_INS", 2_000_000)
    assert message(datasets.open_data_set, "tiny", tiny.parent).startswith(
        f"{file} unpacks to 3,000,000 rows and "
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"counts": {}}, "counts.check_ins: field required"),
        ({"fingerprint": "x"}, "fingerprint: string should match pattern '^[0-9a-f]{64}$'"),
        ({"ledger": [1]}, "ledger.0: input should be a valid dictionary or instance of _line"),
        ({"span": None}, "span: input should be a valid dictionary or instance of _span"),
    ],
)
def test_a_passport_that_lies(tiny, change, why):
    file = tiny / "passport.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    text = f"{file} is damaged: {why}. Import the data set again."
    assert message(datasets.open_data_set, "tiny", tiny.parent) == text
    assert message(datasets.list_data_sets, tiny.parent) == text


def test_a_category_table_with_a_cell_of_megabytes(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("name,category\n" + "x" * (1 << 20) + ",Food\n")
    assert message(categories.load_scheme, str(table)) == (
        "table.csv cannot be cut into rows: field larger than field limit (131072)."
    )
