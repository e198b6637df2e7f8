"""Malformed and hostile check-in files, tables, configs and data sets, each damaged in one way.

Everything is drawn from a seed: `files(kind, number)` gives the same bytes everywhere. `run` reads
them as fedgru's commands do and counts what came of it.
"""

import gzip
import io
import json
import shutil
import struct
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from fedgru import config
from fedgru.core.errors import FedgruError
from fedgru.data import categories, datasets
from fedgru.data.reading import sources

DATA = Path(__file__).parent / "data"
NUMBERS = ("", "nan", "inf", "-inf", "1e308", "-1", "9" * 400, "0x10", "1_000", "٣", "1,5", "--3")
TEXTS = ("", " ", "\0", "../../x", "\u202e", "a" * 70000, "'", '"', "=1+1", "\ud7ff", "\x1b[2J")


def base(kind):
    """Return (file name, bytes) of the good file that a kind's mutations start from."""
    if kind == "config.toml":
        settings = config.load({"users": 7, "agnostic_to": "zone", "clients_per_round": 3})
        return "own.toml", config.dump(settings).encode()
    if kind == "config.yaml":
        nested = config.load({"users": 7, "name": "try-out"}).model_dump(exclude_none=True)
        return "own.yaml", json.dumps(nested, indent=1).encode()  # YAML holds JSON
    if kind in PUBLISHED:
        name = IN_A_FOLDER.get(kind, ("f.txt",))[0]
        return name, "".join(f"{row}\n" for row in PUBLISHED[kind]).encode()
    name = {"tsmc2014": "checkins.txt", "csv": "visits.csv", "categories": "categories.csv"}[kind]
    return name, (DATA / name).read_bytes()


VISITED = ("cafe-1", "home-b", "home-a")  # in visits.csv
# Good files of published formats, as their READMEs describe them, and tables beside others.
PUBLISHED = {
    "snap": [
        f"{user}\t2010-10-1{9 - i}T23:55:2{i}Z\t30.2{i}\t-97.7{user}\t{i * 7}"
        for user in range(3)
        for i in range(4)
    ],
    "tist2015": [
        f"{i % 3}\tv{i % 4}\tTue Apr 03 18:00:1{i} +0000 2012\t{60 * i}" for i in range(9)
    ],
    "tist2015 places": [f"v{i}\t4{i}.5\t28.{i}\tCaf\u00e9 {i}\tTR" for i in range(4)],
    "tist2015 cities": [f"Town {i}\t4{i}.5\t28.{i}\tTR\tTürkiye\tOther" for i in range(1, 5)],
    "csv places": [
        "id,lat,lon,kind",
        *(f'{place},4{i}.5,-7{i}.25,"Kind {i} café, open"' for i, place in enumerate(VISITED)),
    ],
    "libcity": [
        "dyna_id,type,time,entity_id,location",
        *(f"{i},trajectory,2012-04-03T18:00:0{i}Z,{i % 3},{i % 2}" for i in range(9)),
    ],
    "libcity places": [
        "geo_id,type,coordinates,venue_category_name",
        *(f'{i},Point,"[-7{i}.5,4{i}.25]","Bar {i}, open"' for i in range(3)),
    ],
    "geolife": [
        *("Geolife trajectory", "WGS 84", "Altitude is in Feet", "Reserved 3"),
        *("0,2,255,My Track,0,0,2,8421376", "0"),
        *(f"39.9{i // 4},116.3,0,492,39744,2008-10-23,0{i}:00:00" for i in range(9)),
    ],
    "getnext": [
        "user_id,POI_id,POI_catid,POI_catname,latitude,longitude,timezone,UTC_time",
        *(
            f"{i % 2},p{i},c{i},Bar {i},4{i}.7,-74.0,-240,2012-04-0{i} 18:00:09"
            for i in range(1, 6)
        ),
    ],
    "weeplaces": [
        "userid,placeid,datetime,lat,lon,city,category",
        *(f'u{i % 2},p{i},2010-10-2{i}T23:44:29,4{i}.4,-80.4,K,"Food:Bar {i}"' for i in range(6)),
    ],
}
# kind: (name of the damaged file in its folder, format, {other file: kind}, further options)
IN_A_FOLDER = {
    "tist2015": (
        "dataset_TIST2015_Checkins.txt",
        "tist2015",
        {"dataset_TIST2015_POIs.txt": "tist2015 places"},
        {},
    ),
    "tist2015 places": (
        "dataset_TIST2015_POIs.txt",
        "tist2015",
        {"dataset_TIST2015_Checkins.txt": "tist2015"},
        {},
    ),
    "tist2015 cities": (
        "dataset_TIST2015_Cities.txt",
        "tist2015",
        {
            "dataset_TIST2015_Checkins.txt": "tist2015",
            "dataset_TIST2015_POIs.txt": "tist2015 places",
        },
        {"city": "Town 2", "radius_km": 200.0},
    ),
    "libcity": ("f.dyna", "libcity", {"f.geo": "libcity places"}, {}),
    "libcity places": ("f.geo", "libcity", {"f.dyna": "libcity"}, {}),
    "geolife": ("f.plt", "geolife", {}, {}),
}


