"""Accuracy against epsilon, attacks beside promises.

    python benchmarks/privacy.py city --data-dir DIR
    python benchmarks/privacy.py curve --data nyc --data-dir DIR --cohort 200 --rows nyc.csv
    python benchmarks/privacy.py table --rows nyc.csv
    python benchmarks/privacy.py attack --data nyc --data-dir DIR
    python benchmarks/privacy.py audit
    python benchmarks/privacy.py bytes --data nyc --data-dir DIR --users 100 --rows bytes.csv

`city` makes the city of 10,000 people. `curve` trains, and appends a row per head, epsilon and seed
to a CSV file: acc@1 and loss on test, of the model and of the counting that needs no exchange (each
client's own running counts). Rows that are there are not trained again. `table` prints means over
seeds. `attack` prints what updates reveal, `audit` the lower bounds of epsilon over 20 seeds,
`bytes` accuracy against megabytes with compressed updates.

Nothing is chosen on test: rounds, clip and noise are settings, and the last round is kept.
"""

import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from fedgru import config
from fedgru.algorithms.client_rule import DEFAULT_RULE
from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.data import datasets, synthetic
from fedgru.engines.base import Gathered
from fedgru.task.task import build_task
from fedgru.training.canaries import attack_training
from fedgru.workflows import score, train
from fedgru.workflows.attack import attack_run
from fedgru.workflows.open import open_task

# no ids of people and places: their rows are many, and each gets noise
FEATURES = "category,clock,weekday,gap"
HEADS = {
    "candidates": {"head": "candidates", "hidden_dim": 16},
    "dense": {"head": "dense", "hidden_dim": 16, "client_lr": 1.0, "local_epochs": 2},
}
FLOOR = "running_user_markov"
COLUMNS = ("head", "epsilon", "seed", "noise", "acc@1", "loss", "floor acc@1", "floor loss")
COLUMNS += ("prior acc@1", "prior loss", "seconds")


