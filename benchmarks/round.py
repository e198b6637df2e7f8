"""One round of the notebook's work on fedgru and its peers: one table, from one run.

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    make tff
    benchmarks/peers/make_envs.sh
    python benchmarks/round.py --repeats 3

The work: `--preset notebook` on 100 users, one-hot inputs of user, category, venue and raw
category, GRU 256, batches of 16 rows by 16 check-ins, four local epochs in the notebook's own
chunks, client Adam; only the server is SGD with rate 1, so that several rounds can be gone through.
Every row starts from the same weights and gets the same batches. Rows run one after the other, each
in processes of its own, and all of them `--repeats` times over; ratios are taken within a repeat.
Slow rows train some of the clients, spread evenly by size, and are scaled by local steps.

First a check: with dropout off, each row trains the same few clients for a round; their mean loss
over all local steps must be fedgru's to 1e-3, which it is only with the same steps in the same
order. Rows whose environment is not there are listed as missing. However the program is ended, no
process of a row stays behind: see peers/keeper.py.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import bench
import numpy as np
from peers import keeper

HERE = Path(__file__).parent
ROOT = HERE.parent
PRESET = "notebook"
CHECKED_CLIENTS = 3
TOLERANCE = 1e-3  # nats, of a mean loss of about 3


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: as printed.
        python: the interpreter of its environment.
        script: under benchmarks/peers, with its own options.
        clients: how many it trains; None for all.
        rounds: timed rounds in a repeat.
        evaluates: whether its evaluation is timed.
    """

    name: str
    python: Path
    script: tuple
    clients: int | None
    rounds: int
    evaluates: bool = True


def rows(args):
    tff, peers = args.tff_env / "bin/python", args.peer_envs
    ours = Path(sys.executable)
    blazefl, pfl = (peers / name / "bin/python" for name in ("blazefl", "pfl"))
    return [
        Row("fedgru jax", ours, ("run_fedgru.py", "--local-loop", "native"), None, 9),
        Row("fedgru by XLA", ours, ("run_fedgru.py", "--local-loop", "xla"), None, 3),
        Row("fedgru reference", ours, ("run_fedgru.py", "--engine", "reference"), 10, 1, False),
        Row("fedgru tff", tff, ("run_fedgru.py", "--engine", "tff"), 10, 1),
        Row("the notebook's pipeline (TFF)", tff, ("run_notebook.py",), 10, 1),
        Row("FedJAX", peers / "fedjax/bin/python", ("run_fedjax.py",), 20, 2),
        Row("Flower simulation", peers / "flower/bin/python", ("run_flower.py",), 20, 2),
        Row("pfl-research (one process)", pfl, ("run_pfl.py",), 20, 2),
        Row("pfl-research (processes)", pfl, ("run_pfl.py", "--processes"), 20, 2),
        Row("BlazeFL (processes)", blazefl, ("run_blazefl.py", "--pool", "processes"), 20, 2),
        Row("BlazeFL (threads)", blazefl, ("run_blazefl.py", "--pool", "threads"), 20, 2),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="nyc")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="names of rows, separated by commas; part of a name will do")
    parser.add_argument("--tff-env", type=Path, default=ROOT / ".venv-tff")
    parser.add_argument("--peer-envs", type=Path, default=ROOT / ".venv-peers")
    parser.add_argument("--json", type=Path, help="write everything that was measured here too")
    args = parser.parse_args()
    keeper.exit_on_signals()
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # what is forced on NumPy may be slow
        os.environ.pop(name, None)

    chosen = [row for row in rows(args) if not args.only or named(row, args.only)]
    here = [row for row in chosen if installed(row)]
    missing = [row.name for row in chosen if not installed(row)]
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        settings = export(args, work)
        losses = {row.name: check(args, row, work) for row in here}
        limits, found = [], {row.name: [] for row in here}
        for _ in range(args.repeats):
            limits.append(limit(work))
            for row in here:
                say(f"{row.name} ...")
                found[row.name].append(run(args, row, work))
    print_table(settings, limits, found, missing, losses, load_before)
    if args.json:
        measured = {"limits": limits, "rows": found, "checked": losses, "missing": missing}
        args.json.write_text(json.dumps(measured, indent=1))


def named(row, only):
    return any(part.strip() in row.name for part in only.split(","))


def installed(row):
    """Whether the row's environment is there, and whole."""
    return row.python == Path(sys.executable) or (row.python.parents[1] / ".ready").exists()


def say(text):
    print(text, file=sys.stderr, flush=True)


