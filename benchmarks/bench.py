"""What several benchmarks share: options for the data, the machine's name, a step's arithmetic.

Of fedgru, what needs other packages is imported where it is needed.
"""

import argparse
import platform

from fedgru.core.machine import describe_machine

OPENBLAS_KERNELS = {
    "AVX-512": ("skylakex", "cooperlake", "sapphirerapids"),
    "AVX2": ("haswell", "zen", "excavator"),
    "AVX": ("sandybridge", "bulldozer", "piledriver", "steamroller"),
    "SVE": ("neoversev1", "neoversen2", "armv8sve", "a64fx"),
    "NEON": ("armv8", "neoversen1", "thunderx2t99", "cortexa76", "vortex"),
}


def data_parser(description):
    """Return an ArgumentParser with the options that `open_task` takes."""
    from fedgru import config

    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--data", default=config.EMBEDDED)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--users", type=int, help="the most active ones; all if not given")
    return parser


def open_task(args, **settings):
    """Return the Task of the data that the options name, with a dense head, and of settings."""
    from fedgru import config
    from fedgru.workflows import open as open_workflow

    if args.users:
        settings["users"] = args.users
    task, _ = open_workflow.open_task(
        config.load({"head": "dense", "data": args.data, **settings}), args.data_dir
    )
    return task


def machine():
    """Return the words that say what a figure was taken on."""
    return f"{describe_machine()}, Python {platform.python_version()}"


def kernel_instruction_set(kernel):
    """Return the instruction set of one of OpenBLAS' kernels, which threadpoolctl names.

    >>> kernel_instruction_set("SkylakeX")
    'AVX-512'
    """
    found = (name for name, kernels in OPENBLAS_KERNELS.items() if kernel.lower() in kernels)
    return next(found, "unknown instructions")


def step_gflop(batch_size, seq_len, hidden_dim, num_numbers, num_classes):
    """Return the arithmetic of the matrix products of one local step of a GRU, forward and back.

    Recurrent and head: forward, by the input, by the weights. Numbers: no gradient by the input.
    Look-ups, gates and the optimizer are not counted.
    """
    gates = 3 * hidden_dim
    products = 3 * hidden_dim * gates + 3 * hidden_dim * num_classes + 2 * num_numbers * gates
    return 2 * batch_size * seq_len * products / 1e9


def sums(evaluation, names):
    """Return {metric: [sum, count] of each client}, for JSON."""
    return {name: [a.tolist() for a in evaluation.client_sums(name)] for name in names}


def total(one, metric):
    """Return a metric over all targets of one training's `sums`, in its entry "test"."""
    import numpy as np

    of_clients, counts = map(np.asarray, one["test"][metric])
    return float(of_clients.sum() / counts.sum())


def gap(one, other, metric):
    """Return (difference, low, high), the paired 95 % interval over clients."""
    import numpy as np

    from fedgru.core import metrics, seeding

    ours, counts = map(np.asarray, one["test"][metric])
    theirs, _ = map(np.asarray, other["test"][metric])
    interval = metrics.paired_bootstrap_interval(ours, theirs, counts, seeding.rng(0, "bootstrap"))
    return float((ours.sum() - theirs.sum()) / counts.sum()), *interval
