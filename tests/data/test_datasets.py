import hashlib
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedgru.core.errors import DataError
from fedgru.data import synthetic
from fedgru.data.checkins import Coded
from fedgru.data.datasets import (
    EMBEDDED,
    import_file,
    list_data_sets,
    open_data_set,
    save_city,
    save_data_set,
)
from fedgru.data.passport import check_time_zone, describe, fingerprint
from fedgru.data.reading.tsmc2014 import read_tsmc2014
from fedgru.storage import folders

DATA = Path(__file__).parents[1] / "data"
FILE = DATA / "checkins.txt"
NYC = Path(__file__).parents[3] / "shared/data/nyc/dataset_TSMC2014_NYC.partial.txt.gz"
FACTS = {"source": {"kind": "test"}, "settings": {}, "categories": {"scheme": "raw"}}


def content(folder):
    """Every path below a folder, with the bytes of the files."""
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def error_of(call, *args, **kwargs):
    with pytest.raises(DataError) as error:
        call(*args, **kwargs)
    return str(error.value)


def assert_equal(first, second):
    assert list(first.own) == list(second.own)
    for name, coded in first.own.items():
        assert coded.values == second.own[name].values
        np.testing.assert_array_equal(coded.codes, second.own[name].codes)
    for column in ("user", "venue", "category", "raw_category"):
        assert getattr(first, column).values == getattr(second, column).values
        np.testing.assert_array_equal(getattr(first, column).codes, getattr(second, column).codes)
    for column in ("time_s", "offset_min", "lat_deg", "lon_deg"):
        assert getattr(first, column).dtype == getattr(second, column).dtype
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))


def test_passport_of_a_small_file(tmp_path):
    import_file("tsmc2014", FILE, "tiny", tmp_path)
    passport = json.loads((tmp_path / "tiny" / "passport.json").read_text(encoding="utf-8"))
    assert passport.pop("fedgru_version")
    assert len(passport.pop("fingerprint")) == 64
    assert len(passport["categories"].pop("sha256")) == 64
    assert passport == {
        "format": 1,
        "name": "tiny",
        "source": {
            "kind": "tsmc2014",
            "file": "checkins.txt",
            "sha256": hashlib.sha256(FILE.read_bytes()).hexdigest(),
            "size_bytes": FILE.stat().st_size,
            "compression": "none",
            "encoding": "utf-8",
            "rows": 6,
            "time_layout": "tsmc2014",
            "delimiter": "\t",
        },
        "settings": {"skip_bad_rows": False},
        "categories": {"scheme": "coarse"},
        "counts": {
            "check_ins": 6,
            "users": 2,
            "venues": 4,
            "categories": 3,
            "raw_categories": 3,
        },
        "span": {"first": "2012-04-03T18:00:09Z", "last": "2012-11-12T03:00:00Z"},
        "time_zone": {
            "offsets_min": {"-300": 1, "-240": 5},
            "busiest_local_hour": None,
            "quietest_local_hour": None,
            "warning": None,
        },
        "ledger": [
            {"kind": "missing", "reason": "category id is empty", "rows": 1, "examples": [3]},
            {"kind": "missing", "reason": "coordinates are empty", "rows": 1, "examples": [3]},
        ],
    }


def test_what_is_opened_is_what_was_imported(tmp_path):
    imported = import_file("tsmc2014", FILE, "tiny", tmp_path / "deep" / "data")
    opened = open_data_set("tiny", tmp_path / "deep" / "data")
    assert opened.check_ins.category.values == ("Cafe", "Home", "Park")
    assert_equal(opened.check_ins, imported.check_ins)
    assert opened.passport == imported.passport
    assert opened.best_prob is None
    assert opened.check_ins.user.codes.dtype == np.int32
    assert opened.check_ins.time_s.dtype == np.int64
    assert opened.check_ins.offset_min.dtype == np.int32
    assert opened.check_ins.lat_deg.dtype == np.float64


