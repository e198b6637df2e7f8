"""fedgru itself, any engine: the row that the others are compared with."""

import sys
from pathlib import Path

import common
import numpy as np

from fedgru import algorithms, config
from fedgru.evaluation import evaluate as evaluation
from fedgru.training.rounds import run_round
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--engine", default="jax")
    parser.add_argument("--local-loop", default="auto")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    args = parser.parse_args()
    work = common.load(args)
    overrides = work.settings["overrides"] | {"engine": args.engine}
    overrides["dropout"] = work.settings["dropout"]
    overrides["local_loop"] = args.local_loop
    task, _ = open_workflow.open_task(
        config.load(overrides, preset=work.settings["preset"]), args.data_dir
    )
    cohort = task.training_clients[common.chosen(len(task.training_clients), args.clients)]
    ours = [task.local_data(int(client)) for client in cohort]
    for data, client in zip(ours, work.clients, strict=True):
        np.testing.assert_array_equal(data.rows, client.rows)
        np.testing.assert_array_equal(data.targets, client.targets)
    engine = train_workflow.make_engine(task)
    algorithm = algorithms.from_settings(task.settings)
    state = algorithm.init(work.weights)

    def one_round():
        nonlocal state
        result = run_round(engine, algorithm, state, cohort)
        state = result.state
        assert result.num_examples == work.num_examples
        return result.metrics["loss"]

    def evaluate():
        return evaluation.evaluate(engine, state.weights, "val").summary()["val/loss/micro"]

    library = {"jax": "jax", "reference": "keras", "tff": "tensorflow_federated"}[args.engine]
    facts = {"version": version(library), "eval_clients": len(task.clients), "ran": str(engine)}
    common.measure(args, work, one_round, evaluate, **facts)


def version(library):
    return f"{library} {getattr(sys.modules[library], '__version__', '?')}"


if __name__ == "__main__":
    main()
