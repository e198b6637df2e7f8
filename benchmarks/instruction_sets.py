"""One round by C code and by XLA, held to each instruction set that this processor runs.

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    python benchmarks/instruction_sets.py

The work is that of benchmarks/round.py: `--preset notebook` on 100 users, all clients in a round,
server SGD with rate 1. Every round starts from the same weights. Each compiler with each
instruction set is a process of its own that stays alive; XLA and NumPy's BLAS have one for each
instruction set. They work strictly in turns, one at a time: in each turn first all rates of matrix
products, then a round of each process. Ratios are taken within a turn.

The C code is held by `-march`, in place of `-march=native`; the compiler's own macros are checked.
BLAS is held by OPENBLAS_CORETYPE; its kernel's name is checked. XLA is held by
`--xla_cpu_max_isa`, which holds the code that it generates, but not the products that it calls: its
own rate of products is in the table. All processes must train to the same mean loss, or the
benchmark stops.
"""

import datetime
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import bench

from fedgru.core.machine import processor_fact

PRESET = "notebook"
COMPILERS = ("gcc", "clang")
TOLERANCE = 1e-4  # of the mean loss, relative
SIZE = 2048  # of the matrices whose product is timed
PRODUCTS = 5


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set, as each of those that are held to it names it.

    Attributes:
        name: as -march of GCC and Clang takes it; "native" is left to the compiler.
        features: those in /proc/cpuinfo that a processor must have.
        defined, undefined: macros of a C compiler that is held to it.
        blas: OPENBLAS_CORETYPE, None for what NumPy chooses; and the kernel's name.
        xla: value of --xla_cpu_max_isa, None for all.
    """

    name: str
    features: frozenset
    defined: str | None = None
    undefined: str | None = None
    blas: str | None = None
    xla: str | None = None


X86 = (
    InstructionSet(
        "x86-64-v2",
        frozenset({"cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"}),
        defined="__SSE4_2__",
        undefined="__AVX__",
        blas="Nehalem",
        xla="SSE4_2",
    ),
    InstructionSet(
        "x86-64-v3",
        frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
        defined="__AVX2__",
        undefined="__AVX512F__",
        blas="Haswell",
        xla="AVX2",
    ),
    InstructionSet(
        "x86-64-v4",
        frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
        defined="__AVX512F__",
        blas="SkylakeX",
        xla="AVX512",
    ),
)
NATIVE = InstructionSet("native", frozenset())


def main():
    parser = bench.data_parser(__doc__)
    parser.set_defaults(data="nyc", users=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="instruction sets, separated by commas; all if not given")
    parser.add_argument("--worker", nargs=2, help="for the benchmark itself")
    args = parser.parse_args()
    if args.worker:
        work(args, *args.worker)
        return
    sets = [one for one in runnable() if not args.only or one.name in args.only.split(",")]
    compilers = [name for name in COMPILERS if shutil.which(name)]
    if not sets or not compilers:
        raise SystemExit(f"nothing to time: {len(sets)} instruction sets, C: {compilers}")
    load_before = os.getloadavg()
    workers = {}
    try:
        for one in sets:
            for kind in ("blas", *compilers, "xla"):
                say(f"{kind}, {one.name}: starts ...")
                workers[kind, one.name] = Worker(args, kind, one)
        turns = [take_turn(workers, f"turn {at + 1}") for at in range(args.repeats)]
    finally:
        for worker in workers.values():
            worker.end()
    print_table(sets, compilers, workers, turns, load_before)


def runnable():
    """Return the instruction sets that this processor runs, the smallest first."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return [NATIVE]
    features, found = set(processor_fact("flags").split()), []
    for one in X86:
        if not one.features <= features:
            break
        found.append(one)
    return found


def say(text):
    print(text, file=sys.stderr, flush=True)


