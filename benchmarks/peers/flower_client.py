"""What runs in Flower's client processes; a module of its own, so that Ray's workers import it."""

import functools

import common
import torch
import torch_gru
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp


@functools.cache
def kept(argv):
    """The work and a model, once in each of Ray's processes."""
    torch.set_num_threads(1)  # Ray runs one client on each core
    args = common.arguments("").parse_args(argv)
    work = common.load(args)
    return work, torch_gru.Gru(work.settings)


def client_app(argv):
    app = ClientApp()

    def start(message, context):
        work, model = kept(argv)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        return work, model, work.clients[context.node_config["partition-id"]]

    @app.train()
    def train(message, context):
        work, model, client = start(message, context)
        total = torch_gru.train_client(model, client, work.settings)
        count = client.targets.size
        metrics = MetricRecord({"loss": total / count, "num-examples": count})
        arrays = ArrayRecord(model.state_dict())
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        work, model, client = start(message, context)
        total, count = torch_gru.score_client(model, client, work.settings)
        metrics = MetricRecord({"loss": total / count, "num-examples": int(count)})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app
