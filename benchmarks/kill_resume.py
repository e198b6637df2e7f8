"""Kill one training again and again, resume it each time, and compare with one never disturbed.

    python benchmarks/kill_resume.py                       # 50 kills, some minutes
    python benchmarks/kill_resume.py --kills 3 --rounds 10
    python benchmarks/kill_resume.py --kills 20 -- --algorithm scaffold --client-optimizer sgd

A training of a made-up city runs as a process of its own and is ended by SIGKILL at random moments,
from its first instruction on. In the end metrics.csv, best.npz, last.npz, clients.csv,
predictions.parquet and test.json must be those of an undisturbed run, byte by byte, and TensorBoard
must show each round once. Exits with 1 if they are not. Compiled programs are kept between starts
(JAX's own cache), or most of the time would go into compiling. What follows `--` goes to fedgru
train; of what clients keep, the arrays after the best and the last round are compared.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench

FILES = ("metrics.csv", "best.npz", "last.npz", "clients.csv", "predictions.parquet", "test.json")
CITY = ["--users", "12", "--checkins-per-user", "300"]
EQUAL = "every file equal to the byte, every round once in TensorBoard"
SETTINGS = ["--data", "city", "--hidden-dim", "64", "--batch-size", "4", "--client-lr", "0.01"]
SETTINGS += ["--patience", "0"]  # all rounds are done


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("train", nargs="*", help="more options of fedgru train")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": str(Path(folder, "compiled")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        fedgru("data", "synth", "--name", "city", *CITY).wait()
        return compare(args, ["train", *SETTINGS, *args.train])


def compare(args, train):
    for log_dir, rounds in (("compiles", 2), ("undisturbed", args.rounds)):
        started = time.perf_counter()
        process = fedgru(*train, "--rounds", rounds, "--log-dir", log_dir)
        while not (list(Path(log_dir).glob("*/best.npz")) or process.poll() is not None):
            time.sleep(0.01)
        until_round_1 = time.perf_counter() - started
        assert process.wait() == 0
        whole = time.perf_counter() - started
    (expected,) = Path(log_dir).iterdir()
    draw, hits, num_trainings, unlike = random.Random(args.seed), collections.Counter(), 0, []
    while hits.total() < args.kills:
        num_trainings += 1
        log_dir = Path(f"disturbed-{num_trainings}")
        while True:
            run = run_in(log_dir)
            begin = [*train, "--rounds", args.rounds]
            command = begin if run is None else ["train", "--resume", run.name]
            process = fedgru(*command, "--log-dir", str(log_dir))
            if hits.total() == args.kills or not killed(
                process, draw.uniform(0, 2 * until_round_1)
            ):
                assert process.wait() == 0
                if run_in(log_dir).joinpath("test.json").exists():
                    break
            hits[where(log_dir)] += 1
        unlike += [
            f"{name} of training {num_trainings}"
            for name in (*FILES, "train", "val", "eval", "clients.sqlite")
            if content(run_in(log_dir) / name) != content(expected / name)
        ]
    print(
        f"{bench.machine()}; {args.rounds} rounds, undisturbed {whole:.1f} s, of which "
        f"{until_round_1:.1f} s until round 1 is done; {num_trainings} training(s)"
    )
    for place, number in hits.most_common():
        print(f"  {number:3} killed {place}")
    print(f"  {hits.total():3} kills; " + (f"DIFFERENT: {', '.join(unlike)}" if unlike else EQUAL))
    return 1 if unlike else 0


def fedgru(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "fedgru", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def killed(process, delay_s):
    """Kill a process after a while; whether it was still running."""
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


def run_in(log_dir):
    return next(log_dir.glob("[!.]*"), None)


def where(log_dir):
    """Where a killed process was, by what it left behind."""
    run = run_in(log_dir)
    if run is None:
        return "before there was a run folder"
    facts = json.loads((run / "run.json").read_text())
    if list(run.rglob(".*.part")):
        return "while a file was being written"
    if facts["status"] == "done":
        return "after the last round"
    if "kernel" not in facts:
        return "while the prior was learnt"
    if not (run / "best.npz").exists():
        return "before round 1 was kept"
    return "in a later round, or on the way back to one"


def content(path):
    """A file's bytes, the run's name left out; of a folder, the scalars of its event files."""
    if path.name == "clients.sqlite":
        return kept(path)
    if path.is_dir():
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(path))
        events.Reload()
        return {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
    return path.read_bytes().replace(str(path.parent).encode(), b"RUN")


def kept(path):
    """What clients keep after the best and the last round: {(round, client, name): bytes}."""
    if not path.exists():
        return None
    from fedgru.storage.client_store import ClientStore, dump

    facts, store = json.loads((path.parent / "run.json").read_text()), ClientStore(path)
    return {
        (round_num, client, name): array.tobytes()
        for round_num in (facts["best_round"], facts["rounds"])
        for client, arrays in dump(store, round_num)
        for name, array in arrays.items()
    }


if __name__ == "__main__":
    sys.exit(main())