def export(args, work):
    """Write the work where every row reads it, and return its settings; see peers/common.py."""
    from fedgru import config
    from fedgru.core import seeding
    from fedgru.models import gru
    from fedgru.task import streams
    from fedgru.workflows import open as open_workflow

    overrides = {
        "data": args.data,
        "users": args.users,
        "server_optimizer": "sgd",
        "server_lr": 1.0,
    }
    task, _ = open_workflow.open_task(config.load(overrides, preset=PRESET), args.data_dir)
    spec, layout, inputs, clients = task.spec, task.settings.layout, task.inputs, task.clients
    weights = gru.init_weights(spec, seeding.rng(0, "weights"))
    np.savez(work / "weights.npz", **weights)
    arrays = {}
    cohort = task.training_clients
    if (np.diff(clients.lengths[cohort]) > 0).any():  # common.chosen spreads over the order
        raise SystemExit("the clients are not in order of size")
    for index, client in enumerate(cohort):
        local = task.local_data(int(client))
        if local.passes != 1 or not local.mask.all():
            raise SystemExit("the peers take whole batches in one pass alone")
        arrays |= {f"{name}_{index}": getattr(local, name) for name in ("rows", "numbers")}
        arrays[f"targets_{index}"] = local.targets.astype(np.int32)
        first, end = (bounds[client] for bounds in clients.bounds("val"))
        cut = streams.contiguous(int(end - first), layout.batch_size, layout.seq_len, 1).pairs
        at = first - 1 + np.maximum(cut, 0)
        classes = task.classes[at + 1]
        mask = (cut >= 0) & (classes >= 0)
        arrays[f"val_rows_{index}"] = np.where(mask[..., None], inputs.rows[at], -1)
        arrays[f"val_numbers_{index}"] = inputs.numbers[at]
        arrays[f"val_targets_{index}"] = np.maximum(classes, 0).astype(np.int32)
        arrays[f"val_mask_{index}"] = mask.astype(np.float32)
    np.savez(work / "clients.npz", **arrays)

    sizes = [len(inputs.vocabularies[name]) for name in inputs.id_names]
    offsets = np.cumsum([0, *sizes[:-1]])
    columns = {
        name: inputs.rows[:, i] - offsets[i]
        for i, name in enumerate(("user_id", "cat_id", "venue_id", "orig_cat_id"))
    }
    columns |= {name: inputs.numbers[:, i] for i, name in enumerate(inputs.number_names)}
    for split in ("train", "val"):
        columns[f"{split}_bounds"] = np.stack(clients.bounds(split), 1)[cohort]
    np.savez(work / "columns.npz", **columns)
    settings = {
        "preset": PRESET,
        "overrides": overrides,
        "num_clients": len(cohort),
        "num_steps": sum(len(task.batches(int(client)).pairs) for client in cohort),
        "num_rows": spec.num_rows,
        "num_numbers": spec.num_numbers,
        "number_names": list(inputs.number_names),
        "vocabulary_sizes": sizes,
        "hidden_dim": spec.hidden_dim,
        "num_classes": spec.num_classes,
        "dropout": spec.dropout,
        "batch_size": layout.batch_size,
        "seq_len": layout.seq_len,
        "client_lr": task.settings.client.client_lr,
    }
    (work / "settings.json").write_text(json.dumps(settings))
    return settings


def check(args, row, work):
    """Return the mean loss of the checked clients' first round, dropout off."""
    say(f"check {row.name} ...")
    extra = ["--dropout", "0", "--clients", str(CHECKED_CLIENTS), "--rounds", "0", "--no-eval"]
    return start(args, row, work, extra)["first_loss"]


def run(args, row, work):
    extra = ["--rounds", str(row.rounds)]
    if row.clients is not None:
        extra += ["--clients", str(row.clients)]
    if not row.evaluates:  # minutes, and nobody waits for it twice
        extra.append("--no-eval")
    return start(args, row, work, extra)


def start(args, row, work, extra):
    """Run a row's script; return what it wrote, and its peak memory."""
    out = work / "out.json"
    out.unlink(missing_ok=True)
    script, *options = row.script
    if script == "run_fedgru.py":
        options += ["--data-dir", str(args.data_dir.absolute())]
    command = [row.python.absolute(), HERE / "peers" / script, "--work", work, "--out", out]
    python_path = f"{ROOT}:{HERE / 'peers'}"
    environment = os.environ | {"PYTHONPATH": python_path, "PYTHONWARNINGS": "ignore"}
    load = os.getloadavg()[0]
    peak = finish(row.name, [*command, *options, *extra], environment)
    if not out.exists():
        raise SystemExit(f"{row.name} ended without an error and without a result")
    return json.loads(out.read_text()) | {"peak_mib": peak, "load": load}


def finish(name, command, environment=None):
    """Run a program to its end; return the peak of its memory and its children's, MiB."""
    with tempfile.TemporaryFile("w+") as printed:
        streams = {"stdout": printed, "stderr": subprocess.STDOUT}
        with keeper.started(command, env=environment, **streams) as program:
            peak = watch(program)
        if program.returncode:
            printed.seek(0)
            raise SystemExit(f"{name} failed:\n{printed.read()[-4000:]}")
    return peak


