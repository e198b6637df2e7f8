"""Whether the engines agree with dropout on: the mean train loss of round 1 over many draws.

    .venv-tff/bin/python benchmarks/dropout.py

Three clients of a small made-up city, dropout 0.5. Every engine draws its masks itself, so two
means should differ by no more than their standard errors allow.
"""

import argparse
import statistics
from dataclasses import replace

from fedgru import algorithms, config
from fedgru.core import seeding
from fedgru.data import datasets, synthetic
from fedgru.engines import ENGINES
from fedgru.models.gru import init_weights
from fedgru.task.task import build_task
from fedgru.training.rounds import run_round
from fedgru.workflows import train as train_workflow

SETTINGS = {
    "features": "user,category,clock,latitude",
    "prior": "backoff",
    "hidden_dim": 8,
    "batch_size": 2,
    "seq_len": 5,
    "dropout": 0.5,
    "client_lr": 0.03,
    "local_epochs": 2,
    "mean": "clients",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=40)
    args = parser.parse_args()

    city = synthetic.make_city(synthetic.CityConfig(num_users=6, checkins_per_user=40, seed=1))
    task = build_task(datasets.DataSet("tiny", city.check_ins, {}), config.load(SETTINGS))
    algorithm = algorithms.from_settings(task.settings)
    state = algorithm.init(init_weights(task.spec, seeding.rng(0, "weights")))
    print("| engine | train loss of round 1 | standard error |\n| --- | --- | --- |")
    for name in ENGINES:
        engine = train_workflow.make_engine(task, name)
        losses = [
            # the round's number is what a draw hangs on
            run_round(engine, algorithm, replace(state, round_num=i), [0, 2, 5]).metrics["loss"]
            for i in range(args.draws)
        ]
        error = statistics.stdev(losses) / args.draws**0.5
        print(f"| {name} | {statistics.mean(losses):.4f} | {error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
