"""How the cost of a round grows with the number of clients, and with the number of rounds.

    python benchmarks/scale.py [--sizes 1000 10000 100000 1000000] [--folder FOLDER]
    python benchmarks/scale.py --sizes 100000 --long 300 -- \
      --algorithm scaffold --client-optimizer sgd --clients-per-round 1000

For each size a made-up city is written to disk by `fedgru data synth` and trained on by `fedgru
train`, with 100 clients a round and validation on 100: nothing but the program as it is used. The
first training lays the data set out. The later ones, all sizes in turns, are measured from
outside: when the run folder appears, what `times.csv` says of the rounds, and, as the kernel counts
them, the processor time of each round and the most resident memory in it, memory maps included,
looked at every 5 ms. `open, s` is the time of `open_task` alone, in a process of its own. Then one
size is trained for many rounds, and a line is fitted to the resident memory after the warm-up.
Prints a table in Markdown. What follows `--` goes to fedgru train; of what clients keep, the size
on the disk is printed.
"""

import argparse
import csv
import json
import os
import sqlite3
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import bench
import numpy as np

FEATURES = "category,clock,weekday"  # no feature whose table grows with the users
TRAINING = ["--features", FEATURES, "--prior", "backoff", "--clients-per-round", "100"]
TRAINING += ["--eval-clients", "100", "--patience", "0", "--hidden-dim", "64", "--no-eval"]
WARM_UP = 20  # rounds in which shapes are compiled and buffers grow
OPENING = """
import json, sys, time
from fedgru import config
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow
import fedgru.engines.jax.engine, pandas, pyarrow.parquet
data, data_dir, *_ = sys.argv[1:]
settings = config.load({"data": data, "features": "category,clock,weekday", "prior": "backoff"})
started = time.perf_counter()
open_workflow.open_task(settings, data_dir)
print(time.perf_counter() - started)
"""