def test_the_same_file_gives_the_same_bytes(tmp_path):
    for data_dir in ("one", "two"):
        import_file("tsmc2014", FILE, "tiny", tmp_path / data_dir)
    first, second = (tmp_path / data_dir / "tiny" for data_dir in ("one", "two"))
    assert [path.name for path in sorted(first.iterdir())] == ["checkins.parquet", "passport.json"]
    for name in ("checkins.parquet", "passport.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_parquet_has_dictionaries_and_nulls(tmp_path):
    import_file("tsmc2014", FILE, "tiny", tmp_path)
    table = pq.read_table(tmp_path / "tiny" / "checkins.parquet")
    assert pa.types.is_dictionary(table.schema.field("venue").type)
    assert table["raw_category"].to_pylist() == ["c1", "c2", None, "c1", "c3", "c2"]
    assert table["lat_deg"].to_pylist() == [40.7, 40.8, None, 40.7, 40.75, 40.8]


def test_schemes(tmp_path):
    raw = import_file("tsmc2014", FILE, "raw", tmp_path, categories="raw")
    own = import_file("tsmc2014", FILE, "own", tmp_path, categories=DATA / "categories.csv")
    assert raw.check_ins.category.values == ("Café", "Home (private)", "Park")
    assert raw.passport["categories"] == {"scheme": "raw", "sha256": None}
    assert own.check_ins.category.values == ("Food", "Home", "Outdoors")
    assert own.passport["categories"] == {
        "scheme": "categories.csv",
        "sha256": hashlib.sha256((DATA / "categories.csv").read_bytes()).hexdigest(),
    }


def test_csv(tmp_path):
    columns = {"user": "who", "venue": "place", "time": "when", "category": "kind"}
    data_set = import_file(
        "csv", DATA / "visits.csv", "visits", tmp_path, columns=columns, offset_min=60
    )
    assert data_set.passport["source"]["time_layout"] == "iso8601"
    assert data_set.passport["settings"] == {
        "columns": columns,
        "offset_min": 60,
        "skip_bad_rows": False,
    }
    assert data_set.passport["time_zone"]["offsets_min"] == {"60": 3}
    del columns["category"]
    assert error_of(
        import_file, "csv", DATA / "visits.csv", "v", tmp_path, columns=columns, categories="coarse"
    ) == ("`categories` coarse has no effect without `columns` category=NAME.")


@pytest.fixture
def kept(tmp_path):
    """A data set with two kept columns, saved in tmp_path/data."""
    path = tmp_path / "v.csv"
    rows = ["who,place,when,kind,faith,pay", "ann,home,1333476009,Home (private),sikh,"]
    rows += ["bob,cafe,1333476010,Café,,", "cy,cafe,1333476011,Café,none,"]
    path.write_text("\n".join([*rows, "ann,cafe,1333476012,Café,sikh,"]), encoding="utf-8")
    columns = {"user": "who", "venue": "place", "time": "when", "category": "kind"}
    keep = ["pay", "faith"]
    return import_file("csv", path, "kept", tmp_path / "data", "coarse", columns=columns, keep=keep)


def test_kept_columns_are_saved_and_opened(tmp_path, kept):
    own = kept.check_ins.own
    assert (own["faith"].values, own["faith"].codes.tolist()) == (("sikh", "none"), [0, -1, 1, 0])
    assert (own["pay"].values, own["pay"].codes.tolist()) == ((), [-1] * 4)
    assert kept.check_ins.category.values == ("Home", "Cafe")
    assert kept.passport["settings"]["keep"] == ["pay", "faith"]
    assert kept.passport["own"] == {"pay": 0, "faith": 2}
    opened = open_data_set("kept", tmp_path / "data")
    assert_equal(opened.check_ins, kept.check_ins)
    assert opened.passport == kept.passport
    table = pq.read_table(tmp_path / "data/kept/checkins.parquet")
    assert table.column_names[-2:] == ["own:pay", "own:faith"]
    assert table["own:faith"].to_pylist() == ["sikh", None, "none", "sikh"]
    facts = describe(opened)
    assert facts["commonest_own"] == {"pay": [], "faith": [["sikh", 2], ["none", 1]]}


def test_a_kept_column_that_was_changed_is_refused(tmp_path, kept):
    parquet = tmp_path / "data/kept/checkins.parquet"
    table = pq.read_table(parquet)

    def after(changed):
        pq.write_table(changed, parquet)
        return error_of(open_data_set, "kept", tmp_path / "data")

    differs = (
        f"{parquet.parent}: checkins.parquet is not the one that passport.json was written for "
        "(their fingerprints differ). Import or make the data set again."
    )
    assert after(table.drop_columns("own:pay")) == differs
    assert after(table.rename_columns({"own:faith": "own:creed"})) == differs
    others = pa.array(["none", None, "none", "sikh"]).dictionary_encode()
    assert after(table.set_column(9, "own:faith", others)) == differs
    assert after(table.set_column(9, "own:faith", pa.array(["1", None, "2", "1"]))) == (
        f"{parquet}, column 'own:faith': type is string, expected "
        "dictionary<values=string, indices=int32, ordered=0>. Import the data set again."
    )


def test_a_kept_column_may_be_called_as_a_stored_one(tmp_path):
    names = ["time_s", "best_prob", "lat_deg"]
    path = tmp_path / "v.csv"
    path.write_text(
        f"who,place,when,{','.join(names)}\nann,home,1333476009,x,y,z\n", encoding="utf-8"
    )
    columns = {"user": "who", "venue": "place", "time": "when"}
    import_file("csv", path, "v", tmp_path / "data", columns=columns, keep=names)
    opened = open_data_set("v", tmp_path / "data")
    assert [coded.values for coded in opened.check_ins.own.values()] == [("x",), ("y",), ("z",)]
    assert opened.check_ins.time_s.tolist() == [1333476009]
    assert opened.best_prob is None


@pytest.fixture
def bad_file(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_text(FILE.read_text(encoding="utf-8") + "ann\tcafe-1\n", encoding="utf-8")
    return path


def test_skipped_rows_are_in_the_ledger(tmp_path, bad_file):
    data_set = import_file("tsmc2014", bad_file, "bad", tmp_path / "data", skip_bad_rows=True)
    assert data_set.passport["settings"] == {"skip_bad_rows": True}
    assert data_set.passport["source"]["rows"] == 7
    assert data_set.passport["counts"]["check_ins"] == 6
    assert data_set.passport["ledger"][0] == {
        "kind": "dropped",
        "reason": "wrong number of fields",
        "rows": 1,
        "examples": [7],
    }


def test_a_failed_import_leaves_the_data_folder_as_it_was(tmp_path, bad_file, monkeypatch):
    data_dir = tmp_path / "data"
    error_of(import_file, "tsmc2014", bad_file, "bad", data_dir)
    assert not data_dir.exists()

    import_file("tsmc2014", FILE, "tiny", data_dir)
    before = content(data_dir)
    error_of(import_file, "tsmc2014", bad_file, "bad", data_dir)
    error_of(import_file, "tsmc2014", bad_file, "tiny", data_dir, overwrite=True)
    error_of(import_file, "tsmc2014", FILE, "tiny", data_dir)
    assert content(data_dir) == before

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "ParquetWriter", full_disk)
    for name in ("tiny", "new"):
        assert error_of(import_file, "tsmc2014", FILE, name, data_dir, overwrite=True) == (
            f"{data_dir / name} cannot be written: No space left on device."
        )
    assert content(data_dir) == before
    error_of(import_file, "tsmc2014", FILE, "tiny", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_data_set_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    import_file("tsmc2014", FILE, "tiny", tmp_path)
    before = content(tmp_path)

    def fail(one, other):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(folders, "exchange", fail)
    assert error_of(
        import_file, "tsmc2014", FILE, "tiny", tmp_path, categories="raw", overwrite=True
    ) == (f"{tmp_path / 'tiny'} cannot be written: Input/output error.")
    assert content(tmp_path) == before


def test_overwrite_replaces_only_when_told(tmp_path):
    import_file("tsmc2014", FILE, "tiny", tmp_path)
    assert error_of(import_file, "tsmc2014", FILE, "tiny", tmp_path, categories="raw") == (
        f"{tmp_path / 'tiny'} already exists: choose another name, or add `overwrite`."
    )
    import_file("tsmc2014", FILE, "tiny", tmp_path, categories="raw", overwrite=True)
    assert open_data_set("tiny", tmp_path).passport["categories"]["scheme"] == "raw"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    (tmp_path / "notes").mkdir()
    assert error_of(import_file, "tsmc2014", FILE, "notes", tmp_path, overwrite=True) == (
        f"{tmp_path / 'notes'} exists and is not a data set: choose another name."
    )


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "é", "-x", "a\n"])
def test_names_that_are_none(tmp_path, name):
    text = (
        f"{name!r} cannot name a data set: expected letters, digits, '.', '_' and '-', "
        "starting with a letter or digit."
    )
    assert error_of(import_file, "tsmc2014", FILE, name, tmp_path) == text
    assert error_of(open_data_set, name, tmp_path) == text
    assert not any(tmp_path.iterdir())