def _read_in_a_folder(kind):
    """A reader of a damaged file among good ones, in a folder that is gone afterwards."""
    name, format_name, others, options = IN_A_FOLDER[kind]

    def read(file, data_dir, skip):
        with tempfile.TemporaryDirectory() as folder:
            for other, its_kind in others.items():
                (Path(folder) / other).write_bytes(base(its_kind)[1])
            (Path(folder) / name).write_bytes(file.read_bytes())
            datasets.import_file(
                format_name, folder, "made", data_dir, skip_bad_rows=skip, **options
            )

    return read


def _read_places(file, data_dir, skip):
    """A good table of visits with a damaged table of places."""
    columns = {field: COLUMNS[field] for field in ("user", "venue", "time")}
    place_columns = {"venue": "id", "latitude": "lat", "longitude": "lon", "category": "kind"}
    datasets.import_file(
        "csv",
        DATA / "visits.csv",
        "made",
        data_dir,
        columns=columns,
        places=str(file),
        place_columns=place_columns,
        skip_bad_rows=skip,
    )


def files(kind, number, seed=0):
    """Yield (what was done, file name, bytes) of damaged files, all ways in turn.

    Args:
        kind: "tsmc2014", "csv", a key of PUBLISHED, "categories", "config.toml" or "config.yaml".
        number: how many files.
        seed: int.
    """
    name, good = base(kind)
    ways = {**BYTE_WAYS, **TABLE_WAYS, **PACKED_WAYS}
    if kind.startswith("config"):
        ways = {**BYTE_WAYS, **CONFIG_WAYS[kind]}
    for i in range(number):
        way = list(ways)[i % len(ways)]
        rng = np.random.default_rng([seed, i])
        suffix = {"gzip": ".gz", "zip": ".zip"}.get(way.split()[0], "")
        yield way, name + suffix, ways[way](good, rng)


def _flip(data, rng):
    data = bytearray(data)
    for at in rng.integers(0, len(data), rng.integers(1, 9)):
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _cut(data, rng):
    return data[: rng.integers(0, len(data))]


def _without_a_part(data, rng):
    start, end = sorted(rng.integers(0, len(data), 2))
    return data[:start] + data[end:]


def _insert(data, what, rng):
    at = int(rng.integers(0, len(data) + 1))
    return data[:at] + what + data[at:]


BYTE_WAYS = {
    "bits flipped": _flip,
    "cut off": _cut,
    "a part missing": _without_a_part,
    "a part twice": lambda data, rng: _insert(data, data[: rng.integers(1, len(data))], rng),
    "zero bytes": lambda data, rng: _insert(data, bytes(int(rng.integers(1, 5))), rng),
    "random bytes inside": lambda data, rng: _insert(
        data, rng.bytes(int(rng.integers(1, 40))), rng
    ),
    "random bytes alone": lambda data, rng: rng.bytes(int(rng.integers(1, 500))),
    "a quote left open": lambda data, rng: _insert(data, b'"', rng),
    "line ends of Windows": lambda data, rng: data.replace(b"\n", b"\r\n"),
    "line ends of old Macs": lambda data, rng: data.replace(b"\n", b"\r"),
    "a byte order mark": lambda data, rng: b"\xef\xbb\xbf" * int(rng.integers(1, 3)) + data,
    "UTF-16": lambda data, rng: data.decode().encode("utf-16"),
    "Latin-1": lambda data, rng: data.decode().encode("latin-1", "replace") + b"\xe9\xff",
    "empty": lambda data, rng: b"\n \r\n"[: rng.integers(0, 4)],
    "a very long line": lambda data, rng: _insert(data, b"x" * (1 << 21), rng),
    "backslashes and controls": lambda data, rng: _insert(data, b"\\\x1b[31m\x07\x7f\x85", rng),
}


