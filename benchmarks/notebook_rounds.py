"""The notebook's ten rounds on one engine: losses, test, seconds and memory (Linux).

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    python benchmarks/notebook_rounds.py --engine jax
    .venv-tff/bin/python benchmarks/notebook_rounds.py --engine tff

Runs `fedgru train --preset notebook --data nyc --engine ENGINE` and prints its command, a Markdown
table of its rounds, its test result, and the peak memory of each of its processes.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", default="jax")
    parser.add_argument("--data", default="nyc")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seed", default="0")
    args = parser.parse_args()

    options = ["train", "--preset", "notebook"]
    for name in ("data", "engine", "seed"):
        options += [f"--{name}", getattr(args, name)]
    print("fedgru", *options, flush=True)
    with tempfile.TemporaryDirectory() as log_dir:
        options += ["--data-dir", args.data_dir, "--log-dir", log_dir]
        started = time.perf_counter()
        peaks = watch([sys.executable, "-m", "fedgru", *options])
        seconds = time.perf_counter() - started
        (run,) = Path(log_dir).iterdir()
        metrics, times = (read_csv(run / name) for name in ("metrics.csv", "times.csv"))
        test = json.loads((run / "test.json").read_text())

    print("\n| round | train | val | seconds, train + val |\n| --- | --- | --- | --- |")
    for row, timed in zip(metrics[1:], times[1:], strict=True):
        losses = (float(row[f"{split}/loss/micro"]) for split in ("train", "val"))
        took = (float(timed[f"{split}_s"]) for split in ("train", "val"))
        print("| {} | {:.3f} | {:.3f} | {:.1f} + {:.1f} |".format(row["round"], *losses, *took))
    print(
        f"\ntest of round {test['round']}: loss {test['test/loss/micro']:.4f}, "
        f"acc@1 {test['test/acc@1/micro']:.4f}; {seconds:.0f} s in all"
    )
    for name, mib in peaks.items():
        print(f"peak memory of {name}: {mib:.0f} MiB")


def watch(command):
    """Run a command; return {process name: peak MiB} of it and its children."""
    peaks = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as program:
        while program.poll() is None:
            for pid in [program.pid, *children(program.pid)]:
                status = read(f"/proc/{pid}/status")
                found = re.search(r"Name:\s*(\S+)(?s:.*)VmHWM:\s*(\d+) kB", status)
                if found:
                    peaks[found[1]] = max(peaks.get(found[1], 0), int(found[2]) / 1024)
            time.sleep(1)
    if program.returncode:
        sys.exit(program.returncode)
    return peaks


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return found.stdout.split()


def read(path):
    """The text of a file under /proc; empty if the process has gone."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def read_csv(file):
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    main()
