"""Readers of published formats, each on a small file made by hand and counted by hand."""

import csv
import gzip
import json

import numpy as np
import pytest
from click.testing import CliRunner

from fedgru.cli.main import main
from fedgru.core.errors import DataError
from fedgru.data.datasets import import_file, open_data_set, save_city
from fedgru.data.ledger import Line
from fedgru.data.libcity_export import export_libcity
from fedgru.data.reading.geolife import read_geolife, stay_points
from fedgru.data.reading.libcity import read_libcity
from fedgru.data.reading.snap import read_snap
from fedgru.data.reading.tist2015 import read_tist2015
from fedgru.data.synthetic import CityConfig, make_city


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


def test_tist2015_bad_cities(tist):
    # float() takes 4_1.0 for 41 and nan for a number; a row with five fields has no kind
    bad = ["Ankara\t39.9\t3_2.8\tTR\tTurkey\tOther", "Izmir\t38.4\t27.1\tTR\tTurkey"]
    bad += ["Bursa\t\t\tTR\tTurkey\tOther", "Konya\t97.9\t32.5\tTR\tTurkey\tOther"]
    file = write(tist / "dataset_TIST2015_Cities.txt", *bad, CITIES[0])
    assert message(read_tist2015, tist, city="Istanbul") == (
        f"{file.name}, row 1: longitude is '3_2.8', expected a number from -180 to 180, or nothing "
        "where it is missing.\n4 bad rows in all; `skip_bad_rows` drops and counts bad rows."
    )
    reading = read_tist2015(tist, city="Istanbul", radius_km=22.0, skip_bad_rows=True)
    assert named(reading.check_ins.venue) == ["v1"]
    found = {line.reason: line.rows for line in reading.ledger.lines}
    assert found.pop("outside of 22 km around Istanbul") == 3
    assert {reason: rows for reason, rows in found.items() if file.name in reason} == {
        f"in {file.name}: wrong number of fields": 1,
        f"in {file.name}: latitude is not a number from -90 to 90": 1,
        f"in {file.name}: longitude is not a number from -180 to 180": 1,
        f"in {file.name}: city has no centre": 1,
    }
    for city in ("Ankara", "Izmir", "Bursa", "Konya"):
        text = message(read_tist2015, tist, city=city, skip_bad_rows=True)
        assert text == (f"{file.name} has 0 cities '{city}', expected one of: Istanbul,TR.")


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


LIBCITY = {
    "geo": [
        "geo_id,type,coordinates,venue_category_id,venue_category_name",
        '0,Point,"[-74.0,40.7]",c1,"Bar, open"',
        '1,Point,"[-73.5,40.8]",c2,Home',
    ],
    "usr": ["usr_id", "0", "1"],
    "dyna": [
        "dyna_id,type,time,entity_id,location",
        "0,trajectory,2012-04-03T18:00:09Z,0,1",
        "1,trajectory,2012-04-03T17:00:09Z,1,0",
        "2,trajectory,2012-04-04T18:00:09Z,1,7",
    ],
    "rel": ["rel_id,type,origin_id,destination_id", "0,geo,0,1"],
}


def libcity(folder, **changed):
    for end, rows in {**LIBCITY, **changed}.items():
        write(folder / f"tiny.{end}", *rows)
    return folder


def test_libcity(tmp_path):
    reading = read_libcity(libcity(tmp_path), offset_min=-240)
    check_ins = reading.check_ins
    assert check_ins.time_s.tolist() == [1333472409, 1333476009, 1333562409]
    assert named(check_ins.user) == ["1", "0", "1"]
    assert named(check_ins.venue) == ["0", "1", "7"]
    assert named(check_ins.category) == ["Bar, open", "Home", None]
    assert named(check_ins.raw_category) == ["c1", "c2", None]
    np.testing.assert_array_equal(check_ins.lon_deg, [-74, -73.5, np.nan])
    assert check_ins.offset_min.tolist() == [-240] * 3
    assert reading.num_rows == 3
    assert reading.ledger.lines == (
        Line("kept", "relations in tiny.rel, not used", 1),
        Line("missing", "venue is not in tiny.geo", 1, (4,)),
    )


def test_libcity_files_that_are_missing(tmp_path):
    folder = libcity(tmp_path / "a")
    (folder / "tiny.geo").unlink()
    assert message(read_libcity, folder) == (f"{folder} has no tiny.geo, the places of tiny.dyna.")
    (folder / "tiny.dyna").unlink()
    assert message(read_libcity, folder) == f"{folder} has 0 .dyna files (none), expected one."
    grid = libcity(
        tmp_path / "b", dyna=["dyna_id,type,time,row_id,column_id,inflow", "0,state,x,0,0,1"]
    )
    assert message(read_libcity, grid) == (
        "tiny.dyna has no column 'entity_id' (column entity_id). Its header, split at commas, has: "
        "dyna_id, type, time, row_id, column_id, inflow."
    )


