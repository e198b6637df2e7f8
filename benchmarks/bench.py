"""What several benchmarks share: options for the data, the machine's name, a step's arithmetic."""

import argparse
import os
import platform
from pathlib import Path

from fedgru import config, experiment


def data_parser(description):
    """Return an ArgumentParser with the options that `open_task` takes."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--data", default=config.EMBEDDED)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--users", type=int, help="the most active ones; all if not given")
    return parser


def open_task(args, **settings):
    """Return the Task of the data that the options name, and of further settings."""
    if args.users:
        settings["users"] = args.users
    task, _ = experiment.open_task(config.load({"data": args.data, **settings}), args.data_dir)
    return task


def machine():
    """Return the words that say what a figure was taken on."""
    cores = len(os.sched_getaffinity(0))
    return f"{processor()}, {cores} cores, Python {platform.python_version()}"


def processor():
    """Return the processor's name, as far as the system tells."""
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.exists() else ():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def step_gflop(batch_size, seq_len, hidden_dim, num_numbers, num_classes):
    """Return the arithmetic of the matrix products of one local step of a GRU, forward and back.

    Recurrent and head: forward, by the input, by the weights. Numbers: no gradient by the input.
    Look-ups, gates and the optimizer are not counted.
    """
    gates = 3 * hidden_dim
    products = 3 * hidden_dim * gates + 3 * hidden_dim * num_classes + 2 * num_numbers * gates
    return 2 * batch_size * seq_len * products / 1e9
