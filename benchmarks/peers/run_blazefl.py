"""BlazeFL: its FedAvg server, and its pool of processes or of threads, PyTorch inside.

One core for each process or thread. BlazeFL starts a new pool every round. The processes are
forked: they inherit data, model and compiled GRU, and get the weights by shared memory. Pools made
by "forkserver", the default since Python 3.14, would import PyTorch anew every round.
"""

import os
import platform
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path

import common
import torch
import torch.multiprocessing
import torch_gru
from blazefl.contrib.fedavg import (
    FedAvgBaseServerHandler,
    FedAvgProcessPoolClientTrainer,
    FedAvgProcessPoolUplinkPackage,
    FedAvgThreadPoolClientTrainer,
    FedAvgUplinkPackage,
)
from blazefl.core import SHMHandle, deserialize_model, serialize_model

WARM_UP_STEPS = 3  # after two, TorchScript has compiled the GRU


class Local(threading.local):
    """The work, and a model for each thread or process."""

    work = None

    @property
    def model(self):
        if not hasattr(self, "_model"):
            self._model = torch_gru.Gru(Local.work.settings)
        return self._model


LOCAL = Local()


def train(cid, payload):
    """Return one client's weights after training, its number of examples, and its loss."""
    client = Local.work.clients[cid]
    deserialize_model(LOCAL.model, payload.model_parameters)
    total = torch_gru.train_client(LOCAL.model, client, Local.work.settings)
    return serialize_model(LOCAL.model), client.targets.size, {"loss": total}


class Processes(FedAvgProcessPoolClientTrainer):
    def get_client_config(self, cid):
        return cid, int(torch.randint(2**31, ()))  # a seed: forked processes draw the same numbers

    def prepare_uplink_package_buffer(self):
        buffer = super().prepare_uplink_package_buffer()
        buffer.metadata = {"loss": None}  # BlazeFL asks for the keys that the worker will send
        return buffer

    @staticmethod
    def worker(config, payload, device, stop_event, *, shm_buffer=None):
        cid, seed = config
        torch.manual_seed(seed)
        weights, num_examples, metrics = train(cid, payload)
        shm_buffer.model_parameters.copy_(weights)
        return FedAvgProcessPoolUplinkPackage(cid, SHMHandle(), num_examples, metrics)

    def progress_fn(self, jobs):
        return jobs


class Threads(FedAvgThreadPoolClientTrainer):
    def worker(self, cid, device, payload, stop_event):
        return FedAvgUplinkPackage(cid, *train(cid, payload))

    def progress_fn(self, jobs):
        return jobs


class Selector:
    """Makes the models: the part of BlazeFL's ModelSelector that is used."""

    def select_model(self, name):
        return torch_gru.Gru(Local.work.settings)


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--pool", choices=["processes", "threads"], required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.multiprocessing.set_start_method("fork")
    Local.work = work = common.load(args)
    cores = len(os.sched_getaffinity(0))
    shared = {
        "model_selector": Selector(),
        "model_name": "gru",
        "dataset": None,  # the clients are in Local.work
        "num_clients": len(work.clients),
        "batch_size": work.settings["batch_size"],
        "device": "cpu",
        "seed": 0,
    }
    handler = FedAvgBaseServerHandler(**shared, global_round=args.rounds + 1, sample_ratio=1.0)
    handler.model.set_arrays(work.weights)
    warm_up(handler.downlink_package())
    shared |= {"epochs": 1, "lr": work.settings["client_lr"], "num_parallels": cores}
    with tempfile.TemporaryDirectory() as folder:
        if args.pool == "processes":
            trainer = Processes(**shared, state_dir=Path(folder))
        else:
            trainer = Threads(**shared)

        def run_round():
            trainer.local_process(handler.downlink_package(), handler.sample_clients())
            packages = trainer.uplink_package()
            for package in packages:
                handler.load(package)
            assert sum(package.data_size for package in packages) == work.num_examples
            return sum(package.metadata["loss"] for package in packages) / work.num_examples

        def evaluate():
            scores = [torch_gru.score_client(handler.model, c, work.settings) for c in work.clients]
            totals, counts = zip(*scores, strict=True)
            return sum(totals) / sum(counts)

        gil = getattr(sys, "_is_gil_enabled", lambda: True)()
        common.measure(
            args,
            work,
            run_round,
            evaluate,
            version=f"blazefl {version('blazefl')}, torch {torch.__version__}",
            ran=f"{cores} {args.pool}, Python {platform.python_version()} "
            f"{'with' if gil else 'without'} the GIL",
        )


def warm_up(payload):
    """Train for a few steps, so that processes do not compile the GRU anew every round."""
    client = Local.work.clients[0]
    deserialize_model(LOCAL.model, payload.model_parameters)
    steps = {name: getattr(client, name)[:1] for name in ("rows", "numbers", "targets")}
    for _ in range(WARM_UP_STEPS):
        torch_gru.train_client(LOCAL.model, common.Client(**steps, val=()), Local.work.settings)


if __name__ == "__main__":
    main()
