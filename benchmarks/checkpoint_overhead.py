"""Time the rounds of the main job with and without checkpoints, within one run.

    python benchmarks/checkpoint_overhead.py --data nyc --users 100

Blocks of rounds with and without checkpoints take turns, so that whatever else the machine does
falls on both. A block ends when its last checkpoint is on the disk. Prints the mean seconds of a
round, evaluation of val included, and by how much checkpoints lengthen it: the mean over pairs of
blocks and its standard error. Every round counts as an improvement, which is the most work.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from fedgru import algorithms, config, experiment, protection, training
from fedgru.checkpoints import Checkpoints


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=config.EMBEDDED)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--users", type=int, help="the most active ones; all if not given")
    parser.add_argument("--pairs", type=int, default=6, help="of blocks")
    parser.add_argument("--rounds", type=int, default=4, help="in a block")
    parser.add_argument("--folder", help="where checkpoints are written; a temporary folder if not")
    args = parser.parse_args()
    overrides = {"data": args.data, "prior": "backoff"} | (
        {"users": args.users} if args.users else {}
    )
    task, _ = experiment.open_task(config.load(overrides), args.data_dir)
    engine = experiment.make_engine(task)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found, size_mb = time_blocks(engine, Path(folder), args)
    without, with_them = found.T
    ratios = 100 * (with_them / without - 1)
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}; {len(task.clients)} clients, checkpoint of {size_mb:.1f} MB"
    )
    print(f"  round without checkpoint, mean, s   {without.mean():8.3f}")
    print(f"  round with checkpoint, mean, s      {with_them.mean():8.3f}")
    print(f"  longer by, mean over pairs, %       {ratios.mean():8.2f}")
    print(f"  its standard error, %               {ratios.std(ddof=1) / len(ratios) ** 0.5:8.2f}")
    print(f"  longer by, median over pairs, %     {np.median(ratios):8.2f}")
    print(f"  each pair, %                        {' '.join(f'{r:.1f}' for r in ratios)}")


def time_blocks(engine, folder, args):
    """Return float64 [pairs, 2], seconds a round without and with checkpoints; MB of one."""
    task = engine.task
    algorithm = algorithms.from_settings(task.settings.server)
    state = algorithm.init(protection.init_weights(task))
    stopping = training.make_stopping(task.settings.loop)
    checkpoints, row = Checkpoints(folder), ({"val/loss/micro": 1.0}, {"train": 1.0})

    def rounds(number, saves):
        nonlocal state
        started = time.perf_counter()
        for _ in range(number):
            state = engine.run_round(algorithm, state, task.training_clients).state
            training.evaluate(engine, state.weights, "val")
            if saves:
                rows = (row,) * (state.round_num + 1)
                checkpoints.save(training.Checkpoint(state, state, stopping, rows))
        checkpoints.wait()
        return (time.perf_counter() - started) / number

    rounds(2, saves=True)  # compiles
    size_mb = sum(array.nbytes for array in state.weights.values()) / 1e6
    found = []
    for pair in range(args.pairs):
        order = (False, True) if pair % 2 else (True, False)
        seconds = {saves: rounds(args.rounds, saves) for saves in order}
        found.append((seconds[False], seconds[True]))
    return np.array(found), size_mb


if __name__ == "__main__":
    main()