def _cells(change):
    """A mutation of cells; change(rows, rng) gets lists of texts and may return other ones."""

    def mutate(data, rng):
        lines = data.decode().splitlines()
        mark = "\t" if "\t" in lines[0] else ","
        rows = [line.split(mark) for line in lines]
        rows = change(rows, rng) or rows
        return "".join(mark.join(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")

    return mutate


def _swap_columns(rows, rng):
    one, two = rng.integers(0, len(rows[0]), 2)
    for row in rows:
        if max(one, two) < len(row):
            row[one], row[two] = row[two], row[one]


def _each_row(change):
    def mutate(rows, rng):
        column = int(rng.integers(0, len(rows[0])))
        for row in rows:
            change(row, min(column, len(row) - 1))

    return mutate


def _put(values):
    def mutate(rows, rng):
        row = rows[int(rng.integers(0, len(rows)))]
        row[int(rng.integers(0, len(row)))] = values[int(rng.integers(0, len(values)))]

    return mutate


def _other_mark(data, rng):
    marks = [b"\t", b",", b";", b"|", b" ", b"::"]
    mark = b"\t" if b"\t" in data else b","
    return data.replace(mark, marks[int(rng.integers(0, len(marks)))])


TABLE_WAYS = {
    "columns swapped": _cells(_swap_columns),
    "a column twice": _cells(_each_row(lambda row, i: row.insert(i, row[i]))),
    "a column missing": _cells(_each_row(lambda row, i: row.pop(i))),
    "an odd number": _cells(_put(NUMBERS)),
    "an odd text": _cells(_put(TEXTS)),
    "an impossible time": _cells(
        _put(("2012-02-30T00:00:00Z", "Mon Apr 03 18:00:09 +0000 2012", "99999999999", "0"))
    ),
    "rows shuffled": _cells(lambda rows, rng: [rows[i] for i in rng.permutation(len(rows))]),
    "one row many times": _cells(lambda rows, rng: rows + [rows[-1]] * 3000),
    "ragged rows": _cells(lambda rows, rng: [r[: rng.integers(1, len(r) + 2)] for r in rows]),
    "another delimiter": _other_mark,
    "empty lines": lambda data, rng: data.replace(b"\n", b"\n" * int(rng.integers(2, 5))),
}


def _zip(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)  # of 1980, whenever it is made
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _lying_zip(data, rng):
    """A zip that says it unpacks to less than it does."""
    packed = bytearray(_zip([("a.txt", data)]))
    at = packed.rindex(b"PK\x01\x02")
    packed[at + 24 : at + 28] = struct.pack("<I", int(rng.integers(0, len(data))))
    return bytes(packed)


PACKED_WAYS = {
    "gzip of it": lambda data, rng: gzip.compress(data, mtime=0),
    "gzip with bits flipped": lambda data, rng: _flip(gzip.compress(data, mtime=0), rng),
    "gzip cut off": lambda data, rng: _cut(gzip.compress(data, mtime=0), rng),
    "gzip of a gzip": lambda data, rng: gzip.compress(gzip.compress(data, mtime=0), mtime=0),
    "gzip and something after it": lambda data, rng: gzip.compress(data, mtime=0) + rng.bytes(9),
    "gzip that grows": lambda data, rng: gzip.compress(bytes(3 << 20), mtime=0),
    "zip of it": lambda data, rng: _zip([("a.txt", data)]),
    "zip with bits flipped": lambda data, rng: _flip(_zip([("a.txt", data)]), rng),
    "zip cut off": lambda data, rng: _cut(_zip([("a.txt", data)]), rng),
    "zip that leaves its folder": lambda data, rng: _zip([("../../escaped.txt", data)]),
    "zip from the root": lambda data, rng: _zip([("/tmp/escaped.txt", data)]),
    "zip of several files": lambda data, rng: _zip([("a.txt", data), ("../b.txt", data)]),
    "zip of none": lambda data, rng: _zip([]),
    "zip that grows": lambda data, rng: _zip([("a.txt", b"1\t" * (3 << 19))]),
    "zip that lies about its size": _lying_zip,
}


def _values(odd):
    """A mutation of one value of a config, TOML or the JSON that YAML holds."""

    def mutate(data, rng):
        nested = json.loads(data) if data[:1] == b"{" else None
        lines = data.decode().splitlines()
        value = odd[int(rng.integers(0, len(odd)))]
        if nested is None:
            keys = [i for i, line in enumerate(lines) if " = " in line]
            at = keys[int(rng.integers(0, len(keys)))]
            lines[at] = f"{lines[at].split(' = ')[0]} = {value}"
            return "\n".join(lines).encode("utf-8", "surrogatepass")
        keys = [i for i, line in enumerate(lines) if line.startswith("  ")]
        at = keys[int(rng.integers(0, len(keys)))]
        comma = "," if lines[at].endswith(",") else ""
        lines[at] = f"{lines[at].split(':')[0]}: {value}{comma}"
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    return mutate


_ODD = ("-1", "0", "1e400", "-0.0", "9" * 5000, '"x"', "[]", "[[1], [2]]", "{}", "true", "'../..'")
_ODD_TOML = (*_ODD, "nan", "-inf", "1979-05-27T07:32:00Z", "0xff", '"""\n"""', "{a = {b = 1}}")
_ODD_YAML = (
    *_ODD,
    ".nan",
    ".inf",
    "null",
    "!!python/object/apply:os.system ['true']",
    "*b",
    "&a 3",
)


def _bomb(data, rng):
    """Ten levels of aliases, each ten times the one before: 10^10 values if they are unfolded."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines).encode()


def _deep(left, right):
    return lambda data, rng: left * int(rng.integers(2000, 60000)) + right


CONFIG_WAYS = {
    "config.toml": {
        "an odd value": _values(_ODD_TOML),
        "another odd value": _values(_ODD_TOML),
        "a third odd value": _values(_ODD_TOML),
        "a section twice": lambda data, rng: data + b"\n[loop]\nrounds = 2\n",
        "an unknown key": lambda data, rng: data + b"\n[own]\nkey = 2\n",
        "nested deep": _deep(b"a = [", b"\n"),
        "dotted keys": lambda data, rng: b"loop" + b".a" * int(rng.integers(1, 3000)) + b" = 1\n",
    },
    "config.yaml": {
        "an odd value": _values(_ODD_YAML),
        "another odd value": _values(_ODD_YAML),
        "a third odd value": _values(_ODD_YAML),
        "a tag that runs code": lambda data, rng: b"loop: !!python/object/apply:os.abort []\n",
        "aliases that grow": _bomb,
        "a key that is no text": lambda data, rng: b"? [1, 2]\n: 3\n? {a: b}\n: 4\n",
        "an alias of itself": lambda data, rng: b"loop: &x\n  rounds: *x\n",
        "nested deep": _deep(b"[", b"\n"),
        "a merge key": lambda data, rng: b"a: &a {rounds: 2}\nloop:\n  <<: *a\n",
    },
}


def _json_value(data, rng):
    """A passport in which one value, at any depth, is another."""
    passport = json.loads(data)
    places = []

    def walk(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(passport)
    value, key = places[int(rng.integers(0, len(places)))]
    odd = (None, -1, 1e300, "x", [], {}, True, "../..", 10**30, [[]])
    value[key] = odd[int(rng.integers(0, len(odd)))]
    return json.dumps(passport).encode()


def _column(data, rng):
    """A Parquet file in which one column has odd values, a missing one, or another type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    index = int(rng.integers(0, table.num_columns))
    field, num = table.schema.field(index), table.num_rows
    odd = {
        pa.int64(): [[-(2**63)] * num, [2**63 - 1] * num, [None] + [0] * (num - 1)],
        pa.int32(): [[-(2**31)] * num, [900] * num, [None] * num],
        pa.float64(): [[float("inf")] * num, [91.0] * num, [-1e300] * num],
    }
    choices = [pa.array(values, field.type) for values in odd.get(field.type, [])]
    choices += [pa.array(["x"] * num), pa.array([b"\xff\xfe"] * num), pa.nulls(num)]
    choices.append(pa.nulls(num, field.type))
    column = choices[int(rng.integers(0, len(choices)))]
    stream = io.BytesIO()
    pq.write_table(table.set_column(index, field.name, column), stream)
    return stream.getvalue()


PASSPORT_WAYS = {
    **{way: BYTE_WAYS[way] for way in ("bits flipped", "cut off", "empty", "random bytes alone")},
    "another value": _json_value,
    "one more other value": _json_value,
    "nested deep": _deep(b"[", b""),
    "a part missing": _without_a_part,
}
PARQUET_WAYS = {
    **{way: BYTE_WAYS[way] for way in ("bits flipped", "cut off", "empty", "random bytes alone")},
    "one bit flipped": lambda data, rng: bytes(
        byte ^ (1 << int(rng.integers(8))) if at == i else byte
        for at in [int(rng.integers(0, len(data)))]
        for i, byte in enumerate(data)
    ),
    "another column": _column,
    "one more other column": _column,
    "a part missing": _without_a_part,
}
OF_A_DATA_SET = {"passport.json": PASSPORT_WAYS, "checkins.parquet": PARQUET_WAYS}
COLUMNS = {"user": "who", "venue": "place", "time": "when", "category": "kind"}
COLUMNS |= {"latitude": "lat", "longitude": "lon"}
READERS = {
    "tsmc2014": lambda file, data_dir, skip: datasets.import_file(
        "tsmc2014", file, "made", data_dir, "raw", skip_bad_rows=skip
    ),
    "csv": lambda file, data_dir, skip: datasets.import_file(
        "csv", file, "made", data_dir, columns=COLUMNS, skip_bad_rows=skip
    ),
    **{
        kind: lambda file, data_dir, skip, kind=kind: datasets.import_file(
            kind, file, "made", data_dir, skip_bad_rows=skip
        )
        for kind in ("snap", "getnext", "weeplaces")
    },
    **{kind: _read_in_a_folder(kind) for kind in IN_A_FOLDER},
    "csv places": _read_places,
    "categories": lambda file, data_dir, skip: categories.load_scheme(str(file)),
    "config.toml": lambda file, data_dir, skip: config.load(config_file=file),
    "config.yaml": lambda file, data_dir, skip: config.load(config_file=file),
}


def run(kind, number, folder, seed=0):
    """Read damaged files and count what came of it.

    Args:
        kind: a key of READERS or of OF_A_DATA_SET.
        number: how many files.
        folder: Path of an empty folder to work in.
        seed: int.

    Returns:
        (outcomes, slowest_s): {what was done: Counter of "accepted" and "refused"}, and the
        processor time of the slowest file.

    Raises:
        AssertionError: if a file ends in anything but a data set or a FedgruError, or leaves a
            file behind; names the file by its number.
    """
    outcomes, slowest_s = defaultdict(Counter), 0.0
    if kind in READERS:
        damaged, read = files(kind, number, seed), _read_file
    else:
        damaged, read = _data_sets(kind, number, folder, seed), _open_data_set
    for i, (way, name, data) in enumerate(damaged):
        started = time.process_time()
        try:
            outcome = read(kind, folder, name, data, skip=i % 2 == 1)
        except Exception as error:
            raise AssertionError(f"{kind} file {i}, {way}: {error!r}") from error
        outcomes[way][outcome] += 1
        slowest_s = max(slowest_s, time.process_time() - started)
    return outcomes, slowest_s


def _read_file(kind, folder, name, data, skip):
    file, data_dir = folder / name, folder / "data"
    file.write_bytes(data)
    try:
        READERS[kind](file, data_dir, skip)
        outcome = "accepted"
    except FedgruError as error:
        assert len(str(error)) < 3000, "a message of more than 3000 characters"
        outcome = "refused"
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    made = [] if outcome == "refused" or kind not in MAKES_A_DATA_SET else MADE
    assert left == sorted([name, *made]), f"{outcome}, but it left {left}"
    assert not (folder.parent / "escaped.txt").exists()
    if made:
        datasets.open_data_set("made", data_dir)
        shutil.rmtree(data_dir)
    file.unlink()
    return outcome


MAKES_A_DATA_SET = ("tsmc2014", "csv", *PUBLISHED)
MADE = ["data", "data/made", "data/made/checkins.parquet", "data/made/passport.json"]


def _data_sets(kind, number, folder, seed):
    datasets.import_file("tsmc2014", DATA / "checkins.txt", "good", folder, "raw")
    good = (folder / "good" / kind).read_bytes()
    ways = OF_A_DATA_SET[kind]
    for i in range(number):
        way = list(ways)[i % len(ways)]
        yield way, kind, ways[way](good, np.random.default_rng([seed, i]))


def _open_data_set(kind, folder, name, data, skip):
    shutil.copytree(folder / "good", folder / "bad")
    (folder / "bad" / name).write_bytes(data)
    try:
        found = datasets.open_data_set("bad", folder).check_ins
        good = datasets.open_data_set("good", folder).check_ins
        assert datasets.fingerprint(found) == datasets.fingerprint(good)
        return "accepted"
    except FedgruError:
        return "refused"
    finally:
        shutil.rmtree(folder / "bad")


def limit_text(monkeypatch, size_bytes=1 << 21):
    """Lower the limit of what is unpacked, so that a test's bombs can be small."""
    monkeypatch.setattr(sources, "MAX_TEXT_BYTES", size_bytes)
