"""The bytes that server and clients exchange in a round, from the shapes of the weights."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.sent import Sent
from fedgru.core.types import Ints, Weights
from fedgru.task.kernel_prior import FIT_ROUNDS, Kernel
from fedgru.task.task import Task

FLOAT_BYTES = 4  # weights, updates and row ids: float32 and int32
SUM_BYTES = 8  # of each sum beside an update


@dataclass(frozen=True)
class Traffic:
    """The bytes of one round between the server and each client in it.

    Attributes:
        down_bytes, up_bytes: int64 [num_clients].
        model_bytes: the whole model, rows of all clients.
        prior_bytes: in both directions, once before round 1, to learn the kernel prior; else 0.
    """

    down_bytes: Ints
    up_bytes: Ints
    model_bytes: int
    prior_bytes: int


def count_traffic(
    weights: Weights,
    own_rows: npt.ArrayLike,
    has_head: bool = False,
    kernel: Kernel | None = None,
    whole_table: bool = False,
    sent: Sent = Sent(),  # noqa: B008  # frozen
) -> Traffic:
    """Return the Traffic of a model.

    Down: every weight except the table, and the client's own rows of the table. Up: the update of
    the same numbers, the ids of these rows, and the sums of `ClientUpdate` (examples, loss, right
    answers; three more with a protected concept). Not counted: message framing, compression, and
    what is set up once or computed from sums, such as vocabularies, scaling, shared frequencies,
    an eraser.

    Args:
        weights: name -> array, as in best.npz.
        own_rows: int [num_clients], rows of the table that each client names.
        has_head: whether a concept is protected.
        kernel: what the clients learnt before round 1, with a kernel prior. In each of its rounds
            clients receive the numbers, and send their gradient and the loss.
        whole_table: whether each client is sent all rows, as with differential privacy.
        sent: Sent of the algorithm.
    """
    table = weights["rows"]
    model_bytes = FLOAT_BYTES * sum(array.size for array in weights.values())
    weights = {name: array for name, array in weights.items() if name not in sent.stays}
    num_dense = sum(array.size for name, array in weights.items() if name != "rows")
    own_rows = np.asarray(own_rows, np.int64)
    rows, ids = (np.full_like(own_rows, len(table)), 0) if whole_table else (own_rows, own_rows)
    if "rows" in sent.stays:
        rows, ids = np.zeros_like(own_rows), 0
    model = FLOAT_BYTES * (num_dense + rows * table.shape[1])
    down = sent.down * model
    up = sent.up * model + FLOAT_BYTES * ids + SUM_BYTES * ((6 if has_head else 3) + sent.sums)
    num_kernel = 0 if kernel is None else len(kernel.to_dict())
    prior_bytes = FIT_ROUNDS * FLOAT_BYTES * (2 * num_kernel + 1) if num_kernel else 0
    return Traffic(down, up, model_bytes, prior_bytes)


def own_rows(task: Task) -> Ints:
    """Return int64 [num_clients], how many rows of the table each client's training uses."""
    found = np.zeros(len(task.clients), np.int64)
    for client in task.training_clients:
        found[client] = num_own_rows(task, int(client))
    return found


def num_own_rows(task: Task, client: int) -> int:
    """Return how many rows of the table the training of one client uses."""
    pairs = np.unique(task.batches(client).pairs)
    (rows,) = task.read(["inputs.rows"], task.client_ends(client).start + pairs[pairs >= 0])
    rows = np.unique(rows)
    return int(((rows >= 0) & (rows < task.spec.num_rows)).sum())
