"""What lying clients do to each mean: the same training with and without them.

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    python benchmarks/attacks.py --config configs/nyc-none.toml --attackers 10 --seeds 3

Each row is a federated training of the config's settings without a prior (whose counts no other
client can spoil), under one mean and one attack: test acc@1 of the round that was best by acc@1 on
validation (a liar spoils its own model too, and its loss alone could stop everybody's training), of
all clients and of those that do not lie, the same people in each row of a seed; mean and range over
seeds, and the difference to the clean run of the plain mean in points. Prints Markdown.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from fedgru import algorithms, config
from fedgru.core.errors import TrainingError
from fedgru.evaluation import evaluate
from fedgru.training import loop as round_loop
from fedgru.training.rounds import FederatedTraining
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow

MEANS = {
    "mean": {},
    "median": {"robust": "median"},
    "trimmed-mean": {"robust": "trimmed-mean"},
    "krum": {"robust": "krum"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, default=Path("configs/nyc-none.toml"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--attackers", type=int, default=10)
    parser.add_argument("--attacks", nargs="*", default=["none", "sign-flip"])
    parser.add_argument("--means", nargs="*", default=list(MEANS))
    parser.add_argument("--liar-share", type=float, default=0.1, help="of krum and trimmed-mean")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    print("| attack | mean | acc@1, all | acc@1, honest | points, honest | best round | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    clean = None
    for attack in args.attacks:
        for mean in args.means:
            started = time.perf_counter()
            done = [run(args, attack, mean, seed) for seed in range(args.seeds)]
            ended = [found for found in done if found is not None]
            everybody, honest, rounds = zip(*ended, strict=True) if ended else ((), (), ())
            if clean is None:
                clean = statistics.mean(honest)
            cells = [
                spread(everybody),
                spread(honest),
                f"{100 * (statistics.mean(honest) - clean):+.1f}" if ended else "-",
                ", ".join(map(str, rounds)),
                f"{(time.perf_counter() - started) / 60:.1f}",
            ]
            if len(ended) < len(done):
                cells[0] += f"; {len(done) - len(ended)} of {len(done)} stopped as diverged"
            print(f"| {attack} | {mean} | {' | '.join(cells)} |", flush=True)


def run(args, attack, mean, seed):
    """Train one seed; return acc@1 of all, of the honest, and the best round; None if diverged."""
    common = {"seed": seed, "stop_metric": "val/acc@1/micro"} | (
        {} if args.rounds is None else {"rounds": args.rounds}
    )
    liars = {"attack": "sign-flip", "attackers": args.attackers}
    settings = config.load(common | liars, args.config)
    task, _ = open_workflow.open_task(settings, args.data_dir)
    honest = ~np.isin(np.arange(len(task.clients)), sorted(task.attackers))
    liars = {} if attack == "none" else liars | {"attack": attack}
    share = {"liar_share": args.liar_share} if mean in ("krum", "trimmed-mean") else {}
    settings = config.load(common | liars | MEANS[mean] | share, args.config)
    task, _ = open_workflow.open_task(settings, args.data_dir)
    engine = train_workflow.make_engine(task)
    try:
        result = round_loop.train(
            FederatedTraining(engine, algorithms.from_settings(settings)),
            on_round=lambda *_: None,
            on_checkpoint=lambda _: None,
        )
    except TrainingError:
        return None
    found = evaluate.evaluate(engine, result.best.weights, "test")
    key = "test/acc@1/micro"
    theirs = found.summary(honest[found.client_index])
    return found.summary()[key], theirs[key], result.best.round_num


def spread(values):
    if not values:
        return "-"
    mean = statistics.mean(values)
    return f"{mean:.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
