"""What is done with the clients' updates; one file per paper."""

from fedgru.algorithms.fed_avg import FedAvg
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.robust import DEFAULT_LIAR_SHARE, Krum, Median, TrimmedMean
from fedgru.algorithms.server_optimizers import SGD, Adam

DEFAULT_MOMENTUM = 0.9
YOGI_EPSILON = 1e-3  # Reddi et al. 2021, section 4


def from_settings(server):
    """Return the algorithm that ServerSettings describe."""
    lr = server.server_lr
    match server.server_optimizer:
        case "sgd":
            optimizer = SGD(lr)
        case "momentum":
            momentum = server.server_momentum
            optimizer = SGD(lr, DEFAULT_MOMENTUM if momentum is None else momentum)
        case "adam":
            optimizer = Adam(lr)
        case "yogi":
            optimizer = Adam(lr, yogi=True, epsilon=YOGI_EPSILON)
    share = DEFAULT_LIAR_SHARE if server.liar_share is None else server.liar_share
    match server.robust:
        case "median":
            return Median(optimizer)
        case "trimmed-mean":
            return TrimmedMean(optimizer, share)
        case "krum":
            return Krum(optimizer, share, owners=server.mean == "owners")
    return (FedSubAvg if server.mean == "owners" else FedAvg)(optimizer)
