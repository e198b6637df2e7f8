"""The bytes that server and clients exchange in a round, from the shapes of the weights."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedgru import algorithms
from fedgru.agnostic import protection
from fedgru.algorithms.sent import Sent, sent_by
from fedgru.config.settings import Settings
from fedgru.core.types import Ints, Weights
from fedgru.engines import registry
from fedgru.task.kernel_prior import FIT_ROUNDS, Kernel
from fedgru.task.task import Task
from fedgru.training.loop import draw_cohort

FLOAT_BYTES = 4  # weights, updates and row ids: float32 and int32
SUM_BYTES = 8  # of each sum beside an update


@dataclass(frozen=True)
class Traffic:
    """The bytes of one round between the server and each client in it.

    Attributes:
        down_bytes, up_bytes: int64 [num_clients].
        model_bytes: the whole model, rows of all clients.
        prior_bytes: in both directions, once before round 1, to learn the kernel prior; else 0.
        parts: what they are made of, in order: name -> int64 [num_clients]. Names begin with
            `down_` or `up_`.
    """

    down_bytes: Ints
    up_bytes: Ints
    model_bytes: int
    prior_bytes: int
    parts: dict[str, Ints] = field(default_factory=dict)


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
    answers; three more with a protected concept). Not counted: message framing, and what is set
    up once or computed from sums, such as vocabularies, scaling, shared frequencies, an eraser.

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
    dense, table_rows = np.full_like(rows, num_dense), rows * table.shape[1]
    whole = dense + table_rows
    update = FLOAT_BYTES * whole if sent.pack is None else sent.pack(whole)
    parts = {
        "down_dense": FLOAT_BYTES * dense,
        "down_rows": FLOAT_BYTES * table_rows,
        "down_besides": (sent.down - 1) * FLOAT_BYTES * whole,
        "up_update": update,
        "up_besides": (sent.up - 1) * update,
        "up_row_ids": np.zeros_like(rows) + FLOAT_BYTES * ids,
        "up_sums": np.full_like(rows, SUM_BYTES * ((6 if has_head else 3) + sent.sums)),
    }
    down, up = (
        np.sum([v for n, v in parts.items() if n.startswith(way)], axis=0) for way in ("down", "up")
    )
    num_kernel = 0 if kernel is None else len(kernel.to_dict())
    prior_bytes = FIT_ROUNDS * FLOAT_BYTES * (2 * num_kernel + 1) if num_kernel else 0
    return Traffic(down, up, model_bytes, prior_bytes, parts)


def traffic_of(task: Task) -> Traffic:
    """Return the Traffic of a task whose settings say how it is trained."""
    return count_traffic(
        protection.init_weights(task),  # they have the shapes that are sent
        own_rows(task),
        has_head=task.protection is not None,
        kernel=task.kernel,
        whole_table=sends_whole_table(task.settings),
        sent=sent_by(algorithms.from_settings(task.settings)),
    )


def sends_whole_table(settings: Settings) -> bool:
    """Whether clients receive and send also rows that they do not own."""
    return settings.privacy.is_on or registry.engine_of(settings).sends_whole_table


def sum_of_rounds(task: Task, traffic: Traffic, num_rounds: int) -> tuple[int, int]:
    """Return bytes (down, up) of all drawn clients in all rounds."""
    cohorts = [draw_cohort(task, number) for number in range(1, num_rounds + 1)]
    drawn = np.concatenate([np.zeros(0, np.int64), *cohorts])
    return int(traffic.down_bytes[drawn].sum()), int(traffic.up_bytes[drawn].sum())


def ledger(task: Task, traffic: Traffic, num_rounds: int) -> Iterator[tuple[int, str, list[int]]]:
    """Yield (round, id of a client, bytes of each of the traffic's parts) of all who were drawn."""
    ids = task.clients.client_ids
    for round_num in range(1, num_rounds + 1):
        for client in draw_cohort(task, round_num).tolist():
            yield round_num, ids[client], [int(part[client]) for part in traffic.parts.values()]


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
