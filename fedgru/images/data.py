"""The image data of the agnostic experiments: targets on contexts, in sets that share no image.

Without folders the targets are real digits of scikit-learn, 3 and 8, and the contexts two made-up
textures, or the photographs of a folder. In training 95 % of the targets stand on the context that
goes with them: a network that looks at the context alone is right 95 times out of 100.
"""

from dataclasses import dataclass, field

import numpy as np

from fedgru.core import seeding
from fedgru.core.errors import DataError

DIGITS = (3, 8)
DIGIT_SHARE = 0.75  # of the image's side that a digit takes
TEST_DIGITS = 80  # of each class; the same for every seed, and never seen by training
WAVE_LENGTH = 5.0  # pixels from one ripple of a texture to the next
SPREAD = 0.07  # of a texture's waves, in cycles a pixel


@dataclass(frozen=True)
class ImageSet:
    """Some images with their labels.

    Attributes:
        images: uint8 [n, height, width, channels].
        target: int32 [n], class of the target; -1 where there is none or it is unknown.
        context: int32 [n], class of the context; -1 where it is unknown.
        groups: int32 [n], which source image the target was made from (or the context, where
            there is no target); several draws of one digit are no independent examples.
    """

    images: np.ndarray
    target: np.ndarray
    context: np.ndarray
    groups: np.ndarray

    def __len__(self):
        return len(self.images)

    def where(self, chosen):
        """Return the ImageSet of the examples that a mask or an index array chooses."""
        return ImageSet(*(column[chosen] for column in vars(self).values()))


@dataclass(frozen=True)
class ImageData:
    """Everything that an image experiment reads.

    Attributes:
        sets: name -> ImageSet, no two of which share a digit, a texture crop or a photograph.
            `train` (targets on contexts), `context_train` (contexts alone), `val`; `holdout`
            (targets as in training), `context_holdout` (contexts alone); where the context of
            targets is known `counter`, every target on the other context; `probe_fit` and
            `probe_test`, on which probes are fitted and tested, with as many of each context.
        target_names, context_names: the classes.
        notes: lines about what was read and what was passed over.
    """

    sets: dict
    target_names: tuple[str, ...]
    context_names: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.sets["train"].images.shape[1:]


def textures(rng, count, context, size):
    """Return float32 [count, size, size]: crops of one of two made-up textures, deviation 1.

    Gaussian noise filtered to waves of WAVE_LENGTH pixels, falling to the right (context 0) or
    rising (context 1). The two have the same histogram; only the direction tells them apart.
    """
    grid = 2 * size  # waves that fit the grid would repeat at its edge; the crop is half of it
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


@dataclass(frozen=True)
class Textures:
    """Made-up contexts: every crop is drawn anew, so no two sets can share one.

    Attributes:
        size: side of an image, pixels.
        contrast: deviation of the texture, in units of the full range from black to white.
    """

    size: int
    contrast: float

    names = ("falling", "rising")
    notes = ()
    channels = 1

    def draw(self, rng, set_name, contexts):
        """Return (float32 [n, size, size, 1] backgrounds, int32 [n] source of each)."""
        backgrounds = np.empty((len(contexts), self.size, self.size), np.float32)
        for context in (0, 1):
            chosen = contexts == context
            backgrounds[chosen] = textures(rng, int(chosen.sum()), context, self.size)
        backgrounds = np.clip(0.5 + self.contrast * backgrounds, 0, 1)
        return backgrounds[..., None], np.arange(len(contexts), dtype=np.int32)


def digit_pools(seed):
    """Split scikit-learn's digits 3 and 8 into sets that share no image.

    Args:
        seed: of the run. It decides who trains and who validates, and which of the test digits
            stands in which test set; which digits are test digits it does not decide, so that
            whatever is tuned with other seeds has not seen them.

    Returns:
        {set name: [int64 array for each class]}, rows of `sklearn.datasets.load_digits`.
    """
    from sklearn.datasets import load_digits

    labels = load_digits().target
    fixed, rng = seeding.rng(0, "test digits"), seeding.rng(seed, "digits")
    pools = {}
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


def contexts_of(rng, targets, share):
    """Return int32 [n] contexts, exactly `share` of each target's on the context of its number.

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


def digits_on(source, seed, ink, correlation, draws):
    """Draw digits on contexts.

    Args:
        source: Textures, or `image_folders.Photographs`.
        seed: int.
        ink: share of black that a digit's darkest pixel takes from the context under it.
        correlation: share of the training targets, and of the hold-out's, on their own context.
        draws: images of each digit, at other places and on other contexts.

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


def draw_glyphs(rng, backgrounds, glyphs, ink):
    """Return float32 images: each glyph enlarged, at a place drawn for it, darkening what is there.

    Args:
        rng: numpy Generator.
        backgrounds: float32 [n, size, size, channels], 0 to 1.
        glyphs: float [n, 8, 8], 0 for no ink to 1.
        ink: 0 to 1; a full pixel becomes (1 - ink) times what was there.
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


def to_bytes(images):
    """Return uint8 images of float ones between 0 and 1."""
    return np.round(np.asarray(images) * 255).astype(np.uint8)


def _stretching(few, many):
    """Return [many, few], rows that add up to 1: linear interpolation, ends onto ends."""
    position = np.linspace(0, few - 1, many)
    left = np.minimum(position.astype(int), few - 2)
    matrix = np.zeros((many, few))
    matrix[np.arange(many), left] = 1 - (position - left)
    matrix[np.arange(many), left + 1] = position - left
    return matrix


def check_classes(names, what, folder):
    """Refuse fewer than two classes, in words."""
    if len(names) < 2:
        raise DataError(
            f"{folder} has {len(names)} class folder{'' if len(names) == 1 else 's'} "
            f"({', '.join(names) or 'none'}), expected at least 2: one sub-folder for each class "
            f"of the {what}."
        )
