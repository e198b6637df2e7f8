"""Activation maps: the place of the features' strongest response in an image.

Source: Jia et al. 2018, section 4.4, figure 4. The paper does not say how it computes its maps;
here a map is the largest response of the last convolution at each place, before the pooling.
"""

import numpy as np
import numpy.typing as npt

from fedgru.core.types import AnyInts, Doubles, Floats
from fedgru.images.data import ImageSet
from fedgru.images.training import Network, centre_crop
from fedgru.models import cnn, heads


def activation_maps(network: Network, images: npt.NDArray[np.uint8]) -> Floats:
    """Return float32 [n, height, width]: the largest response at each place, 0 to 1 per image.

    The last convolution's, before the last pooling.
    """
    spec = network.spec
    own, _ = heads.split_heads(network.weights)
    images = centre_crop(images, spec.image_shape[0])
    strongest = np.asarray(cnn.features(spec, own, images, pool_last=False)).max(-1)
    low = strongest.min((1, 2), keepdims=True)
    span = strongest.max((1, 2), keepdims=True) - low
    return np.divide(strongest - low, span, out=np.zeros_like(strongest), where=span > 0)


def map_correlations(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Doubles:
    """Return float [n], Pearson's correlation of each pair of maps; 1 where one is flat.

    >>> map_correlations(np.array([[[0, 1], [2, 3.0]]]), np.array([[[3, 2], [1, 0.0]]]))
    array([-1.])
    """
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.ones(len(a)), where=scale > 1e-12)


def least_alike(
    image_set: ImageSet,
    first: npt.NDArray[np.floating],
    second: npt.NDArray[np.floating],
    per_class: int,
) -> tuple[AnyInts, Doubles]:
    """Return the rows of the examples with the least correlated maps, per target class.

    It also returns the correlations, float64 [n]. A source image appears once, even if it was
    drawn several times.
    """
    correlations = map_correlations(first, second)
    chosen = []
    for target in np.unique(image_set.target):
        rows = np.flatnonzero(image_set.target == target)
        seen: set[int] = set()
        for row in rows[np.argsort(correlations[rows], kind="stable")]:
            if image_set.groups[row] not in seen and len(seen) < per_class:
                seen.add(image_set.groups[row])
                chosen.append(row)
    return np.array(chosen), correlations
