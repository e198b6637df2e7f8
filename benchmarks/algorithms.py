"""Every algorithm on the same clients: what it gains over federated averaging, and what it costs.

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    python benchmarks/algorithms.py --data nyc --users 100 --prior none --work algorithms-nyc
    python benchmarks/algorithms.py --data nyc --users 100 --prior kernel --work algorithms-nyc

Each algorithm has a short list of settings. Each of them is trained with seed 0, and the one with
the lowest validation loss in its best round is taken; test is not looked at for that. Algorithms
whose clients use Adam have the step size that was chosen so for federated averaging. Then it is
trained with every seed, and the round that is best on validation is scored on test: acc@1, loss,
the worst tenth of clients, and the paired 95 % interval over clients of the difference to federated
averaging with the same seed (the outer ends of the seeds' intervals). Trainings that are done are
kept in `--work`, so that a run that was stopped goes on. `--time` measures the seconds of a round
in place of that, algorithm after algorithm, in turns. Prints Markdown.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import bench
import numpy as np

from fedgru import algorithms, config
from fedgru.agnostic import protection
from fedgru.algorithms.sent import sent_by
from fedgru.core.errors import TrainingError
from fedgru.evaluation import evaluate
from fedgru.training import loop as round_loop
from fedgru.training import traffic
from fedgru.training.per_client import evaluate_personal
from fedgru.training.rounds import FederatedTraining
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow

SGD = {"client_optimizer": "sgd"}
SGD_RATES = (0.1, 0.3, 1.0)
BASE = "fed-avg"
ALGORITHMS = {
    BASE: [{"client_lr": lr} for lr in (0.0005, 0.001, 0.002, 0.004)],
    "fed-avg, client sgd": [SGD | {"client_lr": lr} for lr in SGD_RATES],
    "fed-prox": [{"prox_mu": mu} for mu in (0.01, 0.1, 1.0)],
    "scaffold": [SGD | {"algorithm": "scaffold", "client_lr": lr} for lr in SGD_RATES],
    "mime-lite": [SGD | {"algorithm": "mime-lite", "client_lr": lr} for lr in SGD_RATES],
    "fed-nova": [{"algorithm": "fed-nova"}],
    "fed-adagrad": [{"server_optimizer": "adagrad", "server_lr": lr} for lr in (0.003, 0.01, 0.03)],
    "fed-adam": [{"server_optimizer": "adam", "server_lr": lr} for lr in (0.001, 0.003, 0.01)],
    "agnostic-fl": [{"algorithm": "agnostic-fl", "mixture_lr": lr} for lr in (0.0003, 0.003, 0.03)],
    "q-fed-avg": [
        SGD | {"algorithm": "q-fed-avg", "client_lr": lr, "fairness_q": q}
        for lr in SGD_RATES[1:]
        for q in (0.1, 1.0)
    ],
    "fed-per": [
        {"algorithm": "fed-per", "personal_weights": names}
        for names in ("head_bias", "head_kernel,head_bias")
    ],
    "ditto": [{"algorithm": "ditto", "ditto_weight": weight} for weight in (0.01, 0.1, 1.0)],
    "ifca": [{"algorithm": "ifca", "num_clusters": k} for k in (2, 4)],
}
METRICS = ("acc@1", "loss")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=config.EMBEDDED)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--users", type=int)
    parser.add_argument("--prior", default="none", choices=["none", "backoff", "kernel"])
    parser.add_argument("--hidden-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(ALGORITHMS), metavar="ALGORITHM")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of trainings that are done"
    )
    parser.add_argument("--time", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    chosen = {name: ALGORITHMS[name] for name in ALGORITHMS if name in (args.only or ALGORITHMS)}
    print(f"{bench.machine()}; `{' '.join(sys.argv[1:])}`\n", flush=True)
    if args.time:
        print_times(args, chosen)
        return
    print(
        "| algorithm | settings | acc@1 | to fed-avg | loss | to fed-avg | worst tenth, acc@1 | "
        "best round | kB a client and round | local steps by |"
    )
    print("| --- " * 10 + "|", flush=True)
    of_base = choose(args, BASE, ALGORITHMS[BASE])
    base = [trained(args, BASE, of_base, seed) for seed in range(args.seeds)]
    for name, candidates in chosen.items():
        candidates = [of_base | candidate for candidate in candidates]
        best = choose(args, name, candidates)
        if best is None:
            print(f"| {name} | none of {len(candidates)} trained without diverging |", flush=True)
            continue
        found = [trained(args, name, best, seed) for seed in range(args.seeds)]
        print_row(name, candidates, best, found, base)


def choose(args, name, candidates):
    """Return the settings with the lowest validation loss of seed 0; None if all diverged."""
    tried = [trained(args, name, candidate, 0) for candidate in candidates]
    usable = [(found["val_loss"], at) for at, found in enumerate(tried) if "val_loss" in found]
    return candidates[min(usable)[1]] if usable else None


def settings_of(args, overrides, seed):
    given = {
        "head": "dense",
        "data": args.data,
        "prior": args.prior,
        "hidden_dim": args.hidden_dim,
        "rounds": args.rounds,
        "seed": seed,
    }
    return config.load(given | ({"users": args.users} if args.users else {}) | overrides)


def training_of(args, settings):
    task, _ = open_workflow.open_task(settings, args.data_dir)
    task = open_workflow.learn_prior(task)
    algorithm = algorithms.from_settings(settings)
    engine = train_workflow.make_engine(task, client_rule=algorithm.client_rule)
    return FederatedTraining(engine, algorithm)


def trained(args, name, overrides, seed):
    """Return what a training gave, from `--work` if it is there."""
    words = "-".join(f"{k}={v}" for k, v in sorted(overrides.items())).replace(",", "+")
    file = args.work / f"{args.prior}-{args.hidden_dim}-{name}-{words}-{seed}.json".replace(" ", "")
    found = json.loads(file.read_text()) if file.exists() else {}
    if found:
        return found
    training = training_of(args, settings_of(args, overrides, seed))
    kept = {}  # nothing is removed from a temporary store, so any round's state can be found
    try:
        result = round_loop.train(
            training, on_round=lambda *_: None, on_checkpoint=lambda c: kept.update(last=c)
        )
    except TrainingError as error:
        found = {"diverged": str(error)}
    else:
        found = {
            "val_loss": result.best_value,
            "best_round": result.best.round_num,
            "steps_by": training.engine.what_runs_steps.split(":")[0],
            "test": scored(training, result.best),
            "bytes": bytes_of(training),
        }
    training.close()
    training.engine.close()
    file.write_text(json.dumps(found))
    return found


def bytes_of(training):
    """Return the mean bytes that a client receives and sends in a round."""
    task = training.engine.task
    sent = sent_by(training.algorithm)
    found = traffic.count_traffic(protection.init_weights(task), traffic.own_rows(task), sent=sent)
    both = (found.down_bytes + found.up_bytes)[task.training_clients]
    return float(np.mean(both))


def scored(training, best):
    """Return each client's sums and counts of the metrics on test."""
    per_client = training.per_client
    if per_client is not None and per_client.algorithm.personal:
        found = evaluate_personal(
            training.engine,
            per_client.algorithm,
            best.weights,
            per_client.store,
            "test",
            round_num=best.round_num,
        )
    else:
        found = evaluate.evaluate(training.engine, best.weights, "test")
    return bench.sums(found, METRICS)


