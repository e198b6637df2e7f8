"""What clients do in a round, and what the server does with their updates. One file per paper."""

from dataclasses import replace

from fedgru.algorithms import registry, robust
from fedgru.algorithms.catalogue import DEFAULT_MOMENTUM
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.client_start import ClientStart
from fedgru.algorithms.dp_fed_avg import DPFedAvg
from fedgru.algorithms.fed_avg import FedAvg
from fedgru.algorithms.fed_prox import FedProx
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.per_client import PerClient, PersonalModel, Tools, Visit
from fedgru.algorithms.protocol import Algorithm
from fedgru.algorithms.registry import AlgorithmInfo
from fedgru.algorithms.robust import (
    Bulyan,
    CentredClipping,
    GeometricMedian,
    Krum,
    Median,
    NormBounding,
    TrimmedMean,
)
from fedgru.algorithms.server_optimizers import SGD, Adagrad, Adam, Falling, ServerOptimizer
from fedgru.config.settings import Settings

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "Algorithm",
    "AlgorithmInfo",
    "Bulyan",
    "CentredClipping",
    "ClientRule",
    "ClientStart",
    "DPFedAvg",
    "FedAvg",
    "FedProx",
    "FedSubAvg",
    "GeometricMedian",
    "Krum",
    "Median",
    "NormBounding",
    "PerClient",
    "PersonalModel",
    "ServerOptimizer",
    "Tools",
    "TrimmedMean",
    "Visit",
    "from_settings",
    "server_half",
]

TAU = 1e-3  # the epsilon of Reddi et al. 2021, section 4


def from_settings(settings: Settings) -> Algorithm:
    """Return the algorithm of these Settings, with its client half and its server half.

    Raises:
        ConfigError: if `algorithm` names none, or it cannot be made.
    """
    name, mu = settings.algorithm.algorithm, settings.client.prox_mu
    half = server_half(settings)
    if name == registry.PLAIN:
        return FedProx(half, mu) if mu else half
    half.client_rule = replace(half.client_rule, prox_mu=mu)
    return registry.make(registry.find(name), settings, half)


def server_half(settings: Settings) -> FedAvg:
    """Return the mean and the server optimizer of Settings, with the client rule of averaging."""
    server, rule = settings.server, ClientRule.of(settings.client)
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
            optimizer = Adam(lr, yogi=True, epsilon=TAU)
        case "adagrad":
            optimizer = Adagrad(lr, epsilon=TAU)
    if server.server_lr_schedule == "linear":
        optimizer = Falling(optimizer, settings.loop.rounds)
    if settings.privacy.is_on:
        return DPFedAvg(optimizer, rule)
    if server.robust != "none":
        return robust.make(server, optimizer, rule)
    return (FedSubAvg if server.mean == "owners" else FedAvg)(optimizer, rule)
