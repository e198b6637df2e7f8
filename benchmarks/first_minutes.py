"""Where the first minutes with fedgru go: the main job as `make train` runs it, phase by phase.

    python benchmarks/first_minutes.py                 # with nothing compiled yet, and once more
    python benchmarks/first_minutes.py --loops         # also by gcc, by clang and by XLA
    python benchmarks/first_minutes.py --make          # also `make train` in a fresh clone
    python benchmarks/first_minutes.py -- --rounds 3   # further options of `fedgru train`

`fedgru train --features big` runs in a process of its own, in an empty folder, with FEDGRU_CACHE
at an empty one, and then again with what the first run left there. In that process the functions of
each phase are wrapped by a clock. Phases do not overlap: what one calls that is a phase itself is
not counted twice. What XLA compiles is summed over threads, so it may be more than its phase.

`--make` clones the last commit and runs `make env` with an empty cache of pip's, then `make
train`, and `make env` once more, with what pip has kept. What the first `make env` takes longer is
the download, as far as it is more than the noise of the two.
"""

import argparse
import collections
import datetime
import functools
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import bench
from instruction_sets import compiler_version

ROOT = Path(__file__).absolute().parent.parent
JOB = ("train", "--features", "big")
START, REST = "process start, imports", "the rest, process end"
PHASES = (
    START,
    "data set opened or made",
    "task built",
    "C code: compiled or loaded",
    "C code timed against XLA's",
    "kernel prior learnt",
    "kernel prior of each client",
    "rounds",
    "validation",
    "test: the model, warm and cold",
    "test: leakage probe",
    "test: baselines",
    "test: intervals, tables",
    "run folder written",
    REST,
)
LOOPS = {
    "CC=gcc": ({"CC": "gcc"}, ("--local-loop", "native")),
    "CC=clang": ({"CC": "clang"}, ("--local-loop", "native")),
    "XLA": ({}, ("--local-loop", "xla")),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loops", action="store_true", help="also by gcc, clang and XLA")
    parser.add_argument("--make", action="store_true", help="also `make train` in a fresh clone")
    parser.add_argument("--child", type=Path, help="for the benchmark itself")
    parser.add_argument("options", nargs="*", help="further options of `fedgru train`, after --")
    args = parser.parse_args()
    if args.child:
        run_job(args.child, args.options)
        return
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cold, warm = (start(work, name, {}, args.options) for name in ("cold", "warm"))
        loops = {}
        for name, (environment, options) in LOOPS.items() if args.loops else ():
            if "CC" in environment and not shutil.which(environment["CC"]):
                say(f"{name}: not installed")
                continue
            loops[name] = start(work, name, environment, [*options, *args.options])
        made = make(work) if args.make else None
    print_heading(load_before, args.options)
    print_phases(cold, warm)
    if loops:
        print_loops(loops)
    if made:
        print_make(made)


def say(text):
    print(text, file=sys.stderr, flush=True)


def start(work, name, environment, options):
    """Run the job in a process of its own; return what `run_job` wrote, `total` and its report.

    "warm" has the compiled code of "cold", the others begin with nothing.
    """
    say(f"{name} ...")
    folder = work / name
    folder.mkdir()
    found = folder / "found.json"
    compiled = work / "cold" if name == "warm" else folder
    environment = os.environ | environment | {"FEDGRU_CACHE": str(compiled / "compiled")}
    command = [sys.executable, __file__, "--child", str(found), "--", *options]
    started = time.time()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    ended = time.time()
    if done.returncode or not found.exists():
        raise SystemExit(f"{name} failed:\n{done.stderr[-4000:]}")
    found = json.loads(found.read_text())
    found["seconds"][START] = found["ready_at"] - started
    found["seconds"][REST] += ended - found["ended_at"]
    return found | {"total": ended - started, "report": json.loads(done.stdout)}


def run_job(file, options):
    """Be the main job in this process, with clocks; write what they say to a file, as JSON.

    `seconds` and `compiling` by phase, `rounds` (seconds of each), `engine` in words, and
    `ready_at`, `ended_at`, Unix seconds.
    """
    clock = Clock()
    from fedgru.cli import main as cli_main
    from fedgru.core.jax_setup import import_jax
    from fedgru.data import datasets
    from fedgru.engines.jax.engine import JaxEngine
    from fedgru.engines.jax.native import compiler
    from fedgru.evaluation import audit, evaluate
    from fedgru.runs.checkpoints import Checkpoints
    from fedgru.runs.folder import RunFolder
    from fedgru.task import task
    from fedgru.training.rounds import FederatedTraining
    from fedgru.workflows import open as open_workflow
    from fedgru.workflows import score as score_workflow
    from fedgru.workflows import train as train_workflow

    import_jax().monitoring.register_event_duration_secs_listener(clock.compiled)
    for owner, name, phase in (
        (datasets, "open_data_set", "data set opened or made"),
        (open_workflow, "open_task", "task built"),
        (compiler, "load", "C code: compiled or loaded"),
        (JaxEngine, "choose_local_loop", "C code timed against XLA's"),
        (train_workflow, "learn_prior", "kernel prior learnt"),
        (task, "kernel_prior", "kernel prior of each client"),
        (FederatedTraining, "run_round", "rounds"),
        (FederatedTraining, "validate", "validation"),
        (evaluate, "evaluate", "test: the model, warm and cold"),
        (audit, "quick_audit", "test: leakage probe"),
        (evaluate, "evaluate_baselines", "test: baselines"),
        (score_workflow, "evaluate_run", "test: intervals, tables"),
        (Checkpoints, "save", "run folder written"),
        (RunFolder, "record_round", "run folder written"),
        (RunFolder, "finish", "run folder written"),
        (RunFolder, "save_test", "run folder written"),
    ):
        clock.wrap(owner, name, phase)
    rounds, run_round = [], FederatedTraining.run_round

    def timed_round(training, *args, **kwargs):
        started = time.perf_counter()
        result = run_round(training, *args, **kwargs)
        rounds.append(time.perf_counter() - started)
        clock.engine = str(training.engine)
        return result

    FederatedTraining.run_round = timed_round
    ready_at = clock.start()
    cli_main.main([*JOB, "--json", *options], standalone_mode=False)
    clock.switch(None)
    found = {"seconds": clock.seconds, "compiling": clock.compiling, "rounds": rounds}
    found |= {"engine": clock.engine, "ready_at": ready_at, "ended_at": time.time()}
    file.write_text(json.dumps(found))


class Clock:
    """Seconds of each phase of the main thread, without those of phases within it.

    Attributes:
        seconds: phase -> seconds.
        compiling: phase -> seconds in which XLA compiled meanwhile, summed over threads.
        engine: what trained, in words.
    """

    def __init__(self):
        self.seconds = collections.defaultdict(float)
        self.compiling = collections.defaultdict(float)
        self.engine = None
        self._phase, self._since = REST, None

    def start(self):
        """Begin to count; return the time, Unix seconds."""
        self._since = time.perf_counter()
        return time.time()

    def switch(self, phase):
        """Count for a phase from now on; return the one before."""
        before, now = self._phase, time.perf_counter()
        self.seconds[before] += now - self._since
        self._phase, self._since = phase, now
        return before

    def compiled(self, event, seconds, **_):
        """Count what JAX reports: tracing, lowering and compiling, or reading what was kept."""
        if event.startswith("/jax/core/compile/"):
            self.compiling[self._phase] += seconds

    def wrap(self, owner, name, phase):
        """Count the calls of a function, in the main thread, for a phase."""
        if phase not in PHASES:
            raise KeyError(phase)
        function = getattr(owner, name)

        @functools.wraps(function)
        def counted(*args, **kwargs):
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            before = self.switch(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(before)

        setattr(owner, name, counted)


def make(work):
    """Time `make` in a fresh clone; return {what: seconds}, and the commit."""
    clone, pip_cache = work / "clone", work / "pip"
    environment = os.environ | {"PIP_CACHE_DIR": str(pip_cache)}
    environment |= {"FEDGRU_CACHE": str(work / "compiled"), "PYTHON": sys.executable}
    environment.pop("VIRTUAL_ENV", None)

    def timed(*command, **more):
        say(f"{shlex.join(command)} ...")
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, **more)
        if done.returncode:
            raise SystemExit(
                f"{shlex.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}"
            )
        return time.perf_counter() - started

    clones = timed("git", "clone", "--quiet", str(ROOT), str(clone))
    both = timed("make", "env", cwd=clone)
    train = timed("make", "train", cwd=clone)
    shutil.rmtree(clone / ".venv")
    installs = timed("make", "env", cwd=clone)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=clone, text=True)
    found = {"clone": clones, "env": both, "again": installs, "train": train}
    return found | {"commit": commit.strip()}


