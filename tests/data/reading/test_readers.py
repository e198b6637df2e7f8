import gzip
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedgru.core.errors import ConfigError, DataError
from fedgru.data.datasets import import_file
from fedgru.data.ledger import Ledger, Line
from fedgru.data.reading import growing_columns, sources, unpacking
from fedgru.data.reading.delimited import read_csv
from fedgru.data.reading.timestamps import guess_layout, read_times
from fedgru.data.reading.tsmc2014 import read_tsmc2014

DATA = Path(__file__).parents[2] / "data"
NYC = Path(__file__).parents[4] / "shared/data/nyc/dataset_TSMC2014_NYC.partial.txt.gz"
ROWS = (DATA / "checkins.txt").read_text(encoding="utf-8").splitlines()
COLUMNS = {"user": "who", "venue": "place", "time": "when"}
SKIP = "`skip_bad_rows` drops and counts bad rows."


def write(path, rows, encoding="utf-8"):
    path.write_bytes("".join(f"{row}\n" for row in rows).encode(encoding))
    return path


def with_field(row, column, value):
    fields = row.split("\t")
    fields[column] = value
    return "\t".join(fields)


def message(call, *args, kind=DataError, **kwargs):
    with pytest.raises(kind) as error:
        call(*args, **kwargs)
    return str(error.value)


def test_every_column_of_a_small_file():
    reading = read_tsmc2014(DATA / "checkins.txt")
    check_ins = reading.check_ins
    assert check_ins.user.values == ("ann", "bob")
    assert check_ins.user.codes.tolist() == [0, 1, 0, 1, 0, 1]
    assert check_ins.user.codes.dtype == np.int32
    assert check_ins.venue.values == ("cafe-1", "home-b", "home-a", "park-1")
    assert check_ins.category.values == ("Café", "Home (private)", "Park")
    assert check_ins.category.codes.tolist() == [0, 1, 1, 0, 2, 1]
    assert check_ins.raw_category.values == ("c1", "c2", "c3")
    assert check_ins.raw_category.codes.tolist() == [0, 1, -1, 0, 2, 1]
    # date -ud '2012-04-03 18:00:09' +%s; the next is 16 s later; 2012-11-12 03:00 is 1352689200
    assert check_ins.time_s[[0, 1, 5]].tolist() == [1333476009, 1333476025, 1352689200]
    assert check_ins.time_s.dtype == np.int64
    assert check_ins.offset_min.tolist() == [-240, -240, -240, -240, -240, -300]
    assert check_ins.offset_min.dtype == np.int32
    assert check_ins.local_time_s[5] == 1352689200 - 5 * 3600
    np.testing.assert_array_equal(check_ins.lat_deg, [40.7, 40.8, np.nan, 40.7, 40.75, 40.8])
    np.testing.assert_array_equal(check_ins.lon_deg, [-74, -73.9, np.nan, -74, -73.95, -73.9])
    assert reading.num_rows == 6
    assert reading.ledger.lines == (
        Line("missing", "category id is empty", 1, (3,)),
        Line("missing", "coordinates are empty", 1, (3,)),
    )


def assert_same_columns(first, second):
    assert first.category.values == second.category.values
    np.testing.assert_array_equal(first.time_s, second.time_s)
    np.testing.assert_array_equal(first.venue.codes, second.venue.codes)
    np.testing.assert_array_equal(first.lat_deg, second.lat_deg)


def test_latin_1_and_utf_8_read_alike(tmp_path):
    utf_8 = read_tsmc2014(DATA / "checkins.txt")
    latin_1 = read_tsmc2014(DATA / "checkins_latin1.txt")
    marked = read_tsmc2014(write(tmp_path / "bom.txt", ROWS, "utf-8-sig"))
    encodings = [reading.source.encoding for reading in (utf_8, latin_1, marked)]
    assert encodings == ["utf-8", "latin-1", "utf-8-sig"]
    assert_same_columns(utf_8.check_ins, latin_1.check_ins)
    assert_same_columns(utf_8.check_ins, marked.check_ins)
    assert marked.check_ins.user.values == ("ann", "bob")


def test_gzip_and_zip_read_as_plain(tmp_path):
    plain = DATA / "checkins.txt"
    zipped = tmp_path / "checkins.zip"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("city")
        archive.write(plain, "city/checkins.txt")
        archive.writestr("__MACOSX/._checkins.txt", b"\0")
    gzipped = tmp_path / "checkins.data"  # told by its first bytes, not by its name
    gzipped.write_bytes(gzip.compress(plain.read_bytes()))
    for path, compression in ((zipped, "zip"), (gzipped, "gzip")):
        reading = read_tsmc2014(path)
        assert reading.source.compression == compression
        assert reading.source.size_bytes == path.stat().st_size
        assert_same_columns(reading.check_ins, read_tsmc2014(plain).check_ins)


def test_line_ends_and_a_quote_in_a_name_survive(tmp_path):
    row = with_field(ROWS[0], 3, '"Joe\'s" Pub')
    path = tmp_path / "crlf.txt"
    path.write_bytes(f"{row}\r\n{ROWS[1]}\r\n\r\n\n".encode())  # empty lines at the end are no rows
    check_ins = read_tsmc2014(path).check_ins
    assert check_ins.category.values == ('"Joe\'s" Pub', "Home (private)")
    assert len(check_ins) == 2


def test_rows_out_of_order_are_sorted_and_repeats_kept(tmp_path):
    rows = [ROWS[2], ROWS[0], ROWS[1], ROWS[2], ROWS[3], with_field(ROWS[3], 4, "40.71")]
    reading = read_tsmc2014(write(tmp_path / "mixed.txt", rows))
    assert reading.check_ins.venue.values == ("cafe-1", "home-b", "home-a")
    assert reading.check_ins.time_s.tolist() == sorted(reading.check_ins.time_s.tolist())
    # row 2 comes after ann's later row 1; bob's row 3 is the first of his; row 4 equals row 1;
    # row 6 differs from 5 by latitude
    assert reading.ledger.lines[0] == Line(
        "repaired", "row out of its user's time order, sorted", 1, (2,)
    )
    assert reading.ledger.lines[-1] == Line("kept", "row repeats another one", 1, (4,))


def csv_rows(path, *rows, **kwargs):
    return read_csv(write(path, ["who,place,when", *rows]), COLUMNS, **kwargs)


def at(second, user="ann", venue="home"):
    return f"{user},{venue},2012-04-03T18:00:{second}Z"


