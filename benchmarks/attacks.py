"""What lying clients do to each mean: the same training with and without them.

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    python benchmarks/attacks.py --hidden-dim 64 --results attacks.jsonl

Each row is a federated training of the config's settings without a prior (whose counts no other
client can spoil), under one mean and one attack: test acc@1 of the round that was best by acc@1 on
validation (a liar spoils its own model too, and its loss alone could stop everybody's training), of
all clients and of those that do not lie, the same people in each row of a seed; mean and range over
seeds; the difference to the clean run of the plain mean in points, paired by seed; and how often
the backdoor's target is predicted after its trigger, for comparison without a backdoor too.

Prints Markdown, row by row. Every training is a line of --results: started again with the same
file, the benchmark goes on with what is missing, and prints the whole table.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from fedgru import algorithms, config
from fedgru.core.errors import TrainingError
from fedgru.evaluation import evaluate
from fedgru.evaluation.backdoor import success_rate
from fedgru.training import loop as round_loop
from fedgru.training.rounds import FederatedTraining
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow

SHARE, CLIP = "liar_share", "clip_norm"  # what a mean is told by --liar-share and --clip-norm
MEANS = {
    "mean": ({}, None),
    "median": ({"robust": "median"}, None),
    "trimmed-mean": ({"robust": "trimmed-mean"}, SHARE),
    "krum": ({"robust": "krum"}, SHARE),
    "bulyan": ({"robust": "bulyan"}, SHARE),
    "geometric-median": ({"robust": "geometric-median"}, None),
    "centred-clipping": ({"robust": "centred-clipping"}, CLIP),
    "norm-bounding": ({"robust": "norm-bounding"}, CLIP),
}
ATTACKS = {
    "none": {},
    "sign-flip": {"attack": "sign-flip"},
    "noise": {"attack": "noise"},
    "label-flip": {"attack": "label-flip"},
    "alie": {"attack": "alie"},
    "alie 1.5": {"attack": "alie", "attack_scale": 1.5},
    "inner-product 0.5": {"attack": "inner-product", "attack_scale": 0.5},
    "inner-product 10": {"attack": "inner-product", "attack_scale": 10.0},
    "backdoor": {"attack": "backdoor"},
    "backdoor 30": {"attack": "backdoor", "attack_scale": 30.0},
}
HEAD = (
    *("liars", "attack", "mean", "acc@1, all", "acc@1, honest", "points, honest"),
    *("backdoor, %", "best round", "minutes"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, default=Path("configs/nyc-none.toml"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--attackers", type=int, nargs="*", default=[10, 20])
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--means", nargs="*", default=list(MEANS), choices=list(MEANS))
    parser.add_argument(
        "--liar-share", type=float, help="of trimmed-mean, krum and bulyan; the true one by default"
    )
    parser.add_argument(
        "--clip-norm", type=float, default=1.0, help="of centred-clipping and norm-bounding"
    )
    parser.add_argument("--hidden-dim", type=int, help="units; those of the config by default")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("attacks.jsonl"))
    args = parser.parse_args()

    results = Results(args.results)
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}", flush=True)
    for attackers in args.attackers:
        clean = [train(args, results, attackers, "none", "mean", n) for n in range(args.seeds)]
        for attack in args.attacks:
            for mean in args.means:
                found = [
                    train(args, results, attackers, attack, mean, n) for n in range(args.seeds)
                ]
                cells = row(found, clean)
                print(f"| {attackers} | {attack} | {mean} | {' | '.join(cells)} |", flush=True)


class Results:
    """The trainings that are done: lines of a file, a JSON object each."""

    def __init__(self, path):
        self._path = path
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # it was killed while it wrote the last line
            path.write_text(whole)
        lines = map(json.loads, whole.splitlines())
        self._done = {self._key(line["settings"]): line for line in lines}

    @staticmethod
    def _key(settings):
        return json.dumps(settings, sort_keys=True)

    def get(self, settings):
        return self._done.get(self._key(settings))

    def put(self, settings, found):
        line = {"settings": settings, **found}
        self._done[self._key(settings)] = line
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def train(args, results, attackers, attack, mean, seed):
    """Return the result of one training, of an earlier run if it has it."""
    needs, needed = MEANS[mean]
    share = args.liar_share
    given = common(args, seed) | needs | ATTACKS[attack]
    if attack != "none":
        given["attackers"] = attackers
    if needed == SHARE:
        given[SHARE] = share if share is not None else liar_share(args, attackers, seed)
    elif needed == CLIP:
        given[CLIP] = args.clip_norm
    settings = config.load(given, args.config)
    # the liars of this number and seed, also of a training without any
    planted = {"attack": "backdoor", "attackers": attackers}
    key = config.differences(settings) | {"judged_by": attackers}
    found = results.get(key)
    if found is None:
        judge = open_task(args, config.load(common(args, seed) | planted, args.config))
        found = run(open_task(args, settings), judge)
        results.put(key, found)
    return found


def common(args, seed):
    given = {"head": "dense", "seed": seed, "stop_metric": "val/acc@1/micro"}
    given |= {} if args.rounds is None else {"rounds": args.rounds}
    return given | ({} if args.hidden_dim is None else {"hidden_dim": args.hidden_dim})


def open_task(args, settings):
    return open_workflow.open_task(settings, args.data_dir)[0]


def liar_share(args, attackers, seed):
    task = open_task(args, config.load(common(args, seed), args.config))
    return attackers / len(task.training_clients)


def run(task, judge):
    """Train one seed; return acc@1 of all and of the honest, and more; empty if it diverged.

    Args:
        task: Task.
        judge: Task of the same data, with the liars and the backdoor that are asked about.
    """
    started = time.perf_counter()
    honest = ~np.isin(np.arange(len(task.clients)), sorted(judge.attackers))
    engine = train_workflow.make_engine(task)
    found = {"diverged": True}
    try:
        result = round_loop.train(
            FederatedTraining(engine, algorithms.from_settings(task.settings)),
            on_round=lambda *_: None,
            on_checkpoint=lambda _: None,
        )
    except TrainingError as error:
        found["error"] = str(error)
    else:
        scored = evaluate.evaluate(engine, result.best.weights, "test")
        key = "test/acc@1/micro"
        found = {
            "diverged": False,
            "all": scored.summary()[key],
            "honest": scored.summary(honest[scored.client_index])[key],
            "backdoor": success_rate(judge, scored)["test/backdoor/micro"],
            "best_round": result.best.round_num,
        }
    return found | {"minutes": (time.perf_counter() - started) / 60}


def row(found, clean):
    """Return the cells of a row."""
    ended = [one for one in found if not one["diverged"]]
    points = [
        100 * (one["honest"] - beside["honest"])
        for one, beside in zip(found, clean, strict=True)
        if not one["diverged"] and not beside["diverged"]
    ]
    cells = [
        spread([one["all"] for one in ended]),
        spread([one["honest"] for one in ended]),
        spread(points, "{:+.1f}"),
        spread([100 * one["backdoor"] for one in ended], "{:.1f}"),
        ", ".join(str(one["best_round"]) for one in ended) or "-",
        f"{sum(one['minutes'] for one in found):.1f}",
    ]
    if len(ended) < len(found):
        cells[0] += f"; {len(found) - len(ended)} of {len(found)} stopped as diverged"
    return cells


def spread(values, form="{:.4f}"):
    """Return the mean and the range of some values."""
    if not values:
        return "-"
    shown = form.format(statistics.mean(values))
    if len(values) == 1:
        return shown
    return f"{shown} ({form.format(min(values))} to {form.format(max(values))})"


if __name__ == "__main__":
    main()