def test_the_name_embedded_is_taken(tmp_path):
    assert error_of(import_file, "tsmc2014", FILE, EMBEDDED, tmp_path) == (
        "'embedded' is the made-up city that comes with fedgru: choose another name."
    )


def test_opening_what_is_not_there(tmp_path):
    import_file("tsmc2014", FILE, "tiny", tmp_path)
    assert error_of(open_data_set, "huge", tmp_path) == (
        f"There is no data set 'huge' in {tmp_path}, only tiny, embedded. "
        "Make one with `fedgru data import` or `fedgru data synth`."
    )
    (tmp_path / "notes").mkdir()
    assert error_of(open_data_set, "notes", tmp_path) == (
        f"{tmp_path / 'notes'} is not a data set: it has no passport.json."
    )


def test_opening_what_was_changed(tmp_path):
    import_file("tsmc2014", FILE, "tiny", tmp_path)
    folder = tmp_path / "tiny"
    parquet = folder / "checkins.parquet"
    table = pq.read_table(parquet)

    def after(changed):
        pq.write_table(changed, parquet)
        return error_of(open_data_set, "tiny", tmp_path)

    assert after(table.drop_columns("time_s")) == (
        f"{parquet} has no column 'time_s'. Import the data set again."
    )
    narrow = table.set_column(4, "time_s", table["time_s"].cast(pa.int32()))
    assert after(narrow) == (
        f"{parquet}, column 'time_s': type is int32, expected int64. Import the data set again."
    )
    differs = (
        f"{folder}: checkins.parquet is not the one that passport.json was written for "
        "(their fingerprints differ). Import or make the data set again."
    )
    assert after(table.slice(1)) == (
        f"{parquet} has 5 rows, but passport.json expects 6. Import the data set again."
    )
    assert after(table.take([0, 1, 2, 3, 4, 4])) == differs
    assert after(table.take([0, 1, 2, 3, 5, 4])) == (
        f"{parquet}: check-ins must be in order of time, and at least one."
    )
    pq.write_table(table, parquet, compression="gzip")  # the same columns, other bytes
    assert len(open_data_set("tiny", tmp_path).check_ins) == 6
    parquet.write_bytes(b"PAR1")
    damaged = f"{parquet} is missing or damaged. Import the data set again."
    assert error_of(open_data_set, "tiny", tmp_path) == damaged
    parquet.unlink()
    assert error_of(open_data_set, "tiny", tmp_path) == damaged

    passport = folder / "passport.json"
    passport.write_text('{"format": 2}', encoding="utf-8")
    text = f"{passport} has format 2, expected 1. Import the data set again."
    assert error_of(open_data_set, "tiny", tmp_path) == text
    assert error_of(list_data_sets, tmp_path) == text
    passport.write_text("{", encoding="utf-8")
    assert error_of(open_data_set, "tiny", tmp_path) == (
        f"{passport} is not a passport of fedgru. Import the data set again."
    )


