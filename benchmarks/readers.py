"""Every format: rows in and kept, seconds, memory, and speed beside pyarrow's own reader.

    python benchmarks/readers.py [--rows 300000] [--only tist2015] [--folder FOLDER]

Makes a file in the layout of each published format, with the same made-up check-ins: users, venues,
times in order within each user. One venue in 50 is at coordinates 0, 0. Imports it in a process of
its own, and reads the same bytes by `pyarrow.csv.read_csv`. The number of check-ins kept is
compared with the number written; the rows of GeoLife are stays of six points. Prints a table in
Markdown.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

BLOCK = 1_000_000
FIRST_S, LAST_S = 1333476009, 1379373855
ISO, TSMC = "%Y-%m-%dT%H:%M:%SZ", "%a %b %d %H:%M:%S +0000 %Y"
TABS = {"include_header": False, "delimiter": "\t", "quoting_style": "none"}
CSV = {"include_header": True, "delimiter": ",", "quoting_style": "needed"}


class City:
    """Made-up check-ins, a block at a time."""

    def __init__(self, num_rows):
        self.num_rows = num_rows
        rng = np.random.default_rng(0)
        share = num_rows / 33_000_000
        self.num_users = max(10, int(266_909 * share))
        self.num_venues = max(20, int(3_680_126 * share))
        digits = np.frombuffer(b"0123456789abcdef", np.uint8)
        ids = digits[rng.integers(16, size=(self.num_venues, 24))]
        self.ids = pa.array(ids.view("S24")[:, 0].astype(str))
        lat, lon = rng.uniform(-60, 70, self.num_venues), rng.uniform(-180, 180, self.num_venues)
        offset = np.clip(np.round(lon / 15) * 60, -720, 720).astype(int)
        lat[::50] = lon[::50] = 0
        self.lat, self.lon = (pa.array([f"{v:.6f}" for v in x.tolist()]) for x in (lat, lon))
        self.offset = pa.array(offset.astype(str))
        kinds = pa.array([f"Kind {i}" for i in range(440)])
        self.kind = kinds.take(pa.array(rng.integers(440, size=self.num_venues)))

    def blocks(self, layout):
        """Yield (users, rows of the venues, times) of each block; the same every time."""
        rng = np.random.default_rng(1)
        step_s = (LAST_S - FIRST_S) / self.num_rows
        for begin in range(0, self.num_rows, BLOCK):
            size = min(BLOCK, self.num_rows - begin)
            user = pa.array((1 + rng.integers(self.num_users, size=size)).astype(str))
            venue = pa.array((self.num_venues * rng.random(size) ** 2).astype(np.int64))
            at_s = FIRST_S + ((begin + np.arange(size)) * step_s).astype(np.int64)
            at = pc.strftime(pa.array(at_s).cast(pa.timestamp("s")), layout)
            yield begin, user, venue, at


def write(path, tables, style):
    with open(path, "wb") as stream:
        for number, table in enumerate(tables):
            header = style["include_header"] and number == 0
            options = pa.csv.WriteOptions(**(style | {"include_header": header}))
            pa.csv.write_csv(pa.table(table), stream, options)


def tsmc2014(city, path):
    def tables():
        for _, user, venue, at in city.blocks(TSMC):
            kind = city.kind.take(venue)
            columns = [user, city.ids.take(venue), kind, kind, city.lat.take(venue)]
            columns += [city.lon.take(venue), city.offset.take(venue), at]
            yield {str(i): column for i, column in enumerate(columns)}

    write(path, tables(), TABS)
    return [path], ["--categories", "raw"]


def tist2015(city, folder):
    folder.mkdir()
    file, places = folder / "dataset_TIST2015_Checkins.txt", folder / "dataset_TIST2015_POIs.txt"
    blocks = city.blocks(TSMC)
    write(
        file,
        (
            {"0": u, "1": city.ids.take(v), "2": t, "3": city.offset.take(v)}
            for _, u, v, t in blocks
        ),
        TABS,
    )
    country = pa.array(["TR"] * city.num_venues)
    table = {"0": city.ids, "1": city.lat, "2": city.lon, "3": city.kind, "4": country}
    write(places, [table], TABS)
    return [file, places], []


def snap(city, path):
    blocks = city.blocks(ISO)
    tables = (
        {"0": u, "1": t, "2": city.lat.take(v), "3": city.lon.take(v), "4": city.ids.take(v)}
        for _, u, v, t in blocks
    )
    write(path, tables, TABS)
    return [path], []


def libcity(city, folder):
    folder.mkdir()
    dyna, geo = folder / "made.dyna", folder / "made.geo"
    tables = (
        {
            "dyna_id": pa.array(begin + np.arange(len(u))),
            "type": pa.array(["trajectory"] * len(u)),
            "time": t,
            "entity_id": u,
            "location": v,
        }
        for begin, u, v, t in city.blocks(ISO)
    )
    write(dyna, tables, CSV)
    points = pc.binary_join_element_wise("[", city.lon, ",", city.lat, "]", "")
    table = {"geo_id": pa.array(np.arange(city.num_venues)), "coordinates": points}
    write(geo, [table | {"venue_category_name": city.kind}], CSV)
    return [dyna, geo], []


def getnext(city, path):
    tables = (
        {
            "user_id": u,
            "POI_id": city.ids.take(v),
            "POI_catid": city.kind.take(v),
            "POI_catname": city.kind.take(v),
            "latitude": city.lat.take(v),
            "longitude": city.lon.take(v),
            "timezone": city.offset.take(v),
            "UTC_time": t,
        }
        for _, u, v, t in city.blocks(ISO)
    )
    write(path, tables, CSV)
    return [path], []


def weeplaces(city, path):
    tables = (
        {
            "userid": u,
            "placeid": city.ids.take(v),
            "datetime": pc.utf8_rtrim(t, "Z"),
            "lat": city.lat.take(v),
            "lon": city.lon.take(v),
            "city": pa.array(["x"] * len(u)),
            "category": city.kind.take(v),
        }
        for _, u, v, t in city.blocks(ISO)
    )
    write(path, tables, CSV)
    return [path], []


def csv(city, path):
    files, _ = getnext(city, path)
    columns = {"user": "user_id", "venue": "POI_id", "time": "UTC_time", "offset": "timezone"}
    columns |= {"latitude": "latitude", "longitude": "longitude", "category": "POI_catname"}
    return files, [w for key, name in columns.items() for w in ("--column", f"{key}={name}")]


def geolife(city, folder):
    """Stays of six points in 25 minutes at one place, each 1.1 km from the one before."""
    stays, users = city.num_rows // 6, 20
    files = []
    for user in range(users):
        stay = np.arange(user, stays, users) // users
        at_s = FIRST_S + np.repeat(7200 * stay, 6) + np.tile(300 * np.arange(6), len(stay))
        at = pa.array(at_s).cast(pa.timestamp("s"))
        size = len(at_s)
        lat = pa.array([f"{v:.4f}" for v in np.repeat(39 + 0.01 * (stay % 100), 6).tolist()])
        same = {"2": "0", "3": "492", "4": "39744.1"}
        columns = {"0": lat, "1": pa.array(["116.31"] * size)}
        columns |= {key: pa.array([value] * size) for key, value in same.items()}
        columns |= {"5": pc.strftime(at, "%Y-%m-%d"), "6": pc.strftime(at, "%H:%M:%S")}
        track = folder / f"{user:03}" / "Trajectory"
        track.mkdir(parents=True)
        files.append(track / "made.plt")
        with open(files[-1], "wb") as stream:
            stream.write(b"Geolife trajectory\nWGS 84\nAltitude is in Feet\nReserved 3\n")
            stream.write(b"0,2,255,My Track,0,0,2,8421376\n0\n")
            style = {**TABS, "delimiter": ","}
            pa.csv.write_csv(pa.table(columns), stream, pa.csv.WriteOptions(**style))
    return files, []


FORMATS = {
    "geolife": geolife,
    "csv": csv,
    "tsmc2014": tsmc2014,
    "snap": snap,
    "tist2015": tist2015,
    "libcity": libcity,
    "getnext": getnext,
    "weeplaces": weeplaces,
}
READ = """
import sys, pyarrow.csv
for path in sys.argv[2:]:
    as_it_comes = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
    quote = '"' if sys.argv[1] == "," else False
    cut = pyarrow.csv.ParseOptions(delimiter=sys.argv[1], quote_char=quote)
    pyarrow.csv.read_csv(path, as_it_comes, cut)
