"""The algorithms by name: what each needs, and how it is made from settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fedgru.algorithms import compressed
from fedgru.algorithms.agnostic_fl import AgnosticFL
from fedgru.algorithms.catalogue import BY_SETTING
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.ditto import Ditto
from fedgru.algorithms.fed_avg import FedAvg
from fedgru.algorithms.fed_nova import FedNova
from fedgru.algorithms.fed_per import FedPer
from fedgru.algorithms.ifca import Ifca
from fedgru.algorithms.mime_lite import MimeLite
from fedgru.algorithms.per_client import PerClient
from fedgru.algorithms.protocol import Algorithm
from fedgru.algorithms.q_fed_avg import QFedAvg
from fedgru.algorithms.scaffold import Scaffold
from fedgru.config.settings import Settings
from fedgru.core import plugins
from fedgru.core.errors import ConfigError

GROUP = "fedgru.algorithms"
PLAIN = "fed-avg"
LOCAL_ENGINES = ("jax", "reference")
ALL_ENGINES = ("jax", "reference", "ray", "tff")
WEIGHS_ITSELF = ("none",)  # its mean of the updates is its own


@dataclass(frozen=True)
class AlgorithmInfo:
    """An algorithm by name.

    Attributes:
        name: as the setting `algorithm` has it.
        paper: who and when, and where to find it.
        does: what it does, in a few words.
        make: function of (Settings, FedAvg or a subclass): the Algorithm, around a server half.
        settings: names of the settings that only it uses.
        needs_sgd: whether clients must use optimizer sgd.
        keeps: what a client keeps from round to round, in words; "" for nothing.
        sends: what is sent beside weights and updates, in words; "" for nothing.
        engines: names of the engines that run it.
        in_c: whether the C code can run its local steps.
        by_client: whether clients start from something of their own: then one is trained in a call.
        robust: values of the setting `robust` that go with it; None for all.
    """

    name: str
    paper: str
    does: str
    make: Callable[[Settings, FedAvg], Algorithm]
    settings: tuple[str, ...] = ()
    needs_sgd: bool = False
    keeps: str = ""
    sends: str = ""
    engines: tuple[str, ...] = LOCAL_ENGINES
    in_c: bool = True
    by_client: bool = False
    robust: tuple[str, ...] | None = None


BUILT_IN = {
    info.name: info
    for info in (
        AlgorithmInfo(
            PLAIN,
            "McMahan et al. 2017, arXiv:1602.05629",
            "mean of the updates, by examples",
            lambda settings, half: half,
            engines=ALL_ENGINES,
        ),
        AlgorithmInfo(
            "scaffold",
            "Karimireddy et al. 2020, arXiv:1910.06378",
            "control variates against client drift",
            lambda settings, half: Scaffold(half),
            needs_sgd=True,
            keeps="its control, the size of its weights",
            sends="a control each way: twice the bytes",
            by_client=True,
        ),
        AlgorithmInfo(
            "mime-lite",
            "Karimireddy et al. 2021, arXiv:2008.03606",
            "the server's momentum in each local step",
            lambda settings, half: MimeLite(half, _given(settings, "mime_momentum")),
            settings=("mime_momentum",),
            needs_sgd=True,
            sends="the momentum down, a gradient up: twice the bytes",
            by_client=True,
            # a bound on updates is none on gradients
            robust=("none", "median", "trimmed-mean", "krum", "bulyan", "geometric-median"),
        ),
        AlgorithmInfo(
            "fed-nova",
            "Wang et al. 2020, arXiv:2007.07481",
            "updates divided by their number of local steps",
            lambda settings, half: FedNova(half),
            sends="the number of local steps",
            robust=WEIGHS_ITSELF,
            engines=(*LOCAL_ENGINES, "ray"),
        ),
        AlgorithmInfo(
            "agnostic-fl",
            "Mohri et al. 2019, arXiv:1902.00146",
            "the worst mixture of clients counts (fairness)",
            lambda settings, half: AgnosticFL(half, _given(settings, "mixture_lr")),
            settings=("mixture_lr",),
            sends="the loss before training",
            robust=WEIGHS_ITSELF,
        ),
        AlgorithmInfo(
            "q-fed-avg",
            "Li et al. 2020, arXiv:1905.10497",
            "clients with a higher loss count more (fairness)",
            lambda settings, half: QFedAvg(half, _given(settings, "fairness_q")),
            settings=("fairness_q",),
            sends="the loss before training",
            robust=WEIGHS_ITSELF,
        ),
        AlgorithmInfo(
            "fed-per",
            "Arivazhagan et al. 2019, arXiv:1912.00818",
            "some weights stay on the client",
            lambda settings, half: FedPer(half, _personal_weights(settings)),
            settings=("personal_weights",),
            keeps="the personal weights",
            by_client=True,
        ),
        AlgorithmInfo(
            "ditto",
            "Li et al. 2021, arXiv:2012.04221",
            "a model for each client, held near the shared one",
            lambda settings, half: Ditto(half, _given(settings, "ditto_weight")),
            settings=("ditto_weight",),
            keeps="its model",
        ),
        AlgorithmInfo(
            "ifca",
            "Ghosh et al. 2020, arXiv:2006.04088",
            "several models, each client trains the best one",
            lambda settings, half: Ifca(half, _given(settings, "num_clusters"), settings.loop.seed),
            settings=("num_clusters",),
            keeps="the number of its cluster",
            sends="all models down",
            by_client=True,
        ),
        AlgorithmInfo(
            "compressed",
            "Alistarh et al. 2017, arXiv:1610.02132",
            "updates of fewer bytes: fewer bits, or the largest numbers",
            lambda settings, half: compressed.make(
                half, _given(settings, "compress"), settings.loop.seed
            ),
            settings=("compress",),
            keeps="with top-N%, what it has not sent",
        ),
    )
}
DEFAULTS: dict[str, Any] = {
    "mime_momentum": 0.9,
    "mixture_lr": 0.01,
    "fairness_q": 1.0,
    "personal_weights": "head_kernel,head_bias",
    "ditto_weight": 0.1,
    "num_clusters": 2,
    "compress": "8-bit",
}
# defaults of `personal_weights` with another `head`
PERSONAL_OF_HEAD = {"candidates": "candidate_output,candidate_linear,candidate_kind_bias"}


def _given(settings: Settings, name: str) -> Any:
    value = getattr(settings.algorithm, name)
    return DEFAULTS[name] if value is None else value


def _personal_weights(settings: Settings) -> list[str]:
    """Return the names of FedPer's personal weights; by default those of the last layer."""
    text = settings.algorithm.personal_weights
    if text is None:
        text = PERSONAL_OF_HEAD.get(settings.model.head, DEFAULTS["personal_weights"])
    return [name.strip() for name in text.split(",")]