def test_fingerprint_sees_every_column_and_only_content():
    check_ins = read_tsmc2014(FILE).check_ins
    same = replace(check_ins, time_s=check_ins.time_s.astype(">i8").astype("<i8"))
    assert fingerprint(same) == fingerprint(check_ins)
    prints = {fingerprint(check_ins), fingerprint(check_ins, np.zeros(6, np.float32))}
    for column in ("time_s", "offset_min", "lat_deg", "lon_deg"):
        prints.add(fingerprint(replace(check_ins, **{column: getattr(check_ins, column) + 1})))
    for column in ("user", "venue", "category", "raw_category"):
        coded = getattr(check_ins, column)
        renamed = Coded(coded.codes, (*coded.values[:-1], "other"))
        recoded = Coded(coded.codes[::-1], coded.values)
        prints.add(fingerprint(replace(check_ins, **{column: renamed})))
        prints.add(fingerprint(replace(check_ins, **{column: recoded})))
    for own in ({"a": check_ins.venue}, {"b": check_ins.venue}, {"a": check_ins.user}):
        prints.add(fingerprint(replace(check_ins, own=own)))
    assert len(prints) == 2 + 4 + 8 + 3


def test_fingerprints_of_saved_data_sets_still_hold():
    # as printed before check-ins could have columns of the user's own
    assert fingerprint(read_tsmc2014(FILE).check_ins) == (
        "c2f721cd8bbd4b803973f6786edde2bc1572975aa6edf933381e44ec27611732"
    )


