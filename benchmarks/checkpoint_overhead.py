"""Time the rounds of the main job with and without checkpoints, within one run.

    python benchmarks/checkpoint_overhead.py --data nyc --users 100

Rounds come in pairs: one after which a checkpoint was begun, which is then written beside it, and
one after which none was; which comes first changes from pair to pair, so that whatever else the
machine does falls on both. Prints the mean seconds of a round, evaluation of val included, and by
how much a checkpoint lengthens it: the mean over pairs, its standard error, and the median. Every
round counts as an improvement, which is the most work.
"""

import tempfile
import time
from pathlib import Path

import bench
import numpy as np

from fedgru import algorithms
from fedgru.agnostic import protection
from fedgru.evaluation.evaluate import evaluate
from fedgru.runs.checkpoints import Checkpoints
from fedgru.training import loop as round_loop
from fedgru.training.rounds import run_round
from fedgru.workflows import train as train_workflow


def main():
    parser = bench.data_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=40, help="of rounds")
    parser.add_argument("--folder", help="where checkpoints are written; a temporary folder if not")
    args = parser.parse_args()
    task = bench.open_task(args, prior="backoff")
    engine = train_workflow.make_engine(task)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found, size_mb = time_pairs(engine, Path(folder), args)
    print(
        f"{bench.machine()}; {len(task.clients)} clients, {len(found)} pairs of rounds, "
        f"checkpoint of {size_mb:.1f} MB"
    )
    print("                                   without     with   longer, %  (s.e.)  median, %")
    for unit, (without, with_them) in zip(
        ("clock", "processor"), found.transpose(1, 2, 0), strict=True
    ):
        longer = 100 * (with_them - without) / without.mean()
        error = longer.std(ddof=1) / len(longer) ** 0.5
        print(
            f"  s of a round by the {unit:13}{without.mean():9.3f}{with_them.mean():9.3f}"
            f"{longer.mean():12.2f}{error:8.2f}{np.median(longer):11.2f}"
        )


def time_pairs(engine, folder, args):
    """Return float64 [pairs, 2, 2], seconds of rounds, and MB of a checkpoint.

    The middle axis is by the clock and of the processor, the last without and with a checkpoint.
    """
    task = engine.task
    algorithm = algorithms.from_settings(task.settings)
    state = algorithm.init(protection.init_weights(task))
    stopping = round_loop.make_stopping(task.settings.loop)
    checkpoints, row = Checkpoints(folder), ({"val/loss/micro": 1.0}, {"train": 1.0})

    def one_round(saves):
        nonlocal state
        started = time.perf_counter(), time.process_time()
        if saves:
            rows = (row,) * (state.round_num + 1)
            checkpoints.save(round_loop.Checkpoint(state, state, stopping, rows))
        state = run_round(engine, algorithm, state, task.training_clients).state
        evaluate(engine, state.weights, "val")
        checkpoints.wait()
        return time.perf_counter() - started[0], time.process_time() - started[1]

    one_round(saves=True), one_round(saves=True)  # compile
    size_mb = sum(array.nbytes for array in state.weights.values()) / 1e6
    found = []
    for pair in range(args.pairs):
        order = (False, True) if pair % 2 else (True, False)
        seconds = {saves: one_round(saves) for saves in order}
        found.append(np.stack([seconds[False], seconds[True]], axis=1))
    return np.array(found), size_mb


if __name__ == "__main__":
    main()
