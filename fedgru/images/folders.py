"""Read folders of images, one sub-folder per class, and split them into disjoint sets."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedgru.core import seeding
from fedgru.core.errors import DataError
from fedgru.core.types import AnyInts, AnyPath, Floats
from fedgru.images.data import (
    ContextSource,
    ImageData,
    ImageSet,
    Textures,
    check_classes,
    digits_on,
)
from fedgru.images.settings import ImageSettings

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# the same split for every seed, so that tuning with other seeds never sees the test images
BACKGROUND_SHARES = {
    "train": 0.30,
    "context_train": 0.20,
    "val": 0.10,
    "probe_fit": 0.10,
    "holdout": 0.075,
    "counter": 0.075,
    "probe_test": 0.10,
    "context_holdout": 0.05,
}
TARGET_SHARES = {"train": 0.7, "val": 0.1, "holdout": 0.2}
CONTEXT_SHARES = {
    "context_train": 0.5,
    "probe_fit": 0.2,
    "probe_test": 0.15,
    "context_holdout": 0.15,
}


@dataclass(frozen=True)
class ClassFolders:
    """The images of a folder.

    Attributes:
        folder: its path, as given.
        names: the classes.
        images: uint8 [n, size, size, channels].
        labels: int32 [n], index into `names`.
        notes: sentences about skipped files.
    """

    folder: str
    names: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    notes: tuple[str, ...]

    def split(self, shares: Mapping[str, float]) -> dict[str, npt.NDArray[np.int32]]:
        """Return {set name: int32 rows}; every set has its share of every class, at least one.

        Raises:
            DataError: if a class has too few images.
        """
        fewest = int(np.ceil(1 / min(shares.values()) - 1e-9))
        rng = seeding.rng(0, "image split")
        rows: dict[str, list[AnyInts]] = {name: [] for name in shares}
        for label, class_name in enumerate(self.names):
            mine = rng.permutation(np.flatnonzero(self.labels == label))
            if len(mine) < fewest:
                raise DataError(
                    f"{Path(self.folder) / class_name} has {len(mine)} images, expected at least "
                    f"{fewest}: they are split into {len(shares)} disjoint sets."
                )
            ends = np.floor(np.cumsum([0, *shares.values()]) * len(mine) + 1e-6).astype(int)
            for name, start, end in zip(shares, ends[:-1], ends[1:], strict=True):
                rows[name].append(mine[start:end])
        return {name: np.concatenate(parts).astype(np.int32) for name, parts in rows.items()}


def read_folder(
    folder: AnyPath, what: str, size: int, channels: int = 1, order: Sequence[str] | None = None
) -> ClassFolders:
    """Read all images of a folder with one sub-folder per class.

    Args:
        folder: path.
        what: "target" or "context", for messages.
        size: side in pixels. An image is scaled until its shorter side fits, then its centre is
            cut out, as in Jia et al. 2018, section 4.1.
        channels: 1 for grey, 3 for colour.
        order: names of the classes in the desired order; sorted by name if None.

    Returns:
        ClassFolders. Its notes count the skipped files: those without an image's suffix, and exact
        copies of other images.

    Raises:
        DataError: if there is no such folder, fewer than two classes, a class without images, or
            an image that cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"{folder} is not a folder. `{what}` takes a folder with one sub-folder for each "
            f"class of the {what}."
        )
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and _shown(path))
    check_classes(names, what, folder)
    if order is not None:
        if sorted(order) != names:
            raise DataError(
                f"`{what}_order` is {','.join(order)}, expected the classes of {folder} in some "
                f"order: {','.join(names)}."
            )
        names = list(order)
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    other: Counter[str] = Counter()
    repeated, seen = 0, set()
    for label, name in enumerate(names):
        paths = sorted(path for path in (root / name).iterdir() if path.is_file() and _shown(path))
        found = [path for path in paths if path.suffix.lower() in SUFFIXES]
        other.update(path.suffix.lower() or "no suffix" for path in paths if path not in found)
        if not found:
            others = f" (other files: {len(paths)})" if paths else ""
            raise DataError(
                f"{root / name} holds no image{others}. Put images there ({', '.join(SUFFIXES)}), "
                "or remove the folder."
            )
        for path in found:
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            if digest in seen:
                repeated += 1
                continue
            seen.add(digest)
            images.append(_decode(path, content, size, channels))
            labels.append(label)
    notes = []
    if other:
        kinds = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(other.items()))
        notes.append(f"{folder}: skipped files that are not images: {kinds}.")
    if repeated:
        notes.append(
            f"{folder}: skipped {repeated} exact {'copy' if repeated == 1 else 'copies'} of other "
            "images."
        )
    return ClassFolders(
        str(folder), tuple(names), np.stack(images), np.array(labels, np.int32), tuple(notes)
    )


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")


