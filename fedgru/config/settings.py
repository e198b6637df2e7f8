"""Every setting, its default, its range and its help text."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

EMBEDDED = "embedded"

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, strict=True, allow_inf_nan=False
    )


class DataSettings(Section):
    data: str = Field(EMBEDDED, description="Data set, a folder under data/.")
    users: Count | None = Field(None, description="Keep this many, most check-ins first.")
    min_checkins: Annotated[int, Field(ge=3)] = Field(
        5, description="Leave out users with fewer check-ins."
    )


class InputSettings(Section):
    features: str = Field("big", description="Set (big, small, category) or comma-separated list.")
    target: Literal["category", "venue"] = Field("category", description="What is predicted.")
    prior: Literal["none", "markov", "backoff", "kernel"] = Field(
        "kernel",
        description="What the client's own past says: nothing, Markov counts, counts backed off "
        "over finer contexts, or past check-ins weighted by a learnt similarity.",
    )
    clock: Literal["local", "utc"] = Field("local", description="Clock of the time features.")
    vocabulary: Literal["train", "range"] = Field(
        "train", description="Known ids: those of train, or the notebook's range(n)."
    )
    scaling: Literal["standard", "none"] = Field(
        "standard", description="Latitude, longitude and gap: standardised or as they are."
    )


class LayoutSettings(Section):
    layout: Literal["streams", "chunks"] = Field(
        "streams", description="Contiguous streams, or the notebook's chunks."
    )
    batch_size: Count = Field(16, description="Streams in a local step.")
    seq_len: Count = Field(16, description="Check-ins of each stream in a local step.")


class ModelSettings(Section):
    cell: Literal["gru", "lstm"] = Field("gru", description="Recurrent cell.")
    hidden_dim: Count = Field(256, description="Units of the cell.")
    dropout: Share = Field(0.3, description="Share of inputs dropped in training.")


class ClientSettings(Section):
    client_optimizer: Literal["adam", "sgd"] = Field("adam", description="Local optimizer.")
    client_lr: Positive = Field(0.002, description="Learning rate of the local optimizer.")
    local_epochs: Count = Field(4, description="Passes over a client's data in a round.")
    prox_mu: Annotated[float, Field(ge=0)] = Field(
        0.0, description="FedProx: how strongly clients are held near the weights they received."
    )


class ServerSettings(Section):
    mean: Literal["clients", "owners"] = Field(
        "owners",
        description="Average each id's row over all clients, or over those who own it.",
    )
    server_optimizer: Literal["sgd", "momentum", "adam", "yogi"] = Field(
        "sgd", description="Optimizer of the pseudo-gradient."
    )
    server_lr: Positive = Field(1.0, description="Learning rate of the server optimizer.")
    server_momentum: Share | None = Field(
        None, description="With --server-optimizer momentum; 0.9 if not given."
    )
    robust: Literal["none", "median", "trimmed-mean", "krum"] = Field(
        "none", description="Mean for cohorts in which some clients may lie."
    )
    liar_share: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(
        None,
        description="Share of liars that trimmed-mean cuts at each end and krum assumes; 0.2 if "
        "not given.",
    )
    tff_aggregator: Literal["none", "robust", "dp", "compression"] = Field(
        "none",
        description="With --engine tff: clip and zero outliers, clip and add noise, or compress.",
    )
    tff_noise: Positive | None = Field(
        None, description="With --tff-aggregator dp: noise multiplier; 1 if not given."
    )


class AgnosticSettings(Section):
    agnostic_to: str | None = Field(
        None,
        description="Concept that the representation is not to tell: zone, weekend, client, "
        "category-group, or a column, also one that --keep kept at import.",
    )
    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9, description="Trade-off, 0 (ordinary training) to 1 (nothing but hiding the concept)."
    )
    protected_weight: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Lambda in place of alpha: the target's loss keeps its full weight, and the "
        "concept is pushed out with this one.",
    )
    alpha_schedule: Literal["constant", "linear", "ganin", "warm-up"] = Field(
        "ganin", description="How alpha rises in the first half of the rounds."
    )
    method: str = Field(
        "hsic+leace+noise",
        description="reversal (the paper's), confusion, ensemble, bottleneck, noise, hsic, leace, "
        "or several joined by +.",
    )
    protected_head: Literal["auto", "local", "server"] = Field(
        "auto",
        description="Who teaches the heads: clients, or (simulated) the server; auto takes the "
        "server for ensemble, and where each client holds one value, as of client.",
    )
    zones: Annotated[int, Field(ge=2)] = Field(12, description="Cells of the concept zone.")


class FaultSettings(Section):
    client_dropout: Share = Field(0.0, description="Chance of a client to drop out of a round.")
    min_clients: Count = Field(
        1, description="A round with fewer usable updates is skipped: the weights stay."
    )
    attack: Literal["none", "sign-flip", "noise", "label-flip"] = Field(
        "none", description="What lying clients do, to try a robust mean by."
    )
    attackers: Count | None = Field(None, description="With --attack: how many clients lie.")
    attack_scale: Positive | None = Field(
        None,
        description="With --attack sign-flip or noise: how much larger than its own update what a "
        "liar sends is; 10 if not given.",
    )


class LoopSettings(Section):
    engine: Literal["jax", "reference", "tff", "ray"] = Field(
        "jax", description="What runs the local training."
    )
    rounds: Count = Field(30, description="Rounds at most.")
    clients_per_round: Count | None = Field(None, description="Cohort size; all if not given.")
    eval_clients: Count | None = Field(
        None,
        description="Validate each round on this many clients, drawn once, the same for every "
        "seed; all if not given. Test is always on all.",
    )
    stop_metric: str = Field("val/loss/micro", description="Metric for early stopping.")
    patience: Annotated[int, Field(ge=0)] = Field(
        7, description="Rounds without improvement before stopping; 0 never stops."
    )
    min_improvement: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Smallest change that counts as improvement."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of every draw.")
    threads: Count | None = Field(
        None, description="Clients trained at the same time; one per core if not given."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="What the jax engine computes on; auto takes a GPU if JAX finds one."
    )
    local_loop: Literal["auto", "native", "xla"] = Field(
        "auto",
        description="What runs the local steps of the jax engine: C code compiled for this "
        "processor (native) or what XLA compiles (xla); auto takes the faster of the two on this "
        "machine.",
    )
    clients_per_call: Count | None = Field(
        None,
        description="With the jax engine: clients stacked in one compiled call; 1 on a CPU and "
        "all on a GPU if not given.",
    )
    name: str = Field("run", description="Ends the run folder's name.")


class RaySettings(Section):
    ray_address: str | None = Field(
        None,
        description="Join the Ray cluster at HOST:PORT (auto: the one this machine belongs to); "
        "if not given, Ray starts for the run, on this machine alone.",
    )
    ray_actors: Count | None = Field(
        None, description="Processes that train clients; as many as fit the CPUs if not given."
    )
    ray_cpus: Count = Field(1, description="CPUs of each such process, a client on each.")
    ray_gpus: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs of each such process.")
    ray_item: Count = Field(
        5, description="Clients in a work item, of which one sum of updates comes back."
    )


class Settings(Section):
    """All settings of a run, by concern. No field name occurs in two sections."""

    data: DataSettings = DataSettings()
    inputs: InputSettings = InputSettings()
    layout: LayoutSettings = LayoutSettings()
    model: ModelSettings = ModelSettings()
    client: ClientSettings = ClientSettings()
    server: ServerSettings = ServerSettings()
    agnostic: AgnosticSettings = AgnosticSettings()
    faults: FaultSettings = FaultSettings()
    loop: LoopSettings = LoopSettings()
    ray: RaySettings = RaySettings()


def fields():
    """Return {field name: (section name, pydantic FieldInfo)} for every setting."""
    return {
        name: (section, info)
        for section, section_info in Settings.model_fields.items()
        for name, info in section_info.annotation.model_fields.items()
    }


def option(name):
    """Return a setting's command-line spelling.

    >>> option("client_lr")
    '--client-lr'
    """
    return "--" + name.replace("_", "-")


def differences(settings):
    """Return {option: value} of the settings that are not the defaults."""
    return {
        option(name): getattr(getattr(settings, section), name)
        for name, (section, info) in fields().items()
        if getattr(getattr(settings, section), name) != info.default
    }


def explain(error):
    """Turn one pydantic error into: where, what was found, what would be accepted."""
    name = short(error["loc"][-1])
    found, context = error["input"], error.get("ctx", {})
    where = option(str(name))
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
        case kind if kind.startswith("int"):
            expected = "a whole number"
        case kind if kind.startswith("float"):
            expected = "a number"
        case kind if kind.startswith("string"):
            expected = "a text (in a file, put it in quotes)"
        case _:
            expected = error["msg"]
    return f"{where} is {short(found)}, expected {expected}."


def short(value):
    """A value as messages show it."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
