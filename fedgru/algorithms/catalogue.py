"""Methods that a setting of its own asks for, beside or instead of an `algorithm` by name."""

from dataclasses import dataclass, field
from typing import Any

from fedgru.algorithms import centred_clipping, geometric_median
from fedgru.algorithms.fed_buff import FedBuff
from fedgru.algorithms.fed_prox import FedProx
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.robust import (
    DEFAULT_LIAR_SHARE,
    Bulyan,
    CentredClipping,
    GeometricMedian,
    Krum,
    Median,
    NormBounding,
    TrimmedMean,
)
from fedgru.algorithms.server_optimizers import SGD, Adagrad, Adam

DEFAULT_MOMENTUM = 0.9


@dataclass(frozen=True)
class BySetting:
    """A method that a setting asks for.

    Attributes:
        name: what the field calls it.
        paper: who and when, and where to find it.
        does: what it does, in a few words.
        setting: the setting that asks for it.
        value: the setting's value that does; an example if `is_number`.
        kind: the class that does it.
        is_number: whether any number asks for it.
        settings: {setting: default} of the settings that only it uses.
    """

    name: str
    paper: str
    does: str
    setting: str
    value: Any
    kind: type
    is_number: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


REDDI = "Reddi et al. 2021, arXiv:2003.00295"
YIN = "Yin et al. 2018, arXiv:1803.01498"
LIAR_SHARE = {"liar_share": DEFAULT_LIAR_SHARE}
BY_SETTING = {
    info.name: info
    for info in (
        BySetting(
            "fed-prox",
            "Li et al. 2020, arXiv:1812.06127",
            "a penalty for leaving the received weights",
            *("prox_mu", 0.01, FedProx, True),
        ),
        BySetting(
            "fed-sub-avg",
            "Ding et al. 2022, arXiv:2109.07704",
            "each row of the table is averaged over the clients that own it; the default",
            *("mean", "owners", FedSubAvg),
        ),
        BySetting(
            "fed-avg-m",
            "Hsu et al. 2019, arXiv:1909.06335",
            "the server takes steps with momentum",
            *("server_optimizer", "momentum", SGD),
            settings={"server_momentum": DEFAULT_MOMENTUM},
        ),
        BySetting("fed-adam", REDDI, "the server uses Adam", *("server_optimizer", "adam", Adam)),
        BySetting(
            "fed-adagrad", REDDI, "the server uses Adagrad", "server_optimizer", "adagrad", Adagrad
        ),
        BySetting("fed-yogi", REDDI, "the server uses Yogi", *("server_optimizer", "yogi", Adam)),
        BySetting(
            "fed-buff",
            "Nguyen et al. 2022, arXiv:2106.06639",
            "the server applies N updates at a time, old ones weighted less",
            *("buffer_size", 10, FedBuff, True),
            settings={"concurrency": None},
        ),
        BySetting("median", YIN, "the median of each weight", *("robust", "median", Median)),
        BySetting(
            "trimmed-mean",
            YIN,
            "the mean of each weight without its highest and lowest values",
            *("robust", "trimmed-mean", TrimmedMean),
            settings=LIAR_SHARE,
        ),
        BySetting(
            "krum",
            "Blanchard et al. 2017, arXiv:1703.02757",
            "the mean of the updates that lie closest together",
            *("robust", "krum", Krum),
            settings=LIAR_SHARE,
        ),
        BySetting(
            "bulyan",
            "El Mhamdi et al. 2018, arXiv:1802.07927",
            "the values around the median, of the updates that Krum chooses",
            *("robust", "bulyan", Bulyan),
            settings=LIAR_SHARE,
        ),
        BySetting(
            "geometric-median",
            "Pillutla et al. 2022, arXiv:1912.13445",
            "the point with the smallest sum of distances to the updates (RFA)",
            *("robust", "geometric-median", GeometricMedian),
            settings={"robust_iterations": geometric_median.ITERATIONS},
        ),
        BySetting(
            "centred-clipping",
            "Karimireddy et al. 2021, arXiv:2012.10333",
            "updates are clipped around the mean of the round before",
            *("robust", "centred-clipping", CentredClipping),
            settings={"clip_norm": None, "robust_iterations": centred_clipping.ITERATIONS},
        ),
        BySetting(
            "norm-bounding",
            "Sun et al. 2019, arXiv:1911.07963",
            "updates are scaled down to a norm",
            *("robust", "norm-bounding", NormBounding),
            settings={"clip_norm": None},
        ),
    )
}
