"""Time rounds on a device, clients one by one and stacked in one compiled call.

    python benchmarks/device_round.py --device gpu --data nyc --users 100

For each `--clients-per-call` in turn, after a round that compiles: median seconds of a round and of
its evaluation, local steps a second, and the rates of its matrix products and of its memory. The
products are counted as in round.py, in the steps that clients have. Bytes are what a step of each
stack reads and writes by XLA's own estimate, times its steps: with caches in between, an upper
bound of what goes to memory.
"""

import time

import bench
import numpy as np

from fedgru import algorithms
from fedgru.agnostic import protection
from fedgru.engines.jax import stacked
from fedgru.training import loop as round_loop
from fedgru.training.rounds import run_round
from fedgru.workflows import train as train_workflow


def main():
    parser = bench.data_parser(__doc__)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--prior", default="none")
    parser.add_argument("--rounds", type=int, default=5, help="timed")
    parser.add_argument("--clients-per-call", type=int, nargs="*", default=[1, 8, 100])
    args = parser.parse_args()
    print("clients a call   s a round   evaluation, s   local steps/s   GFLOP/s    GB/s")
    for clients_per_call in args.clients_per_call:
        device = {"device": args.device, "clients_per_call": clients_per_call}
        task = bench.open_task(args, features="big", prior=args.prior, **device)
        engine = train_workflow.make_engine(task)
        train_s, val_s = time_rounds(engine, args.rounds)
        prepared = [engine._prepare(client) for client in task.training_clients]
        steps = sum(data.steps * data.passes for data in prepared)
        spec, layout = task.spec, task.settings.layout
        shape = layout.batch_size, layout.seq_len, spec.hidden_dim
        gflop = steps * bench.step_gflop(*shape, spec.num_numbers, spec.num_classes)
        moved = moved_gb(engine, prepared)
        print(
            f"{clients_per_call:14}{train_s:12.3f}{val_s:16.3f}{steps / train_s:16.0f}"
            f"{gflop / train_s:10.0f}{moved / train_s:8.1f}",
            flush=True,
        )
    print(f"{engine}; {bench.machine()}")


def time_rounds(engine, num_rounds):
    """Return the median seconds of a round's training and of its evaluation."""
    task, found = engine.task, []
    algorithm = algorithms.from_settings(task.settings)
    state = algorithm.init(protection.init_weights(task))
    for _ in range(num_rounds + 1):
        started = time.perf_counter()
        state = run_round(engine, algorithm, state, task.training_clients).state
        trained = time.perf_counter()
        round_loop.evaluate(engine, state.weights, "val")
        found.append((trained - started, time.perf_counter() - trained))
    return np.median(found[1:], axis=0)


def moved_gb(engine, prepared):
    """Return the GB that a round reads and writes, by XLA's estimate of one step of each stack."""
    task, total = engine.task, 0.0
    weights = protection.init_weights(task)
    table = weights.pop("rows")
    shapes = [(data.num_table, data.steps * data.passes) for data in prepared]
    for group in stacked.group(shapes, engine.clients_per_call):
        keys = [np.zeros(2, np.uint32)] * len(group)
        stack = stacked.stack([prepared[i] for i in group], keys, table)
        args = stack.arrays, stack.keys, stack.steps_per_pass, stack.num_steps
        loop = engine._stacked_loop.lower(
            {"rows": stack.rows, **weights}, *args, None, stack.num_steps.max()
        )
        # XLA counts the body of a loop of unknown length once
        total += loop.compile().cost_analysis()["bytes accessed"] * float(stack.num_steps.max())
    return total / 1e9


if __name__ == "__main__":
    main()
