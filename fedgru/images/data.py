"""The image data of the agnostic experiments: targets on contexts, in sets that share no image.

Without folders the targets are real digits of scikit-learn, 3 and 8, and the contexts two made-up
textures, or the photographs of a folder. In training 95 % of the targets are on the matching
context: a network that looks only at the context is right 95 times out of 100.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from fedgru.core import seeding
from fedgru.core.errors import DataError
from fedgru.core.types import AnyArray, AnyInts, AnyPath, Floats, Ints

DIGITS = (3, 8)
DIGIT_SHARE = 0.75  # of the image's side that a digit takes
TEST_DIGITS = 80  # of each class; the same for every seed, never used in training
WAVE_LENGTH = 5.0  # pixels from one wave of a texture to the next
SPREAD = 0.07  # standard deviation of a texture's wave frequencies, in cycles per pixel


@dataclass(frozen=True)
class ImageSet:
    """Some images with their labels.

    Attributes:
        images: uint8 [n, height, width, channels].
        target: int32 [n], class of the target; -1 where there is none or it is unknown.
        context: int32 [n], class of the context; -1 where it is unknown.
        groups: int32 [n], the source image of the target (of the context if there is no target);
            several draws of one digit are not independent examples.
    """

    images: npt.NDArray[np.uint8]
    target: npt.NDArray[np.int32]
    context: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.images)

    def where(self, chosen: AnyArray) -> "ImageSet":
        """Return the ImageSet of some examples, chosen by a mask or an index array."""
        return ImageSet(*(column[chosen] for column in vars(self).values()))


@dataclass(frozen=True)
class ImageData:
    """Everything that an image experiment reads.

    Attributes:
        sets: name -> ImageSet; no two share a digit, a texture crop or a photograph.
            `train` (targets on contexts), `context_train` (only contexts), `val`; `holdout`
            (targets as in training), `context_holdout` (only contexts); if the context of targets
            is known `counter`, every target on the other context; `probe_fit` and `probe_test`,
            to fit and test probes, with equally many of each context.
        target_names, context_names: the classes.
        notes: lines about files that were read and skipped.
    """

    sets: dict[str, ImageSet]
    target_names: tuple[str, ...]
    context_names: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.sets["train"].images.shape[1:]
        return height, width, channels


def textures(rng: np.random.Generator, count: int, context: int, size: int) -> Floats:
    """Return float32 [count, size, size]: crops of a made-up texture, standard deviation 1.

    Gaussian noise filtered to waves of WAVE_LENGTH pixels, falling to the right (context 0) or
    rising (context 1). Both have the same histogram; only the direction differs.
    """
    grid = 2 * size  # the waves repeat at the grid's edge; the crop is half of the grid
    frequency = np.fft.fftfreq(grid)
    down, across = np.meshgrid(frequency, frequency, indexing="ij")
    if context == 1:
        across = -across
    along, beside = (down + across) / np.sqrt(2), (down - across) / np.sqrt(2)
    gain = np.exp(-(((np.abs(along) - 1 / WAVE_LENGTH) ** 2 + beside**2) / (2 * SPREAD**2)))
    gain[0, 0] = 0
    waves = np.fft.ifft2(np.fft.fft2(rng.normal(size=(count, grid, grid))) * gain).real
    waves /= np.sqrt((gain**2).mean())
    return waves[:, :size, :size].astype(np.float32)


class ContextSource(Protocol):
    """Draws contexts to draw digits on: Textures, or `folders.Photographs`."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def draw(
        self, rng: np.random.Generator, set_name: str, contexts: AnyInts
    ) -> tuple[Floats, npt.NDArray[np.int32]]: ...