def watch(program):
    """Wait for a program; return the peak of the memory of what is below its keeper, MiB.

    Proportional set sizes, so that what processes share counts once.
    """
    peak = 0.0
    while program.poll() is None:
        peak = max(peak, sum(map(resident_mib, keeper.below(program.pid))))
        time.sleep(0.5)
    return peak


def resident_mib(pid):
    lines = keeper.read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def limit(work):
    """Measure the machine's rate of float32 matrix products, GFLOP/s."""
    out = work / "limit.json"
    finish("the limit", [sys.executable, HERE / "peers/run_limit.py", "--out", out])
    return json.loads(out.read_text())


def step_gflop(settings):
    """Return `bench.step_gflop` of the work."""
    names = ("batch_size", "seq_len", "hidden_dim", "num_numbers", "num_classes")
    return bench.step_gflop(*(settings[name] for name in names))


def print_table(settings, limits, found, missing, losses, load_before):
    steps = settings["num_steps"]
    ours = found.get("fedgru jax")
    best = [max(one["blas"], one["xla"]) for one in limits]
    print(
        f"{datetime.date.today()}, {bench.machine()}; load {load_before[0]:.1f} at the start, "
        f"{os.getloadavg()[0]:.1f} at the end; {len(limits)} repeats, medians (ranges).\n\n"
        f"A round: {settings['num_clients']} clients, {steps} local steps, "
        f"{step_gflop(settings):.3f} GFLOP of matrix products in each. Limit: "
        f"{middle(best, '.0f')} GFLOP/s (BLAS {middle([x['blas'] for x in limits], '.0f')} with "
        f"{bench.kernel_instruction_set(limits[0]['kernel'])}, kernel {limits[0]['kernel']}; "
        f"XLA {middle([x['xla'] for x in limits], '.0f')}).\n"
    )
    print(
        "| | s a round | ms a local step | local steps/s | share of limit | times fedgru | "
        "evaluation, s | peak MiB | clients trained | load |"
    )
    print("|" + " --- |" * 10)
    for name, runs in found.items():
        per_step = [statistics.median(one["seconds"]) / one["steps"] for one in runs]
        shares = [
            step_gflop(settings) / took / rate for took, rate in zip(per_step, best, strict=True)
        ]
        evaluation = [
            statistics.median(one["eval_seconds"]) * settings["num_clients"] / one["eval_clients"]
            for one in runs
            if one["eval_seconds"]
        ]
        cells = [
            middle([took * steps for took in per_step], ".2f"),
            middle([took * 1e3 for took in per_step], ".2f"),
            middle([1 / took for took in per_step], ".0f"),
            middle([100 * share for share in shares], ".0f") + " %",
            "-" if ours is None else middle(ratios(per_step, ours), ".1f"),
            middle(evaluation, ".2f") if evaluation else "-",
            f"{max(one['peak_mib'] for one in runs):.0f}",
            str(runs[0]["clients"]),
            middle([one["load"] for one in runs], ".1f"),
        ]
        print(f"| {name} ({runs[0]['version']}) | {' | '.join(cells)} |")
    for name in missing:
        print(f"| {name} | not installed: see benchmarks/peers/make_envs.sh |" + " |" * 8)
    print()
    for name, runs in found.items():
        if "ran" in runs[0]:
            print(f"* {name}: {runs[0]['ran']}")
    print(
        "\nRows that train fewer clients are scaled: training by local steps, evaluation by "
        "clients. fedgru's evaluation runs through each client's whole past, the notebook's goes "
        "through the split four times, the others' once. Adam's epsilon stands before the bias "
        "correction in Keras and fedgru and after it in PyTorch and Optax: hence 1e-4 in the loss."
        "\n\n"
        f"The same work, checked: {CHECKED_CLIENTS} clients, dropout off, mean train loss of "
        "the first round in nats:"
    )
    expected = losses.get("fedgru jax")
    for name, loss in losses.items():
        gap = "" if expected is None else f", {loss - expected:+.1e}"
        print(f"* {name}: {loss:.5f}{gap}")
    wrong = [n for n, x in losses.items() if expected is not None and abs(x - expected) > TOLERANCE]
    if wrong:
        raise SystemExit(f"NOT THE SAME WORK: {', '.join(wrong)}")


def ratios(per_step, ours):
    """A row's time per local step over fedgru's in the same repeat."""
    return [
        took / (statistics.median(one["seconds"]) / one["steps"])
        for took, one in zip(per_step, ours, strict=True)
    ]


def middle(values, form):
    """The median, and the range if there is one."""
    text = format(statistics.median(values), form)
    low, high = format(min(values), form), format(max(values), form)
    return text if low == high else f"{text} ({low} to {high})"


if __name__ == "__main__":
    main()
