"""How far a concept can be kept out of the federated GRU, and what that costs in accuracy.

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    python benchmarks/agnostic_gru.py --data nyc --out agnostic_gru.jsonl

Trains every row of ROWS for every concept and seed (128 units, dropout 0.5, client lr 0.0005, as
in configs/nyc-kernel.toml), scores the test split, and lets fresh probes, fitted on the val weeks,
read the representation in the test weeks. Each result is one line of the output file; a second
start does only what is missing. Prints a Markdown table: mean over seeds, range in brackets.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from fedgru import algorithms, config
from fedgru.agnostic.concepts import make_concept
from fedgru.agnostic.erasure import Moments, fit_eraser
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import audit, evaluate
from fedgru.training import loop as round_loop
from fedgru.training.rounds import FederatedTraining
from fedgru.workflows import open as open_workflow

COMMON = {"hidden_dim": 128, "dropout": 0.5, "client_lr": 0.0005}
AFTER = ("LEACE after training", "LEACE and noise after training")
IN_TRAINING = (
    ("reversal", 0.5),
    ("reversal", 0.9),
    ("ensemble", 0.9),
    ("hsic", 0.9),
    ("leace", 0.9),
    ("leace+noise", 0.5),
    ("leace+noise", 0.9),
    ("hsic+leace+noise", 0.9),
)
ROWS = {
    "ordinary": {},
    "ordinary, category and time alone": {"features": "small"},
    **dict.fromkeys(AFTER, {}),
    **{f"{name}, alpha {alpha}": {"method": name, "alpha": alpha} for name, alpha in IN_TRAINING},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="nyc")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prior", default="kernel")
    parser.add_argument("--concept", action="append", help="default: zone and client")
    parser.add_argument("--row", action="append", help="only these rows; default: all")
    parser.add_argument("--out", type=Path, default=Path("agnostic_gru.jsonl"))
    args = parser.parse_args()
    concepts = args.concept or ["zone", "client"]
    done = {}
    if args.out.exists():
        for line in args.out.read_text("utf-8").splitlines():
            result = json.loads(line)
            done[result["concept"], result["row"], result["seed"]] = result
    kernels, trained = {}, {}
    for seed in range(args.seeds):
        for concept in concepts:
            for row in args.row or ROWS:
                if (concept, row, seed) not in done:
                    result = {"concept": concept, "row": row, "seed": seed}
                    result |= measure(args, concept, row, seed, kernels, trained)
                    done[concept, row, seed] = result
                    with open(args.out, "a", encoding="utf-8") as stream:
                        stream.write(json.dumps(result) + "\n")
    for concept in concepts:
        print_table(concept, args.row or ROWS, done)


def measure(args, concept, row, seed, kernels, trained):
    """Train one row with one seed; return what the table shows of it."""
    overrides = COMMON | {"head": "dense", "data": args.data, "users": args.users, "seed": seed}
    overrides |= {"rounds": args.rounds, "prior": args.prior} | ROWS[row]
    if "method" in overrides:
        overrides["agnostic_to"] = concept
    settings = config.load(overrides)
    task, _ = open_workflow.open_task(settings, args.data_dir, kernels.get(seed))
    task = task.with_kernel()
    kernels[seed] = task.kernel
    engine, head = JaxEngine(task), {}
    key = json.dumps(overrides, sort_keys=True)
    if key not in trained:  # ordinary rows serve every concept
        algorithm = algorithms.from_settings(settings)

        def on_round(_, metrics, __):
            head["acc"] = metrics.get("train/head_acc@1/micro")

        result = round_loop.train(
            FederatedTraining(engine, algorithm), on_round, lambda state: None
        )
        trained[key] = result.best.weights, head.get("acc")
    weights, head_acc = trained[key]
    if row in AFTER:
        made = make_concept(concept, task.check_ins, task.clients, seed=seed)
        first, end = task.clients.bounds("train")
        positions = task.clients.in_split("train").nonzero()[0]
        hidden = engine.hidden_states(weights, first, end, positions)
        eraser = fit_eraser(Moments.of(hidden, made.labels[positions], len(made.values)))
        weights = weights | {"erase_mean": eraser.mean, "erase_removed": eraser.removed}
        if "noise" in row:
            spread = np.sqrt(eraser(hidden).var(0).mean())
            weights = weights | {"noise_scale": np.float32(0.9 * spread)}
    test = evaluate.evaluate(engine, weights, "test").summary()
    found, _ = audit.audit_task(
        engine, weights, concept, audit.AuditPlan(views=(audit.REPRESENTATION,), controls=False)
    )
    served, _ = audit.audit_task(
        engine,
        weights,
        concept,
        audit.AuditPlan(("logistic",), views=(audit.LOGITS,), controls=False),
    )
    return {
        **{name: test[f"test/{name}/micro"] for name in ("acc@1", "acc@5", "loss")},
        "head": head_acc,
        "floor": found.floor,
        "best probe": found.worst(audit.REPRESENTATION).accuracy,
        **{reading.probe: reading.accuracy for reading in found.readings},
        "logits": served.worst(audit.LOGITS).accuracy,
    }


def print_table(concept, rows, done):
    columns = ("acc@1", "acc@5", "loss", "head", "best probe", *audit.PROBES, "logits")
    floor = next(r["floor"] for (c, _, _), r in done.items() if c == concept)
    print(f"\nConcept {concept}, majority floor {floor:.3f}:\n")
    print(f"| method | seeds | {' | '.join(columns)} |\n| --- |" + " --- |" * (len(columns) + 1))
    for row in rows:
        found = [r for (c, name, _), r in sorted(done.items()) if c == concept and name == row]
        cells = [spread([r[column] for r in found]) for column in columns]
        print(f"| {row} | {len(found)} | {' | '.join(cells)} |")


def spread(values):
    if not values or None in values:
        return "-"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