@dataclass(frozen=True)
class Textures:
    """Made-up contexts: every crop is a new draw, so no two sets can share one.

    Attributes:
        size: side of an image, pixels.
        contrast: standard deviation of the texture; 1 is the range from black to white.
    """

    size: int
    contrast: float

    names: ClassVar[tuple[str, ...]] = ("falling", "rising")
    notes: ClassVar[tuple[str, ...]] = ()

    def draw(
        self, rng: np.random.Generator, set_name: str, contexts: AnyInts
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """Return (float32 [n, size, size, 1] backgrounds, int32 [n] source of each)."""
        backgrounds = np.empty((len(contexts), self.size, self.size), np.float32)
        for context in (0, 1):
            chosen = contexts == context
            backgrounds[chosen] = textures(rng, int(chosen.sum()), context, self.size)
        backgrounds = np.clip(0.5 + self.contrast * backgrounds, 0, 1)
        return backgrounds[..., None], np.arange(len(contexts), dtype=np.int32)


def digit_pools(seed: int) -> dict[str, list[Ints]]:
    """Split scikit-learn's digits 3 and 8 into sets that share no image.

    Args:
        seed: the run's seed. It decides which digits train and validate, and the test set of each
            test digit. It does not decide which digits are test digits, so that tuning with other
            seeds never sees them.

    Returns:
        {set name: [int64 array for each class]}, rows of `sklearn.datasets.load_digits`.
    """
    from sklearn.datasets import load_digits

    labels = load_digits().target
    fixed, rng = seeding.rng(0, "test digits"), seeding.rng(seed, "digits")
    pools: dict[str, list[Ints]] = {}
    for digit in DIGITS:
        rows = fixed.permutation(np.flatnonzero(labels == digit))
        test, rest = rng.permutation(rows[:TEST_DIGITS]), rng.permutation(rows[TEST_DIGITS:])
        for name, chosen in (
            ("train", rest[:60]),
            ("probe_fit", rest[60:82]),
            ("val", rest[82:]),
            ("holdout", test[:25]),
            ("counter", test[25:50]),
            ("probe_test", test[50:]),
        ):
            pools.setdefault(name, []).append(chosen)
    return pools


def contexts_of(rng: np.random.Generator, targets: AnyInts, share: float) -> npt.NDArray[np.int32]:
    """Return int32 [n] contexts; for exactly `share` of each target the context has its number.

    >>> contexts_of(np.random.default_rng(0), np.array([0, 0, 1, 1, 1]), 1.0)
    array([0, 0, 1, 1, 1], dtype=int32)
    """
    contexts = np.empty(len(targets), np.int32)
    for target in (0, 1):
        places = rng.permutation(np.flatnonzero(targets == target))
        matching = round(share * len(places))
        contexts[places[:matching]] = target
        contexts[places[matching:]] = 1 - target
    return contexts


def digits_on(
    source: ContextSource, seed: int, ink: float, correlation: float, draws: int
) -> ImageData:
    """Draw digits on contexts.

    Args:
        source: ContextSource.
        seed: int.
        ink: how much a digit's darkest pixel darkens the context; 1 gives black.
        correlation: share of the training and hold-out targets on the matching context.
        draws: images of each digit, at different places and on different contexts.

    Returns:
        ImageData.
    """
    from sklearn.datasets import load_digits

    glyphs = load_digits().images / 16.0
    shares = {"train": correlation, "holdout": correlation, "counter": 0.0}
    sets = {}
    for name, pools in digit_pools(seed).items():
        rng = seeding.rng(seed, f"image set {name}")
        rows = np.concatenate([np.repeat(rows, draws) for rows in pools])
        target = np.repeat(np.arange(2, dtype=np.int32), [draws * len(rows) for rows in pools])
        context = contexts_of(rng, target, shares.get(name, 0.5))
        backgrounds, _ = source.draw(rng, name, context)
        images = draw_glyphs(rng, backgrounds, glyphs[rows], ink)
        sets[name] = ImageSet(to_bytes(images), target, context, rows.astype(np.int32))
    for name, count in (("context_train", len(sets["train"])), ("context_holdout", 1000)):
        rng = seeding.rng(seed, f"image set {name}")
        context = np.arange(count, dtype=np.int32) % 2
        backgrounds, groups = source.draw(rng, name, context)
        sets[name] = ImageSet(to_bytes(backgrounds), np.full(count, -1, np.int32), context, groups)
    names = tuple(f"digit {digit}" for digit in DIGITS)
    return ImageData(sets, names, tuple(source.names), tuple(source.notes))


def draw_glyphs(
    rng: np.random.Generator, backgrounds: Floats, glyphs: npt.NDArray[np.floating], ink: float
) -> Floats:
    """Return float32 images: each glyph enlarged, at a random place, darkens the background.

    Args:
        rng: numpy Generator.
        backgrounds: float32 [n, size, size, channels], 0 to 1.
        glyphs: float [n, 8, 8], 0 for no ink to 1.
        ink: 0 to 1; a full pixel becomes (1 - ink) times the background.
    """
    size = backgrounds.shape[1]
    side = round(DIGIT_SHARE * size)
    stretch = _stretching(glyphs.shape[1], side)
    cover = ink * np.einsum("ij,njk,lk->nil", stretch, glyphs, stretch)
    images = backgrounds.copy()
    places = rng.integers(0, size - side + 1, (len(glyphs), 2))
    for image, mask, (top, left) in zip(images, cover, places, strict=True):
        image[top : top + side, left : left + side] *= (1 - mask[..., None]).astype(np.float32)
    return images


def to_bytes(images: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return uint8 images from float images between 0 and 1."""
    return np.round(np.asarray(images) * 255).astype(np.uint8)


def _stretching(few: int, many: int) -> npt.NDArray[np.float64]:
    """Return the matrix [many, few] of linear interpolation, ends onto ends; rows add up to 1."""
    position = np.linspace(0, few - 1, many)
    left = np.minimum(position.astype(int), few - 2)
    matrix = np.zeros((many, few))
    matrix[np.arange(many), left] = 1 - (position - left)
    matrix[np.arange(many), left + 1] = position - left
    return matrix


def check_classes(names: Sequence[str], what: str, folder: AnyPath) -> None:
    """Raise a DataError for fewer than two classes."""
    if len(names) < 2:
        raise DataError(
            f"{folder} has {len(names)} class folder{'' if len(names) == 1 else 's'} "
            f"({', '.join(names) or 'none'}), expected at least 2: one sub-folder for each class "
            f"of the {what}."
        )