def fedgru(*words):
    """Run a command of fedgru and return (seconds, its most resident memory in MiB)."""
    started, most = time.perf_counter(), 0.0
    process = subprocess.Popen(
        [sys.executable, "-m", "fedgru", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        most = max(most, peak_mib(process.pid))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(process.stderr.read())
    return time.perf_counter() - started, most


def memory_mib(pid, field):
    """A line of /proc/PID/status in MiB; 0 once the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def peak_mib(pid):
    return memory_mib(pid, "VmHWM:")


def processor_s(pid):
    """Seconds of processor time of a process and its threads; 0 once it is gone."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, facts[11:13])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def train(folder, size, rounds, name, more):
    """Train on the city of a size; return what was measured from outside."""
    log_dir = folder / "log"
    words = ["train", "--data", f"city-{size}", "--data-dir", folder / "data", "--log-dir", log_dir]
    words += [*TRAINING, *more, "--rounds", rounds, "--name", name]
    started, begun, seen, resident, most = time.perf_counter(), None, 0, [], 0.0
    errors = folder / "stderr.txt"
    with open(errors, "w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedgru", *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
        times = None
        while process.poll() is None:
            if times is None:
                found = list(log_dir.glob(f"[!.]*{name}/run.json"))
                if found:
                    begun = time.perf_counter() - started
                    times = found[0].with_name("times.csv")
            else:
                most = max(most, memory_mib(process.pid, "VmRSS:"))
                if times.exists() and (lines := times.read_text().count("\n")) > seen:
                    seen = lines  # beside the rounds a header and round 0
                    resident.append((lines - 2, most, processor_s(process.pid)))
                    most = 0.0
            time.sleep(0.005)
    if process.returncode:
        sys.exit(errors.read_text())
    with open(times, newline="") as stream:
        rows = list(csv.DictReader(stream))[1:]
    resident = np.array([mark for mark in resident if mark[0] > WARM_UP // 2 and mark[1]])
    return {
        "begun_s": begun,
        "train_s": np.array([float(row["train_s"]) for row in rows]),
        "val_s": np.array([float(row["val_s"]) for row in rows]),
        "resident": resident,
        "kept": kept(times.with_name("clients.sqlite")),
        "processor_s": np.diff(resident[:, 2]) / np.diff(resident[:, 0]),
    }


def kept(path):
    """What clients keep: (number of clients, MiB on the disk), or None."""
    if not path.exists():
        return None
    with sqlite3.connect(path) as store:
        (number,) = store.execute("SELECT COUNT(DISTINCT client) FROM kept").fetchone()
    return number, path.stat().st_size / 2**20


def opening_s(folder, size):
    words = [sys.executable, "-c", OPENING, f"city-{size}", str(folder / "data")]
    return min(float(subprocess.check_output(words, text=True)) for _ in range(3))


def lay_out(folder, size, checkins, more):
    """Make the city, and train on it for the first time; return (seconds, peak in MiB)."""
    if not (folder / f"data/city-{size}/passport.json").exists():
        fedgru(
            *("data", "synth", "--name", f"city-{size}", "--data-dir", folder / "data"),
            *("--users", size, "--checkins-per-user", checkins),
        )
    words = ["train", "--data", f"city-{size}", "--data-dir", folder / "data"]
    words += ["--log-dir", folder / "log", *TRAINING, *more, "--rounds", 1, "--name", "first"]
    return fedgru(*words)


def summarise(folder, size, first, runs):
    """One row of the table from several runs; their rounds after the first few, all together."""
    passport = json.loads((folder / f"data/city-{size}/passport.json").read_text())

    def median(name):
        return float(np.median(np.concatenate([run[name][WARM_UP // 2 :] for run in runs])))

    resident = np.concatenate([run["resident"][:, 1] for run in runs])
    return {
        "clients": size,
        "check_ins": passport["counts"]["check_ins"],
        "round_s": median("train_s"),
        "processor_s": float(np.median(np.concatenate([run["processor_s"] for run in runs]))),
        "val_s": median("val_s"),
        "resident_mib": float(np.median(resident)),
        "open_s": opening_s(folder, size),
        "begun_s": min(run["begun_s"] for run in runs),
        "first": first,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--checkins", type=int, default=20, help="per client, on average")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3, help="trainings of each size, in turns")
    parser.add_argument("--long", type=int, default=500, help="rounds on the last size")
    parser.add_argument("--folder", type=Path, default=Path("scale-data"))
    parser.add_argument("train", nargs="*", help="more options of fedgru train")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    firsts = [lay_out(given.folder, size, given.checkins, given.train) for size in given.sizes]
    runs = {size: [] for size in given.sizes}
    for _ in range(given.repeats):
        for size in given.sizes:
            name = f"size-{size}-{time.time_ns()}"
            runs[size].append(train(given.folder, size, given.rounds, name, given.train))
    rows = [
        summarise(given.folder, size, first, runs[size])
        for size, first in zip(given.sizes, firsts, strict=True)
    ]
    print(f"{date.today()}, {bench.machine()}, {sys.argv[1:]}\n")
    print(
        "| clients | check-ins | a round, s | processor, s | validation, s | resident, MiB | "
        "open, s | start to run folder, s | first run: s | its peak, MiB |"
    )
    print("| --- " * 10 + "|")
    for row in rows:
        first, peak = row["first"]
        print(
            f"| {row['clients']:,} | {row['check_ins']:,} | {row['round_s']:.3f} | "
            f"{row['processor_s']:.3f} | {row['val_s']:.3f} | {row['resident_mib']:.0f} | "
            f"{row['open_s']:.3f} | "
            f"{row['begun_s']:.1f} | {first:.0f} | {peak:,.0f} |"
        )
    for key, what in (
        ("round_s", "seconds of a round"),
        ("processor_s", "its processor time with validation"),
        ("resident_mib", "resident memory"),
    ):
        values = [row[key] for row in rows]
        ratio = (max(values) / min(values) - 1) * 100
        last = (values[-1] / values[0] - 1) * 100
        print(f"\n{what}: last against first size {last:+.1f} %, most against least {ratio:+.1f} %")
    if given.long:
        name = f"long-{time.time_ns()}"
        found = train(given.folder, given.sizes[-1], given.long, name, given.train)
        rounds, resident = found["resident"][found["resident"][:, 0] > WARM_UP].T[:2]
        slope = np.polyfit(rounds, resident, 1)[0]
        print(
            f"\n{given.long} rounds of {given.sizes[-1]:,} clients: resident memory changes by "
            f"{slope * 1.048576:+.4f} MB a round (least squares after round {WARM_UP}, "
            f"{len(rounds)} points), from {resident[0]:.0f} to {resident[-1]:.0f} MiB"
        )
        if found["kept"] is not None:
            number, mib = found["kept"]
            print(f"\n{number:,} clients keep something: {mib:,.0f} MiB on the disk")


if __name__ == "__main__":
    main()