def print_row(name, candidates, best, found, base):
    hidden = ("algorithm", "client_optimizer")
    cells = [name, ", ".join(f"{k} {v}" for k, v in best.items() if k not in hidden)]
    cells[1] += f" (of {len(candidates)})" if len(candidates) > 1 else ""
    if any("diverged" in one for one in found):
        print(f"| {name} | {cells[1]} | diverged with another seed |", flush=True)
        return
    for metric in METRICS:
        values = [bench.total(one, metric) for one in found]
        cells.append(f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        if name == BASE:
            cells.append("")
            continue
        gaps = [bench.gap(one, other, metric) for one, other in zip(found, base, strict=True)]
        middle = statistics.mean(g[0] for g in gaps)
        low, high = min(g[1] for g in gaps), max(g[2] for g in gaps)
        cells.append(f"{middle:+.4f} ({low:+.4f} to {high:+.4f})")
    worst = [worst_tenth(one) for one in found]
    cells.append(f"{statistics.mean(worst):.4f} ({min(worst):.4f} to {max(worst):.4f})")
    cells.append(", ".join(str(one["best_round"]) for one in found))
    cells.append(f"{statistics.mean(one['bytes'] for one in found) / 1000:.0f}")
    cells.append("C" if found[0]["steps_by"] == "local steps in C" else "XLA")
    print(f"| {' | '.join(cells)} |", flush=True)


def worst_tenth(one):
    """Mean acc@1 of the tenth of the clients with the lowest acc@1."""
    sums, counts = map(np.asarray, one["test"]["acc@1"])
    rates = np.sort(sums[counts > 0] / counts[counts > 0])
    return float(rates[: max(len(rates) // 10, 1)].mean())


def print_times(args, chosen):
    """Print the seconds of a round and of a validation: the least of three, in turns."""
    trainings = {n: training_of(args, settings_of(args, c[-1], 0)) for n, c in chosen.items()}
    states = {name: training.init() for name, training in trainings.items()}
    seconds = {name: [] for name in trainings}
    for turn in range(4):
        for name, training in trainings.items():
            started = time.perf_counter()
            states[name] = training.run_round(states[name], training.task.training_clients).state
            trained_s = time.perf_counter() - started
            training.validate(states[name])
            if turn:  # the first compiles
                both = trained_s, time.perf_counter() - started - trained_s
                seconds[name].append(both)
    base = min(train for train, _ in seconds[BASE]) if BASE in seconds else None
    print("| algorithm | a round, s | times fed-avg | validation, s | local steps by |")
    print("| --- " * 5 + "|")
    for name, found in seconds.items():
        train, val = (min(values) for values in zip(*found, strict=True))
        by = "C" if trainings[name].engine.what_runs_steps == "local steps in C" else "XLA"
        times = f"{train / base:.1f}" if base else "-"
        print(f"| {name} | {train:.2f} | {times} | {val:.2f} | {by} |")


if __name__ == "__main__":
    main()
