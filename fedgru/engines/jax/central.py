"""Passes of one optimizer over everybody's train pairs: what central training is made of.

A batch holds streams of several clients. The state of a row is set to zero where the stream of
another client begins.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from fedgru.config.settings import LayoutSettings
from fedgru.core import seeding
from fedgru.core.jax_setup import on_device
from fedgru.core.trees import arrays_in, map_arrays
from fedgru.core.types import AnyInts, Bools, Doubles, Floats, Int32s, Ints
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.jax.local_steps import JaxWeights, Steps, run_steps
from fedgru.engines.jax.prepared import Arrays, pad_candidates
from fedgru.models.candidate_head import CandidateSpec, Trained
from fedgru.task.clients import Clients
from fedgru.task.streams import lay_in_rows

STEPS_MULTIPLE = 32  # arrays are padded to it, so that the few passes' lengths compile once


class CentralEngine(JaxEngine):
    """Scores like the jax engine, by XLA; trains in passes over all clients' pairs."""

    name = "central"

    def _load_native(self, wanted: str) -> tuple[None, None]:
        return None, None  # the C code takes the batches of one client alone

    def run_pass(
        self,
        weights: JaxWeights,
        slots: tuple[JaxWeights, ...],
        num_done: int,
        cohort: AnyInts,
        round_num: int,
        epoch: int,
    ) -> tuple[JaxWeights, tuple[JaxWeights, ...], int, Doubles, int]:
        """Go once through the train pairs of some clients.

        Args:
            weights: name -> float32 array.
            slots: the optimizer's, as from `models.optimizers.init_slots`.
            num_done: int, the optimizer's steps so far.
            cohort: int [cohort], indices of clients.
            round_num, epoch: ints; the random order of clients and the dropout depend on them.

        Returns:
            (weights, slots, num_done, sums, num_examples); sums as from `run_steps`, float64 [5].
        """
        seed, layout = self.task.settings.loop.seed, self.task.settings.layout
        order = seeding.rng(seed, "pooled order", round_num, epoch).permutation(len(cohort))
        positions, resets = pool_streams(self.task.clients, cohort, layout, order)
        arrays, resets, num_steps = self._lay_out(positions, resets)
        steps = Steps(
            arrays=arrays,
            key=seeding.key_words(seed, "dropout", round_num, epoch),
            steps_per_pass=num_steps,
            num_steps=num_steps,
            resets=resets,
            first_step=num_done + 1,
        )
        with on_device(self.device):
            weights, slots, sums = self._pass(weights, slots, steps)
        num_examples = int(arrays[3].sum())
        return weights, slots, num_done + num_steps, np.asarray(sums, np.float64), num_examples

    @cached_property
    def _pass(self) -> Callable[..., Any]:
        return self._jax.jit(lambda *args: run_steps(self.task.spec, None, self.client_rule, *args))

    def _lay_out(self, positions: Ints, resets: Bools) -> tuple[Arrays, Bools, int]:
        """Return what `run_steps` takes: arrays and resets, padded, and the number of steps."""
        task, num_steps = self.task, len(positions)
        extra = -num_steps % STEPS_MULTIPLE
        positions = np.concatenate([positions, np.full((extra, *positions.shape[1:]), -1)])
        resets = np.concatenate([resets, np.ones((extra, resets.shape[1]), bool)])
        positions = np.swapaxes(positions, 1, 2)  # time-major
        padded, read = positions < 0, np.maximum(positions, 0)
        at_target = np.minimum(read + 1, len(task.classes) - 1)
        is_known = ~padded & (task.classes[at_target] >= 0)
        beside, targets = self._beside
        arrays = (
            np.where(padded[..., None], -1, task.inputs.rows[read]),
            task.inputs.numbers[read],
            np.where(is_known, targets[read], 0).astype(np.int32),
            is_known.astype(np.float32),
            map_arrays(lambda array: array[read], beside),
            None,
        )
        return arrays, resets, num_steps

    @cached_property
    def _beside(self) -> tuple[Floats | Trained | None, Int32s]:
        """What the head reads, and the target of each input, both filled at the train pairs.

        As in LocalData, with one axis, of all positions: the log prior, float32 [num_positions,
        num_classes], a Trained, or None without a prior; and int32 [num_positions].
        """
        task = self.task
        targets = np.append(task.classes[1:], np.int32(-1))
        if isinstance(task.spec, CandidateSpec):
            return self._pooled_candidates(targets)
        if not task.spec.has_prior:
            return None, targets
        log_prior = np.zeros((len(task.classes), task.num_classes), np.float32)
        for client in task.training_clients:
            start, num_pairs = task.clients.starts[client], _num_pairs(task.clients, client)
            log_prior[start : start + num_pairs] = task.log_prior(client, np.arange(num_pairs))
        return log_prior, targets

    def _pooled_candidates(self, targets: Int32s) -> tuple[Trained, Int32s]:
        """As `_beside`, from the class of each target; all clients get as many candidates."""
        task, found = self.task, {}
        for client in map(int, task.training_clients):
            pairs = np.arange(_num_pairs(task.clients, client))
            own = np.maximum(targets[task.clients.starts[client] + pairs], 0)
            found[client] = task.trained_candidates(client, pairs, own)
        most = max(trained.candidates.kinds.shape[-1] for trained, _ in found.values())
        pooled, places = None, np.zeros_like(targets)
        for client, (trained, own_places) in found.items():
            own = task.clients.starts[client] + np.arange(len(own_places))
            trained = pad_candidates(trained, most)
            if pooled is None:
                pooled = map_arrays(
                    lambda a: np.zeros((len(targets), *a.shape[1:]), a.dtype), trained
                )
            for to, values in zip(arrays_in(pooled), arrays_in(trained), strict=True):
                to[own] = values
            places[own] = own_places
        assert pooled is not None, "a task has a client to train on"
        return pooled, places


def pool_streams(
    clients: Clients, cohort: AnyInts, layout: LayoutSettings, order: Ints
) -> tuple[Ints, Bools]:
    """Lay all clients' train pairs into the rows of one batch, each client's in one row.

    With sessions each session is in one row; pairs that lead to another session are left out.

    Args:
        clients: Clients.
        cohort: int [cohort], indices of clients.
        layout: LayoutSettings, for `batch_size` and `seq_len`.
        order: int [cohort], a permutation; each client in turn goes to the shortest row.

    Returns:
        positions, int64 [steps, batch, seq_len], of the inputs, -1 in padding, each train pair
        of the cohort once; and resets, bool [steps, batch], where a client's stream, or a session,
        begins.

    Example: clients of 4, 2 and 3 check-ins (3, 1 and 2 pairs), 2 rows, seq_len 2 ->
        positions [[[0, 1], [4, -1]], [[2, -1], [6, 7]]], resets [[1, 1], [0, 1]].
    """

    def streams() -> Iterator[Ints]:
        for client in np.asarray(cohort)[order]:
            first = clients.starts[client : client + 1]
            runs = clients.runs(first, clients.train_ends[client : client + 1])
            for begin, end in zip(*runs, strict=True):
                yield np.arange(begin, max(begin, end - 1))

    return lay_in_rows(streams(), layout.batch_size, layout.seq_len)


def _num_pairs(clients: Clients, client: int) -> int:
    return max(int(clients.train_ends[client] - clients.starts[client]) - 1, 0)
