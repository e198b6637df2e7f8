"""Secure aggregation by Flower's SecAgg+: of the updates the server learns no more than sums.

Each client adds masks to its update that cancel in the sum of all. The shares of their keys that
clients hold for each other undo the masks of one that is lost on the way.

Source: Bonawitz et al. 2017 (doi:10.1145/3133956.3133982) with the sparse graph of Bell et al. 2020
    (SecAgg+), as Flower has it for its older client API.
"""

import numpy as np

from fedgru.algorithms.fed_avg import UpdateSum
from fedgru.core.errors import TrainingError

CLIPPING_RANGE = 3.0  # of any coordinate at least; an update that has more stays with its client
QUANTIZATION_RANGE = 1 << 22  # steps in it, to both sides: 1.4e-6 each
NOISE_SIGMAS = 8.0  # no draw is ever farther out
MODULUS_RANGE = 1 << 32
MIN_CLIENTS = 2  # of one client the sum would be its update
THRESHOLD = 0.5  # this share of the clients must stay until the end, and at least two


def clipping_range(privacy, num_clients):
    """Return how large a coordinate of what a client sends may be.

    Args:
        privacy: Privacy.
        num_clients: how many add their share of the noise.
    """
    clip, noise = privacy.clip or 0.0, privacy.noise or 0.0
    return max(CLIPPING_RANGE, clip * (1.0 + NOISE_SIGMAS * noise / np.sqrt(num_clients)))


def configs_key():
    """The name of the record that Flower's protocol puts into its messages."""
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS

    return RECORD_KEY_CONFIGS


def is_part(message):
    """Whether a message is one of the protocol."""
    return configs_key() in message.content.config_records


def reply(message, context, train):
    """Do a client's step of the protocol and return the reply, a Message.

    Args:
        message: Message, for which `is_part`.
        context: Flower's Context, which keeps the client's secrets between the steps.
        train: called without arguments when the update is asked for; returns (ClientUpdate,
            rows of the whole table).

    Raises:
        TrainingError: for an update that does not fit the protocol's numbers.
    """
    from flwr.app import Message
    from flwr.client.mod import secaggplus_mod
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_STATE, Key
    from flwr.compat.common import recorddict_compat
    from flwr.compat.common.parameter import ndarrays_to_parameters
    from flwr.compat.common.typing import Code, FitRes, Status

    def train_then(message, context):
        update, num_rows = train()
        vector = to_vector(update, num_rows)
        limit = context.state.config_records[RECORD_KEY_STATE][Key.CLIPPING_RANGE]
        if np.abs(vector).max() > limit:
            raise TrainingError(f"the update is kept here: a coordinate is beyond {limit:g}.")
        result = FitRes(
            Status(Code.OK, ""),
            ndarrays_to_parameters([vector]),
            update.num_examples,
            {},
        )
        content = recorddict_compat.fitres_to_recorddict(result, keep_input=True)
        return Message(content, reply_to=message)

    return secaggplus_mod(message, context, train_then)


def to_vector(update, num_rows):
    """Return float64 [n]: an update, which rows it has, its mean loss and its accuracy.

    The protocol weighs it by the client's examples.
    """
    rows = np.zeros((num_rows, update.row_update.shape[1]))
    rows[update.row_ids] = update.row_update
    owned = np.zeros(num_rows)
    owned[update.row_ids] = 1.0
    sums = np.array([update.loss_sum, update.num_correct]) / update.num_examples
    # a mean loss may lie beyond the clipping range: in hundreds of nats it does not
    sums[0] /= 100.0
    dense = [update.dense[name].ravel() for name in sorted(update.dense)]
    return np.concatenate([*dense, rows.ravel(), owned, sums]).astype(np.float64)


def from_mean(mean, num_examples, num_clients, weights):
    """Return (UpdateSum, loss_sum, num_correct) from the weighted mean of the clients' vectors.

    Args:
        mean: float64 [n].
        num_examples: int, of all clients in it.
        num_clients: int.
        weights: name -> float32 array, what the clients received.
    """
    total, begin = UpdateSum(weights), 0

    def take(shape):
        nonlocal begin
        size = int(np.prod(shape))
        part = mean[begin : begin + size].reshape(shape) * num_examples
        begin += size
        return part

    for name in sorted(total.dense):
        total.dense[name] = np.asarray(take(total.dense[name].shape), np.float32)
    total.rows = take(total.rows.shape).astype(np.float32)
    total.row_examples = np.rint(take(total.row_examples.shape)).astype(np.int64)
    total.rows[total.row_examples == 0] = 0  # what is left of the rounding
    total.num_examples, total.num_clients = num_examples, num_clients
    loss_sum, num_correct = take((2,))
    return total, float(loss_sum) * 100.0, float(num_correct)


def aggregate(exchange, contents, max_examples, limit, round_num):
    """Run the protocol and return what the server learns of a round.

    Args:
        exchange: called with a list of Message, returns those that were answered without error.
        contents: node id -> RecordDict of what to train on.
        max_examples: the most examples that one of the clients may count for.
        limit: from `clipping_range`.
        round_num: int.

    Returns:
        (mean, {node id: examples}): float64 [n], weighted by examples, and whose updates are in it;
        None if too few clients stayed until the end.
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
        def collect_masked_vectors_stage(self, grid, context, state):
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
    """As much of Flower's Grid as the protocol asks for."""

    def __init__(self, exchange):
        self._exchange = exchange

    def send_and_receive(self, messages, timeout=None):
        return self._exchange(list(messages))


class _Strategy:
    """Who takes part, and where the protocol leaves the mean."""

    def __init__(self, nodes, instructions):
        self._nodes, self._instructions = nodes, instructions
        self.mean, self.examples = None, {}

    def configure_fit(self, *_):
        return [(_Proxy(node), self._instructions) for node in self._nodes]

    def aggregate_fit(self, _, results, __):
        if results:
            self.mean = results[0][1].parameters
            self.examples = {proxy.node_id: result.num_examples for proxy, result in results}
        return None, {}


class _Proxy:
    def __init__(self, node_id):
        self.node_id = node_id
