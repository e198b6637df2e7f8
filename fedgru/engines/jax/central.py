"""Central training: what the same model learns where all check-ins lie in one place.

A baseline, the other end of what federated averaging gives up. One optimizer goes through
everybody's train pairs; a batch holds streams of several clients, and a row's state is zero where
the next client's stream begins. A round is `local_epochs` passes, as much data as a federated
round of everybody.
"""

import heapq
from functools import cached_property

import numpy as np

from fedgru.algorithms.fed_avg import ServerState
from fedgru.core import seeding
from fedgru.core.jax_setup import on_device
from fedgru.engines.base import RoundResult
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.jax.local_steps import run_steps

STEPS_MULTIPLE = 32  # arrays are padded to it, so that the few passes' lengths compile once


class CentralTraining:
    """The algorithm's part: ServerState.optimizer holds the one optimizer's slots and step."""

    name = "central"

    def __init__(self, client):
        self.optimizer = client.client_optimizer

    def init(self, weights):
        """Return the ServerState before round 1."""
        slots = [{n: np.zeros_like(w) for n, w in weights.items()} for _ in self._slots()]
        return ServerState(
            weights, dict(zip(self._slots(), slots, strict=True)) | {"step": np.int64(0)}, 0
        )

    def _slots(self):
        return ("m", "v") if self.optimizer == "adam" else ()


class CentralEngine(JaxEngine):
    """See the module's docstring. Scores as the jax engine does."""

    name = "central"

    def _load_native(self, wanted):
        return None, None  # its batches are of all clients

    def run_round(self, algorithm, state, cohort):
        """Train on all clients' pairs for one round; `cohort` is everybody with train data.

        Returns:
            RoundResult.

        Raises:
            TrainingError: if the loss is not finite, or passes DIVERGED_LOSS.
        """
        settings, round_num = self.task.settings, state.round_num + 1
        weights = state.weights
        step = int(state.optimizer["step"])
        slots = tuple(state.optimizer[name] for name in ("m", "v") if name in state.optimizer)
        sums, num_examples = np.zeros(5), 0
        for epoch in range(settings.client.local_epochs):
            draw = seeding.rng(settings.loop.seed, "pooled order", round_num, epoch)
            positions, resets = pool_streams(
                self.task.clients, cohort, settings.layout, draw.permutation(len(cohort))
            )
            key = seeding.key_words(settings.loop.seed, "dropout", round_num, epoch)
            arrays, resets, num_steps = self._lay_out(positions, resets)
            with on_device(self.device):
                weights, slots, epoch_sums = self._steps(
                    weights, slots, arrays, key, num_steps, resets, step + 1
                )
            step += num_steps
            sums += np.asarray(epoch_sums, np.float64)
            num_examples += int(arrays[3].sum())
        metrics = {"loss": sums[0] / num_examples, "acc@1": sums[1] / num_examples}
        self.check_diverged(metrics["loss"], round_num)
        weights = {name: np.asarray(w) for name, w in weights.items()}
        optimizer = {
            name: {n: np.asarray(s) for n, s in slot.items()}
            for name, slot in zip(("m", "v"), slots, strict=False)
        }
        after = ServerState(weights, optimizer | {"step": np.int64(step)}, round_num)
        return RoundResult(after, metrics, len(cohort), num_examples)

    def _lay_out(self, positions, resets):
        """Return what `run_steps` takes: arrays and resets, padded, and the number of steps."""
        task, num_steps = self.task, len(positions)
        extra = -num_steps % STEPS_MULTIPLE
        positions = np.concatenate([positions, np.full((extra, *positions.shape[1:]), -1)])
        resets = np.concatenate([resets, np.ones((extra, resets.shape[1]), bool)])
        positions = np.swapaxes(positions, 1, 2)  # time-major
        padded, read = positions < 0, np.maximum(positions, 0)
        targets = np.where(padded, -1, task.classes[np.minimum(read + 1, len(task.classes) - 1)])
        log_prior = None if self._log_prior is None else self._log_prior[read]
        arrays = (
            np.where(padded[..., None], -1, task.inputs.rows[read]),
            task.inputs.numbers[read],
            np.maximum(targets, 0).astype(np.int32),
            (targets >= 0).astype(np.float32),
            log_prior,
            None,
        )
        return arrays, resets, num_steps

    @cached_property
    def _log_prior(self):
        """float32 [num_positions, num_classes], filled at the train pairs; None without a prior."""
        task = self.task
        if not task.spec.has_prior:
            return None
        log_prior = np.zeros((len(task.classes), task.num_classes), np.float32)
        for client in task.training_clients:
            start, num_pairs = task.clients.starts[client], _num_pairs(task.clients, client)
            log_prior[start : start + num_pairs] = task.log_prior(client, np.arange(num_pairs))
        return log_prior

    @cached_property
    def _steps(self):
        spec, settings = self.task.spec, self.task.settings.client

        def steps(weights, slots, arrays, key, num_steps, resets, first_step):
            return run_steps(
                spec,
                None,
                settings.client_optimizer,
                settings.client_lr,
                weights,
                slots,
                arrays,
                key,
                num_steps,
                num_steps,
                resets=resets,
                first_step=first_step,
            )

        return self._jax.jit(steps)


def pool_streams(clients, cohort, layout, order):
    """Lay all clients' train pairs into the rows of one batch, each client's in one row.

    Args:
        clients: Clients.
        cohort: int [cohort], indices of clients.
        layout: LayoutSettings, for `batch_size` and `seq_len`.
        order: int [cohort], a permutation; each client in turn goes to the shortest row.

    Returns:
        positions, int64 [steps, batch, seq_len], of the inputs, -1 in padding, each train pair
        of the cohort once; and resets, bool [steps, batch], where a client's stream begins.

    Example: clients of 4, 2 and 3 check-ins (3, 1 and 2 pairs), 2 rows, seq_len 2 ->
        positions [[[0, 1], [4, -1]], [[2, -1], [6, 7]]], resets [[1, 1], [0, 1]].
    """
    rows = [(0, row, []) for row in range(layout.batch_size)]
    for client in np.asarray(cohort)[order]:
        num_pairs = _num_pairs(clients, client)
        windows = -(-num_pairs // layout.seq_len)
        stream = np.full(windows * layout.seq_len, -1)
        stream[:num_pairs] = clients.starts[client] + np.arange(num_pairs)
        length, row, streams = heapq.heappop(rows)
        streams.append(stream.reshape(windows, layout.seq_len))
        heapq.heappush(rows, (length + windows, row, streams))
    steps = max(length for length, _, _ in rows)
    positions = np.full((steps, layout.batch_size, layout.seq_len), -1)
    resets = np.zeros((steps, layout.batch_size), bool)
    for length, row, streams in rows:
        if length:
            positions[:length, row] = np.concatenate(streams)
            begins = np.cumsum([0, *(len(stream) for stream in streams[:-1])])
            resets[begins, row] = True
    return positions, resets


def _num_pairs(clients, client):
    return max(int(clients.train_ends[client] - clients.starts[client]) - 1, 0)