def test_a_file_in_order_within_each_user_is_in_order(tmp_path):
    rows = [at("10", "a"), at("12", "a"), at("09", "b"), at("13", "b"), at("08", "c")]
    reading = csv_rows(tmp_path / "v.csv", *rows)
    assert reading.ledger.lines == ()
    assert [reading.check_ins.user.values[i] for i in reading.check_ins.user.codes] == list("cbaab")
    # one row that is late is found among them: b's third after its second, and not c's
    late = csv_rows(tmp_path / "v.csv", *rows[:4], at("11", "b"), rows[4])
    assert late.ledger.lines == (
        Line("repaired", "row out of its user's time order, sorted", 1, (6,)),
    )


def test_a_file_with_each_users_newest_row_first_is_read_from_its_end(tmp_path):
    rows = [at("12", "a", "v5"), at("11", "a", "v4"), at("11", "a", "v3"), at("10", "a", "v2")]
    rows += [at("15", "b", "v9"), at("13", "b", "v8"), at("14", "b", "v7")]
    reading = csv_rows(tmp_path / "v.csv", *rows)
    # of a's rows at 11 s the later one in the file is the older one; b's 14 s, read from the end,
    # comes before 13 s
    codes = reading.check_ins.venue.codes
    assert [reading.check_ins.venue.values[i] for i in codes] == [
        "v2",
        "v3",
        "v4",
        "v5",
        "v8",
        "v7",
        "v9",
    ]
    assert reading.ledger.lines == (
        Line("repaired", "newest row first, read from the end", 7, (2, 3, 4, 5, 6)),
        Line("repaired", "row out of its user's time order, sorted", 1, (7,)),
    )


def test_fractions_of_a_second_count_until_they_are_cut_off(tmp_path):
    rows = [at("09.900", "a", "v0"), at("09.100", "a", "v1"), at("10.2", "b"), at("10.7", "b")]
    rows += [at("10.70", "b"), at("10.700000000001", "b")]
    reading = csv_rows(tmp_path / "v.csv", *rows)
    check_ins = reading.check_ins
    assert [check_ins.venue.values[i] for i in check_ins.venue.codes[:2]] == ["v1", "v0"]
    assert (check_ins.time_s - 1333476000).tolist() == [9, 9, 10, 10, 10, 10]
    # rows 6 and 7 are b's 10.7 again, to the nanosecond; 10.2 is another moment
    assert reading.ledger.lines == (
        Line("repaired", "row out of its user's time order, sorted", 1, (3,)),
        Line("repaired", "fraction of a second cut off", 6, (2, 3, 4, 5, 6)),
        Line("kept", "row repeats another one", 2, (6, 7)),
    )


def test_rows_of_the_same_second_keep_their_order(tmp_path):
    same = [with_field(ROWS[1], 1, f"venue-{i}") for i in (3, 1, 2)]
    check_ins = read_tsmc2014(write(tmp_path / "ties.txt", [ROWS[3], *same])).check_ins
    assert check_ins.venue.values == ("venue-3", "venue-1", "venue-2", "cafe-1")


EXCHANGE = "If latitude and longitude are swapped, exchange columns 5 and 6 of the file."
BAD_FIELDS = [
    (0, "", "user is empty", "user is empty, expected a name or id."),
    (1, "  ", "venue is empty", "venue is empty, expected a name or id."),
    (
        4,
        "91",
        "latitude is not a number from -90 to 90",
        f"latitude is 91, expected -90 to 90. {EXCHANGE}",
    ),
    (
        4,
        "north",
        "latitude is not a number from -90 to 90",
        "latitude is 'north', expected a number from -90 to 90, or nothing where it is missing.",
    ),
    (
        5,
        "nan",
        "longitude is not a number from -180 to 180",
        "longitude is 'nan', expected a number from -180 to 180, or nothing where it is missing.",
    ),
    (
        5,
        "-200.5",
        "longitude is not a number from -180 to 180",
        "longitude is -200.5, expected -180 to 180.",
    ),
    (
        5,
        "",
        "one coordinate without the other",
        "latitude is 40.8 but longitude is empty, expected both or neither.",
    ),
    (
        4,
        "",
        "one coordinate without the other",
        "longitude is -73.9 but latitude is empty, expected both or neither.",
    ),
    (
        6,
        "-4.5",
        "offset is not a whole number of minutes within 14 h",
        "time-zone offset is '-4.5', expected whole minutes from -840 to 840.",
    ),
    (
        6,
        "841",
        "offset is not a whole number of minutes within 14 h",
        "time-zone offset is '841', expected whole minutes from -840 to 840.",
    ),
    (
        6,
        "",
        "offset is not a whole number of minutes within 14 h",
        "time-zone offset is '', expected whole minutes from -840 to 840.",
    ),
] + [
    (
        7,
        time,
        "time is not readable",
        f"time is {time!r}, expected a date and time like 'Tue Apr 03 18:00:09 +0000 2012'.",
    )
    for time in (
        "",
        "soon",
        "Tue Apr 31 18:00:09 +0000 2012",
        "Mon Apr 03 18:00:09 +0000 2012",  # it was a Tuesday
        "Tue Apr 03 24:00:09 +0000 2012",
        "2012-04-03T18:00:09Z",
    )
]


@pytest.mark.parametrize(("column", "value", "reason", "text"), BAD_FIELDS)
def test_a_bad_field_stops_the_import_or_is_counted(tmp_path, column, value, reason, text):
    path = write(tmp_path / "nyc.txt", [ROWS[0], with_field(ROWS[1], column, value), ROWS[2]])
    assert message(read_tsmc2014, path) == f"nyc.txt, row 2: {text}\n1 bad row in all; {SKIP}"
    reading = read_tsmc2014(path, skip_bad_rows=True)
    assert reading.check_ins.time_s.tolist() == [1333476009, 1333501323]
    assert reading.ledger.lines[0] == Line("dropped", reason, 1, (2,))
    assert reading.num_rows == 3


def test_the_first_bad_row_is_named_and_all_are_counted(tmp_path):
    rows = [*ROWS[:2], with_field(ROWS[2], 0, ""), "", f"{ROWS[3]}\tx", "one\ttwo", ROWS[4]]
    path = write(tmp_path / "nyc.txt", rows)
    assert message(read_tsmc2014, path) == (
        f"nyc.txt, row 3: user is empty, expected a name or id.\n4 bad rows in all; {SKIP}"
    )
    reading = read_tsmc2014(path, skip_bad_rows=True)
    assert reading.ledger.lines[:3] == (
        Line("dropped", "wrong number of fields", 2, (5, 6)),
        Line("dropped", "row is empty", 1, (4,)),
        Line("dropped", "user is empty", 1, (3,)),
    )
    assert reading.ledger.rows("dropped") == 4
    assert (len(reading.check_ins), reading.num_rows) == (3, 7)


