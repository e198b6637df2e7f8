"""Readers of published formats, each on a small file made by hand and counted by hand."""

import gzip

import numpy as np
import pytest

from fedgru.core.errors import DataError
from fedgru.data.datasets import import_file
from fedgru.data.ledger import Line
from fedgru.data.reading.snap import read_snap
from fedgru.data.reading.tist2015 import read_tist2015


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), "utf-8")
    return path


def message(call, *args, **kwargs):
    with pytest.raises(DataError) as error:
        call(*args, **kwargs)
    return str(error.value)


def named(coded):
    return [None if code < 0 else coded.values[code] for code in coded.codes]


GOWALLA = [  # newest first, user by user, as SNAP has them
    "0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847",
    "0\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\t420315",
    "0\t2010-10-17T23:42:03Z\t30.2557309927\t-97.7633857727\t316637",
    "1\t2010-10-18T22:17:43Z\t0.0\t0.0\t00000000000000000000000000000000",
    "1\t2010-10-17T19:26:05Z\t30.2634181234\t-97.7575966669\t16516",
]


def test_snap_keeps_its_first_row_and_its_order(tmp_path):
    edges = write(tmp_path / "loc-gowalla_edges.txt", "0\t1", "1\t0", "0\t2")
    reading = read_snap(write(tmp_path / "g.txt", *GOWALLA), friendships=edges)
    check_ins = reading.check_ins
    # 2010-10-17 19:26:05 UTC by date -ud is 1287343565
    assert check_ins.time_s[0] == 1287343565
    assert named(check_ins.user) == ["1", "0", "1", "0", "0"]
    venues = ["16516", "316637", "0" * 32, "420315", "22847"]
    assert named(check_ins.venue) == venues
    assert check_ins.lat_deg[-1] == 30.2359091167
    assert named(check_ins.category) == [None] * 5
    assert reading.num_rows == 5
    assert reading.ledger.lines == (
        Line("kept", "friendships in loc-gowalla_edges.txt, not used", 3),
        Line("repaired", "newest row first, read from the end", 5, (1, 2, 3, 4, 5)),
        Line("kept", "coordinates are 0, 0: often a missing value", 1, (4,)),
        Line("kept", f"venue is {'0' * 32}: often a missing value", 1, (4,)),
    )
    assert reading.settings["friendships"] == {"file": "loc-gowalla_edges.txt", "rows": 3}


def test_snap_has_no_categories(tmp_path):
    file = write(tmp_path / "g.txt", *GOWALLA)
    assert message(import_file, "snap", file, "g", tmp_path, categories="coarse") == (
        "`categories` coarse has no effect: the format snap has no categories."
    )
    data_set = import_file("snap", file, "g", tmp_path, offset_min=-300)
    assert data_set.check_ins.offset_min.tolist() == [-300] * 5
    assert data_set.passport["counts"]["venues"] == 5


PLACES = [
    "v1\t41.01\t28.95\tCaf\u00e9\tTR",
    "v2\t41.2\t28.95\tPark\tTR",
    "v3\t40.7\t-74.0\tBar\tUS",
    "v1\t0\t0\tHome\tXX",
]
CITIES = [
    "Istanbul\t41.0\t28.95\tTR\tTurkey\tOther",
    "Portland\t45.52\t-122.67\tUS\tUnited States\tOther",
    "Portland\t43.66\t-70.25\tUS\tUnited States\tOther",
]
TIST = [
    "7\tv1\tTue Apr 03 18:00:09 +0000 2012\t180",
    "8\tv3\tTue Apr 03 18:00:10 +0000 2012\t-240",
    "7\tv2\tTue Apr 03 18:00:11 +0000 2012\t180",
    "8\tv9\tTue Apr 03 18:00:12 +0000 2012\t-240",
]


@pytest.fixture
def tist(tmp_path):
    folder = tmp_path / "tist"
    write(folder / "dataset_TIST2015_POIs.txt", *PLACES)
    write(folder / "dataset_TIST2015_Cities.txt", *CITIES)
    packed = folder / "dataset_TIST2015_Checkins.txt.gz"
    packed.write_bytes(gzip.compress("".join(f"{row}\n" for row in TIST).encode(), mtime=0))
    return folder


def test_tist2015_joins_check_ins_and_places(tist):
    reading = read_tist2015(tist)
    check_ins = reading.check_ins
    assert named(check_ins.category) == ["Caf\u00e9", "Bar", "Park", None]
    np.testing.assert_array_equal(check_ins.lat_deg, [41.01, 40.7, 41.2, np.nan])
    np.testing.assert_array_equal(check_ins.lon_deg, [28.95, -74.0, 28.95, np.nan])
    assert check_ins.offset_min.tolist() == [180, -240, 180, -240]
    assert reading.num_rows == 4
    assert reading.ledger.lines == (
        Line("kept", "in dataset_TIST2015_POIs.txt: an id again, the first counts", 1),
        Line("missing", "venue is not in dataset_TIST2015_POIs.txt", 1, (4,)),
    )
    assert reading.settings["places"]["file"] == "dataset_TIST2015_POIs.txt"


def test_tist2015_of_one_city(tist):
    # a degree of latitude is 111.2 km: v1 is 1.1 km from the centre, v2 22.2 km
    reading = read_tist2015(tist, city="istanbul", radius_km=22.0)
    assert named(reading.check_ins.venue) == ["v1"]
    outside = "outside of 22 km around Istanbul"
    assert reading.ledger.lines[0] == Line("dropped", outside, 3, (2, 3, 4))
    assert named(read_tist2015(tist, city="Istanbul,TR").check_ins.venue) == ["v1", "v2"]
    assert message(read_tist2015, tist, city="Portland") == (
        "dataset_TIST2015_Cities.txt has 2 cities 'Portland', expected one of: Portland,US, "
        "Portland,US."
    )
    assert message(read_tist2015, tist, city="Ankara").startswith(
        "dataset_TIST2015_Cities.txt has 0 cities 'Ankara', expected one of: Istanbul,TR, "
    )
    assert message(read_tist2015, tist, city="Istanbul", radius_km=0.5) == (
        "dataset_TIST2015_Checkins.txt.gz has no check-in in 0.5 km around Istanbul."
    )


def test_tist2015_files_that_are_missing_or_bad(tist):
    (tist / "dataset_TIST2015_Cities.txt").unlink()
    assert message(read_tist2015, tist, city="Istanbul") == (
        f"{tist} has no dataset_TIST2015_Cities.txt, plain, .gz or .zip."
    )
    write(tist / "dataset_TIST2015_POIs.txt", PLACES[0], "v2\t91\t28.95\tPark\tTR")
    assert message(read_tist2015, tist) == (
        "dataset_TIST2015_POIs.txt, row 2: latitude is 91, expected -90 to 90. If latitude and "
        "longitude are swapped, exchange columns 2 and 3 of the file.\n"
        "1 bad row in all; `skip_bad_rows` drops and counts bad rows."
    )
    reading = read_tist2015(tist, skip_bad_rows=True)
    lines = {line.reason: line.rows for line in reading.ledger.lines}
    assert lines == {
        "in dataset_TIST2015_POIs.txt: latitude is not a number from -90 to 90": 1,
        "venue is not in dataset_TIST2015_POIs.txt": 3,
    }
    assert message(read_tist2015, tist / "dataset_TIST2015_POIs.txt").endswith(
        "is not a folder, expected one with dataset_TIST2015_Checkins.txt and "
        "dataset_TIST2015_POIs.txt."
    )