def take_turn(workers, name):
    """Let every process work once, one after the other; return {key: what it found}."""
    say(f"{name} ...")
    rates_first = sorted(workers, key=lambda key: key[0] != "blas")
    found = {key: workers[key].ask() for key in rates_first}
    losses = {key: one["loss"] for key, one in found.items() if "loss" in one}
    low, high = min(losses.values()), max(losses.values())
    if not math.isfinite(high) or high - low > TOLERANCE * abs(low):
        told = ", ".join(f"{' '.join(key)} {loss:.6f}" for key, loss in losses.items())
        raise SystemExit(f"NOT THE SAME WORK: mean train losses {told}")
    return found


class Worker:
    """A process that works once for each `ask`, and ends with its parent.

    Args:
        args: the benchmark's options.
        kind: "blas", "xla", or the name of a C compiler.
        one: InstructionSet.

    Attributes:
        facts: dict, what the process says of itself once it is ready.
    """

    def __init__(self, args, kind, one):
        environment = os.environ | {"FEDGRU_CACHE": "off"}
        for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "XLA_FLAGS", "CC"):
            environment.pop(name, None)
        if kind == "blas" and one.blas:
            environment["OPENBLAS_CORETYPE"] = one.blas
        elif kind == "xla" and one.xla:
            environment["XLA_FLAGS"] = f"--xla_cpu_max_isa={one.xla}"
        elif kind in COMPILERS:
            environment["CC"] = kind
        options = ["--data", args.data, "--data-dir", args.data_dir, "--users", str(args.users)]
        self.name = f"{kind}, {one.name}"
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", kind, one.name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            self.facts = self._read()
        except BaseException:
            self.end()
            raise

    def ask(self):
        """Return what the process measures now, a dict."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the process ended, see above")
        return json.loads(line)

    def end(self):
        self._process.kill()
        self._process.communicate()


def work(args, kind, name):
    """Be the process of a Worker: a line of JSON when ready, and one for each line that comes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    one = next(one for one in (*X86, NATIVE) if one.name == name)
    facts, measure = measure_blas(one) if kind == "blas" else measure_round(args, kind, one)

    def answer(found):
        out.write(json.dumps(found) + "\n")
        out.flush()

    answer(facts)
    for _ in sys.stdin:  # ends when the parent does
        answer(measure())


def measure_blas(one):
    """Return (facts, function that measures NumPy's rate of float32 products)."""
    import numpy as np
    import threadpoolctl

    kernel = threadpoolctl.threadpool_info()[0].get("architecture")
    if one.blas and kernel != one.blas:
        raise SystemExit(f"OPENBLAS_CORETYPE is {one.blas}, but the kernel is {kernel}")
    a = np.random.default_rng(0).random((SIZE, SIZE), np.float32)
    return {"kernel": kernel}, lambda: {"rate": product_rate(lambda: a @ a)}


def product_rate(product):
    """Return the median GFLOP/s of a product of two [SIZE, SIZE] matrices."""
    seconds = []
    for _ in range(PRODUCTS + 1):  # the first may compile
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    return 2 * SIZE**3 / statistics.median(seconds[1:]) / 1e9


def measure_round(args, kind, one):
    """Return (facts, function that times a round); one round is done before, not timed."""
    from fedgru import algorithms, config
    from fedgru.core import seeding
    from fedgru.engines.jax.native import compiler
    from fedgru.models import gru
    from fedgru.training.rounds import run_round
    from fedgru.workflows import open as open_workflow
    from fedgru.workflows import train as train_workflow

    if kind != "xla":
        hold_compiler(compiler, one)
    loop = "xla" if kind == "xla" else "native"
    overrides = {"data": args.data, "users": args.users, "local_loop": loop}
    overrides |= {"server_optimizer": "sgd", "server_lr": 1.0, "device": "cpu"}
    task, _ = open_workflow.open_task(config.load(overrides, preset=PRESET), args.data_dir)
    engine = train_workflow.make_engine(task)
    algorithm = algorithms.from_settings(task.settings)
    state = algorithm.init(gru.init_weights(task.spec, seeding.rng(0, "weights")))
    cohort = task.training_clients

    def measure():
        started = time.perf_counter()
        result = run_round(engine, algorithm, state, cohort)
        seconds = time.perf_counter() - started
        found = {"seconds": seconds, "loss": float(result.metrics["loss"])}
        return found | ({"rate": xla_rate()} if kind == "xla" else {})

    measure()
    all_batches = [task.batches(int(client)) for client in cohort]
    steps = sum(len(batches.pairs) * batches.passes for batches in all_batches)
    spec, layout = task.spec, task.settings.layout
    sizes = (layout.batch_size, layout.seq_len, spec.hidden_dim, spec.num_numbers, spec.num_classes)
    gflop = steps * bench.step_gflop(*sizes)
    return {"steps": steps, "clients": len(cohort), "gflop": gflop, "engine": str(engine)}, measure