def test_libcity_round_trip(tmp_path):
    config = CityConfig(num_users=5, checkins_per_user=40)
    city = save_city("town", tmp_path, make_city(config)).check_ins
    out = tmp_path / "libcity"
    done = export_libcity("town", city, out)
    assert (done.check_ins, done.users) == (len(city), 5)
    assert (done.differing, done.without_coordinates) == ({}, 0)
    back = read_libcity(out)
    for column in ("user", "venue", "category", "raw_category"):
        assert named(getattr(back.check_ins, column)) == named(getattr(city, column))
        assert getattr(back.check_ins, column).values == getattr(city, column).values
    for column in ("time_s", "offset_min", "lat_deg", "lon_deg"):
        np.testing.assert_array_equal(getattr(back.check_ins, column), getattr(city, column))
    # the documented columns: ids count from 0 and are rows of .geo, times have LibCity's layout
    with open(out / "town.dyna", newline="") as stream:
        first = next(csv.DictReader(stream))
    assert list(first)[:5] == ["dyna_id", "type", "time", "entity_id", "location"]
    local = np.datetime64(int(city.local_time_s[0]), "s")
    assert (first["time"], first["type"]) == (f"{local}Z", "trajectory")
    with open(out / "town.geo", newline="") as stream:
        geo = list(csv.DictReader(stream))
    assert [row["geo_id"] for row in geo] == [str(i) for i in range(done.venues)]
    lon, lat = json.loads(geo[int(first["location"])]["coordinates"])
    assert (lon, lat) == (city.lon_deg[0], city.lat_deg[0])
    assert list(geo[0])[:3] == ["geo_id", "type", "coordinates"]
    assert (
        json.loads((out / "config.json").read_text())["dyna"]["trajectory"]["location"] == "geo_id"
    )


def test_libcity_export_says_what_it_cannot_hold(tmp_path):
    rows = ["u,v,t,lat,lon,kind,faith", "a,v1,1333476009,1,2,Bar,x", "a,v1,1333476010,,,Bar,x"]
    rows += ["a,v1,1333476011,1,3,Pub,x", "b,v2,1333476012,,,,y"]
    file = write(tmp_path / "v.csv", *rows)
    columns = {"user": "u", "venue": "v", "time": "t", "latitude": "lat", "longitude": "lon"}
    import_file(
        "csv", file, "v", tmp_path / "data", columns=columns | {"category": "kind"}, keep=["faith"]
    )
    words = ["data", "export", "libcity", "v", "--to", str(tmp_path / "out"), "--data-dir"]
    result = CliRunner().invoke(main, [*words, str(tmp_path / "data")])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'out'}: 4 check-ins of 2 users at 2 venues.\n"
    end = "than their venue's first one, or none; they get that one."
    assert result.stderr.splitlines() == [
        f"Note: 2 check-ins had another coordinates {end}",
        f"Note: 1 check-in had another category {end}",
        f"Note: 1 check-in had another raw category {end}",
        "Note: 1 venue without coordinates.",
        "Note: left out, LibCity has no place for them: faith.",
        "Note: users and venues keep their names: the files are for you, not to be given away.",
    ]
    again = CliRunner().invoke(main, [*words, str(tmp_path / "data")])
    assert (again.exit_code, again.stderr) == (
        1,
        f"Error: {tmp_path / 'out'} already exists: choose another folder.\n",
    )
    back = read_libcity(tmp_path / "out").check_ins
    assert named(back.category) == ["Bar", "Bar", "Bar", None]


GETNEXT = [
    "user_id,POI_id,POI_catid,POI_catid_code,POI_catname,latitude,longitude,timezone,UTC_time,"
    "local_time,day_of_week,norm_in_day_time,trajectory_id,norm_day_shift,norm_relative_time",
    "470,p1,c1,0,Bar,40.7,-74.0,-240,2012-04-03 18:00:09+00:00,2012-04-03 14:00:09,1,0,4_1,0,0",
    "470,p2,c2,1,Home,40.8,-74.1,-240,2012-04-03 19:00:09,2012-04-03 15:00:09,1,0.62,470_1,0,0",
]


def test_getnext(tmp_path):
    file = write(tmp_path / "NYC_train.csv", *GETNEXT)
    data_set = import_file("getnext", file, "n", tmp_path / "data")
    check_ins = data_set.check_ins
    assert (check_ins.time_s - 1333476009).tolist() == [0, 3600]
    assert check_ins.offset_min.tolist() == [-240, -240]
    assert (named(check_ins.category), named(check_ins.raw_category)) == (
        ["Bar", "Home"],
        ["c1", "c2"],
    )
    assert [(line["reason"], line["rows"]) for line in data_set.passport["ledger"]] == [
        ("time has no zone, read as UTC", 1)
    ]


