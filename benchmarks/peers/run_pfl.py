"""pfl-research: its FederatedAveraging on its SimulatedBackend, PyTorch inside.

The recurrent state is kept in the module; a column of the data says where a client begins. Either
one process with as many threads as PyTorch takes, or one process for each core, with one thread,
started by torchrun; pfl then gives every process its share of the cohort and sums the updates.
"""

import functools
import os
import sys
import time

import common
import numpy as np
import pfl
import torch
import torch.distributed
import torch_gru
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch.nn import functional


class Module(torch_gru.Gru):
    """The GRU with the two methods that pfl asks for."""

    def __init__(self, settings):
        super().__init__(settings)
        self.state_shape = settings["batch_size"], settings["hidden_dim"]
        self.h, self.sums = torch.zeros(self.state_shape), torch.zeros(2, dtype=torch.float64)

    def _carried(self, rows, numbers, begins):
        h = torch.zeros(self.state_shape) if bool(begins[0]) else self.h
        logits, h = self(rows, numbers, h)
        self.h = h.detach()
        return logits.flatten(0, 1)

    def loss(self, rows, numbers, targets, begins):
        self.train()
        logits = self._carried(rows, numbers, begins)
        loss = functional.cross_entropy(logits, targets.flatten())
        self.sums += torch.tensor([loss.item() * targets.numel(), targets.numel()])
        return loss

    def metrics(self, rows, numbers, targets, *rest):
        *mask, begins = rest
        mask = mask[0] if mask else torch.ones(targets.shape)
        self.eval()
        logits = self._carried(rows, numbers, begins)
        losses = functional.cross_entropy(logits, targets.flatten(), reduction="none")
        return {"loss": Weighted(float((losses * mask.flatten()).sum()), float(mask.sum()))}


class Timed(TrainingProcessCallback):
    """Notes the seconds of each iteration, and of an evaluation of all clients after it.

    Args:
        val: the clients that this process evaluates.
        params: NNEvalHyperParams.
        num_examples: trained on in an iteration, by all processes.
    """

    def __init__(self, val, params, num_examples):
        self.val, self.params, self.num_examples = val, params, num_examples
        self.trained, self.evaluated, self.losses = [], [], []

    def on_train_begin(self, *, model):
        self.started = time.perf_counter()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        now = time.perf_counter()
        self.trained.append(now - self.started)
        for data in self.val:
            model.evaluate(data, eval_params=self.params)
        sums = model.pytorch_model.sums
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)  # this waits for the other processes, too
        self.started = time.perf_counter()
        self.evaluated.append(self.started - now)
        assert sums[1] == self.num_examples
        self.losses.append(float(sums[0] / sums[1]))
        sums.zero_()
        return False, Metrics()


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--processes", action="store_true", help="one for each core")
    args = parser.parse_args()
    if args.processes and not torch.distributed.is_torchelastic_launched():
        start_processes()
    rank, num_processes = 0, 1
    if torch.distributed.is_initialized():  # by pfl, when it is imported
        rank, num_processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    work = common.load(args)
    s = work.settings
    module = Module(s)
    module.set_arrays(work.weights)
    model = PyTorchModel(
        module,
        functools.partial(torch.optim.Adam, eps=1e-7, fused=True),
        torch.optim.SGD(module.parameters(), lr=1.0),
    )
    train = [
        data_set((client.rows, client.numbers, client.targets), client.targets.size)
        for client in work.clients
    ]
    val = [data_set(client.val, client.val[3].sum()) for client in work.clients]
    order = iter(np.tile(shares(len(train), num_processes), args.rounds + 2))
    data = FederatedDataset(lambda index: train[index], lambda: next(order))
    backend = SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()])
    params = NNEvalHyperParams(local_batch_size=s["batch_size"])
    timed = Timed([] if args.no_eval else val[rank::num_processes], params, work.num_examples)
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=args.rounds + 1,
            evaluation_frequency=10**9,  # in iteration 0, which is not timed, and no other
            train_cohort_size=len(train),
            val_cohort_size=0,
        ),
        backend=backend,
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=s["batch_size"], local_num_epochs=1, local_learning_rate=s["client_lr"]
        ),
        model_eval_params=params,
        callbacks=[timed],
    )
    if rank:
        return
    common.write(
        args,
        work,
        timed.trained[0],
        timed.losses[0],
        timed.trained[1:],
        [] if args.no_eval else timed.evaluated[1:],
        version=f"pfl {pfl.__version__}, torch {torch.__version__}",
        ran=f"processes: {num_processes}, threads in each: {torch.get_num_threads()}",
    )


def start_processes():
    """Become torchrun, which starts this script anew for each core, on this machine alone."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    launcher += ["--nproc-per-node", str(len(os.sched_getaffinity(0)))]
    os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])


def shares(num_clients, num_processes):
    """Return the order of the clients, which pfl deals out to the processes one by one.

    The clients lie in order of size. Every other deal is turned round: the shares are then alike.

    >>> shares(7, 2).tolist()
    [0, 1, 3, 2, 4, 5, 6]
    """
    deals = [
        np.arange(first, first + num_processes) for first in range(0, num_clients, num_processes)
    ]
    deals[1::2] = [deal[::-1] for deal in deals[1::2]]
    order = np.concatenate(deals)
    return order[order < num_clients]


def data_set(arrays, num_examples):
    """A client's steps end to end, so that pfl's slices of batch_size are the local steps."""
    flat = [array.reshape(-1, *array.shape[2:]) for array in torch_gru.tensors(arrays)]
    begins = torch.zeros(len(flat[0]))
    begins[0] = 1
    return Dataset((*flat, begins), metadata={"num_examples": num_examples})


if __name__ == "__main__":
    main()