def test_check_ins_that_are_not_as_promised(tmp_path):
    check_ins = read_tsmc2014(FILE).check_ins

    def saved(**columns):
        return error_of(save_data_set, "x", tmp_path, replace(check_ins, **columns), **FACTS)

    order = "x: check-ins must be in order of time, and at least one."
    assert saved(time_s=check_ins.time_s[::-1]) == order
    nobody = Coded(np.full(6, -1, np.int32), ())
    assert saved(venue=nobody) == "x: every check-in needs a user and a venue."
    assert saved(time_s=check_ins.time_s[:-1]).startswith("x: the columns do not fit together: ")
    stray = Coded(check_ins.user.codes + 1, check_ins.user.values)
    assert saved(user=stray).startswith("x: the columns do not fit together: ")
    assert not any(tmp_path.iterdir())


def test_values_are_in_order_of_first_appearance_after_saving(tmp_path):
    check_ins = read_tsmc2014(FILE).check_ins
    codes, values = check_ins.user.codes, check_ins.user.values
    shuffled = replace(check_ins, user=Coded(2 - codes, ("unused", *values[::-1])))
    saved = save_data_set("x", tmp_path, shuffled, **FACTS)
    assert_equal(saved.check_ins, check_ins)
    assert_equal(open_data_set("x", tmp_path).check_ins, check_ins)


@dataclass(frozen=True)
class TinyConfig:
    seed: int = 7


@pytest.fixture
def tiny_city(monkeypatch):
    """Put a city of six check-ins in the place of the made-up one."""

    def make_city(config):
        best_prob = np.linspace(0.5, 1, 6, dtype=np.float32)  # mean 0.75
        return SimpleNamespace(
            check_ins=read_tsmc2014(FILE).check_ins, best_prob=best_prob, config=config
        )

    module = SimpleNamespace(CityConfig=TinyConfig, make_city=make_city)
    monkeypatch.setitem(sys.modules, "fedgru.data.synthetic", module)
    return module


def test_embedded_city_is_made_in_memory(tmp_path, tiny_city, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_set = open_data_set()
    assert data_set.name == data_set.passport["name"] == EMBEDDED
    assert data_set.passport["source"] == {"kind": "made-up city"}
    assert data_set.passport["settings"] == {"seed": 7}
    assert describe(data_set)["best_possible_accuracy"] == pytest.approx(0.75)
    assert not any(tmp_path.iterdir())


def test_a_saved_city_keeps_its_best_probabilities(tmp_path, tiny_city):
    city = tiny_city.make_city(TinyConfig())
    save_city("town", tmp_path, city)
    opened = open_data_set("town", tmp_path)
    assert opened.best_prob.dtype == np.float32
    np.testing.assert_array_equal(opened.best_prob, city.best_prob)
    assert opened.passport["fingerprint"] == open_data_set().passport["fingerprint"]


def test_the_embedded_city_equals_itself_saved(tmp_path):
    city = synthetic.make_city(synthetic.CityConfig())
    save_city("town", tmp_path, city)
    opened, embedded = open_data_set("town", tmp_path), open_data_set()
    assert_equal(opened.check_ins, embedded.check_ins)
    assert_equal(embedded.check_ins, city.check_ins)
    np.testing.assert_array_equal(opened.best_prob, city.best_prob)
    assert opened.passport["fingerprint"] == embedded.passport["fingerprint"]


def test_list(tmp_path):
    assert list_data_sets(tmp_path / "nowhere") == []
    for name in ("b", "a"):
        import_file("tsmc2014", FILE, name, tmp_path)
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "b").rename(tmp_path / "c")
    assert [passport["name"] for passport in list_data_sets(tmp_path)] == ["a", "c"]