def test_wrong_number_of_fields(tmp_path):
    path = write(tmp_path / "nyc.txt", [*ROWS, "a\tb\tc"])
    assert message(read_tsmc2014, path) == (
        f"nyc.txt, row 7: 3 fields, expected 8 separated by tabs.\n1 bad row in all; {SKIP}"
    )
    assert message(read_tsmc2014, DATA / "visits.csv") == (
        "visits.csv, row 1: 1 field, expected 8 separated by tabs. "
        f"For a table with a header use `fedgru data import csv`.\n4 bad rows in all; {SKIP}"
    )
    assert message(read_tsmc2014, DATA / "visits.csv", skip_bad_rows=True) == (
        "visits.csv has no good row among 4. Row 1: 1 field, expected 8 separated by tabs. "
        "For a table with a header use `fedgru data import csv`."
    )


def test_swapped_coordinates_in_range_are_found_by_the_clock():
    # at longitude 40.7 the sun is 163 min ahead of UTC, at -74.0 it is 296 min behind, as -240 says
    assert message(read_tsmc2014, DATA / "swapped.txt") == (
        "swapped.txt, row 1: latitude -74.0 and longitude 40.7 contradict the time-zone offset of "
        "-240 minutes but would fit it exchanged. If they are swapped, exchange columns "
        f"5 and 6 of the file.\n1 bad row in all; {SKIP}"
    )


@pytest.mark.parametrize(
    ("lat", "lon", "offset"),
    [
        ("39.5", "75.9", "480"),  # Kashgar on Beijing time, 176 min from the sun
        ("1.9", "-157.4", "840"),  # Kiritimati, a day ahead of its meridian
        ("-77.8", "166.7", "780"),  # McMurdo
        ("35.7", "139.7", "0"),  # Tokyo with an unknown offset
    ],
)
def test_odd_clocks_are_not_taken_for_swapped_coordinates(tmp_path, lat, lon, offset):
    row = with_field(with_field(with_field(ROWS[0], 4, lat), 5, lon), 6, offset)
    assert len(read_tsmc2014(write(tmp_path / "odd.txt", [row])).check_ins) == 1


def test_files_that_are_no_text(tmp_path, monkeypatch):
    def content(name, data):
        (tmp_path / name).write_bytes(data)
        return message(read_tsmc2014, tmp_path / name)

    assert message(read_tsmc2014, DATA / "nowhere.txt") == f"{DATA / 'nowhere.txt'} does not exist."
    assert message(read_tsmc2014, tmp_path) == f"{tmp_path} is a folder, expected a file."
    assert message(read_tsmc2014, DATA / "empty.txt") == "empty.txt is empty."
    assert content("blank.txt", b"\n \n") == "blank.txt is empty."
    assert content("empty.txt.gz", gzip.compress(b"")) == "empty.txt.gz is empty."
    assert content("wide.txt", "one two".encode("utf-16")) == (
        "wide.txt is not text in UTF-8 or Latin-1: it has zero bytes in it."
    )
    assert message(read_tsmc2014, DATA / "truncated.txt.gz") == (
        "truncated.txt.gz ends too early: the gzip file is cut off. Download it again."
    )
    assert content("plain.txt.gz", ROWS[0].encode()) == (
        "plain.txt.gz is named .gz but is not a gzip file. "
        "If it is plain text, rename it; if not, download it again."
    )
    assert content("plain.ZIP", ROWS[0].encode()) == (
        "plain.ZIP is named .ZIP but is not a zip file. "
        "If it is plain text, rename it; if not, download it again."
    )
    damaged = bytearray(gzip.compress(ROWS[0].encode()))
    damaged[-8] ^= 1  # the checksum
    assert content("damaged.gz", bytes(damaged)).startswith(
        "damaged.gz is a damaged gzip file (CRC"
    )
    assert content("damaged.zip", b"PK\3\4 and nothing") == (
        "damaged.zip is a damaged zip file (File is not a zip file). Download it again."
    )
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("checkins.txt", "\n".join(ROWS))
    whole = (tmp_path / "whole.zip").read_bytes()
    assert content("cut.zip", whole[:20] + whole[30:]) == (
        "cut.zip is a damaged zip file (negative seek value -10). Download it again."
    )
    monkeypatch.setattr(sources, "MAX_TEXT_BYTES", 2**20)
    assert content("bomb.gz", gzip.compress(b" " * (2**20 + 1))) == (
        "bomb.gz holds more than 1 MiB of text, which is the limit. Import a part of it."
    )