"""


def run(words):
    """Run a program; return (seconds of the clock, of processors, its most resident MiB)."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{words} ended with {status}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument(
        "--without-pyarrow", action="store_true", help="it takes three times as much memory"
    )
    parser.add_argument("--only", choices=FORMATS, action="append")
    parser.add_argument("--folder", type=Path, default=Path("readers-data"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    city = City(given.rows)
    print(f"{date.today()}, {os.cpu_count()} cores, {given.rows:,} rows of each format\n")
    print("| format | MB | rows in | kept | s | processor s | MiB | speed of pyarrow's reader |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    try:
        for name in given.only or FORMATS:
            path = given.folder / name
            files, options = FORMATS[name](city, path)
            size_mb = sum(file.stat().st_size for file in files) / 1e6
            mark = "\t" if name in ("tsmc2014", "snap", "tist2015") else ","
            words = ["-m", "fedgru", "data", "import", name, path, "--name", name]
            words += ["--data-dir", given.folder / "data", *options]
            theirs_s = (
                0
                if given.without_pyarrow or name == "geolife"
                else run(["-c", READ, mark, *files])[1]
            )
            seconds, processor_s, peak = run(words)
            passport = json.loads((given.folder / "data" / name / "passport.json").read_text())
            kept, rows = passport["counts"]["check_ins"], passport["source"]["rows"]
            expected = given.rows // 6 if name == "geolife" else given.rows
            if not kept == rows == expected:
                sys.exit(f"{name}: {rows:,} rows and {kept:,} kept, expected {expected:,}")
            cells = f"{size_mb:,.0f} | {rows:,} | {kept:,} | {seconds:.1f} | {processor_s:.1f}"
            speed = f"{theirs_s / processor_s:.2f}" if theirs_s else "-"
            print(f"| {name} | {cells} | {peak:,.0f} | {speed} |", flush=True)
            shutil.rmtree(given.folder / "data")
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
