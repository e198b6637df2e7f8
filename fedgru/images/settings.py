"""Settings of the image experiments: defaults (the preset `small`) and the paper's."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from fedgru.config import Count, Positive, Share
from fedgru.config.methods import DEFAULT_METHOD, Method, parse_method
from fedgru.config.settings import AlphaSchedule, Section, explain
from fedgru.core.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]


class ImageSettings(Section):
    """Everything that determines the numbers of an image experiment, except alpha and method."""

    target: str | None = Field(
        None, description="Folder of target images, a sub-folder per class; digits if not given."
    )
    context: str | None = Field(
        None,
        description="Folder of context images, a sub-folder per class; made-up textures if not "
        "given. Without --target, digits are drawn on them.",
    )
    target_context: Literal["unknown", "paired"] = Field(
        "unknown",
        description="With --target: the assumed context of a target image in training: unknown, "
        "or the one that matches its class (paired), as in the paper.",
    )
    image_size: Annotated[int, Field(ge=12, le=1024)] = Field(
        16, description="Side of the images, pixels."
    )
    crop_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None, description="Side of the network's input crops; the whole image if not given."
    )
    flips: bool = Field(False, description="Mirror half of the training images.")
    colour: bool = Field(False, description="Read images in colour, not in grey.")
    context_order: str | None = Field(
        None,
        description="Context classes in the order of the matching target classes, "
        "comma-separated; sorted by name if not given.",
    )
    contrast: Fraction = Field(
        0.075,
        description="Standard deviation of the contexts' pixels under digits; 1 is black to white.",
    )
    ink: Fraction = Field(0.5, description="How much darker a digit is than its background.")
    correlation: Fraction = Field(
        0.95, description="Share of the training digits that are drawn on the matching context."
    )
    draws: Count = Field(60, description="Images drawn from each digit.")
    channels: str = Field("8,16,32", description="Filters of each convolution.")
    representation_dim: Annotated[int, Field(ge=0)] = Field(
        16, description="Columns of the representation; 0 takes the features unchanged."
    )
    head: str = Field("64", description="Units of the hidden layers of a head.")
    dropout: Share = Field(0.0, description="Share of a head's hidden units dropped in training.")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="Optimizer.")
    lr: Positive = Field(0.002, description="Learning rate at the start.")
    lr_drop_every: Count = Field(6, description="Epochs after which --lr is divided by 10.")
    momentum: Share = Field(0.9, description="Momentum (sgd), or decay of the mean (adam).")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Weight decay.")
    epochs: Count = Field(8, description="Passes over the targets.")
    batch_size: Count = Field(64, description="Target images in a step (n of the paper).")
    context_batch_size: Count = Field(
        64, description="Context images in a step (n' - n of the paper)."
    )
    alpha_schedule: AlphaSchedule = Field("ganin", description="How alpha rises during training.")
    probe_seeds: Count = Field(1, description="Fits of each probe that draws.")

    @property
    def channel_list(self) -> tuple[int, ...]:
        return _ints(self.channels)

    @property
    def head_dims(self) -> tuple[int, ...]:
        return _ints(self.head)


PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "paper": {
        "image_size": 256,
        "crop_size": 224,
        "flips": True,
        "colour": True,
        "target_context": "paired",
        "channels": "64,128,256,512,512",
        "representation_dim": 0,
        "head": "1024,1024,1024,1024",
        "dropout": 0.5,
        "optimizer": "sgd",
        "lr": 0.001,
        "lr_drop_every": 3,
        "momentum": 0.5,
        "weight_decay": 5e-4,
        "epochs": 10,
        "batch_size": 32,
        "context_batch_size": 32,
        "alpha_schedule": "constant",
    },
}


def load(overrides: Mapping[str, Any] | None = None, preset: str = "small") -> ImageSettings:
    """Return ImageSettings: defaults < preset < overrides.

    Raises:
        ConfigError: for a value of the wrong kind or out of range, or settings that do not fit
            each other.
    """
    try:
        settings = ImageSettings.model_validate(PRESETS[preset] | dict(overrides or {}))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(one) for one in error.errors())) from None
    if preset == "paper" and (settings.target is None or settings.context is None):
        raise ConfigError(
            "`preset` paper needs `target` and `context`: folders of images, one sub-folder per "
            "class."
        )
    _check_together(settings, overrides or {})
    return settings


def _check_together(settings: ImageSettings, given: Mapping[str, Any]) -> None:
    """Raise a ConfigError if settings do not fit each other, or a given one has no effect."""
    channels, size = settings.channel_list, settings.crop_size or settings.image_size
    for name in ("channels", "head"):
        if not _ints(getattr(settings, name)):
            raise ConfigError(
                f"`{name}` is {getattr(settings, name)}, expected whole numbers above 0, "
                "separated by commas."
            )
    if size // 2 ** len(channels) < 1:
        raise ConfigError(
            f"`channels` {settings.channels} halves the image {len(channels)} times, and nothing "
            f"is left of {size} pixels. Give fewer channels, or a larger `image_size`."
        )
    if size > settings.image_size:
        raise ConfigError(f"`crop_size` is {size}, larger than `image_size` {settings.image_size}.")
    if settings.target is not None and settings.context is None:
        raise ConfigError("`target` also needs `context`: a folder of context images.")
    unused = {
        "contrast": settings.target is not None,
        "ink": settings.target is not None,
        "correlation": settings.target is not None,
        "draws": settings.target is not None,
        "target_context": settings.target is None,
    }
    for name in given:
        if unused.get(name) and given[name] is not None:
            how = "without" if name == "target_context" else "with"
            raise ConfigError(f"`{name}` has no effect {how} `target`.")
    if settings.context is None:
        for name in ("colour", "context_order"):
            if given.get(name):
                raise ConfigError(f"`{name}` has no effect without `context`.")


def default_method(settings: ImageSettings) -> str:
    """Return the name of the best method in the audit that is possible with these data."""
    return DEFAULT_METHOD if settings.target is None else "hsic"


def check_method(name: str, settings: ImageSettings) -> Method:
    """Return the Method of a name, or raise a ConfigError if it does not fit the settings."""
    method = parse_method(name)
    if method.noise and not settings.representation_dim:
        raise ConfigError(
            f"`method` {name} adds noise, which needs a bounded representation: give "
            "`representation_dim`, such as 64."
        )
    if method.decorrelate and settings.target is not None:
        raise ConfigError(
            f"`method` {name} has no effect with `target`: it draws each target equally often with "
            "each context, and the contexts of your target images are not known. Use `method` hsic."
        )
    if method.decorrelate and settings.correlation in (0, 1):
        raise ConfigError(
            f"`method` {name} draws each target equally often with each context, but with "
            f"`correlation` {settings.correlation:g} it has only one context. Use `method` hsic."
        )
    return method


def _ints(text: str) -> tuple[int, ...]:
    """Return the ints of a comma-separated list; empty if the text is not such a list."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        return ()
    return tuple(int(part) for part in parts)
