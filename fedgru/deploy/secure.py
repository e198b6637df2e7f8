"""Secure aggregation by Flower's SecAgg+: the server learns only sums of updates.

Each client adds masks to its update, which cancel in the sum. Clients hold shares of each other's
keys, so that the masks of a lost client can be removed.

Source: Bonawitz et al. 2017 (doi:10.1145/3133956.3133982) with the sparse graph of Bell et al. 2020
    (SecAgg+), as implemented by Flower for its older client API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgru.algorithms.fed_avg import ClientUpdate, UpdateSum
from fedgru.core.errors import TrainingError
from fedgru.core.types import Doubles, Weights

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict

    from fedgru.deploy.privacy import Privacy

CLIPPING_RANGE = 3.0  # smallest limit of a coordinate; an update above the limit is not sent
QUANTIZATION_RANGE = 1 << 22  # steps over the limits, both signs: 1.4e-6 each
NOISE_SIGMAS = 8.0  # in practice no draw exceeds this
MODULUS_RANGE = 1 << 32
MIN_CLIENTS = 2  # the sum of one client would be its update
THRESHOLD = 0.5  # this share of the clients, and at least two, must stay until the end


def clipping_range(privacy: Privacy, num_clients: int) -> float:
    """Return the limit of the coordinates that a client sends.

    Args:
        privacy: Privacy.
        num_clients: how many add their share of the noise.
    """
    clip, noise = privacy.clip or 0.0, privacy.noise or 0.0
    return max(CLIPPING_RANGE, clip * (1.0 + NOISE_SIGMAS * noise / np.sqrt(num_clients)))


def configs_key() -> str:
    """The name of the protocol's record in Flower's messages."""
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS

    return RECORD_KEY_CONFIGS


def is_part(message: Message) -> bool:
    """Whether a message belongs to the protocol."""
    return configs_key() in message.content.config_records


def reply(
    message: Message, context: Context, train: Callable[[], tuple[ClientUpdate, int]]
) -> Message:
    """Do one step of the protocol for a client and return the reply, a Message.

    Args:
        message: Message, for which `is_part`.
        context: Flower's Context, which keeps the client's secrets between the steps.
        train: called without arguments when the update is asked for; returns (ClientUpdate,
            rows of the whole table).

    Raises:
        TrainingError: for an update with a coordinate above the limit.
    """
    from flwr.app import Message
    from flwr.client.mod import secaggplus_mod
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_STATE, Key
    from flwr.compat.common import recorddict_compat
    from flwr.compat.common.parameter import ndarrays_to_parameters
    from flwr.compat.common.typing import Code, FitRes, Status

    def train_then(message: Message, context: Context) -> Message:
        update, num_rows = train()
        vector = to_vector(update, num_rows)
        limit = context.state.config_records[RECORD_KEY_STATE][Key.CLIPPING_RANGE]
        if np.abs(vector).max() > limit:
            raise TrainingError(f"the update is kept here: a coordinate is beyond {limit:g}.")
        # more than the server lets a client count would overflow the sum
        most = int(context.state.config_records[RECORD_KEY_STATE][Key.MAX_WEIGHT])
        result = FitRes(
            Status(Code.OK, ""),
            ndarrays_to_parameters([vector]),
            min(update.num_examples, most),
            {},
        )
        content = recorddict_compat.fitres_to_recorddict(result, keep_input=True)
        return Message(content, reply_to=message)

    return secaggplus_mod(message, context, train_then)


def to_vector(update: ClientUpdate, num_rows: int) -> Doubles:
    """Return float64 [n]: an update, which rows it has, its mean loss and its accuracy.

    The protocol weighs it by the client's examples.
    """
    rows = np.zeros((num_rows, update.row_update.shape[1]))
    rows[update.row_ids] = update.row_update
    owned = np.zeros(num_rows)
    owned[update.row_ids] = 1.0
    sums = np.array([update.loss_sum, update.num_correct]) / update.num_examples
    # a mean loss can exceed the clipping range, but not in hundreds of nats
    sums[0] /= 100.0
    dense = [update.dense[name].ravel() for name in sorted(update.dense)]
    return np.concatenate([*dense, rows.ravel(), owned, sums]).astype(np.float64)


def from_mean(
    mean: Doubles, num_examples: int, num_clients: int, weights: Weights
) -> tuple[UpdateSum, float, float]:
    """Return (UpdateSum, loss_sum, num_correct) from the weighted mean of the clients' vectors.

    Args:
        mean: float64 [n].
        num_examples: int, of all clients in it.
        num_clients: int.
        weights: name -> float32 array, as sent to the clients.
    """
    total, begin = UpdateSum(weights), 0

    def take(shape: tuple[int, ...]) -> Doubles:
        nonlocal begin
        size = int(np.prod(shape))
        part = mean[begin : begin + size].reshape(shape) * num_examples
        begin += size
        return part

    for name in sorted(total.dense):
        total.dense[name] = np.asarray(take(total.dense[name].shape), np.float32)
    total.rows = take(total.rows.shape).astype(np.float32)
    total.row_examples = np.rint(take(total.row_examples.shape)).astype(np.int64)
    total.rows[total.row_examples == 0] = 0  # remove rounding errors
    total.num_examples, total.num_clients = num_examples, num_clients
    loss_sum, num_correct = take((2,))
    return total, float(loss_sum) * 100.0, float(num_correct)


def aggregate(
    exchange: Callable[[list[Message]], list[Message]],
    contents: dict[int, RecordDict],
    max_examples: int,
    limit: float,
    round_num: int,
) -> tuple[Doubles, dict[int, int]] | None:
    """Run the protocol and return what the server learns in a round.

    Args:
        exchange: called with a list of Message; returns the replies without error.
        contents: node id -> RecordDict with the Ask and the weights.
        max_examples: the largest weight of a client, in examples.
        limit: from `clipping_range`.
        round_num: int.

    Returns:
        (mean, {node id: examples}): float64 [n], weighted by examples, and the clients in it; None
        if too few clients stayed until the end.
    """
    from flwr.app import ConfigRecord, Context, RecordDict
    from flwr.compat.common import recorddict_compat
    from flwr.compat.common.parameter import parameters_to_ndarrays
    from flwr.compat.common.typing import FitIns, Parameters
    from flwr.server.compat.legacy_context import LegacyContext
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
    from flwr.server.workflow.constant import Key as WorkflowKey

    class Workflow(SecAggPlusWorkflow):
        def collect_masked_vectors_stage(self, grid: Any, context: Any, state: Any) -> bool:
            state.nid_to_fitins = {node: contents[node] for node in state.nid_to_fitins}
            return super().collect_masked_vectors_stage(grid, context, state)

    nothing = Parameters([], "")
    strategy = _Strategy(contents, FitIns(nothing, {}))
    context = LegacyContext(Context(0, 0, {}, RecordDict(), {}, 0), strategy=strategy)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord(
        {WorkflowKey.CURRENT_ROUND: round_num}
    )
    context.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(
        nothing, keep_input=True
    )
    workflow = Workflow(
        1.0,
        THRESHOLD,
        max_weight=float(max_examples),
        clipping_range=float(limit),
        quantization_range=QUANTIZATION_RANGE,
        modulus_range=MODULUS_RANGE,
    )
    workflow(_Asking(exchange), context)
    if strategy.mean is None:
        return None
    (mean,) = parameters_to_ndarrays(strategy.mean)
    return mean, strategy.examples


class _Asking:
    """The part of Flower's Grid that the protocol needs."""

    def __init__(self, exchange: Callable[[list[Message]], list[Message]]) -> None:
        self._exchange = exchange

    def send_and_receive(
        self, messages: Iterable[Message], timeout: float | None = None
    ) -> list[Message]:
        return self._exchange(list(messages))


class _Strategy:
    """The clients of the protocol, and its result."""

    def __init__(self, nodes: Iterable[int], instructions: Any) -> None:
        self._nodes, self._instructions = nodes, instructions
        self.mean: Any = None
        self.examples: dict[int, int] = {}

    def configure_fit(self, *_: object) -> list[tuple[_Proxy, Any]]:
        return [(_Proxy(node), self._instructions) for node in self._nodes]

    def aggregate_fit(
        self, _: object, results: list[tuple[Any, Any]], __: object
    ) -> tuple[None, dict[str, Any]]:
        if results:
            self.mean = results[0][1].parameters
            self.examples = {proxy.node_id: result.num_examples for proxy, result in results}
        return None, {}


class _Proxy:
    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
