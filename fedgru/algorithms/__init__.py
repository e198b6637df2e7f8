"""What clients do in a round, and what the server does with their updates. One file per paper."""

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.fed_avg import FedAvg
from fedgru.algorithms.fed_prox import FedProx
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.protocol import Algorithm
from fedgru.algorithms.robust import DEFAULT_LIAR_SHARE, Krum, Median, TrimmedMean
from fedgru.algorithms.server_optimizers import SGD, Adam, ServerOptimizer
from fedgru.config.settings import ServerSettings, Settings

DEFAULT_MOMENTUM = 0.9
YOGI_EPSILON = 1e-3  # Reddi et al. 2021, section 4


def from_settings(settings: Settings) -> Algorithm:
    """Return the algorithm of these Settings, with its client half and its server half."""
    half = _server_half(settings.server, ClientRule.of(settings.client))
    mu = settings.client.prox_mu
    return FedProx(half, mu) if mu else half


def _server_half(server: ServerSettings, rule: ClientRule) -> FedAvg:
    lr = server.server_lr
    optimizer: ServerOptimizer
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
            return Median(optimizer, rule)
        case "trimmed-mean":
            return TrimmedMean(optimizer, share, rule)
        case "krum":
            return Krum(optimizer, share, rule, owners=server.mean == "owners")
    return (FedSubAvg if server.mean == "owners" else FedAvg)(optimizer, rule)