def test_a_zip_must_hold_one_file(tmp_path):
    path = tmp_path / "cities.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nyc.txt", "a")
        archive.writestr("tky.txt", "b")
    assert message(read_tsmc2014, path) == (
        "cities.zip holds 2 files (nyc.txt, tky.txt), expected one. "
        "Unpack it and import the file you mean."
    )
    with zipfile.ZipFile(path, "w"):
        pass
    assert message(read_tsmc2014, path) == (
        "cities.zip holds 0 files (none), expected one. Unpack it and import the file you mean."
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.txt", " " * 3000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "MAX_TEXT_BYTES", 2000)
        assert message(read_tsmc2014, path).startswith("cities.zip holds more than 0 MiB of text")


def test_a_row_without_end(tmp_path):
    path = write(tmp_path / "long.txt", [ROWS[0], "x" * 3_000_000])
    assert message(read_tsmc2014, path) == (
        "long.txt cannot be cut into rows: row 2 is longer than 1 MiB."
    )
    rows = ["who,place,when", *["a,b,c"] * 300_000, '"ann,b,c', *["a,b,c"] * 600_000]
    assert message(read_csv, write(tmp_path / "quote.csv", rows), COLUMNS) == (
        "quote.csv cannot be cut into rows: row 300002 is longer than 1 MiB. Is a quote left open?"
    )


def test_an_open_quote_is_named_with_the_rows_that_it_swallows(tmp_path):
    # rows 2 to 6 are good; the quote of row 7 is open to the end of the file, row 19
    rows = [at(f"{i:02}") for i in range(5)] + ['ann,"ho,2012-04-03T18:00:05Z']
    rows += [at(f"{i:02}") for i in range(6, 18)]
    path = write(tmp_path / "v.csv", ["who,place,when", *rows])
    assert message(read_csv, path, COLUMNS) == (
        "v.csv, row 7: a quote is left open in this row: it swallows the 12 rows after it, to row "
        "19. Close the quote, or write a quote that is part of a name twice.\n"
        f"13 bad rows in all; {SKIP}"
    )
    reading = read_csv(path, COLUMNS, skip_bad_rows=True)
    assert (len(reading.check_ins), reading.num_rows) == (5, 18)
    lost = "a quote left open, and the rows it swallowed"
    assert reading.ledger.lines == (Line("dropped", lost, 13, (7, 8, 9, 10, 11)),)


def test_a_quote_that_a_later_quote_closes(tmp_path, monkeypatch):
    # row 3's quote ends at that of row 5: three rows are one with the right number of fields
    rows = [at("00"), 'ann,"ho,2012-04-03T18:00:01Z', at("02"), 'ann,"home,2012-04-03T18:00:03Z']
    rows += ["too,few", at("05"), 'ann,"a home,\nwith a, b",2012-04-03T18:00:06Z']
    for part in (1 << 20, 128):  # bytes
        monkeypatch.setattr(sources, "_MAX_ROW_BYTES", part)
        path = write(tmp_path / "v.csv", ["who,place,when,note", *(f"{row},x" for row in rows)])
        reading = read_csv(path, COLUMNS, skip_bad_rows=True)
        assert reading.check_ins.venue.values == ("home", "a home,\nwith a, b")
        assert (reading.check_ins.time_s - 1333476000).tolist() == [0, 5, 6]
        assert reading.ledger.lines == (
            Line("dropped", "wrong number of fields", 1, (6,)),
            Line("dropped", "a quote left open, and the rows it swallowed", 3, (3, 4, 5)),
        )
        assert reading.num_rows == 7


# csv


def test_csv_with_quotes_and_zones():
    columns = COLUMNS | {"category": "kind", "latitude": "lat", "longitude": "lon"}
    reading = read_csv(DATA / "visits.csv", columns)
    check_ins = reading.check_ins
    assert (reading.time_layout, reading.delimiter, reading.num_rows) == ("iso8601", ",", 3)
    assert check_ins.time_s.tolist() == [1333476009, 1333476025, 1333501323]
    assert check_ins.offset_min.tolist() == [-240, -240, -240]
    assert check_ins.category.values == ('Café, "corner"', "Home")
    assert check_ins.raw_category.values == check_ins.category.values
    assert check_ins.category.codes.tolist() == [0, 1, -1]
    np.testing.assert_array_equal(check_ins.lat_deg, [40.7, 40.8, np.nan])
    assert reading.ledger.lines == (
        Line("missing", "category name is empty", 1, (4,)),  # the header is row 1
        Line("missing", "coordinates are empty", 1, (4,)),
    )


def test_csv_needs_only_user_venue_and_time():
    check_ins = read_csv(DATA / "visits.csv", COLUMNS).check_ins
    assert check_ins.category.values == check_ins.raw_category.values == ()
    assert check_ins.category.codes.tolist() == [-1, -1, -1]
    assert np.isnan(check_ins.lon_deg).all()


@pytest.mark.parametrize(
    ("time", "offset_min", "layout", "time_s", "local_offset"),
    [
        ("2012-04-03T18:00:09Z", None, "iso8601", 1333476009, 0),
        ("2012-04-03 18:00:09", None, "iso8601", 1333476009, 0),  # no zone: UTC
        ("2012-04-03 14:00:09", -240, "iso8601", 1333476009, -240),  # no zone: on that clock
        ("2012-04-03T18:00:09Z", -240, "iso8601", 1333476009, -240),
        ("2012-04-03T23:30:09+0530", None, "iso8601", 1333476009, 330),
        ("2012-04-03 18:00", None, "iso8601", 1333476000, 0),
        ("1333476009", -240, "unix", 1333476009, -240),
        ("Tue Apr 03 14:00:09 -0400 2012", None, "tsmc2014", 1333476009, -240),
    ],
)
def test_csv_times_and_clocks(tmp_path, time, offset_min, layout, time_s, local_offset):
    path = write(tmp_path / "visits.csv", ["when;who;place", f"{time};ann;home"])
    reading = read_csv(path, COLUMNS, offset_min=offset_min)
    assert (reading.time_layout, reading.delimiter) == (layout, ";")
    assert reading.check_ins.time_s.tolist() == [time_s]
    assert reading.check_ins.offset_min.tolist() == [local_offset]


def test_csv_offset_column_and_fractions(tmp_path):
    rows = ["who|place|when|shift", "ann|home|1333476009.75|-240", "ann|work|1333476010.0|+330"]
    reading = read_csv(write(tmp_path / "v.csv", rows), COLUMNS | {"offset": "shift"})
    assert reading.check_ins.time_s.tolist() == [1333476009, 1333476010]
    assert reading.check_ins.offset_min.tolist() == [-240, 330]
    assert reading.ledger.lines == (Line("repaired", "fraction of a second cut off", 1, (2,)),)


def test_csv_swapped_coordinates_name_the_columns(tmp_path):
    columns = COLUMNS | {"latitude": "lat", "longitude": "lon"}
    path = write(tmp_path / "t.csv", ["who,place,when,lat,lon", "ann,home,1333476009,139.7,35.7"])
    assert message(read_csv, path, columns) == (
        "t.csv, row 2: latitude is 139.7, expected -90 to 90. If latitude and longitude are "
        f"swapped, use `columns` latitude=lon `columns` longitude=lat.\n1 bad row in all; {SKIP}"
    )
    swapped = columns | {"latitude": "lon", "longitude": "lat"}
    assert read_csv(path, swapped).check_ins.lat_deg.tolist() == [35.7]


def test_csv_rows_are_counted_as_in_the_file(tmp_path):
    old = tmp_path / "old.csv"
    old.write_bytes(b"who,place,when\rann,home,1333476009\r")  # line ends of another age
    assert read_csv(old, COLUMNS).num_rows == 1
    rows = ["who,place,when", '"ann\nlee",home,1333476009', "bob,,1333476010", "x,y"]
    path = write(tmp_path / "v.csv", rows)
    assert message(read_csv, path, COLUMNS) == (
        f"v.csv, row 3: venue is empty, expected a name or id.\n2 bad rows in all; {SKIP}"
    )
    reading = read_csv(path, COLUMNS, skip_bad_rows=True)
    assert reading.check_ins.user.values == ("ann\nlee",)
    assert [line.examples for line in reading.ledger.lines] == [(4,), (3,)]


def test_csv_files_that_do_not_fit(tmp_path):
    def content(*rows, **kwargs):
        return message(read_csv, write(tmp_path / "v.csv", rows), COLUMNS, **kwargs)

    assert content("who;where;when", "a;b;c") == (
        "v.csv has no column 'place' (`columns` venue=place). "
        "Its header, split at semicolons, has: who, where, when."
    )
    assert content("who,place,when", "a,b,c", delimiter=":") == (
        "v.csv has no column 'who' (`columns` user=who). "
        "Its header, split at ':', has: who,place,when."
    )
    assert content("who,place,when,who", "a,b,c,d") == (
        "v.csv has 2 columns 'who' (`columns` user=who). "
        "Its header, split at commas, has: who, place, when, who."
    )
    assert content("who,place,when") == "v.csv has a header but no rows."
    assert content("who,place,when", "a,b,20120403") == (
        "v.csv, row 2: time is '20120403', expected a date and time like "
        "'Tue Apr 03 18:00:09 +0000 2012' or ISO 8601 ('2012-04-03T18:00:09Z') or "
        f"Unix seconds ('1333476009').\n1 bad row in all; {SKIP}"
    )
    assert content("who,place,when", "a,b,1333476009", "a,b,1333476009000") == (
        "v.csv, row 3: time is '1333476009000', expected a date and time like "
        f"Unix seconds ('1333476009').\n1 bad row in all; {SKIP}"
    )


@pytest.mark.parametrize(
    ("columns", "kwargs", "text"),
    [
        (
            {"user": "u", "time": "t"},
            {},
            "`columns` venue=NAME is missing: user, venue and time are needed.",
        ),
        (
            {**COLUMNS, "place": "p"},
            {},
            "`columns` place=p: 'place' is not a field, expected one of user, venue, time, "
            "latitude, longitude, category, raw_category, offset, point.",
        ),
        (
            {"user": "u", "venue": "v", "order": "n"},
            {},
            "`columns` order=n: an order alone gives no time, and splits, clocks and gaps need "
            "one. If its steps have a known length, take it as the time: `columns` time=n "
            "`time_unit` h `epoch` 2000-01-01.",
        ),
        (
            COLUMNS,
            {"epoch": "2012-04-01"},
            "`epoch` has no effect without `time_unit`, the unit of the times since then.",
        ),
        (COLUMNS, {"time_unit": "week"}, "`time_unit` is 'week', expected ms, s, min, h, d."),
        (
            COLUMNS,
            {"time_unit": "d", "epoch": "April"},
            "`epoch` is 'April', expected a date like '2012-04-01' or '2012-04-01T00:00Z'.",
        ),
        (
            {**COLUMNS, "point": "p", "latitude": "y", "longitude": "x"},
            {},
            "`columns` point=p and latitude=y say the same: give one of them.",
        ),
        (
            {**COLUMNS, "longitude": "x"},
            {},
            "`columns` longitude=x needs `columns` latitude=NAME too.",
        ),
        (COLUMNS, {"delimiter": "||"}, "`delimiter` is '||', expected one character."),
        (COLUMNS, {"offset_min": 900}, "`offset_min` is 900, expected -840 to 840 minutes."),
        (
            {**COLUMNS, "offset": "o"},
            {"offset_min": 0},
            "`offset_min` and `columns` offset=... exclude each other: give one of them.",
        ),
    ],
)
def test_csv_settings_that_make_no_sense(columns, kwargs, text):
    assert message(read_csv, "unread.csv", columns, kind=ConfigError, **kwargs) == text


KEPT_ROWS = [
    "who,place,when,faith,pay-band,kind",
    "ann,home,1333476030,sufi,low,Home",
    "bob,work,1333476010,,high,Office",
    "cy,gym,soon,sikh,low,Gym",  # dropped, and its faith is nobody's
    "ann,work,1333476020,sikh,,Office",
    "bob,work,1333476010,none,high,Office",  # not row 3 again: the faith differs
    "bob,work,1333476010,none,high,Office",
]


def test_kept_columns_go_with_their_rows(tmp_path):
    reading = read_csv(
        write(tmp_path / "v.csv", KEPT_ROWS),
        COLUMNS | {"category": "kind"},
        skip_bad_rows=True,
        keep=["pay-band", "faith"],
    )
    # in order of time: rows 3, 6, 7, 5, 2
    own = reading.check_ins.own
    assert list(own) == ["pay-band", "faith"]
    assert own["faith"].values == ("none", "sikh", "sufi")
    assert own["faith"].codes.tolist() == [-1, 0, 0, 1, 2]
    assert own["pay-band"].values == ("high", "low")
    assert own["pay-band"].codes.tolist() == [0, 0, 0, -1, 1]
    assert own["faith"].codes.dtype == np.int32
    assert [line for line in reading.ledger.lines if line.kind != "repaired"] == [
        Line("dropped", "time is not readable", 1, (4,)),
        Line("missing", "pay-band is empty", 1, (5,)),
        Line("missing", "faith is empty", 1, (3,)),
        Line("kept", "row repeats another one", 1, (7,)),
    ]
    assert read_csv(DATA / "visits.csv", COLUMNS).check_ins.own == {}


def test_a_row_with_a_kept_value_alone_is_not_empty(tmp_path):
    path = write(tmp_path / "v.csv", ["who,place,when,faith", "ann,home,1333476009,", ",,,sikh"])
    assert message(read_csv, path, COLUMNS, keep=["faith"]) == (
        f"v.csv, row 3: user is empty, expected a name or id.\n1 bad row in all; {SKIP}"
    )


def test_kept_columns_that_the_file_lacks(tmp_path):
    def kept(header, *names):
        return message(read_csv, write(tmp_path / "v.csv", [header, "a,b"]), COLUMNS, keep=names)

    assert kept("who;place;when;faith,pay;age", "faith", "age") == (
        "v.csv has no column 'faith' (`keep` faith). "
        "Its header, split at semicolons, has: who, place, when, faith,pay, age."
    )
    assert kept("who,place,when,faith,faith", "faith") == (
        "v.csv has 2 columns 'faith' (`keep` faith). "
        "Its header, split at commas, has: who, place, when, faith, faith."
    )


OWN_MEANING = (
    "that name is reserved, like user, venue, time, latitude, longitude, category, "
    "raw_category, offset, weekend, client, category-group. Rename the column in the file's header."
)


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        (["place"], "`keep` place: that column is in use already (`columns` venue=place)."),
        (["faith", "age", "faith"], "`keep` faith is given twice."),
        (
            ["pay band"],
            "`keep` 'pay band' cannot name a concept: expected letters, digits, '_' and '-'. "
            "Rename the column in the file's header.",
        ),
        (["zone"], f"`keep` zone: {OWN_MEANING}"),
    ],
)
def test_names_that_no_kept_column_can_have(keep, text):
    assert message(read_csv, "unread.csv", COLUMNS, keep=keep, kind=ConfigError) == text


