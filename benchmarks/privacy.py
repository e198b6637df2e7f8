"""Accuracy against epsilon, for both heads, and attacks beside promises.

    python benchmarks/privacy.py curve --data nyc --data-dir DIR --epsilons 8,none --seeds 0
    python benchmarks/privacy.py attack --data-dir DIR --data nyc

`curve` trains and prints a row per head, epsilon and seed: acc@1 and loss on test, of the model and
of the counting that needs no exchange (`running_backoff`, with what the run knows). Nothing is
chosen on test: rounds, clip and noise are settings, and the last round is kept.
"""

import argparse
import tempfile
from pathlib import Path

from fedgru import config
from fedgru.workflows import score, train
from fedgru.workflows.attack import attack_run
from fedgru.workflows.open import open_task

HEADS = {
    "candidates": {"head": "candidates"},
    # the dense head's own rows of venues are many, and each gets noise
    "dense": {
        "head": "dense",
        "features": "category,clock,weekday,gap",
        "hidden_dim": 32,
        "client_optimizer": "sgd",
        "client_lr": 0.1,
        "local_epochs": 1,
    },
}


def settings_of(arguments, head, epsilon, seed):
    """Settings of one run; `epsilon` is None for a run without differential privacy."""
    given = HEADS[head] | {
        "data": arguments.data,
        "rounds": arguments.rounds,
        "seed": seed,
        "mean": "clients",
        "client_weights": "equal",
        "patience": 0,
        "name": f"{head}-{'none' if epsilon is None else f'{epsilon:g}'}",
        "threads": 1,
    }
    if arguments.cohort:
        given["clients_per_round"] = arguments.cohort
    if epsilon is not None:
        given |= {"dp_clip": arguments.clip, "dp_epsilon": epsilon}
        if arguments.setup_noise:
            given["dp_setup_noise"] = arguments.setup_noise
    return config.load(given)


def curve(arguments, log_dir):
    """Train and print the rows."""
    print("| head | epsilon | seed | noise | acc@1 | loss | backoff acc@1 | its loss |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for head in arguments.heads.split(","):
        for text in arguments.epsilons.split(","):
            for seed in map(int, arguments.seeds.split(",")):
                epsilon = None if text == "none" else float(text)
                settings = settings_of(arguments, head, epsilon, seed)
                task, facts = open_task(settings, arguments.data_dir)
                run, task, _ = train.train(task, facts, log_dir)
                report = score.evaluate_run(run, task)
                floor = report["baselines"]["running_backoff"]
                noise = run.facts().get("privacy", {}).get("noise", 0)
                values = [r[f"test/{m}/micro"] for r in (report, floor) for m in ("acc@1", "loss")]
                numbers = " | ".join(f"{value:.4f}" for value in values)
                print(f"| {head} | {text} | {seed} | {noise:.3g} | {numbers} |", flush=True)


def attack(arguments, log_dir):
    """Train one round of each head and print what its updates reveal."""
    from fedgru.console.describe import describe_attacks

    for head in arguments.heads.split(","):
        settings = settings_of(arguments, head, None, 0)
        task, facts = open_task(settings, arguments.data_dir)
        run, task, _ = train.train(task, facts, log_dir)
        print(describe_attacks(attack_run(run, task, ["reconstruction"])), flush=True)


def main():
    """Parse the command line and run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("curve", "attack"))
    parser.add_argument("--data", default="embedded")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--heads", default="candidates,dense")
    parser.add_argument("--epsilons", default="1,2,4,8,16,none")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--cohort", type=int)
    parser.add_argument("--clip", type=float, default=0.1)
    parser.add_argument("--setup-noise", type=float)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"curve": curve, "attack": attack}[arguments.what](arguments, Path(folder))


if __name__ == "__main__":
    main()