def _decode(path: Path, content: bytes, size: int, channels: int) -> npt.NDArray[np.uint8]:
    import io

    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
            fitted = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            return np.asarray(fitted, np.uint8).reshape(size, size, channels)
    except Exception as error:  # Pillow's error depends on the format and the damaged byte
        raise DataError(
            f"{path} cannot be read as an image ({type(error).__name__}). Replace or remove it."
        ) from error


class Photographs:
    """Contexts to draw digits on: crops of photographs, each photograph in only one set.

    All crops get mean 0.5 and the same standard deviation, so that only their content separates
    the classes, not their brightness or contrast.
    """

    def __init__(
        self,
        folder: AnyPath,
        size: int,
        contrast: float,
        channels: int = 1,
        order: Sequence[str] | None = None,
    ) -> None:
        """See `read_folder`; `contrast`: standard deviation of the pixels, 1 is black to white."""
        self.folders = read_folder(folder, "context", 2 * size, channels, order)
        if len(self.folders.names) != 2:
            raise DataError(
                f"{folder} has {len(self.folders.names)} class folders, expected 2 to draw the "
                "two digits on. Give `target` for a target with as many classes."
            )
        self.size, self.contrast = size, contrast
        self.names, self.notes = self.folders.names, self.folders.notes
        self.rows = self.folders.split(BACKGROUND_SHARES)

    def draw(
        self, rng: np.random.Generator, set_name: str, contexts: AnyInts
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """Return (float32 [n, size, size, channels] backgrounds, int32 [n] photograph of each)."""
        rows = self.rows[set_name]
        labels = self.folders.labels[rows]
        chosen = np.empty(len(contexts), np.int32)
        for context in (0, 1):
            places = np.flatnonzero(contexts == context)
            chosen[places] = rng.choice(rows[labels == context], len(places))
        corners = rng.integers(0, self.size + 1, (len(contexts), 2))
        crops = np.stack(
            [
                self.folders.images[row, top : top + self.size, left : left + self.size]
                for row, (top, left) in zip(chosen, corners, strict=True)
            ]
        ).astype(np.float32)
        crops -= crops.mean((1, 2, 3), keepdims=True)
        crops /= np.maximum(crops.std((1, 2, 3), keepdims=True), 1.0)
        return np.clip(0.5 + self.contrast * crops, 0, 1), chosen


def target_and_context_folders(
    target: AnyPath,
    context: AnyPath,
    size: int,
    channels: int,
    pair_contexts: bool,
    context_order: Sequence[str] | None = None,
) -> ImageData:
    """Return ImageData of target images and context images from two folders.

    Args:
        target, context: folders, see `read_folder`.
        size, channels: of the images.
        pair_contexts: whether training assumes that a target image has the context that matches
            its class, as in the paper. If not, its context is unknown, and only context images
            train the protected heads.
        context_order: names of the context classes in the order of the matching target classes;
            sorted by name if None.

    Raises:
        DataError: if the folders cannot be read, or have different numbers of classes.
    """
    targets = read_folder(target, "target", size, channels)
    contexts = read_folder(context, "context", size, channels, context_order)
    if len(targets.names) != len(contexts.names):
        raise DataError(
            f"{target} has {len(targets.names)} classes and {context} has {len(contexts.names)}, "
            "expected equal numbers: each target class needs a matching context."
        )
    sets = {}
    for name, rows in targets.split(TARGET_SHARES).items():
        labels, unknown = targets.labels[rows], np.full(len(rows), -1, np.int32)
        known = labels if pair_contexts and name == "train" else unknown
        sets[name] = ImageSet(targets.images[rows], labels, known, rows)
    for name, rows in contexts.split(CONTEXT_SHARES).items():
        unknown = np.full(len(rows), -1, np.int32)
        sets[name] = ImageSet(contexts.images[rows], unknown, contexts.labels[rows], rows)
    return ImageData(sets, targets.names, contexts.names, targets.notes + contexts.notes)


def open_images(settings: ImageSettings, seed: int) -> ImageData:
    """Return the ImageData of these ImageSettings, drawn for one seed.

    Raises:
        DataError: if a folder cannot be used.
    """
    size, channels = settings.image_size, 3 if settings.colour else 1
    order = None if settings.context_order is None else settings.context_order.split(",")
    source: ContextSource
    if settings.target is not None and settings.context is not None:
        paired = settings.target_context == "paired"
        return target_and_context_folders(
            settings.target, settings.context, size, channels, paired, order
        )
    if settings.context is not None:
        source = Photographs(settings.context, size, settings.contrast, channels, order)
    else:
        source = Textures(size, settings.contrast)
    return digits_on(source, seed, settings.ink, settings.correlation, settings.draws)
