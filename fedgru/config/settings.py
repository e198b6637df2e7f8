"""Every setting, its default, its range and its help text; loading, checking and writing them."""

import io
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedgru.config.feature_names import ID_FEATURES, TIME_FEATURES, parse_features
from fedgru.core.errors import ConfigError

EMBEDDED = "embedded"
PRESETS = Path(__file__).parent / "presets"
MAX_CONFIG_BYTES = 1 << 20  # the longest in use are a few KiB

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, strict=True, allow_inf_nan=False
    )


class DataSettings(_Section):
    data: str = Field(EMBEDDED, description="Data set, a folder under data/.")
    users: Count | None = Field(None, description="Keep this many, most check-ins first.")
    min_checkins: Annotated[int, Field(ge=3)] = Field(
        5, description="Leave out users with fewer check-ins."
    )


class InputSettings(_Section):
    features: str = Field("big", description="Set (big, small, category) or comma-separated list.")
    target: Literal["category", "venue"] = Field("category", description="What is predicted.")
    prior: Literal["none", "markov", "backoff", "kernel"] = Field(
        "kernel",
        description="What the client's own past says: nothing, Markov counts, counts backed off "
        "over finer contexts, or past check-ins weighted by a learnt likeness.",
    )
    clock: Literal["local", "utc"] = Field("local", description="Clock of the time features.")
    vocabulary: Literal["train", "range"] = Field(
        "train", description="Known ids: those of train, or the notebook's range(n)."
    )
    scaling: Literal["standard", "none"] = Field(
        "standard", description="Latitude, longitude and gap: standardised or as they are."
    )


class LayoutSettings(_Section):
    layout: Literal["streams", "chunks"] = Field(
        "streams", description="Contiguous streams, or the notebook's chunks."
    )
    batch_size: Count = Field(16, description="Streams in a local step.")
    seq_len: Count = Field(16, description="Check-ins of each stream in a local step.")


class ModelSettings(_Section):
    cell: Literal["gru", "lstm"] = Field("gru", description="Recurrent cell.")
    hidden_dim: Count = Field(256, description="Units of the cell.")
    dropout: Share = Field(0.3, description="Share of inputs dropped in training.")


class ClientSettings(_Section):
    client_optimizer: Literal["adam", "sgd"] = Field("adam", description="Local optimizer.")
    client_lr: Positive = Field(0.002, description="Learning rate of the local optimizer.")
    local_epochs: Count = Field(4, description="Passes over a client's data in a round.")


class ServerSettings(_Section):
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


class AgnosticSettings(_Section):
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


class FaultSettings(_Section):
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


class LoopSettings(_Section):
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


class RaySettings(_Section):
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


class Settings(_Section):
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


def load(overrides=None, config_file=None, preset=None):
    """Return the Settings alone; see `resolve`."""
    settings, _ = resolve(overrides, config_file, preset)
    return settings


def resolve(overrides=None, config_file=None, preset=None):
    """Resolve the settings: defaults < preset < config file < overrides.

    Args:
        overrides: {field name: value}, as given on the command line.
        config_file: path of a TOML file with the sections of `Settings`, or of a YAML file if it
            ends in .yaml or .yml.
        preset: name of a file in fedgru/config/presets.

    Returns:
        (Settings, origins): origins is {field name: "default", "preset NAME", "file PATH" or
        "command line"}, for every setting.

    Raises:
        ConfigError: for a file that cannot be read, an unknown section or key, a value of the
            wrong kind or out of range, or a setting that has no effect beside the others.
    """
    merged, origins = {}, dict.fromkeys(fields(), "default")

    def merge(sections, origin):
        _merge(merged, sections)
        origins.update((name, origin) for values in sections.values() for name in values)

    if preset is not None:
        merge(read_toml(PRESETS / f"{preset}.toml"), f"preset {preset}")
    if config_file is not None:
        merge(read_config_file(config_file), f"file {config_file}")
    for name, value in (overrides or {}).items():
        merge({fields()[name][0]: {name: value}}, "command line")
    return build(merged), origins


