"""Import of a file of 33 million check-ins: how fast, and in how much memory.

    python benchmarks/import_rows.py [--rows 33000000] [--folder FOLDER]

Writes a made-up file in the layout of TSMC2014, of the size of the global Foursquare set
(TIST2015): 266,909 users and 3,680,126 venues, ids of 24 hex digits, times in order but for one row
in 100,000. Then reads it by `pyarrow.csv.read_csv`, as it comes, and by `fedgru data import
tsmc2014`, each in a process of its own, in turns. Prints a table in Markdown: seconds of the
fastest, and the most resident memory of the process, which the kernel counts.
"""

import argparse
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

NUM_USERS, NUM_VENUES, NUM_KINDS = 266_909, 3_680_126, 440
BLOCK = 1_000_000
FIRST_S, LAST_S = 1333476009, 1379373855  # as TIST2015: 2012-04-03 to 2013-09-16


def hex_ids(rng, num):
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[rng.integers(16, size=(num, 24))]
    return pa.array(digits.view("S24")[:, 0].astype(str))


def degrees(values):
    return pa.array([f"{value:.6f}" for value in values.tolist()])


def make_file(path, num_rows):
    """Write the file, a block at a time."""
    rng = np.random.default_rng(0)
    num_users, num_venues = (
        max(10, int(size * min(1, num_rows / 33_000_000))) for size in (NUM_USERS, NUM_VENUES)
    )
    venue_ids, kind_ids = hex_ids(rng, num_venues), hex_ids(rng, NUM_KINDS)
    names = pa.array(["Bar", "Office", "Home (private)", "Gym / Fitness Center"] * (NUM_KINDS // 4))
    kind = rng.integers(NUM_KINDS, size=num_venues)
    lat_deg, lon_deg = rng.uniform(-60, 70, num_venues), rng.uniform(-180, 180, num_venues)
    offset_min = np.clip(np.round(lon_deg / 15) * 60, -720, 720).astype(int)
    lats, lons, offsets = degrees(lat_deg), degrees(lon_deg), pa.array(offset_min.astype(str))
    step_s = (LAST_S - FIRST_S) / num_rows
    with open(path, "wb") as stream:
        for begin in range(0, num_rows, BLOCK):
            size = min(BLOCK, num_rows - begin)
            venue = (num_venues * rng.random(size) ** 2).astype(np.int64)  # some are visited often
            at_s = FIRST_S + ((begin + np.arange(size)) * step_s).astype(np.int64)
            at_s[rng.random(size) < 1e-5] -= 3600
            at = pa.array(at_s).cast(pa.timestamp("s"))
            columns = [
                pa.array((1 + rng.integers(num_users, size=size)).astype(str)),
                venue_ids.take(pa.array(venue)),
                kind_ids.take(pa.array(kind[venue])),
                names.take(pa.array(kind[venue])),
                lats.take(pa.array(venue)),
                lons.take(pa.array(venue)),
                offsets.take(pa.array(venue)),
                pc.strftime(at, "%a %b %d %H:%M:%S +0000 %Y"),
            ]
            options = pa.csv.WriteOptions(
                include_header=False, delimiter="\t", quoting_style="none"
            )
            table = pa.table(columns, [str(i) for i in range(len(columns))])
            pa.csv.write_csv(table, stream, options)


def run(words):
    """Run a program; return (seconds of the clock, of processors, its most resident MiB)."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{words} ended with {status}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


READ = """
import sys, pyarrow.csv
as_it_comes = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
tabs = pyarrow.csv.ParseOptions(delimiter="\\t", quote_char=False)
pyarrow.csv.read_csv(sys.argv[1], as_it_comes, tabs)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=33_000_000)
    parser.add_argument("--folder", type=Path, default=Path("import-data"))
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / f"checkins-{given.rows}.txt"
    if not path.exists():
        make_file(path, given.rows)
    with open(path, "rb") as stream:  # both read it from the system's cache, or neither
        while stream.read(1 << 24):
            pass
    imports = ["-m", "fedgru", "data", "import", "tsmc2014", path, "--name", "rows", "--overwrite"]
    imports += ["--categories", "raw", "--data-dir", given.folder / "data"]
    found = {"pyarrow.csv.read_csv": [], "fedgru data import tsmc2014": []}
    for _ in range(given.repeats):
        found["pyarrow.csv.read_csv"].append(run(["-c", READ, path]))
        found["fedgru data import tsmc2014"].append(run(imports))
    shutil.rmtree(given.folder / "data")
    size_mb = path.stat().st_size / 1e6
    print(f"{date.today()}, {os.cpu_count()} cores, {given.rows:,} rows, {size_mb:,.0f} MB\n")
    print("| | s | MB/s | processor s | most resident, MiB |\n| --- | --- | --- | --- | --- |")
    best = {name: min(runs) for name, runs in found.items()}
    for name, (seconds, processor_s, peak) in best.items():
        cells = f"{seconds:.1f} | {size_mb / seconds:.0f} | {processor_s:.1f} | {peak:,.0f}"
        print(f"| {name} | {cells} |")
    ours, theirs = (best[name][0] for name in reversed(found))
    print(f"\nSpeed of the import: {theirs / ours:.2f} of pyarrow's own reader.")


if __name__ == "__main__":
    main()
