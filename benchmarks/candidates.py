"""What the head `candidates` gains over its own prior, and which information gives the gain.

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    python benchmarks/candidates.py --data nyc --users 100 --work candidates-nyc
    python benchmarks/candidates.py --data nyc --users 100 --config configs/nyc-venues.toml \
        --work candidates-venues --only candidates --counts

Every row is a training with the default settings but for what it says, with each seed: test acc@1,
acc@5 and loss of the round that is best on validation, mean over seeds, and the paired 95 %
interval over clients of the difference to the prior alone (the outer ends of the seeds'
intervals). With `--asked-at` the moment of the next check-in is known, to the model and to the
counts that stand beside it. `--counts` puts the counting baselines beside it, with their acc@1 on
validation, by which the strongest is chosen. The settings were chosen on validation; test is looked
at in this table alone. Trainings that are done are kept in `--work`. Prints Markdown.
"""

import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import bench
import numpy as np

from fedgru import algorithms, config
from fedgru.evaluation import evaluate, nearby
from fedgru.task import candidate_features, candidates
from fedgru.training import loop as round_loop
from fedgru.training.rounds import FederatedTraining
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow

METRICS = ("acc@1", "acc@5", "acc@10", "loss")
CANDIDATES, DENSE = "candidates", "dense head, default settings"
GROUPS = {  # of features, by the beginning of their names
    "followers": ("followed_",),
    "visits": ("visited_",),
    "recency": ("log_hours", "log_check_ins", "log_interval", "log_overdue", "is_"),
    "distance": ("log_km",),
    "other estimates": ("log_base", "log_shared", "log_prior", "log_backoff"),
}
ROWS = {  # name -> (settings, groups of features that are left out, whether the state is)
    CANDIDATES: ({}, (), False),
    "without the state": ({}, (), True),
    "the state alone": ({}, tuple(GROUPS), False),
    **{f"without {name}": ({}, (name,), False) for name in GROUPS},
    **{f"{name} alone": ({}, tuple(g for g in GROUPS if g != name), False) for name in GROUPS},
    "no id of person or place as input": (
        {"features": "category,clock,weekday,gap,latitude,longitude", "dropout": 0.1},
        (),
        False,
    ),
    "input dropout of 0.3": ({"dropout": 0.3}, (), False),
    "clients weighted by examples": ({"client_weights": "examples"}, (), False),
    "FedNova": ({"client_weights": "examples", "algorithm": "fed-nova"}, (), False),
    DENSE: ({"head": "dense"}, (), False),
}


COMPUTE = candidates.client_candidates