def build(nested):
    """Return the Settings of a dict of sections; see `load` for the errors."""
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(one) for one in error.errors())) from None
    _check_together(settings)
    return settings


def read_config_file(path):
    """Return the dict in a TOML file, or in a YAML file if its name says that it is one."""
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        from fedgru.config.yaml_files import read_yaml

        return read_yaml(path)
    return read_toml(path)


def read_toml(path):
    """Return the dict in a TOML file, or raise a ConfigError that says why not."""
    try:
        return tomllib.loads(read_config_text(path))
    except RecursionError:
        raise ConfigError(f"{path} is not a TOML file: it is nested too deep.") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path} is not a TOML file: {error}.") from None


def read_config_text(path):
    """Return the text of a config file; of one without end (a device) no more than the limit.

    Raises:
        ConfigError: if it cannot be read, holds more than MAX_CONFIG_BYTES, or is not UTF-8.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise ConfigError(
                f"{path} holds more than {MAX_CONFIG_BYTES >> 10:,} KiB: that is no config file."
            )
        return io.TextIOWrapper(io.BytesIO(content), "utf-8").read()  # any line ends
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: {error}.") from None
    except ValueError as error:  # a name with a zero byte
        raise ConfigError(f"cannot read {str(path)!r}: {error}.") from None


def dump(settings):
    """Return the settings as TOML text that `load` reads back to the same Settings."""
    import tomli_w

    return tomli_w.dumps(settings.model_dump(exclude_none=True))


def differences(settings):
    """Return {option: value} of the settings that are not the defaults."""
    return {
        option(name): getattr(getattr(settings, section), name)
        for name, (section, info) in fields().items()
        if getattr(getattr(settings, section), name) != info.default
    }


def preset_names():
    """Return the names that --preset accepts."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _merge(into, sections):
    for section, values in sections.items():
        if not isinstance(values, dict):
            raise ConfigError(
                f"{_short(section)} is {_short(repr(values))} in the config file, expected a "
                f"section [{_short(section)}]."
            )
        into.setdefault(section, {}).update(values)


def _explain(error):
    """Turn one pydantic error into: where, what was found, what would be accepted."""
    name = _short(error["loc"][-1])
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
    return f"{where} is {_short(found)}, expected {expected}."