def print_heading(load_before, options):
    from fedgru.engines.jax.native import compiler

    words = shlex.join(["fedgru", *JOB, *options])
    found = compiler.find_compiler()
    print(
        f"{datetime.date.today()}, {bench.machine()}; load {load_before[0]:.1f} at the start, "
        f"{os.getloadavg()[0]:.1f} at the end. C: {compiler_version(found[0])}. `{words}`\n"
    )


def print_phases(cold, warm):
    print(f"{cold['engine']}; {rounds_of(cold)}. Once more: {warm['engine']}; {rounds_of(warm)}.\n")
    print("| | s | XLA compiles, s | once more, s | XLA compiles, s |")
    print("|" + " --- |" * 5)
    for phase in PHASES:
        cells = [
            f"{run[kind].get(phase, 0):.1f}"
            for run in (cold, warm)
            for kind in ("seconds", "compiling")
        ]
        print(f"| {phase} | {' | '.join(cells)} |")
    cells = [
        cell for run in (cold, warm) for cell in (run["total"], sum(run["compiling"].values()))
    ]
    print(f"| all | {' | '.join(f'{cell:.1f}' for cell in cells)} |")


def rounds_of(run):
    """Return the words that say how long a run's rounds took."""
    first, *later = run["rounds"]
    text = f"{len(run['rounds'])} rounds, the first {first:.2f} s"
    if not later:
        return text
    return (
        f"{text}, later ones {statistics.median(later):.2f} ({min(later):.2f} to {max(later):.2f})"
    )


def print_loops(loops):
    print("\n| | s | s a round, median | rounds | best round | test loss | test acc@1 | |")
    print("|" + " --- |" * 8)
    for name, run in loops.items():
        report = run["report"]
        cells = [
            name,
            f"{run['total']:.1f}",
            f"{statistics.median(run['rounds']):.2f}",
            str(report["rounds"]),
            str(report["best_round"]),
            f"{report['test']['test/loss/micro']:.4f}",
            f"{report['test']['test/acc@1/micro']:.4f}",
            run["engine"],
        ]
        print(f"| {' | '.join(cells)} |")


def print_make(made):
    rows = (
        ("git clone, from this disk", made["clone"]),
        ("make env: downloads and environment", made["env"]),
        ("make train, once the environment is there", made["train"]),
        ("all of these", made["clone"] + made["env"] + made["train"]),
        ("make env once more, pip's cache warm", made["again"]),
    )
    print(f"\n| from nothing, commit {made['commit']} | s |\n| --- | --- |")
    for what, seconds in rows:
        print(f"| {what} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