def find(name: str) -> AlgorithmInfo:
    """Return the AlgorithmInfo of a name, of an entry point, or of MODULE:OBJECT.

    Raises:
        ConfigError: if there is none, with a suggestion; or if it cannot be loaded.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" in name:
        return _own(name)
    others = plugins.find(GROUP)
    if name in others:
        return plugins.load(others[name], AlgorithmInfo)
    if name in BY_SETTING:
        asked = BY_SETTING[name]
        raise ConfigError(
            f"`algorithm` is {name!r}, but another setting asks for that: `{asked.setting}`, such "
            f"as `{asked.setting}` {asked.value}."
        )
    known = [*BUILT_IN, *others]
    near = get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"`algorithm` is {name!r}. {hint}Known: {', '.join(known)}, or MODULE:CLASS of your own."
    )


def every() -> list[AlgorithmInfo]:
    """Return the built-in algorithms and those of other packages."""
    others = plugins.find(GROUP)
    return [*BUILT_IN.values(), *(plugins.load(o, AlgorithmInfo) for o in others.values())]


def _own(name: str) -> AlgorithmInfo:
    """The AlgorithmInfo of MODULE:OBJECT: one, or a function or class of (settings, half)."""
    found = plugins.import_object(name, "algorithm")
    return found if isinstance(found, AlgorithmInfo) else as_info(found, name)


def as_info(found: Any, name: str) -> AlgorithmInfo:
    """Return the AlgorithmInfo of your own class or function of (settings, half).

    Its attribute `engines` says which engines run it. Without one they are jax and reference, and
    also ray unless it is a PerClient class.

    Raises:
        ConfigError: if it is neither.
    """
    if not callable(found):
        raise ConfigError(
            f"`algorithm` {name} is of type {type(found).__name__}, expected a class or function "
            "that takes (settings, server_half), or an AlgorithmInfo."
        )
    differ = isinstance(found, type) and issubclass(found, PerClient)
    able = LOCAL_ENGINES if differ else (*LOCAL_ENGINES, "ray")
    engines = getattr(found, "engines", able)
    return AlgorithmInfo(name, "your own", "", found, engines=tuple(engines))


def make(info: AlgorithmInfo, settings: Settings, half: FedAvg) -> Algorithm:
    """Return the Algorithm of an AlgorithmInfo.

    Raises:
        ConfigError: if one's own cannot be made, or is no algorithm.
    """
    if info.name in BUILT_IN:
        return info.make(settings, half)
    try:
        algorithm = info.make(settings, half)
    except Exception as error:
        raise ConfigError(
            f"`algorithm` {info.name} cannot be made from (settings, server_half): "
            f"{plugins.where_raised(error)}."
        ) from error
    missing = [
        n for n in ("name", "client_rule", "init", "start", "apply") if not hasattr(algorithm, n)
    ]
    if missing:
        raise ConfigError(
            f"`algorithm` {info.name} gives an object of type {type(algorithm).__name__}, which is "
            f"no algorithm: it has no {', '.join(missing)}."
        )
    if not isinstance(algorithm.client_rule, ClientRule):
        raise ConfigError(
            f"`algorithm` {info.name} has a client_rule of type "
            f"{type(algorithm.client_rule).__name__}, expected a ClientRule."
        )
    engine = settings.loop.engine
    if isinstance(algorithm, PerClient) and engine not in LOCAL_ENGINES:
        raise ConfigError(_refusal(engine, info.name, LOCAL_ENGINES))
    return algorithm


def check(settings: Settings) -> None:
    """Refuse settings that do not go with the algorithm, and engines that cannot run it.

    Raises:
        ConfigError: names the setting, and what to do.
    """
    info = find(settings.algorithm.algorithm)
    for name, value in settings.algorithm:
        if name == "algorithm" or value is None or name in info.settings:
            continue
        owner = next(i.name for i in BUILT_IN.values() if name in i.settings)
        raise ConfigError(
            f"`{name}` has no effect with `algorithm` {info.name}. Use `algorithm` {owner}, or "
            "leave it out."
        )
    if info.name == PLAIN:
        return
    if info.needs_sgd and settings.client.client_optimizer != "sgd":
        raise ConfigError(
            f"`algorithm` {info.name} needs `client_optimizer` sgd: its paper has no rule for "
            f"{settings.client.client_optimizer}."
        )
    robust = settings.server.robust
    if info.robust is not None and robust not in info.robust:
        raise ConfigError(
            f"`robust` {robust} does not go with `algorithm` {info.name}. Leave one of the two out."
        )
    engine = settings.loop.engine
    if engine not in info.engines:
        raise ConfigError(_refusal(engine, info.name, info.engines))
    if settings.agnostic.agnostic_to is not None:
        raise ConfigError(
            f"`agnostic_to` does not go with `algorithm` {info.name}: its heads are averaged by "
            f"`algorithm` {PLAIN} alone."
        )
    if info.by_client and settings.loop.clients_per_call is not None:
        raise ConfigError(
            f"`clients_per_call` has no effect with `algorithm` {info.name}: each client starts "
            "from something of its own, so one is trained in a call. Leave it out."
        )


def _refusal(engine: str, name: str, engines: Sequence[str]) -> str:
    return (
        f"`engine` {engine} does not know `algorithm` {name}. Use `engine` {' or '.join(engines)}, "
        f"or `algorithm` {PLAIN}."
    )
