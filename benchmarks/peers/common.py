"""What every peer shares: the work as plain arrays, and how a round is timed. NumPy alone.

A peer is a script that takes the options of `arguments` and gives `measure` two functions. It runs
in its own environment, so nothing here imports fedgru.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Client:
    """One client's batches.

    Attributes:
        rows: int32 [steps, batch, seq_len, num_id_features], rows of the table of one-hot inputs.
        numbers: float32 [steps, batch, seq_len, num_numbers].
        targets: int32 [steps, batch, seq_len].
        val: the same three of the validation split, and float32 mask [steps, batch, seq_len];
            unknown values are row -1.
    """

    rows: np.ndarray
    numbers: np.ndarray
    targets: np.ndarray
    val: tuple


@dataclass(frozen=True)
class Work:
    """Settings (a dict), start weights under fedgru's names, and the cohort's clients."""

    settings: dict
    weights: dict
    clients: list

    @property
    def num_steps(self):
        return sum(len(client.targets) for client in self.clients)

    @property
    def num_examples(self):
        return sum(client.targets.size for client in self.clients)


def arguments(description):
    """Return the options that benchmarks/round.py gives each row."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, required=True, help="folder written by round.py")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--clients", type=int, help="that many of them, evenly spread by size")
    parser.add_argument("--rounds", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--dropout", type=float, help="in place of the work's")
    parser.add_argument("--no-eval", action="store_true")
    return parser


def load(args):
    """Return the Work that the options ask for."""
    settings = json.loads((args.work / "settings.json").read_text())
    if args.dropout is not None:
        settings["dropout"] = args.dropout
    with np.load(args.work / "weights.npz") as arrays:
        weights = dict(arrays)
    clients = []
    with np.load(args.work / "clients.npz") as arrays:
        for index in chosen(settings["num_clients"], args.clients):
            names = ("rows", "numbers", "targets")
            train = (arrays[f"{name}_{index}"] for name in names)
            val = tuple(arrays[f"val_{name}_{index}"] for name in (*names, "mask"))
            clients.append(Client(*train, val))
    return Work(settings, weights, clients)


def chosen(num_clients, wanted):
    """Return the indices of `wanted` of the clients, which lie in order of size.

    >>> chosen(100, 4)
    [12, 37, 62, 87]
    """
    if wanted is None or wanted >= num_clients:
        return list(range(num_clients))
    return [int((i + 0.5) * num_clients / wanted) for i in range(wanted)]


def measure(args, work, run_round, evaluate, **facts):
    """Time rounds and evaluations, and write what was found.

    Args:
        args: from `arguments`.
        work: Work.
        run_round: called once for each round; returns its mean train loss in nats. It goes on
            from the round before.
        evaluate: called after each timed round; returns a loss. None where there is none.
        facts: goes into the file as it stands.
    """
    started = time.perf_counter()
    first_loss = float(run_round())
    first = time.perf_counter() - started
    seconds, eval_seconds = [], []
    timed_eval = evaluate is not None and not args.no_eval
    if timed_eval:
        evaluate()
    for _ in range(args.rounds):
        started = time.perf_counter()
        run_round()
        middle = time.perf_counter()
        seconds.append(middle - started)
        if timed_eval:
            evaluate()
            eval_seconds.append(time.perf_counter() - middle)
    write(args, work, first, first_loss, seconds, eval_seconds, **facts)


def write(args, work, first_seconds, first_loss, seconds, eval_seconds, **facts):
    """Write what was found as JSON; see `measure`."""
    found = {
        "first_loss": first_loss,
        "first_seconds": first_seconds,
        "seconds": seconds,
        "eval_seconds": eval_seconds,
        "steps": work.num_steps,
        "examples": work.num_examples,
        "clients": len(work.clients),
        "eval_clients": len(work.clients),
    }
    args.out.write_text(json.dumps(found | facts))