@pytest.mark.parametrize("name", ["", "a:b", "a,b", "é", "age\n", "own:age", "a.b"])
def test_names_that_no_concept_can_have(name):
    text = message(read_csv, "unread.csv", COLUMNS, keep=[name], kind=ConfigError)
    assert text.startswith(f"`keep` {name!r} cannot name a concept: ")


NO_ZONE = "time has no zone, read as"


@pytest.mark.parametrize(
    ("kwargs", "hours", "clock"),
    [
        ({}, (18, 22), None),  # refused
        ({"times_without_zone": "utc"}, (18, 18, 22), "UTC"),
        ({"offset_min": -240}, (18, 22, 22), "local time by the given offset"),
        ({"offset_min": -240, "times_without_zone": "utc"}, (18, 18, 22), "UTC"),
    ],
)
def test_times_without_a_zone_among_others(tmp_path, kwargs, hours, clock):
    rows = [
        "a,v0,2012-04-03T18:00:09Z",
        "a,v1,2012-04-03T18:00:09",
        "a,v2,2012-04-03T18:00:09-04:00",
    ]
    path = write(tmp_path / "v.csv", ["who,place,when", *rows])
    if clock is None:
        assert message(read_csv, path, COLUMNS) == (
            "v.csv, row 3: 1 time has no zone, but 2 have one. Give `times_without_zone` utc, or "
            "an offset from UTC if they are local time."
        )
        return
    reading = read_csv(path, COLUMNS, **kwargs)
    assert (reading.check_ins.time_s // 3600 % 24).tolist() == list(hours)
    assert reading.ledger.lines == (Line("missing", f"{NO_ZONE} {clock}", 1, (3,)),)


def test_times_without_a_zone_are_local_time_by_the_offset_column(tmp_path):
    rows = ["ann,v0,2012-04-03 18:00:09,-240", "ann,v1,2012-04-03 23:30:00,330"]
    path = write(tmp_path / "v.csv", ["who,place,when,off", *rows])
    columns = COLUMNS | {"offset": "off"}
    local = read_csv(path, columns)
    # 18:00:09 four hours behind UTC is 22:00:09 UTC; 23:30 five and a half ahead is 18:00 UTC
    assert (local.check_ins.time_s - 1333411200).tolist() == [18 * 3600, 22 * 3600 + 9]
    assert (local.check_ins.local_time_s % 86400).tolist() == [23 * 3600 + 1800, 18 * 3600 + 9]
    column = f"{NO_ZONE} local time by the offset column"
    assert local.ledger.lines[0] == Line("missing", column, 2, (2, 3))
    utc = read_csv(path, columns, times_without_zone="utc")
    assert (utc.check_ins.time_s - 1333411200).tolist() == [18 * 3600 + 9, 23 * 3600 + 1800]
    assert utc.ledger.lines == (Line("missing", f"{NO_ZONE} UTC", 2, (2, 3)),)
    text = message(read_csv, path, COLUMNS, times_without_zone="local", kind=ConfigError)
    assert text == (
        "`times_without_zone` local needs the clock: give `offset_min` or `columns` offset=NAME."
    )


def test_windows_1252_is_recognised_by_its_quotes_and_dashes(tmp_path):
    rows = ["who,place,when", "Joe\u2019s,Caf\u00e9,1333476009"]
    reading = read_csv(write(tmp_path / "v.csv", rows, "cp1252"), COLUMNS)
    assert reading.source.encoding == "windows-1252"
    assert reading.check_ins.user.values == ("Joe\u2019s",)
    assert reading.check_ins.venue.values == ("Caf\u00e9",)
    path = tmp_path / "bad.csv"
    path.write_bytes(b"who,place,when\nJoe\x92s,a\x81b,1333476009\n")
    assert message(read_csv, path, COLUMNS) == (
        "bad.csv is not text in UTF-8, Latin-1 or Windows-1252: line 2 has the byte 0x81, a "
        "control character. Convert the file to UTF-8."
    )


def test_blank_lines_before_the_header_are_skipped(tmp_path):
    path = tmp_path / "v.csv"
    path.write_bytes(b"\r\n  \r\nwho,place,when\r\nann,home,1333476009\r\n,,\r\n")
    reading = read_csv(path, COLUMNS, skip_bad_rows=True)
    assert reading.num_rows == 2
    assert reading.ledger.lines == (
        Line("repaired", "blank line before the header, skipped", 2, (1, 2)),
        Line("dropped", "row is empty", 1, (5,)),  # lines as in the file: the header is the third
    )


def test_missing_values_in_disguise_are_counted(tmp_path):
    rows = ["nan,0.0,0,00000000", "NULL,1,0,n/a", "Nana,0,0.0,7", "ann,,,home"]
    rows = [
        "user,time,lat,lon,venue",
        *(f"{r[0]},1333476009,{','.join(r[1:])}" for r in (row.split(",") for row in rows)),
    ]
    columns = {
        "user": "user",
        "venue": "venue",
        "time": "time",
        "latitude": "lat",
        "longitude": "lon",
    }
    reading = read_csv(write(tmp_path / "v.csv", rows), columns)
    assert reading.ledger.lines == (
        Line("missing", "coordinates are empty", 1, (5,)),
        Line("kept", "coordinates are 0, 0: often a missing value", 2, (2, 4)),
        Line("kept", "user is nan, NULL: often a missing value", 2, (2, 3)),
        Line("kept", "venue is 00000000, n/a: often a missing value", 2, (2, 3)),
    )
    assert len(reading.check_ins) == 4


def test_a_table_without_a_header_keeps_its_first_row(tmp_path):
    path = write(tmp_path / "v.csv", ["", "ann;2012-04-03T18:00:09Z;home", "bob;soon;work"])
    columns = {"user": "1", "venue": "3", "time": "2"}
    reading = read_csv(path, columns, no_header=True, skip_bad_rows=True)
    assert (reading.check_ins.user.values, reading.check_ins.venue.values) == (("ann",), ("home",))
    assert (reading.num_rows, reading.delimiter) == (2, ";")
    assert reading.ledger.lines == (
        Line("repaired", "blank line before the first row, skipped", 1, (1,)),
        Line("dropped", "time is not readable", 1, (3,)),
    )
    assert message(read_csv, path, columns | {"user": "4"}, no_header=True) == (
        "v.csv has no column '4' (`columns` user=4). Its first row, split at semicolons, has the "
        "columns 1 to 3."
    )


def test_points_and_counted_times(tmp_path):
    rows = ["who,place,when,at", 'ann,home,1.5,"POINT (28.95 -41.0)"', "ann,work,2,", "ann,gym,x,"]
    rows += ['ann,gym,3,"POLYGON ((1 2))"', 'ann,bar,0.25,"[1e1, +4.5]"']
    path = write(tmp_path / "v.csv", rows)
    given = {"time_unit": "d", "epoch": "2012-04-01", "skip_bad_rows": True}
    reading = read_csv(path, COLUMNS | {"point": "at"}, **given)
    check_ins = reading.check_ins
    # 2012-04-01 is 1333238400; a quarter, one and a half and two days later
    days = (check_ins.time_s - 1333238400) / 86400
    assert days.tolist() == [0.25, 1.5, 2]
    np.testing.assert_array_equal(check_ins.lat_deg, [4.5, -41.0, np.nan])
    np.testing.assert_array_equal(check_ins.lon_deg, [10, 28.95, np.nan])
    assert [line for line in reading.ledger.lines if line.kind == "dropped"] == [
        Line("dropped", "time is not readable", 1, (4,)),
        Line("dropped", "latitude is not a number from -90 to 90", 1, (5,)),
    ]
    minutes = write(tmp_path / "m.csv", ["who,place,when", "ann,home,22224600.5"])
    assert read_csv(minutes, COLUMNS, time_unit="min").check_ins.time_s.tolist() == [1333476030]


def test_places_in_a_table_of_their_own(tmp_path):
    rows = ["who,place,when", "ann,home,1333476009", "bob,gym,1333476010", "bob,cafe,1333476011"]
    table = write(
        tmp_path / "p.csv", ["id|at|kind", "gym|POINT(-74 40.7)|Sports", "home||", "|x|y"]
    )
    columns = {"venue": "id", "point": "at", "category": "kind"}
    given = {"columns": COLUMNS, "places": table, "place_columns": columns}
    path, data_dir = write(tmp_path / "v.csv", rows), tmp_path / "data"
    error = message(import_file, "csv", path, "v", data_dir, **given)
    assert error.startswith("p.csv, row 4: the place has no id.\n1 bad row in all")
    data_set = import_file("csv", path, "v", data_dir, skip_bad_rows=True, **given)
    check_ins = data_set.check_ins
    assert check_ins.category.values == ("Sports",)
    assert check_ins.category.codes.tolist() == [-1, 0, -1]
    np.testing.assert_array_equal(check_ins.lon_deg, [np.nan, -74, np.nan])
    assert [(line["reason"], line["rows"]) for line in data_set.passport["ledger"]] == [
        ("in p.csv: place has no id", 1),
        ("venue is not in p.csv", 1),
    ]
    assert data_set.passport["settings"]["place_columns"] == columns
    assert data_set.passport["settings"]["places"]["file"] == "p.csv"
    with pytest.raises(ConfigError) as error:
        import_file(
            "csv",
            path,
            "w",
            data_dir,
            columns=COLUMNS | {"category": "who"},
            places=table,
            place_columns=columns,
        )
    assert str(error.value) == (
        "`columns` category=who and `place_columns` category=kind say the same: give one of them."
    )


# times


def test_times_equal_those_of_the_standard_library():
    rng = np.random.default_rng(0)
    start = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    seconds = rng.integers(0, 4102444800, 2000).tolist() + [951782400, 4102444799]  # 2000-02-29
    moments = [start + timedelta(seconds=s) for s in seconds]
    written = {
        "tsmc2014": [moment.strftime("%a %b %d %H:%M:%S +0000 %Y") for moment in moments],
        "iso8601": [moment.isoformat() for moment in moments],
    }
    for layout, texts in written.items():
        times = read_times(pa.array(texts), layout)
        assert times.ok.all()
        assert times.time_s.tolist() == seconds
        assert guess_layout(pa.array(texts)) == layout


def test_times_that_do_not_exist():
    texts = ["2013-02-29T00:00:00Z", "2012-00-10T00:00:00Z", "2012-13-01T00:00:00Z"]
    texts += ["1969-12-31T00:00:00Z", "2100-01-01T00:00:00Z", "2012-04-03T18:60:00Z"]
    texts += [
        "2012-04-03T18:00:60Z",
        "2012-04-03T18:00:09+14:30",
        "2012-04-03",
        "2012-04-00T00:00Z",
    ]
    times = read_times(pa.array(texts), "iso8601")
    assert not times.ok.any()
    assert times.time_s.tolist() == [0] * len(texts)
    assert read_times(pa.array(["4102444800", "20120403"]), "unix").ok.tolist() == [False, False]
    assert guess_layout(pa.array(texts)) is None


def test_iso_times_read_alike_with_and_without_the_quick_way():
    texts = ["2012-02-29T23:59:59Z", "2013-02-29T00:00:00Z", "2012-04-03 18:00:09z"]
    texts += ["2012-04-03T18:00:0xZ", "2012-04-03T24:00:00Z", "2012/04-03T18:00:09Z"]
    texts += ["2012-04-03T18:00:09+", "2012-04-03T18:00:60Z", "0012-04-03T18:00:09Z"]
    quick = read_times(pa.array(texts), "iso8601")
    # a longer text among them: the pattern reads all
    slow = read_times(pa.array([*texts, "2012-04-03T18:00:09.5Z"]), "iso8601")
    for name in ("ok", "time_s", "zone_min", "has_zone", "fraction_ns"):
        np.testing.assert_array_equal(getattr(quick, name), getattr(slow, name)[:-1], name)
    assert quick.ok.tolist() == [True, False, True, *[False] * 6]
    assert quick.time_s[2] == 1333476009


# ledger


def test_ledger_goes_to_json_and_back():
    ledger = Ledger().add("dropped", "user is empty", np.arange(9, 0, -1)).add("kept", "odd", [4])
    assert ledger.to_list()[0] == {
        "kind": "dropped",
        "reason": "user is empty",
        "rows": 9,
        "examples": [1, 2, 3, 4, 5],
    }
    assert Ledger.from_list(ledger.to_list()) == ledger
    with pytest.raises(ValueError, match="kind is 'lost', expected one of dropped, repaired"):
        Line("lost", "", 1)


@pytest.mark.realdata
@pytest.mark.skipif(not NYC.exists(), reason="needs ../shared/data")
def test_the_real_file():
    reading = read_tsmc2014(NYC)
    check_ins = reading.check_ins
    assert len(check_ins) == reading.num_rows == 158_360
    assert len(check_ins.user.values) == 1083
    assert len(check_ins.venue.values) == 11_982
    assert len(check_ins.category.values) == 242
    assert len(check_ins.raw_category.values) == 348
    assert check_ins.user.values[0] == "470"
    assert (check_ins.raw_category.codes < 0).mean() == pytest.approx(0.025, abs=0.0005)
    assert np.isnan(check_ins.lat_deg).mean() == pytest.approx(0.018, abs=0.0005)
    # 2012-04-03 18:00:09 and 2013-02-16 02:35:36 UTC by the standard library
    ends = [datetime(2012, 4, 3, 18, 0, 9), datetime(2013, 2, 16, 2, 35, 36)]
    epoch = datetime(1970, 1, 1)
    assert check_ins.time_s[[0, -1]].tolist() == [(t - epoch).total_seconds() for t in ends]
    # zcat FILE | sort | uniq -c | awk '$1 > 1 {s += $1 - 1} END {print s}' prints 168
    assert {line.reason: line.rows for line in reading.ledger.lines} == {
        "category id is empty": 3960,
        "coordinates are empty": 2786,
        "row repeats another one": 168,
    }


def many_rows(rng, num_rows):
    """Rows of TSMC2014 of which some are bad, late, repeated, or of another number of fields."""
    rows, begin = [], datetime(2012, 4, 3)
    for i in range(num_rows):
        at = begin + timedelta(minutes=i // 2 - 300 * (rng.random() < 0.1))
        lat, lon = rng.choice(["40.7", "", "91", "4e1"], p=[0.8, 0.1, 0.05, 0.05]), "-74"
        fields = [
            f"u{rng.integers(4)}",
            f"v{rng.integers(9)}",
            "c",
            rng.choice(["Bar", "", " Café"]),
        ]
        fields += [lat, lon if lat else "", rng.choice(["-240", "x"], p=[0.95, 0.05])]
        fields.append(f"{at:%a %b %d %H:%M:%S} +0000 {at:%Y}")
        kind = rng.choice(["whole", "short", "blank", "again"], p=[0.85, 0.05, 0.05, 0.05])
        if kind == "again" and rows:
            rows.append(rows[-1])
        else:
            rows.append({"short": "a\tb", "blank": ""}.get(kind, "\t".join(map(str, fields))))
    return rows


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-8-sig"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_read_in_parts_as_in_one(tmp_path, monkeypatch, encoding, packed):
    path = write(tmp_path / "many.txt", many_rows(np.random.default_rng(1), 500), encoding)
    path.write_bytes(path.read_bytes() + b"\n\r\n" * 50)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    whole, error = read_tsmc2014(path, skip_bad_rows=True), message(read_tsmc2014, path)
    assert len(whole.ledger.lines) >= 7
    for name, value in (
        ("_MAX_ROW_BYTES", 512),
        ("BATCHES_AT_ONCE", 1),
        ("ROWS_AT_LEAST", 1),
        ("_PART_BYTES", 7),
        ("_SPOOLED_BYTES", 100),
    ):
        monkeypatch.setattr(sources, name, value)
    monkeypatch.setattr(growing_columns, "VALUES_AT_LEAST", 3)
    parts = read_tsmc2014(path, skip_bad_rows=True)
    with sources.open_text(path) as text:
        assert len(list(sources.split_rows(text, 8, "\t", quoted=False))) > 20
    assert message(read_tsmc2014, path) == error
    assert (parts.ledger, parts.source, parts.num_rows) == (
        whole.ledger,
        whole.source,
        whole.num_rows,
    )
    assert whole.source.encoding == encoding
    for name, values in vars(whole.check_ins).items():
        found = getattr(parts.check_ins, name)
        if name == "own":
            continue
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(found, values)
            assert found.dtype == values.dtype
        else:
            np.testing.assert_array_equal(found.codes, values.codes)
            assert found.values == values.values


def test_a_csv_is_read_in_parts_as_in_one(tmp_path, monkeypatch):
    rows = ['place,who,when,"lat",lon,note']
    rows += [
        f'"v ""{i % 7}""\n{i}",u{i % 3},2012-04-03T{i // 60:02}:{i % 60:02}:00Z,1,2,"a,{i}"'
        if i % 11
        else "too,few"
        for i in range(400)
    ]
    path, columns = write(tmp_path / "many.csv", rows), COLUMNS | {"latitude": "lat"}
    columns |= {"longitude": "lon"}

    def read(**kwargs):
        return read_csv(path, columns, keep=["note"], **kwargs)

    whole, error = read(skip_bad_rows=True), message(read)
    for name, value in (("_MAX_ROW_BYTES", 256), ("BATCHES_AT_ONCE", 1), ("ROWS_AT_LEAST", 1)):
        monkeypatch.setattr(sources, name, value)
    parts = read(skip_bad_rows=True)
    assert (parts.ledger, parts.num_rows) == (whole.ledger, 400)
    assert parts.check_ins.venue.values == whole.check_ins.venue.values
    np.testing.assert_array_equal(parts.check_ins.time_s, whole.check_ins.time_s)
    own, expected = parts.check_ins.own["note"], whole.check_ins.own["note"]
    np.testing.assert_array_equal(own.codes, expected.codes)
    assert own.values == expected.values
    assert message(read) == error
    # the last row of the first part and the first of the second, by number
    assert error.startswith("many.csv, row 2: 2 fields, expected 6 separated by commas.")


def test_what_unpacks_to_more_than_a_text_can(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "BOMB_BYTES", 1000)
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(b"a" * 1_000_000))
    assert message(read_tsmc2014, bomb) == (
        "bomb.gz unpacks to more than 200 times its size: it is not a table."
    )