def _short(value):
    """A value as messages show it."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_together(settings):
    """Refuse settings, other than the defaults, that have no effect beside the others."""
    features = settings.inputs.features
    names = set(parse_features(features))
    for name, needed in (
        ("clock", TIME_FEATURES),
        ("scaling", ("latitude", "longitude", "gap")),
        ("vocabulary", ID_FEATURES),
    ):
        if getattr(settings.inputs, name) != _default("inputs", name) and not names & set(needed):
            raise ConfigError(
                f"{option(name)} has no effect: --features {features} holds none of "
                f"{', '.join(needed)}."
            )
    server, loop = settings.server, settings.loop
    if server.server_momentum is not None and server.server_optimizer != "momentum":
        raise ConfigError(
            f"--server-momentum has no effect with --server-optimizer {server.server_optimizer}. "
            "Use --server-optimizer momentum, or leave it out."
        )
    if server.tff_aggregator != "none" and loop.engine != "tff":
        raise ConfigError(
            f"--tff-aggregator has no effect with --engine {loop.engine}. Use --engine tff, or "
            "leave it out."
        )
    if server.tff_noise is not None and server.tff_aggregator != "dp":
        raise ConfigError(
            f"--tff-noise has no effect with --tff-aggregator {server.tff_aggregator}. Use "
            "--tff-aggregator dp, or leave it out."
        )
    if loop.engine != "ray":
        for name in RaySettings.model_fields:
            if getattr(settings.ray, name) != _default("ray", name):
                raise ConfigError(
                    f"{option(name)} has no effect with --engine {loop.engine}. Use --engine ray, "
                    "or leave it out."
                )
    address = settings.ray.ray_address
    if address not in (None, "auto") and not re.fullmatch(r"[^\s:/]+:\d{1,5}", address):
        raise ConfigError(
            f"--ray-address is {_short(address)}, expected HOST:PORT, such as 10.0.0.1:6379, or "
            "auto."
        )
    _check_faults(settings)
    _check_agnostic(settings.agnostic, loop)
    if loop.min_improvement > 0 and loop.patience == 0:
        raise ConfigError("--min-improvement has no effect with --patience 0 (never stop early).")
    if (
        loop.threads is not None
        and loop.engine == "reference"
        and settings.inputs.prior != "kernel"
    ):
        raise ConfigError("--threads has no effect with --engine reference: one after the other.")
    heeded_by = {"device": ("jax",), "local_loop": ("jax", "ray"), "clients_per_call": ("jax",)}
    for name, engines in heeded_by.items():
        if loop.engine not in engines and getattr(loop, name) != _default("loop", name):
            raise ConfigError(
                f"{option(name)} has no effect with --engine {loop.engine}. Use --engine jax, or "
                "leave it out."
            )
    if not loop.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigError(
            f"--name is {loop.name!r}, expected letters, digits, dots, dashes and underscores."
        )


def _check_faults(settings):
    server, faults = settings.server, settings.faults
    if settings.loop.engine == "tff":
        for section, name in (
            ("server", "robust"),
            *(("faults", name) for name in FaultSettings.model_fields),
        ):
            if getattr(getattr(settings, section), name) != _default(section, name):
                raise ConfigError(
                    f"--engine tff does not know {option(name)}: it gives sums alone. Use --engine "
                    "jax."
                )
    if server.liar_share is not None and server.robust not in ("trimmed-mean", "krum"):
        raise ConfigError(
            f"--liar-share has no effect with --robust {server.robust}. Use --robust trimmed-mean "
            "or krum, or leave it out."
        )
    if server.mean == "clients" and server.robust in ("median", "trimmed-mean"):
        raise ConfigError(
            f"--mean clients has no effect with --robust {server.robust}, which takes each id's "
            "row over those who own it. Leave it out."
        )
    if faults.attack == "none":
        for name in ("attackers", "attack_scale"):
            if getattr(faults, name) is not None:
                raise ConfigError(f"{option(name)} has no effect without --attack.")
    elif faults.attackers is None:
        raise ConfigError(f"--attack {faults.attack} needs --attackers, how many clients lie.")
    elif faults.attack == "label-flip" and faults.attack_scale is not None:
        raise ConfigError("--attack-scale has no effect with --attack label-flip.")


def _check_agnostic(agnostic, loop):
    from fedgru.config.methods import parse_method

    if agnostic.agnostic_to is None:
        for name in ("alpha", "protected_weight", "alpha_schedule", "method", "protected_head"):
            if getattr(agnostic, name) != _default("agnostic", name):
                raise ConfigError(
                    f"{option(name)} has no effect without --agnostic-to CONCEPT, such as "
                    "--agnostic-to zone."
                )
        return
    if agnostic.protected_weight is not None and agnostic.alpha != _default("agnostic", "alpha"):
        raise ConfigError("--alpha has no effect beside --protected-weight: give one of the two.")
    method = parse_method(agnostic.method)
    if method.decorrelate:
        raise ConfigError(
            f"--method {agnostic.method} draws examples so that target and concept are "
            "independent, which a stream of check-ins, read in order, does not allow. Leave "
            "decorrelate out."
        )
    if agnostic.protected_head != "auto" and not method.adversaries:
        raise ConfigError(
            f"--protected-head has no effect with --method {agnostic.method}, which has no head."
        )
    if agnostic.protected_head == "local" and method.adversary_steps > 1:
        raise ConfigError(
            f"--method {agnostic.method} lets the heads go ahead of the clients: use "
            "--protected-head server, or leave it out."
        )
    if loop.engine == "tff":
        raise ConfigError("--engine tff does not know --agnostic-to. Use --engine jax.")


def _default(section, name):
    return getattr(getattr(Settings(), section), name)