def test_weeplaces(tmp_path):
    rows = [
        "userid,placeid,datetime,lat,lon,city,category",
        'fred,the-bar,2010-10-22T23:44:29,43.45,-80.49,Kitchener,"Nightlife:Bar"',
    ]
    file = write(tmp_path / "weeplace_checkins.csv", *rows)
    check_ins = import_file("weeplaces", file, "w", tmp_path / "data", offset_min=-240).check_ins
    # 2010-10-23 03:44:29 UTC by date -ud is 1287805469
    assert check_ins.time_s.tolist() == [1287805469]
    assert named(check_ins.category) == ["Nightlife:Bar"]


def plt(folder, user, name, *points):
    header = ["Geolife trajectory", "WGS 84", "Altitude is in Feet", "Reserved 3"]
    header += ["0,2,255,My Track,0,0,2,8421376", "0"]
    rows = [f"{lat},{lon},0,492,39744.1,2008-10-23,{when}" for when, lat, lon in points]
    return write(folder / user / "Trajectory" / f"{name}.plt", *header, *rows)


def test_geolife_stays(tmp_path):
    data = tmp_path / "Data"
    # 25 min within 100 m, then 10 km away for 10 min; in the next file back for 30 min
    plt(
        data,
        "000",
        "20081023",
        ("02:00:00", 39.984, 116.31),
        ("02:10:00", 39.9845, 116.31),
        ("02:25:00", 39.984, 116.3105),
        ("02:40:00", 40.08, 116.31),
        ("02:50:00", 40.08, 116.31),
    )
    plt(data, "000", "20081024", ("08:00:00", 39.9841, 116.31), ("08:30:00", 39.9841, 116.31))
    plt(data, "001", "20081023", ("02:00:00", 0.0, 0.0), ("02:10:00", 0.01, 0.0))
    reading = read_geolife(data, offset_min=480)
    check_ins = reading.check_ins
    # 2008-10-23 02:00:00 UTC by date -ud is 1224727200
    assert (check_ins.time_s - 1224727200).tolist() == [0, 6 * 3600]
    assert named(check_ins.user) == ["000", "000"]
    # means of three points and of two: the same cell of 200 m, 1/555.975 degree high
    np.testing.assert_allclose(check_ins.lat_deg, [39.984167, 39.9841])
    np.testing.assert_allclose(check_ins.lon_deg, [116.310167, 116.31])
    assert check_ins.venue.values[0].split("_")[0] == str(int(39.984167 * 111195 / 200))
    assert reading.num_rows == 2
    assert reading.ledger.lines == (
        Line("kept", "points in 3 files, of which the stays were made", 9),
    )
    assert message(read_geolife, data, stay_min=600.0) == (
        f"{data}: no stay of 600 min within 200 m among 9 points."
    )
    assert message(read_geolife, tmp_path / "nowhere") == (
        f"{tmp_path / 'nowhere'} is not a folder with files USER/Trajectory/*.plt."
    )


def test_geolife_bad_points(tmp_path):
    bad = ("02:30:00", 400.166, 116.31)
    plt(tmp_path, "7", "a", ("02:00:00", 39.98, 116.31), ("02:40:00", 39.98, 116.31), bad)
    assert message(read_geolife, tmp_path) == (
        "a.plt, row 9: latitude is 400.166, expected -90 to 90.\n"
        "1 bad row in all; `skip_bad_rows` drops and counts bad rows."
    )
    reading = read_geolife(tmp_path, skip_bad_rows=True)
    assert [(line.reason, line.rows) for line in reading.ledger.lines][1:] == [
        ("bad rows of the files, left out", 1)
    ]
    assert len(reading.check_ins) == 1


def test_stays_against_the_plain_algorithm():
    rng = np.random.default_rng(0)
    time_s = np.cumsum(rng.integers(30, 400, 600))
    lat, lon = np.cumsum(rng.normal(0, 4e-4, (2, 600)) * (rng.random(600) < 0.4), axis=1)

    def plain():
        begin = 0
        while begin < 599:
            end = begin + 1
            while (
                end < 600
                and 111195**2
                * (
                    (lat[end] - lat[begin]) ** 2
                    + ((lon[end] - lon[begin]) * np.cos(np.radians(lat[begin]))) ** 2
                )
                <= 150**2
            ):
                end += 1
            if time_s[end - 1] - time_s[begin] >= 900:
                yield begin, end
                begin = end
            else:
                begin += 1

    found = list(stay_points(time_s, lat, lon, 150.0, 15.0))
    assert found == list(plain())
    assert len(found) > 10


def test_every_format_opens_again(tmp_path):
    import_file("libcity", libcity(tmp_path / "files"), "tiny", tmp_path / "data")
    assert open_data_set("tiny", tmp_path / "data").passport["source"]["kind"] == "libcity"
