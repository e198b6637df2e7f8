"""Flower's simulation on Ray: FedAvg over Message API, one core for each client, PyTorch inside."""

import os
import sys
import time
from pathlib import Path

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
HERE = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = HERE  # for Ray's processes

import common  # noqa: E402
import flwr  # noqa: E402
import torch  # noqa: E402
from flower_client import client_app, kept  # noqa: E402
from flwr.app import ArrayRecord  # noqa: E402
from flwr.serverapp import ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402


class TimedFedAvg(FedAvg):
    """FedAvg that notes when a part of a round begins and ends."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.trained, self.evaluated, self.losses = [], [], []

    def configure_train(self, *args):
        self.started = time.perf_counter()
        return super().configure_train(*args)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        failed = [reply.error for reply in replies if reply.has_error()]
        if failed:
            raise RuntimeError(f"{len(failed)} clients failed, the first: {failed[0]}")
        result = super().aggregate_train(server_round, replies)
        self.trained.append(time.perf_counter() - self.started)
        self.losses.append(result[1]["loss"])
        return result

    def configure_evaluate(self, *args):
        self.started = time.perf_counter()
        return super().configure_evaluate(*args)

    def aggregate_evaluate(self, *args):
        result = super().aggregate_evaluate(*args)
        self.evaluated.append(time.perf_counter() - self.started)
        return result


def main():
    argv = tuple(sys.argv[1:])
    args = common.arguments(__doc__).parse_args(argv)
    work, model = kept(argv)
    model.set_arrays(work.weights)
    num_clients = len(work.clients)
    strategy = TimedFedAvg(
        fraction_evaluate=0.0 if args.no_eval else 1.0, min_available_nodes=num_clients
    )
    server = ServerApp()

    @server.main()
    def serve(grid, context):
        strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=args.rounds + 1)

    run_simulation(
        server_app=server,
        client_app=client_app(argv),
        num_supernodes=num_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    common.write(
        args,
        work,
        strategy.trained[0],
        strategy.losses[0],
        strategy.trained[1:],
        [] if args.no_eval else strategy.evaluated[1:],
        version=f"flwr {flwr.__version__}, torch {torch.__version__}",
    )


if __name__ == "__main__":
    main()