def xla_rate():
    """Return XLA's rate of float32 products."""
    import jax
    import numpy as np

    a = jax.numpy.asarray(np.random.default_rng(0).random((SIZE, SIZE), np.float32))
    product = jax.jit(lambda a: a @ a)
    return product_rate(lambda: product(a).block_until_ready())


def hold_compiler(compiler, one):
    """Let what is compiled in this process use an InstructionSet alone, and check that it does."""
    if one.name == "native":
        return
    march = {"-march=native": f"-march={one.name}"}
    compiler.FLAGS = tuple(march.get(flag, flag) for flag in compiler.FLAGS)
    command = [*compiler.find_compiler(), *compiler.FLAGS, "-dM", "-E", "-x", "c", os.devnull]
    macros = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if one.defined not in macros or one.undefined in macros:
        raise SystemExit(f"{command[0]} is not held to {one.name}: {' '.join(command)}")


def compiler_version(name):
    """Return the first line of a compiler's `--version`, under the name that it is a link to."""
    program = os.path.realpath(shutil.which(name))
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def print_table(sets, compilers, workers, turns, load_before):
    facts = workers[compilers[0], sets[0].name].facts
    print(
        f"{datetime.date.today()}, {bench.machine()}; load {load_before[0]:.1f} at the start, "
        f"{os.getloadavg()[0]:.1f} at the end; {len(turns)} turns, medians (ranges).\n\n"
        f"A round: {facts['clients']} clients, {facts['steps']} local steps, {facts['gflop']:.0f} "
        f"GFLOP of matrix products. C: {'; '.join(map(compiler_version, compilers))}. "
        f"{facts['engine']}.\n"
    )
    print(
        "| compiler | instruction set | s a round | GFLOP/s | rate of BLAS, kernel | share of it "
        "| XLA, s a round | times C | rate of XLA's products |"
    )
    print("|" + " --- |" * 9)
    for one in sets:
        kernel = workers["blas", one.name].facts["kernel"]
        limit = [turn["blas", one.name]["rate"] for turn in turns]
        xla = [turn["xla", one.name]["seconds"] for turn in turns]
        xla_limit = [turn["xla", one.name]["rate"] for turn in turns]
        for compiler in compilers:
            took = [turn[compiler, one.name]["seconds"] for turn in turns]
            speed = [facts["gflop"] / seconds for seconds in took]
            cells = [
                compiler,
                one.name,
                middle(took, ".2f"),
                middle(speed, ".0f"),
                f"{middle(limit, '.0f')}, {kernel}",
                middle([100 * s / rate for s, rate in zip(speed, limit, strict=True)], ".0f")
                + " %",
                middle(xla, ".2f"),
                middle([x / seconds for x, seconds in zip(xla, took, strict=True)], ".2f"),
                middle(xla_limit, ".0f"),
            ]
            print(f"| {' | '.join(cells)} |")
    losses = [one["loss"] for turn in turns for one in turn.values() if "loss" in one]
    print(
        "\nRates are GFLOP/s. XLA is held by --xla_cpu_max_isa, its library of products is not: "
        "where its rate is above BLAS's, its products use more than the instruction set. Mean "
        f"train loss of a round, all processes: {min(losses):.6f} to {max(losses):.6f} nats."
    )


def middle(values, form):
    """The median, and the range if there is one."""
    text = format(statistics.median(values), form)
    low, high = format(min(values), form), format(max(values), form)
    return text if low == high else f"{text} ({low} to {high})"


if __name__ == "__main__":
    main()
