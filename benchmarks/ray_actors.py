"""Time rounds of the main job on the jax engine and on Ray with 1, 2 and 4 actors, in one run.

    python benchmarks/ray_actors.py --data nyc --users 100

All engines are up at the same time, and take turns round by round, so that whatever else the
machine does falls on each. Prints the seconds of a round, local training and averaging, without
evaluation; the processor time it took, of this process and all of Ray's, which a busy machine
changes less; by how much each is more than the jax engine's in the same turn; and how far the
weights are apart after the first three rounds. Then what travels: the task, to each machine once;
the weights, to each machine once a round; the sum that a work item sends back; and how long the
driver takes to add one. Needs Ray: see `make dist`.
"""

import contextlib
import datetime
import os
import pickle
import time
from pathlib import Path

import bench
import numpy as np

from fedgru import algorithms
from fedgru.agnostic import protection
from fedgru.core.jax_setup import kept_between_runs
from fedgru.engines.base import Gathered
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.ray.connection import connect
from fedgru.engines.ray.engine import RayEngine
from fedgru.engines.ray.trainer import for_training
from fedgru.training.loop import draw_cohort
from fedgru.training.rounds import run_round

COMPARED_ROUNDS = 3


def main():
    parser = bench.data_parser(__doc__)
    parser.add_argument("--features", default="big")
    parser.add_argument("--clients-per-round", type=int, help="all if not given")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=8, help="timed, after the first, of each")
    args = parser.parse_args()
    given = {"prior": "backoff", "features": args.features, "engine": "ray"}
    if args.clients_per_round:
        given["clients_per_round"] = args.clients_per_round
    tasks = [bench.open_task(args, **given, ray_actors=n) for n in args.actors]
    load_before = os.getloadavg()[0]
    connection = connect(None, sum(args.actors))
    try:
        with kept_between_runs():
            engines = {"jax": JaxEngine(tasks[0])}
            engines |= {
                f"ray, {n} actors": RayEngine(t) for n, t in zip(args.actors, tasks, strict=True)
            }
            seconds, weights = time_rounds(engines, 1 + args.rounds)
            travels = measure_parts(list(engines.values())[-1])
            for engine in engines.values():
                engine.close()
    finally:
        connection.release()
    print(
        f"{datetime.date.today()}, {bench.machine()}, Ray {connection.ray.__version__}; "
        f"load {load_before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; "
        f"{len(draw_cohort(tasks[0], 1)):,} of {len(tasks[0].training_clients):,} clients in a "
        f"round, {args.rounds} rounds of each.\n"
    )
    print(
        "| engine | first round, s | later rounds, median (range), s | more than jax, median | "
        "processor time, median, s | more than jax, median | weights apart after "
        f"{COMPARED_ROUNDS} rounds |"
    )
    print("|" + " --- |" * 7)
    for name, rounds in seconds.items():
        later = rounds[1:]
        wall, spent = np.median(later, axis=0)
        more = 100 * (np.median(later / seconds["jax"][1:], axis=0) - 1)
        gap = max(np.abs(weights[name][n] - w).max() for n, w in weights["jax"].items())
        print(
            f"| {name} | {rounds[0, 0]:.1f} | {wall:.2f} ({later[:, 0].min():.2f} to "
            f"{later[:, 0].max():.2f}) | {more[0]:+.0f} % | {spent:.2f} | {more[1]:+.0f} % | "
            f"{gap:.1e} |"
        )
    task = tasks[-1]
    num_parts, part_bytes, merge_s = travels
    print(
        f"\nWhat travels: the task, {task.clients.starts[-1]:,} check-ins, "
        f"{size_bytes(for_training(task)) / 1e6:.1f} MB; the weights, {task.spec.num_rows:,} rows, "
        f"{size_bytes(weights['jax']) / 1e6:.1f} MB; {num_parts} sums of "
        f"{part_bytes / 1e6:.2f} MB, each of which the driver adds in {1e3 * merge_s:.1f} ms "
        "(medians)."
    )


def measure_parts(engine):
    """Return a round's number of work items, and the bytes and seconds to add of their sums."""
    task, sizes, seconds = engine.task, [], []
    algorithm = algorithms.from_settings(task.settings)
    weights = protection.init_weights(task)
    merge = Gathered.merge

    def measured(self, part):
        sizes.append(size_bytes(part))
        started = time.perf_counter()
        merge(self, part)
        seconds.append(time.perf_counter() - started)

    Gathered.merge = measured
    try:
        engine.gather(algorithm, weights, draw_cohort(task, 1), round_num=1)
    finally:
        Gathered.merge = merge
    return len(sizes), np.median(sizes), np.median(seconds)


def size_bytes(value):
    """How long a value is on the wire."""
    buffers = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return len(head) + sum(buffer.raw().nbytes for buffer in buffers)


def time_rounds(engines, num_rounds):
    """Time the engines' rounds, in turns.

    Returns:
        {name: float64 [num_rounds, 2], seconds and processor seconds}, and {name: weights} after
        the compared rounds.
    """
    task = next(iter(engines.values())).task
    algorithm = algorithms.from_settings(task.settings)
    states = dict.fromkeys(engines, algorithm.init(protection.init_weights(task)))
    seconds, weights, names = {name: [] for name in engines}, {}, list(engines)
    for turn in range(num_rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started, processor_started = time.perf_counter(), processor_seconds()
            result = run_round(engines[name], algorithm, states[name], draw_cohort(task, turn + 1))
            taken = time.perf_counter() - started, processor_seconds() - processor_started
            seconds[name].append(taken)
            states[name] = result.state
            if result.state.round_num == COMPARED_ROUNDS:
                weights[name] = result.state.weights
    return {name: np.array(taken) for name, taken in seconds.items()}, weights


def processor_seconds():
    """Processor time of this process and all below it so far, by the kernel's count."""
    total, pids = 0, [os.getpid()]
    for pid in pids:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += [int(child) for child in children.read_text().split()]
            cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(cells[11]) + int(cells[12])
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