def test_describe(tmp_path):
    path = tmp_path / "checkins.txt"
    lines = FILE.read_text(encoding="utf-8").splitlines()
    # users with 3 (ann), 3 (bob), 1 (cy) and 9 (dan) check-ins: 16 in all, mean 4
    lines += [lines[-1].replace("bob", "cy")] + [lines[-1].replace("bob", "dan")] * 9
    path.write_text("\n".join(lines), encoding="utf-8")
    facts = describe(import_file("tsmc2014", path, "tiny", tmp_path / "data"))
    # sorted 1 3 3 9: 25 % have at most 1, 75 % at most 3
    quantiles = [1, 1, 1, 3, 3, 3, 3, 3, 9, 9, 9]
    expected = {str(10 * i): quantile for i, quantile in enumerate(quantiles)}
    assert facts["check_ins_per_user"] == {**expected, "mean": 4}
    assert facts["commonest_categories"] == [["Home", 13], ["Cafe", 2], ["Park", 1]]
    assert facts["box_deg"] == {"lat": [40.7, 40.8], "lon": [-74.0, -73.9]}
    assert facts["best_possible_accuracy"] is None
    assert facts["ledger"][-1]["rows"] == 8  # dan's last eight rows repeat the first
    assert json.loads(json.dumps(facts)) == facts


def test_quiet_hours_of_the_day():
    hours = np.repeat(np.arange(24), 50)
    quiet_at_4 = np.delete(hours, np.flatnonzero(hours == 4)[1:])
    base = read_tsmc2014(FILE).check_ins

    def check(utc_hours, offset_min):
        time_s = 1333411200 + 3600 * utc_hours  # 2012-04-03 00:00
        offsets = np.full(len(time_s), offset_min, np.int32)
        return check_time_zone(replace(base, time_s=time_s, offset_min=offsets))

    assert check(quiet_at_4, 0)["quietest_local_hour"] == 4
    assert check(quiet_at_4, 0)["warning"] is None
    assert check(quiet_at_4, 600)["warning"] == (
        "The quietest hour of the day is 14:00 local time, expected at night. "
        "The offsets from UTC are perhaps wrong or missing."
    )
    assert check(quiet_at_4, 120)["warning"] is None  # 6:00
    for offset_min in (180, 240, -300):  # 7:00, 8:00, 23:00
        assert check(quiet_at_4, offset_min)["warning"] is not None
    assert check(quiet_at_4[:999], 600)["warning"] is None  # too few to tell
    assert check(np.append(hours, 3), -240)["busiest_local_hour"] == 23


@pytest.mark.realdata
@pytest.mark.skipif(not NYC.exists(), reason="needs ../shared/data")
def test_the_real_file(tmp_path):
    data_set = import_file("tsmc2014", NYC, "nyc", tmp_path)
    assert data_set.passport["counts"] == {
        "check_ins": 158_360,
        "users": 1083,
        "venues": 11_982,
        "categories": 27,
        "raw_categories": 348,
    }
    assert data_set.passport["span"] == {
        "first": "2012-04-03T18:00:09Z",
        "last": "2013-02-16T02:35:36Z",
    }
    # zcat FILE | cut -f7 | sort | uniq -c
    assert data_set.passport["time_zone"] == {
        "offsets_min": {"-300": 39_334, "-240": 119_026},
        "busiest_local_hour": 8,
        "quietest_local_hour": 4,
        "warning": None,
    }
    assert_equal(open_data_set("nyc", tmp_path).check_ins, data_set.check_ins)