def settings_of(arguments, head, epsilon, seed):
    """Settings of one run; `epsilon` is None for a run without differential privacy."""
    given = HEADS[head] | {
        "data": arguments.data,
        "features": FEATURES,
        "users": arguments.users,
        "prior": "backoff",
        "rounds": arguments.rounds,
        "seed": seed,
        "mean": "clients",
        "client_weights": "equal",
        "patience": 0,
        "eval_clients": 30,
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


def city(arguments, _):
    """Make the city of 10,000 people, 60 check-ins each."""
    made = synthetic.make_city(synthetic.CityConfig(num_users=10_000, checkins_per_user=60, seed=0))
    datasets.save_city("city10000", arguments.data_dir, made)


def curve(arguments, log_dir):
    """Train, and append a row for each run."""
    rows = Path(arguments.rows)
    there = {(r["head"], r["epsilon"], r["seed"]) for r in read(rows)} if rows.exists() else set()
    wanted = [
        (head, text, seed)
        for seed in arguments.seeds.split(",")
        for head in arguments.heads.split(",")
        for text in arguments.epsilons.split(",")
        if (head, text, seed) not in there
    ]
    for head, text, seed in wanted:
        started = time.perf_counter()
        settings = settings_of(arguments, head, None if text == "none" else float(text), int(seed))
        task, facts = open_task(settings, arguments.data_dir)
        run, task, _ = train.train(task, facts, log_dir)
        report = score.evaluate_run(run, task)
        noise = run.facts().get("privacy", {}).get("noise", 0.0)
        baselines = report["baselines"]
        found = (report, baselines[FLOOR], baselines["prior"])
        values = [r.get(f"test/{m}/micro", float("nan")) for r in found for m in ("acc@1", "loss")]
        row = [head, text, seed, f"{noise:.4g}", *(f"{value:.5f}" for value in values)]
        with rows.open("a", newline="") as file:
            writer = csv.writer(file)
            if not file.tell():
                writer.writerow(COLUMNS)
            writer.writerow([*row, f"{time.perf_counter() - started:.1f}"])


def read(file):
    """Return the rows of a CSV file."""
    with Path(file).open(newline="") as stream:
        return list(csv.DictReader(stream))


def table(arguments, _):
    """Print means over seeds, smallest to largest in brackets."""
    rows = read(arguments.rows)
    shown = ("acc@1", "loss")
    print(
        "| head | epsilon | seeds | noise | acc@1 | loss |\n| --- | --- | --- | --- | --- | --- |"
    )
    for head, text in dict.fromkeys((row["head"], row["epsilon"]) for row in rows):
        own = [row for row in rows if (row["head"], row["epsilon"]) == (head, text)]
        cells = [spread([float(row[name]) for row in own]) for name in shown]
        noise = "" if text == "none" else own[0]["noise"]
        print(f"| {head} | {text} | {len(own)} | {noise} | {' | '.join(cells)} |")
    for floor in ("floor", "prior"):
        cells = [spread([float(row[f"{floor} {name}"]) for row in rows]) for name in shown]
        print(f"| {floor} |  | {len(rows)} |  | {' | '.join(cells)} |")


def spread(values):
    """Return mean (smallest to largest)."""
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def attack(arguments, log_dir):
    """Train each head and print what its updates reveal."""
    from fedgru.console.describe import describe_attacks

    for head in arguments.heads.split(","):
        settings = settings_of(arguments, head, None, 0)
        given = {"features": "category,venue,clock,weekday,gap"}
        inputs = settings.inputs.model_copy(update=given)
        task, facts = open_task(settings.model_copy(update={"inputs": inputs}), arguments.data_dir)
        run, task, _ = train.train(task, facts, log_dir)
        print(f"head {head}")
        print(describe_attacks(attack_run(run, task, ["reconstruction"])), flush=True)


class Nobody:
    """An engine whose clients send nothing, so that the canaries are alone: their worst case."""

    runs_whole_rounds = False
    client_rule = DEFAULT_RULE

    def __init__(self, task):
        self.task = task

    def gather(self, algorithm, weights, cohort, round_num):
        """Return a Gathered of nothing."""
        return Gathered(self.task.settings, algorithm.start(weights))

    def local_updates(self, weights, cohort, round_num):
        """Yield an update of ones, whose length canaries have without differential privacy."""
        dense = {name: np.ones_like(array) for name, array in weights.items() if name != "rows"}
        rows = np.ones((1, weights["rows"].shape[1]), np.float32)
        yield ClientUpdate(0, 1, dense, np.zeros(1, np.int32), rows, 0.0, 0.0)


def audit(arguments, _):
    """Attack trainings with canaries among clients that are silent; print bounds of 20 seeds."""
    made = synthetic.make_city(synthetic.CityConfig(num_users=40, checkins_per_user=60, seed=0))
    data_set = datasets.DataSet("city", made.check_ins, {"fingerprint": "city"}, made.best_prob)
    small = {"hidden_dim": 16, "threads": 1, "prior": "backoff", "patience": 0, "mean": "clients"}
    small |= {"client_weights": "equal", "rounds": arguments.rounds, "features": FEATURES}
    print("| cohorts | epsilon | seeds | bound | estimate | bound below epsilon |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in (None, 10):
        for epsilon in (2.0, 8.0, None):
            found = []
            for seed in range(20 if epsilon else 3):
                given = {"dp_clip": 0.5, "dp_epsilon": epsilon} if epsilon else {}
                given |= {"clients_per_round": size, "seed": seed}
                task = build_task(data_set, config.load(small | given)).with_kernel()
                found.append(attack_training(Nobody(task), arguments.rounds, seed))
            bounds = [one["at_least"] for one in found]
            guesses = [one["estimate"] for one in found if one["estimate"] is not None]
            below = sum(one["at_least"] < (one["at_most"] or 0.0) for one in found)
            cells = [spread(bounds), spread(guesses) if guesses else "no overlap", str(below)]
            cohorts = "all" if size is None else f"{size} of 40, Poisson"
            print(f"| {cohorts} | {epsilon or 'none'} | {len(found)} | {' | '.join(cells)} |")


def compress(arguments, log_dir):
    """Train with compressed updates, and append a row for each run: acc@1, loss, megabytes."""
    rows = Path(arguments.rows)
    for seed in map(int, arguments.seeds.split(",")):
        for text in arguments.compress.split(","):
            given = {"data": arguments.data, "features": FEATURES, "rounds": arguments.rounds}
            given |= {"users": arguments.users, "seed": seed, "patience": 0, "threads": 1}
            given |= {
                "prior": "backoff",
                "head": "dense",
                "hidden_dim": 32,
                "eval_clients": 30,
                "local_epochs": 2,
            }
            given |= {} if text == "none" else {"compress": text}
            task, facts = open_task(config.load(given), arguments.data_dir)
            run, task, _ = train.train(task, facts, log_dir)
            report = score.evaluate_run(run, task)
            sums = report["exchanged"]
            values = [report[f"test/{name}/micro"] for name in ("acc@1", "loss")]
            values += [sums[f"{way}_bytes"] / 1e6 for way in ("down", "up")]
            with rows.open("a", newline="") as file:
                csv.writer(file).writerow([text, seed, *(f"{value:.5f}" for value in values)])


def main():
    """Parse the command line and run one of the six."""
    kinds = {"city": city, "curve": curve, "table": table, "attack": attack, "audit": audit}
    kinds["bytes"] = compress
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=kinds)
    parser.add_argument("--data", default="embedded")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--heads", default="candidates,dense")
    parser.add_argument("--epsilons", default="1,2,4,8,16,none")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cohort", type=int)
    parser.add_argument("--users", type=int, help="the most active ones; all if not given")
    parser.add_argument("--compress", default="none,8-bit,4-bit,2-bit,top-5%")
    parser.add_argument("--clip", type=float, default=0.1)
    parser.add_argument("--setup-noise", type=float)
    parser.add_argument("--rows", default="privacy.csv", help="the CSV file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds[arguments.what](arguments, Path(folder))


if __name__ == "__main__":
    main()
