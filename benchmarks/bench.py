"""What several benchmarks share: options for the data, the machine's name, a step's arithmetic.

fedgru is imported where it is needed: the machine's name does without.
"""

import argparse
import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
WIDEST_FIRST = (
    ("avx512f", "AVX-512"),
    ("avx2", "AVX2"),
    ("avx", "AVX"),
    ("sse2", "SSE2"),
    ("sve2", "SVE2"),
    ("sve", "SVE"),
    ("asimd", "NEON"),
)
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
    cores = len(os.sched_getaffinity(0))
    found = f"{processor()} with {instruction_set()}, {cores} cores"
    return f"{found}, Python {platform.python_version()}"


def processor():
    """Return the processor's name, as far as the system tells."""
    return processor_fact("model name") or platform.machine()


def instruction_set():
    """Return the name of the processor's widest vector instructions for float32.

    /proc/cpuinfo lists them: as "flags" on x86-64, as "Features" on aarch64.
    """
    flags = (processor_fact("flags") or processor_fact("Features")).split()
    return next((name for flag, name in WIDEST_FIRST if flag in flags), "unknown instructions")


def kernel_instruction_set(kernel):
    """Return the instruction set of one of OpenBLAS' kernels, which threadpoolctl names.

    >>> kernel_instruction_set("SkylakeX")
    'AVX-512'
    """
    found = (name for name, kernels in OPENBLAS_KERNELS.items() if kernel.lower() in kernels)
    return next(found, "unknown instructions")


def processor_fact(name):
    """Return what /proc/cpuinfo says of the first processor under a name; empty if nothing."""
    for line in CPUINFO.read_text().splitlines() if CPUINFO.exists() else ():
        if line.split(":")[0].strip() == name:
            return line.split(":", 1)[1].strip()
    return ""


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
