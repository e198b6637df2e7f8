"""Processor time of one local step on the jax engine, by the size of a client's table.

    python benchmarks/local_step.py --data nyc --users 100
    git stash; python benchmarks/local_step.py ...         # in turns with another version

One thread. For each size of the padded table the client with the most own rows; the least and the
median over repeats. The last line is over all clients, each counted by its local steps.
"""

import collections
import time

import bench
import numpy as np

from fedgru import algorithms
from fedgru.agnostic import protection
from fedgru.workflows import train as train_workflow


def main():
    parser = bench.data_parser(__doc__)
    parser.add_argument("--prior", default="none")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    task = bench.open_task(args, features="big", prior=args.prior, threads=1)
    engine = train_workflow.make_engine(task)
    algorithm = algorithms.from_settings(task.settings)
    weights = algorithm.init(protection.init_weights(task)).weights
    groups = collections.defaultdict(list)
    for client in task.training_clients:
        groups[engine._prepare(client).num_table].append(client)
    print(f"{bench.machine()}, one thread")
    print(" table  clients  steps   least, ms a step   median")
    sizes = []
    for num_table, clients in sorted(groups.items()):
        prepared = [engine._prepare(client) for client in clients]
        one = clients[int(np.argmax([len(data.row_ids) for data in prepared]))]
        least, median = time_steps(engine, weights, one, args.repeats)
        steps = sum(data.steps * data.passes for data in prepared)
        sizes.append((steps, least, median))
        print(f"{num_table:6}{len(clients):9}{steps:7}{least:19.3f}{median:9.3f}")
    steps, least, median = np.array(sizes).T
    least, median = np.average([least, median], axis=1, weights=steps)
    print(f"   all{sum(map(len, groups.values())):9}{steps.sum():7.0f}{least:19.3f}{median:9.3f}")


def time_steps(engine, weights, client, repeats):
    """Return the least and the median processor time of a local step of a client, ms."""
    data = engine._prepare(client)
    many = max(1, 40 // (data.steps * data.passes))
    found = []
    for repeat in range(repeats + 1):  # the first compiles
        started = time.process_time()
        for _ in range(many):
            list(engine.local_updates(weights, [client], 1))
        if repeat:
            found.append((time.process_time() - started) / (many * data.steps * data.passes))
    return 1e3 * min(found), 1e3 * float(np.median(found))


if __name__ == "__main__":
    main()
