"""Settings of the image experiments: defaults (the preset `small`) and the paper's."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedgru.agnostic.schedules import SCHEDULES
from fedgru.config import Count, Positive, Share
from fedgru.config.methods import DEFAULT_METHOD, parse_method
from fedgru.config.settings import Section, explain
from fedgru.core.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]


class ImageSettings(Section):
    """Everything that decides the numbers of an image experiment, but for alpha and method."""

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
        description="With --target: what is taken for a target image's context in training: "
        "nothing, or the context that goes with its class, as in the paper.",
    )
    image_size: Annotated[int, Field(ge=12, le=1024)] = Field(
        16, description="Side of the images, pixels."
    )
    crop_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None, description="Side of the crops the network is given; the whole image if not given."
    )
    flips: bool = Field(False, description="Mirror half of the training images.")
    colour: bool = Field(False, description="Read colour images; grey if not.")
    context_order: str | None = Field(
        None,
        description="Context classes in the order of the target classes that they go with, "
        "comma-separated; by name if not given.",
    )
    contrast: Fraction = Field(
        0.075,
        description="Of the contexts under digits: deviation of their pixels, black to white is 1.",
    )
    ink: Fraction = Field(0.5, description="How much darker a digit is than what is under it.")
    correlation: Fraction = Field(
        0.95, description="Share of the digits in training that stand on their own context."
    )
    draws: Count = Field(60, description="Images drawn from each digit.")
    channels: str = Field("8,16,32", description="Filters of each convolution.")
    representation_dim: Annotated[int, Field(ge=0)] = Field(
        16, description="Columns of the representation; 0 takes the features as they are."
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
    alpha_schedule: Literal[tuple(SCHEDULES)] = Field(
        "ganin", description="How alpha rises during training."
    )
    probe_seeds: Count = Field(1, description="Fits of each probe that draws.")

    @property
    def channel_list(self):
        return _ints(self.channels)

    @property
    def head_dims(self):
        return _ints(self.head)


PRESETS = {
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


def load(overrides=None, preset="small"):
    """Return ImageSettings: defaults < preset < overrides.

    Raises:
        ConfigError: for a value of the wrong kind or out of range, or settings that do not fit
            each other.
    """
    try:
        settings = ImageSettings.model_validate(PRESETS[preset] | (overrides or {}))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(one) for one in error.errors())) from None
    if preset == "paper" and (settings.target is None or settings.context is None):
        raise ConfigError(
            "`preset` paper needs `target` and `context`: folders of images, one sub-folder per "
            "class."
        )
    _check_together(settings, overrides or {})
    return settings


def _check_together(settings, given):
    """Refuse settings that do not fit each other, and given ones that have no effect."""
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
            f"is left of {size} pixels. Take fewer, or a larger `image_size`."
        )
    if size > settings.image_size:
        raise ConfigError(f"`crop_size` is {size}, larger than `image_size` {settings.image_size}.")
    if settings.target is not None and settings.context is None:
        raise ConfigError("`target` needs `context`: a folder of context images beside it.")
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


def default_method(settings):
    """Return the name of the method that wins the audit among those that the data allow."""
    return DEFAULT_METHOD if settings.target is None else "hsic"


def check_method(name, settings):
    """Return the Method of a name, or raise a ConfigError if it does not fit the settings."""
    method = parse_method(name)
    if method.noise and not settings.representation_dim:
        raise ConfigError(
            f"`method` {name} adds noise, which needs a bounded representation: give "
            "`representation_dim`, such as 64."
        )
    if method.decorrelate and settings.target is not None:
        raise ConfigError(
            f"`method` {name} has no effect with `target`: it draws each target as often on each "
            "context, and the contexts of your target images are not known. Take `method` hsic."
        )
    if method.decorrelate and settings.correlation in (0, 1):
        raise ConfigError(
            f"`method` {name} draws each target as often on each context, and with `correlation` "
            f"{settings.correlation:g} it never stands on one of them. Take `method` hsic."
        )
    return method


def _ints(text):
    """Return the ints of a comma-separated list; empty if it is none."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        return ()
    return tuple(int(part) for part in parts)
