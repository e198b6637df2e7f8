"""Time the import of a check-in file and the rounds of the main job, and the memory they take.

    python benchmarks/main_job.py                        # the made-up city
    python benchmarks/main_job.py --file CHECKINS.txt.gz  # a file in the TSMC2014 layout

Prints one table: the import as a process of its own; seconds of each round (the first compiles),
local steps a second, seconds of an evaluation; peak memory of the training process.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench

from fedgru import algorithms, config
from fedgru.core import seeding
from fedgru.data import datasets
from fedgru.evaluation import evaluate
from fedgru.models.gru import init_weights
from fedgru.task.task import build_task
from fedgru.training.rounds import run_round
from fedgru.workflows import train as train_workflow


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--file", type=Path, help="check-ins in the TSMC2014 layout")
    parser.add_argument("--users", type=int, help="the most active ones; all if not given")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--config", type=Path, help="settings other than the defaults")
    args = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as data_dir:
        name = "embedded"
        if args.file:
            name = "timed"
            rows.append(("import, process start included, s", time_import(args.file, data_dir)))
        overrides = {"head": "dense", "data": name} | ({"users": args.users} if args.users else {})
        settings = config.load(overrides, args.config)
        task = build_task(datasets.open_data_set(name, data_dir), settings)
        started = time.perf_counter()
        task = task.with_kernel()
        rows.append(("learning the kernel prior, s", f"{time.perf_counter() - started:.2f}"))
        rows += time_rounds(task, args.rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(("peak memory, MiB", f"{peak:.0f}"))

    print(f"{bench.machine()}; {len(task.clients)} clients")
    for what, value in rows:
        print(f"  {what:38}{value:>12}")


def time_import(file, data_dir):
    command = [sys.executable, "-m", "fedgru", "data", "import", "tsmc2014", str(file)]
    started = time.perf_counter()
    subprocess.run(
        [*command, "--name", "timed", "--data-dir", data_dir], check=True, capture_output=True
    )
    return f"{time.perf_counter() - started:.2f}"


def time_rounds(task, num_rounds):
    engine = train_workflow.make_engine(task)
    algorithm = algorithms.from_settings(task.settings)
    state = algorithm.init(init_weights(task.spec, seeding.rng(0, "weights")))
    steps = 0
    for client in task.training_clients:
        batches = task.batches(client)
        steps += len(batches.pairs) * batches.passes
    trained, evaluated = [], []
    for _ in range(num_rounds):
        started = time.perf_counter()
        state = run_round(engine, algorithm, state, task.training_clients).state
        middle = time.perf_counter()
        evaluate.evaluate(engine, state.weights, "val")
        trained.append(middle - started)
        evaluated.append(time.perf_counter() - middle)
    median = statistics.median(trained[1:])
    return [
        ("local steps in a round", steps),
        ("first round (compiles), s", f"{trained[0]:.2f}"),
        ("later rounds, median, s", f"{median:.2f}"),
        ("later rounds, all, s", " ".join(f"{t:.2f}" for t in trained[1:])),
        ("local steps a second", f"{steps / median:.0f}"),
        ("evaluation of val, median, s", f"{statistics.median(evaluated[1:]):.2f}"),
    ]


if __name__ == "__main__":
    main()
