"""What each of the notebook's choices costs: its settings, with one choice at a time put right.

    fedgru data import tsmc2014 dataset_TSMC2014_NYC.partial.txt.gz --name nyc
    python benchmarks/notebook.py --data nyc --seeds 3

Each row is `--preset notebook` (10 rounds) with some settings changed, over several seeds, on the
jax engine: first as it stands, then each choice put right alone, then added one after another, so
that the last row has none of them. Prints Markdown: test acc@1 and loss of the round that was best
by validation loss, mean and range over seeds. Unlike `fedgru train`, which then says that training
was in vain, it never takes the state before training. A seed whose training diverges is counted,
not averaged. The rounds themselves: benchmarks/notebook_rounds.py.
"""

import argparse
import statistics
from pathlib import Path

from fedgru import algorithms, config
from fedgru.core import seeding
from fedgru.core.errors import TrainingError
from fedgru.engines.base import check_diverged
from fedgru.evaluation import evaluate
from fedgru.models.gru import init_weights
from fedgru.training.rounds import run_round
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow

PUT_RIGHT = {
    "vocabulary from train": {"vocabulary": "train"},
    "scaled coordinates": {"scaling": "standard"},
    "local clock": {"clock": "local"},
    "contiguous streams": {"layout": "streams"},
    "server SGD 1.0": {"server_optimizer": "sgd", "server_lr": 1.0},
    "rows averaged over owners": {"mean": "owners"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="nyc")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    rows = [("the notebook's settings", {})]
    rows += [(f"only {name}", changed) for name, changed in PUT_RIGHT.items()]
    added = {}
    for number, (name, changed) in enumerate(PUT_RIGHT.items(), start=1):
        added = added | changed
        if number > 1:
            rows.append((f"and {name}", added))

    print("| settings | test acc@1 | test loss | diverged |\n| --- | --- | --- | --- |", flush=True)
    for name, changed in rows:
        found = [run(args, changed, seed) for seed in range(args.seeds)]
        done = [summary for summary in found if summary is not None]
        cells = [
            spread([summary[f"test/{metric}/micro"] for summary in done])
            for metric in ("acc@1", "loss")
        ]
        print(f"| {name} | {' | '.join(cells)} | {len(found) - len(done)} |", flush=True)


def run(args, changed, seed):
    """Train one seed and score its best round on test; None if it diverged."""
    overrides = {"data": args.data, "users": args.users, "seed": seed} | changed
    settings = config.load(overrides, preset="notebook")
    task, _ = open_workflow.open_task(settings, args.data_dir)
    engine = train_workflow.make_engine(task)
    algorithm = algorithms.from_settings(settings)
    state = algorithm.init(init_weights(task.spec, seeding.rng(seed, "weights")))
    states = []
    try:
        for _ in range(settings.loop.rounds):
            state = run_round(engine, algorithm, state, task.training_clients).state
            loss = evaluate.evaluate(engine, state.weights, "val").summary()["val/loss/micro"]
            check_diverged(settings, loss, state.round_num, "val")
            states.append((loss, state.weights))
    except TrainingError:
        return None
    _, best = min(states, key=lambda pair: pair[0])
    return evaluate.evaluate(engine, best, "test").summary()


def spread(values):
    if not values:
        return "-"
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
