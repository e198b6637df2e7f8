"""One client with a very long history: time and memory of its priors and its candidates.

    taskset -c 1 python benchmarks/long_history.py
    taskset -c 1 python benchmarks/long_history.py --check-ins 10000 50000 --classes 27

For each number of check-ins and of classes, and for each seed, a made-up client is computed in a
process of its own: the kernel is learnt on it, then come the kernel prior, the back-off counts and
the candidates. A client visits its venues with frequencies 1, 1/2, 1/3, ...; 4 venues are of one
class, but with 1,000 classes and more every venue is its own. Seconds are those of the processor,
so that other programs on the same core count little.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import bench

STEPS = ("kernel learnt", "kernel prior", "back-off counts", "candidates")
TARGET_S = 10.0  # prior and candidates of 50,000 check-ins in 27 classes, on one core


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check-ins", type=int, nargs="+", default=[50_000])
    parser.add_argument("--classes", type=int, nargs="+", default=[27, 300, 5000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--child", help="for the benchmark itself")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run(*json.loads(args.child))))
        return
    print(f"{bench.machine()}; load {os.getloadavg()[0]:.1f} before\n")
    print(
        "| check-ins, classes |",
        " | ".join(f"{s}, s" for s in STEPS),
        "| all but learning, s |",
        end="",
    )
    print(" result, MB | most resident, MB |\n|" + " --- |" * (len(STEPS) + 4))
    for check_ins in args.check_ins:
        for classes in args.classes:
            report(check_ins, classes, [start(check_ins, classes, s) for s in range(args.seeds)])
    print(f"\nload {os.getloadavg()[0]:.1f} after")


def start(*options):
    """Return what `run` gives, from a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(options)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def report(check_ins, classes, found):
    """Print a row of the table: medians, least and most of the seeds."""
    columns = [[one[step] for one in found] for step in STEPS]
    columns.append([sum(one[step] for step in STEPS[1:]) for one in found])
    cells = [f"{statistics.median(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in columns]
    sizes = [f"{statistics.median(one[name] for one in found):,.0f}" for name in ("result", "most")]
    print(f"| {check_ins:,}, {classes:,} | " + " | ".join([*cells, *sizes]) + " |", flush=True)


def run(check_ins, classes, seed):
    """Return {step: seconds}, and the MB of the results and of the process at its largest."""
    import numpy as np

    from fedgru.task.candidates import client_candidates
    from fedgru.task.kernel_prior import fit_kernel, kernel_prior
    from fedgru.task.priors import count_prior

    history, shared = made_up(check_ins, classes, seed), np.full(classes, 1 / classes)
    ends = [time.process_time()]
    kernel = fit_kernel([history], shared, seed, threads=1)
    ends.append(time.process_time())
    prior = kernel_prior(kernel, history, shared)
    ends.append(time.process_time())
    backoff = count_prior("backoff", history, shared)
    ends.append(time.process_time())
    found = client_candidates(history, shared, prior, backoff)
    ends.append(time.process_time())
    seconds = [end - begin for begin, end in zip(ends, ends[1:], strict=False)]
    arrays = [prior.log_own, backoff.log_own, found.classes, *found.candidates]
    return {
        **dict(zip(STEPS, seconds, strict=True)),
        "result": sum(array.nbytes for array in arrays) / 1e6,
        "most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


def made_up(check_ins, classes, seed):
    """Return the History of a made-up client, a check-in every two hours on average."""
    import numpy as np

    from fedgru.task.priors import History

    draw = np.random.default_rng(seed)
    num_venues = classes if classes >= 1000 else 4 * classes
    chances = 1 / np.arange(1, num_venues + 1)
    venues = draw.choice(num_venues, check_ins, p=chances / chances.sum()).astype(np.int32)
    where = draw.random((2, num_venues))
    kinds = (venues % classes).astype(np.int32)
    time_s = 1_300_000_000 + np.cumsum(draw.integers(200, 4 * 3600, check_ins))
    return History(
        classes=kinds,
        categories=kinds,
        venues=venues,
        time_s=time_s,
        local_time_s=time_s - 4 * 3600,
        lat_deg=40.7 + 0.1 * where[0, venues],
        lon_deg=-74 + 0.1 * where[1, venues],
    )


if __name__ == "__main__":
    main()
