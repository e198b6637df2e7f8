"""What lying clients do to each mean: the same training with and without them.

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    python benchmarks/attacks.py --config configs/nyc-none.toml --attackers 10 --seeds 3

Each row is a federated training of the config's settings without a prior (whose counts no other
client can spoil), under one mean and one attack: test acc@1 and loss of the round that was best on
validation, mean and range over seeds, and the difference to the clean run of the plain mean in
points of acc@1. Prints Markdown.
"""

import argparse
import statistics
import time
from pathlib import Path

from fedgru import algorithms, config, evaluation, experiment, training
from fedgru.errors import TrainingError

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
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    print("| attack | mean | acc@1 | loss | points from clean | best round | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    clean = None
    for attack in args.attacks:
        for mean in args.means:
            started = time.perf_counter()
            done = [run(args, attack, mean, seed) for seed in range(args.seeds)]
            ended = [found for found in done if found is not None]
            accuracy = [summary["test/acc@1/micro"] for summary, _ in ended]
            if clean is None:
                clean = statistics.mean(accuracy)
            cells = [
                spread(accuracy),
                spread([summary["test/loss/micro"] for summary, _ in ended]),
                f"{100 * (statistics.mean(accuracy) - clean):+.1f}" if ended else "-",
                ", ".join(str(best) for _, best in ended),
                f"{(time.perf_counter() - started) / 60:.1f}",
            ]
            diverged = len(done) - len(ended)
            if diverged:
                cells[0] += f", {diverged} of {len(done)} stopped as diverged"
            print(f"| {attack} | {mean} | {' | '.join(cells)} |", flush=True)


def run(args, attack, mean, seed):
    """Train one seed; return its test summary and best round, None if it diverged."""
    liars = {} if attack == "none" else {"attack": attack, "attackers": args.attackers}
    rounds = {} if args.rounds is None else {"rounds": args.rounds}
    settings = config.load({"seed": seed, **rounds, **liars, **MEANS[mean]}, args.config)
    task, _ = experiment.open_task(settings, args.data_dir)
    engine = experiment.make_engine(task)
    try:
        result = training.train(
            engine,
            algorithms.from_settings(settings.server),
            on_round=lambda *_: None,
            on_checkpoint=lambda _: None,
        )
    except TrainingError:
        return None
    found = evaluation.evaluate(engine, result.best.weights, "test").summary()
    return found, result.best.round_num


def spread(values):
    if not values:
        return "-"
    mean = statistics.mean(values)
    return f"{mean:.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
