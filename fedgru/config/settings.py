"""Every setting, its default, its range and its help text."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

EMBEDDED = "embedded"
# by the setting `asked_at`
TASK_NAMES = {False: "next check-in", True: "next check-in, its time known"}

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _count_or_all(value: Any) -> Any:
    if value == "all" or (type(value) is int and value >= 1):
        return value
    raise PydanticCustomError("count_or_all", "a whole number of at least 1, or all")


# one validator for both: pydantic reports each member of a plain union by itself
CountOrAll = Annotated[int | Literal["all"], PlainValidator(_count_or_all)]
_UNITS_S = {"min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(min|h|d)")


def _duration(text: str) -> str:
    found = _DURATION.fullmatch(text)
    if found is None or not float(found[1]):
        raise PydanticCustomError("duration", "a time with its unit: 24h, 90min or 3d")
    return text


Duration = Annotated[str, AfterValidator(_duration)]
AlphaSchedule = Literal["constant", "linear", "ganin", "warm-up"]
RobustMean = Literal[
    "none",
    "median",
    "trimmed-mean",
    "krum",
    "bulyan",
    "geometric-median",
    "centred-clipping",
    "norm-bounding",
]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, strict=True, allow_inf_nan=False
    )


class DataSettings(Section):
    data: str = Field(EMBEDDED, description="Data set, a folder under data/.")
    users: CountOrAll | None = Field(
        None, description="Use only the N most active users, or all.  [default: all]"
    )
    train_users: CountOrAll | None = Field(
        None,
        description="With --users: train on the N most active users, or on all; --users are still "
        "the only ones who are scored.  [default: as --users]",
    )
    min_checkins: Annotated[int, Field(ge=3)] = Field(
        5, description="Leave out users with fewer check-ins."
    )
    session_gap: Duration | None = Field(
        None,
        description="Cut each user's check-ins into sessions: a check-in that comes later than "
        "this after the one before begins a new session (24h, 90min, 3d). The network's state is "
        "zero before each session, whose first check-in is not predicted; the person's own counts "
        "go on.",
    )

    protocol: Literal["deepmove", "stan", "getnext"] | None = Field(
        None,
        description="Users, venues, splits and scored check-ins of a paper, so that a number can "
        "stand beside its own; with --target venue. docs/protocols.md says how far they differ.",
    )

    @property
    def num_users(self) -> int | None:
        """How many users at most, or None for all."""
        return None if self.users == "all" else self.users

    @property
    def session_gap_s(self) -> float | None:
        """The session gap in seconds, or None without sessions."""
        if self.session_gap is None:
            return None
        found = _DURATION.fullmatch(self.session_gap)
        assert found is not None, "the setting was checked"
        return float(found[1]) * _UNITS_S[found[2]]


class InputSettings(Section):
    features: str = Field(
        "big",
        description="Set (big, small, category) or comma-separated list, also with features of "
        "your own: MODULE:FUNCTION, or the name of an entry point fedgru.features.",
    )
    target: Literal["category", "venue"] = Field("category", description="What is predicted.")
    prior: Literal["none", "markov", "backoff", "kernel"] = Field(
        "kernel",
        description="Prior from the client's own history, added to the network's scores: none, "
        "Markov counts, back-off counts over contexts, or past check-ins weighted by a learnt "
        "similarity.",
    )
    clock: Literal["local", "utc"] = Field("local", description="Clock of the time features.")
    vocabulary: Literal["train", "range"] = Field(
        "train", description="Known ids: those in the training data, or the notebook's range(n)."
    )
    asked_at: bool = Field(
        False,
        description="The moment of the next check-in is known, as when a person opens an app: its "
        "clock, its weekday and the time gone by become inputs of the network and of the counts.",
    )
    scaling: Literal["standard", "none"] = Field(
        "standard",
        description="Latitude, longitude, gap and features of your own: standardised or unchanged.",
    )


class LayoutSettings(Section):
    layout: Literal["streams", "chunks"] = Field(
        "streams", description="Contiguous streams, or the notebook's chunks."
    )
    batch_size: Count = Field(16, description="Streams in a local step.")
    seq_len: Count = Field(16, description="Check-ins of each stream in a local step.")


class ModelSettings(Section):
    model: str | None = Field(
        None,
        description="Keras model of your own: MODULE:FUNCTION, or the name of an entry point "
        "fedgru.models; if not given, the recurrent network of fedgru.",
    )
    head: Literal["dense", "candidates"] = Field(
        "dense",  # `by_head` chooses another one
        description="What turns the cell's state into scores: a dense layer over all classes, or "
        "candidates: a network that scores the places a person knows by its own past.",
    )
    head_dim: Count | None = Field(
        None, description="With --head candidates: units of its hidden layer; 48 if not given."
    )
    head_dropout: Share | None = Field(
        None,
        description="With --head candidates: share of these units dropped in training; 0.3 if not "
        "given.",
    )
    cell: Literal["gru", "lstm"] = Field("gru", description="Recurrent cell.")
    hidden_dim: Count = Field(256, description="Units of the cell.")
    dropout: Share = Field(0.3, description="Share of inputs dropped in training.")


class ClientSettings(Section):
    client_optimizer: Literal["adam", "sgd"] = Field("adam", description="Local optimizer.")
    client_lr: Positive = Field(0.002, description="Learning rate of the local optimizer.")
    local_epochs: Count = Field(4, description="Passes over a client's data in a round.")
    prox_mu: Annotated[float, Field(ge=0)] = Field(
        0.0, description="FedProx: weight of the penalty for leaving the received weights."
    )


class ServerSettings(Section):
    mean: Literal["clients", "owners"] = Field(
        "owners",
        description="Average each id's row over all clients, or over the clients that own it.",
    )
    client_weights: Literal["examples", "equal"] = Field(
        "examples",
        description="What a client counts for in a mean: its number of examples, or equally much "
        "as any other.",
    )
    server_optimizer: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = Field(
        "sgd", description="Optimizer of the pseudo-gradient."
    )
    server_lr: Positive = Field(1.0, description="Learning rate of the server optimizer.")
    server_lr_schedule: Literal["constant", "linear"] = Field(
        "constant", description="Whether --server-lr falls, in a line to zero over --rounds."
    )
    server_momentum: Share | None = Field(
        None, description="With --server-optimizer momentum; 0.9 if not given."
    )
    robust: RobustMean = Field(
        "none", description="Robust mean of updates, against malicious (Byzantine) clients."
    )
    liar_share: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(
        None,
        description="Share of malicious clients that trimmed-mean cuts at each end, and krum and "
        "bulyan assume; 0.2 if not given.",
    )
    clip_norm: Positive | None = Field(
        None,
        description="With --robust norm-bounding: largest norm of an update. With "
        "centred-clipping: largest distance of an update from the last mean update.",
    )
    robust_iterations: Count | None = Field(
        None,
        description="With --robust geometric-median (3 if not given) or centred-clipping (1): "
        "number of iterations.",
    )
    tff_aggregator: Literal["none", "robust", "dp", "compression"] = Field(
        "none",
        description="With --engine tff: clip and zero outliers (robust), clip and add noise (dp), "
        "or compress (compression).",
    )
    tff_noise: Positive | None = Field(
        None, description="With --tff-aggregator dp: noise multiplier; 1 if not given."
    )


class AlgorithmSettings(Section):
    algorithm: str = Field(
        "fed-avg",
        description="What clients and server do in a round: a name that `fedgru algorithms` "
        "lists, or MODULE:CLASS of your own.",
    )
    mime_momentum: Share | None = Field(
        None, description="With --algorithm mime-lite: momentum; 0.9 if not given."
    )
    mixture_lr: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="With --algorithm agnostic-fl: step size of the mixture of clients; 0.01 if "
        "not given.",
    )
    fairness_q: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="With --algorithm q-fed-avg: how much more a high loss counts; 0 is plain "
        "averaging, 1 if not given.",
    )
    personal_weights: str | None = Field(
        None,
        description="With --algorithm fed-per: the weights that stay on the client, "
        "comma-separated; those of the head's last layer if not given.",
    )
    ditto_weight: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="With --algorithm ditto: how strongly a client's model is held near the "
        "shared one; 0.1 if not given.",
    )
    num_clusters: Count | None = Field(
        None, description="With --algorithm ifca: number of models; 2 if not given."
    )
    compress: str | None = Field(
        None,
        description="Compress updates (--algorithm compressed): 8-bit, 4-bit or 2-bit for each "
        "number, or top-5% for the largest in absolute value, any share; the rest is sent later.",
    )


class AgnosticSettings(Section):
    agnostic_to: str | None = Field(
        None,
        description="Attribute that the representation must not reveal: zone, weekend, client, "
        "category-group, or a column, also one that --keep imported.",
    )
    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9, description="Trade-off, from 0 (ordinary training) to 1 (only hide the concept)."
    )
    protected_weight: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Lambda, instead of alpha: the target's loss keeps its full weight, and the "
        "concept is hidden with this weight.",
    )
    alpha_schedule: AlphaSchedule = Field(
        "ganin", description="How alpha rises during the first half of the rounds."
    )
    method: str = Field(
        "hsic+leace+noise",
        description="How the concept is hidden: reversal (the paper's), confusion, ensemble, "
        "bottleneck, noise, hsic, leace, or several joined by +.",
    )
    protected_head: Literal["auto", "local", "server"] = Field(
        "auto",
        description="Who trains the heads: the clients, or (simulated) the server; auto takes the "
        "server for ensemble, and if each client has only one value, as with client.",
    )
    zones: Annotated[int, Field(ge=2)] = Field(12, description="Number of zones (concept zone).")


class FaultSettings(Section):
    client_dropout: Share = Field(
        0.0, description="Probability that a client drops out of a round."
    )
    min_clients: Count = Field(
        1, description="Skip a round with fewer usable updates: the weights do not change."
    )
    attack: Literal[
        "none", "sign-flip", "noise", "label-flip", "alie", "inner-product", "backdoor"
    ] = Field("none", description="What malicious clients do, to test a robust mean.")
    attackers: Count | None = Field(None, description="With --attack: number of malicious clients.")
    attack_scale: Positive | None = Field(
        None,
        description="With --attack sign-flip or noise: the sent update's size, in multiples of "
        "the true update, 10 if not given; alie: deviations from the mean, computed if not given; "
        "inner-product: epsilon, 0.5 if not given; backdoor: factor of the update, clients per "
        "liar of the round if not given.",
    )
    backdoor_trigger: str | None = Field(
        None,
        description="With --attack backdoor: the category after which the model is to predict the "
        "target; the commonest one in train if not given.",
    )
    backdoor_target: str | None = Field(
        None,
        description="With --attack backdoor: the class to be predicted there; the rarest one in "
        "train if not given.",
    )


class AvailabilitySettings(Section):
    """Simulated time; it runs if any of these settings is given."""

    availability: str = Field(
        "none",
        description="Who is on when, in simulated time: none (everybody, always), clock (each "
        "client in the hours of its day in which it checks in least), or a CSV file with the "
        "columns client, start, end (hours).",
    )
    window_h: Annotated[int, Field(ge=1, le=24)] | None = Field(
        None, description="With --availability clock: hours of a client's day; 8 if not given."
    )
    step_s: Positive | None = Field(
        None, description="Simulated seconds of a local step on the median device; 1 if not given."
    )
    bandwidth_mbps: Positive | None = Field(
        None, description="Simulated megabits per second of the median device; 5 if not given."
    )
    device_spread: Annotated[float, Field(ge=0, le=3)] | None = Field(
        None,
        description="How much simulated devices differ: standard deviation of the logarithm of "
        "speed and of bandwidth; 0.5 if not given.",
    )
    deadline_min: Positive | None = Field(
        None,
        description="Simulated minutes after which a client that has not sent its update is too "
        "late; if not given, the server waits.",
    )
    buffer_size: Count | None = Field(
        None,
        description="FedBuff: clients do not wait for each other; the server updates its weights "
        "with every N updates, old ones weighted less.",
    )
    concurrency: Count | None = Field(
        None, description="With --buffer-size: clients that train at once; all if not given."
    )
    oversample: Annotated[float, Field(ge=1, le=100)] | None = Field(
        None,
        description="Draw this many times --clients-per-round; the round ends when that many have "
        "sent an update, and the others are too late.",
    )

    @property
    def is_simulated(self) -> bool:
        """Whether the run has simulated time."""
        return self != AvailabilitySettings()


class PrivacySettings(Section):
    """User-level differential privacy; it is on with `dp_clip`."""

    dp_clip: Positive | None = Field(
        None,
        description="Differential privacy for each client: largest norm of an update, all rows of "
        "the table included. Needs --dp-noise or --dp-epsilon.",
    )
    dp_noise: Annotated[float, Field(ge=0.05)] | None = Field(
        None,
        description="With --dp-clip: standard deviation of the noise in a round's sum, in units of "
        "--dp-clip.",
    )
    dp_epsilon: Positive | None = Field(
        None, description="With --dp-clip, instead of --dp-noise: epsilon after --rounds rounds."
    )
    dp_delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="With --dp-clip: delta of the guarantee; 1e-5 if not given."
    )
    dp_sampling: Literal["poisson", "fixed"] | None = Field(
        None,
        description="With --dp-clip and --clients-per-round: draw each client by itself, so that "
        "the size of a cohort varies (poisson, if not given), or a cohort of just that size.",
    )
    dp_mechanism: Literal["gaussian", "banded"] = Field(
        "gaussian",
        description="With --dp-clip: independent noise in each round, for cohorts that are drawn; "
        "or noise correlated over rounds (banded), for cohorts that take turns.",
    )
    dp_bands: Count | None = Field(
        None,
        description="With --dp-mechanism banded: rounds over which noise is correlated; if not "
        "given, as many as there are cohorts, at most 16.",
    )
    dp_adaptive_clip: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="With --dp-clip: adapt it round by round, so that this share of the updates "
        "is shorter.",
    )
    dp_setup_noise: Annotated[float, Field(ge=0.05)] | None = Field(
        None,
        description="With --dp-clip: learn shared frequencies and kernel prior with this much "
        "noise, in units of what a client adds at most; if not given, neither is learnt.",
    )

    @property
    def is_on(self) -> bool:
        """Whether the run is differentially private."""
        return self.dp_clip is not None


class LoopSettings(Section):
    engine: Literal["jax", "reference", "tff", "ray"] = Field(
        "jax", description="What runs the local training."
    )
    rounds: Count = Field(30, description="Maximum number of rounds.")
    clients_per_round: Count | None = Field(None, description="Cohort size; all if not given.")
    eval_clients: Count | None = Field(
        None,
        description="Validate each round on this many clients, drawn once, the same for every "
        "seed; all if not given. The test always uses all clients.",
    )
    stop_metric: str = Field("val/loss/micro", description="Metric for early stopping.")
    patience: Annotated[int, Field(ge=0)] = Field(
        7, description="Rounds without improvement before stopping; 0 never stops."
    )
    min_improvement: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Smallest change that counts as improvement."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Seed of all random numbers."
    )
    threads: Count | None = Field(
        None, description="Number of clients trained in parallel; one per core if not given."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Device of the jax engine; auto takes a GPU if JAX finds one."
    )
    local_loop: Literal["auto", "native", "xla"] = Field(
        "auto",
        description="What runs the local steps of the jax engine: C code compiled for this "
        "processor (native), or XLA (xla); auto takes the faster one on this machine.",
    )
    clients_per_call: Count | None = Field(
        None,
        description="With the jax engine: number of clients stacked in one compiled call; if not "
        "given, 1 on a CPU and all on a GPU.",
    )
    name: str = Field("run", description="Last part of the run folder's name.")


class RaySettings(Section):
    ray_address: str | None = Field(
        None,
        description="Join the Ray cluster at HOST:PORT (auto: the cluster of this machine); if not "
        "given, start Ray for this run, only on this machine.",
    )
    ray_actors: Count | None = Field(
        None,
        description="Number of processes that train clients; as many as fit the CPUs if not given.",
    )
    ray_cpus: Count = Field(
        1, description="CPUs of each such process; it trains one client per CPU."
    )
    ray_gpus: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs of each such process.")
    ray_item: Count = Field(
        5, description="Clients in a work item; the process returns one sum of their updates."
    )


class Settings(Section):
    """All settings of a run, by section. No field name occurs in two sections."""

    data: DataSettings = DataSettings()
    inputs: InputSettings = InputSettings()
    layout: LayoutSettings = LayoutSettings()
    model: ModelSettings = ModelSettings()
    client: ClientSettings = ClientSettings()
    server: ServerSettings = ServerSettings()
    algorithm: AlgorithmSettings = AlgorithmSettings()
    agnostic: AgnosticSettings = AgnosticSettings()
    faults: FaultSettings = FaultSettings()
    availability: AvailabilitySettings = AvailabilitySettings()
    privacy: PrivacySettings = PrivacySettings()
    loop: LoopSettings = LoopSettings()
    ray: RaySettings = RaySettings()

    @property
    def task_name(self) -> str:
        """What is predicted of each person; results of different ones are never compared."""
        name, gap_s = TASK_NAMES[self.inputs.asked_at], self.data.session_gap_s
        if self.data.protocol is not None:
            return f"{name}, protocol {self.data.protocol}"
        return name if gap_s is None else f"{name}, within sessions (gap {gap_s / 3600:g} h)"


def fields() -> dict[str, tuple[str, FieldInfo]]:
    """Return {field name: (section name, pydantic FieldInfo)} for every setting."""
    return {
        name: (section, info)
        for section, section_info in Settings.model_fields.items()
        for name, info in cast(type[Section], section_info.annotation).model_fields.items()
    }


def option(name: str) -> str:
    """Return a setting's command-line spelling.

    >>> option("client_lr")
    '--client-lr'
    """
    return "--" + name.replace("_", "-")


def explain(error: Mapping[str, Any]) -> str:
    """Return the message of one pydantic error: where, what was found, what is accepted."""
    name = short(error["loc"][-1])
    found, context = error["input"], error.get("ctx", {})
    where = f"`{name}`"
    match error["type"]:
        case "extra_forbidden" if len(error["loc"]) == 1:
            sections = ", ".join(Settings.model_fields)
            return f"unknown section [{name}] in the config file. Accepted: {sections}."
        case "extra_forbidden":
            section = error["loc"][0]
            known = ", ".join(k for k, (s, _) in fields().items() if s == section)
            return f"unknown key {name!r} in section [{section}]. Accepted: {known}."
        case "literal_error":
            expected = context["expected"].replace("'", "")
        case "greater_than":
            expected = f"a number above {context['gt']:g}"
        case "greater_than_equal":
            expected = f"at least {context['ge']:g}"
        case "less_than_equal":
            expected = f"at most {context['le']:g}"
        case "less_than":
            expected = f"a number below {context['lt']:g}"
        case "finite_number":
            expected = "a finite number"
        case kind if kind.startswith("bool"):
            expected = "true or false"
        case kind if kind.startswith("int"):
            expected = "a whole number"
        case kind if kind.startswith("float"):
            expected = "a number"
        case kind if kind.startswith("string"):
            expected = "a text (in a file, put it in quotes)"
        case _:
            expected = error["msg"]
    return f"{where} is {short(found)}, expected {expected}."


def short(value: object) -> str:
    """Return a value as text for a message, of 80 characters at most."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