def main():
    parser = bench.data_parser(__doc__)
    parser.add_argument("--config", type=Path, help="settings")
    parser.add_argument("--target", choices=["category", "venue"])
    parser.add_argument("--asked-at", action="store_true", help="the next check-in's time is known")
    parser.add_argument("--counts", action="store_true", help="score the counting baselines too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="ROW")
    parser.add_argument("--val", action="store_true", help="score validation in place of test")
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    task_name = settings_of(args, 0).inputs.task_name
    print(f"{task_name}; {bench.machine()}; `{' '.join(sys.argv[1:])}`\n", flush=True)
    print(f"| model | {' | '.join(f'{m} | to prior' for m in METRICS)} | round | minutes |")
    print("| --- " * (3 + 2 * len(METRICS)) + "|", flush=True)
    for name in args.only or ROWS:
        found = [trained(args, name, seed) for seed in range(args.seeds)]
        if name == (args.only or [CANDIDATES])[0]:
            for kind in found[0].get("counts", ()):
                print_row(f"running {kind}", [{"test": one["counts"][kind]} for one in found])
            print_row("the kernel prior alone", [{"test": one["prior"]} for one in found])
        print_row(name, found)
    if args.counts:
        for name, one in counted(args).items():
            print_row(f"{name}, {one['val']:.4f} on validation", [one])


def settings_of(args, seed, **overrides):
    """Return the Settings of a training: defaults but for what the options say."""
    given = {"data": args.data, "seed": seed, "users": args.users, "target": args.target}
    given |= {"asked_at": args.asked_at or None}
    given = {name: value for name, value in given.items() if value is not None}
    return config.load(given | overrides, args.config)


def counted(args):
    """Return {baseline: its acc@1 on validation and what it scores}, the kernel that of seed 0."""
    file = args.work / "counts.json"
    if file.exists():
        return json.loads(file.read_text())
    task = open_workflow.open_task(settings_of(args, 0), args.data_dir)[0]
    task, found = open_workflow.learn_prior(task), {}
    split = "val" if args.val else "test"
    names = [] if args.asked_at else list(evaluate.RANKING_BASELINES)
    names = [n for n in names if n != nearby.NAME or can_be_nearby(task)]
    for name in names + [f"running_{kind}" for kind in evaluate.running_baselines(task)]:
        score, kind = evaluate.evaluate_counts, name
        if name not in names:
            score, kind = evaluate.evaluate_running, name.removeprefix("running_")
        on_val, scored = score(task, kind, "val"), score(task, kind, split)
        measured = [metric for metric in METRICS if metric in scored.scores.values]
        found[name] = {"val": on_val.summary()["val/acc@1/micro"]}
        found[name] |= {"test": bench.sums(scored, measured)}
    file.write_text(json.dumps(found))
    return found


def can_be_nearby(task):
    return evaluate.why_not_nearby(task) is None


def trained(args, name, seed):
    """Return what a training gave, from `--work` if it is there."""
    split = "val" if args.val else "test"
    settings = settings_of(args, seed)
    asked = "-asked" if args.asked_at else ""
    start = f"{settings.inputs.target}{asked}-{split}"
    file = args.work / f"{start}-{name}-{seed}.json".replace(" ", "")
    if file.exists():
        return json.loads(file.read_text())
    overrides, left_out, no_state = ROWS[name]
    settings = settings_of(args, seed, **overrides)
    started = time.perf_counter()
    found, _ = open_workflow.open_task(settings, args.data_dir)
    found = open_workflow.learn_prior(found)
    mute(left_out, candidate_features.feature_set(args.asked_at))
    algorithm = algorithms.from_settings(settings)
    engine = train_workflow.make_engine(found, client_rule=algorithm.client_rule)
    training = FederatedTraining(engine, StateMuted(algorithm) if no_state else algorithm)
    result = round_loop.train(training, on_round=lambda *_: None, on_checkpoint=lambda _: None)
    scored = evaluate.evaluate(engine, result.best.weights, split)
    prior = evaluate.evaluate_running(found, "kernel", split)
    one = {
        "val_loss": result.best_value,
        "round": result.best.round_num,
        "test": bench.sums(scored, METRICS),
        "prior": bench.sums(prior, METRICS),
        "counts": {
            kind: bench.sums(evaluate.evaluate_running(found, kind, split), METRICS)
            for kind in evaluate.running_baselines(found)
            if args.asked_at and kind != "kernel"
        },
        "minutes": (time.perf_counter() - started) / 60,
    }
    training.close()
    engine.close()
    file.write_text(json.dumps(one))
    return one


def mute(groups, names):
    """Set the features of some groups to zero in everything that is computed from now on."""
    starts = tuple(start for group in groups for start in GROUPS[group])
    columns = [at for at, name in enumerate(names.features) if name.startswith(starts)]
    of_context = [
        at
        for at, name in enumerate(names.context)
        if starts and name.removeprefix("log_total_").startswith(starts)
    ]

    def computed(*args, **others):
        found = COMPUTE(*args, **others)
        found.candidates.features[..., columns] = 0
        found.candidates.context[..., of_context] = 0
        return found

    candidates.client_candidates = computed


class StateMuted:
    """An algorithm whose head never reads the state: its kernel is set back to zero."""

    def __init__(self, algorithm):
        self._algorithm = algorithm

    def __getattr__(self, name):
        return getattr(self._algorithm, name)

    def init(self, weights):
        return self._algorithm.init(self._without(weights))

    def apply(self, state, total):
        after = self._algorithm.apply(state, total)
        return replace(after, weights=self._without(after.weights))

    @staticmethod
    def _without(weights):
        return weights | {"candidate_state": np.zeros_like(weights["candidate_state"])}


def print_row(name, found):
    cells = [name]
    for metric in METRICS:
        if metric not in found[0]["test"]:
            cells += ["", ""]
            continue
        values = [bench.total(one, metric) for one in found]
        cells.append(f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        if "prior" not in found[0]:
            cells.append("")
            continue
        gaps = [bench.gap(one, {"test": one["prior"]}, metric) for one in found]
        middle = statistics.mean(g[0] for g in gaps)
        low, high = min(g[1] for g in gaps), max(g[2] for g in gaps)
        cells.append(f"{middle:+.4f} ({low:+.4f} to {high:+.4f})")
    cells.append(", ".join(str(one["round"]) for one in found) if "round" in found[0] else "")
    minutes = [one["minutes"] for one in found if "minutes" in one]
    cells.append(f"{statistics.mean(minutes):.1f}" if minutes else "")
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
