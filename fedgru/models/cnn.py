"""The image network of the agnostic experiments, as pure functions of its weights.

images -> [conv 3x3, ReLU, 2x2 max-pool] for each entry of `channels` -> features
features -> representation: the features (as in the paper), or tanh(features @ kernel + bias)
representation -> target head: fully connected layers -> class scores

Weights are a dict of float32 arrays: `conv_<i>_kernel` [3, 3, in, out], `conv_<i>_bias` [out],
`representation_kernel`, `representation_bias` if it is a separate layer, and `head_<i>_kernel`,
`head_<i>_bias`.

Source: Jia et al. 2018, section 4.2; `PAPER_CHANNELS` and `PAPER_HEAD` are its sizes. The paper
    does not say the following, so it is chosen here: zero padding that keeps the size, pooling by
    2, start weights (Glorot uniform, zero biases), and a last layer from 1024 units to the classes.
"""

from dataclasses import dataclass

import numpy as np

from fedgru.core.types import AnyArray, AnyWeights, Weights
from fedgru.models.dense import apply_stack, glorot_uniform, init_stack

PAPER_CHANNELS = (64, 128, 256, 512, 512)
PAPER_HEAD = (1024, 1024, 1024, 1024)
PATCHES_UP_TO = 1 << 25  # numbers in the patch matrix; a larger one costs more than it saves


@dataclass(frozen=True)
class CnnSpec:
    """Everything that determines the shapes of the weights and the forward pass.

    Attributes:
        image_shape: (height, width, channels) of the input.
        channels: filters of each convolution.
        representation_dim: columns of the representation, each between -1 and 1; 0 takes the
            features unchanged.
        head_dims: units of the target head's hidden layers.
        num_classes: columns of the target head's scores.
        dropout: share of the head's hidden units dropped in training.
    """

    image_shape: tuple[int, int, int]
    channels: tuple[int, ...]
    representation_dim: int
    head_dims: tuple[int, ...]
    num_classes: int
    dropout: float = 0.0

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) after the last pooling."""
        height, width, _ = self.image_shape
        halvings = 2 ** len(self.channels)
        return height // halvings, width // halvings, self.channels[-1]

    @property
    def out_dim(self) -> int:
        """Columns of the representation."""
        return self.representation_dim or int(np.prod(self.feature_shape))


def init_weights(spec: CnnSpec, rng: np.random.Generator) -> Weights:
    """Draw start weights: Glorot uniform kernels, zero biases.

    Args:
        spec: CnnSpec.
        rng: numpy Generator.

    Returns:
        dict of float32 arrays, see the module's docstring.
    """
    weights, channels_in = {}, spec.image_shape[2]
    for i, channels in enumerate(spec.channels):
        shape = (3, 3, channels_in, channels)
        kernel = glorot_uniform(rng, shape, 9 * channels_in, 9 * channels)
        weights[f"conv_{i}_kernel"] = kernel
        weights[f"conv_{i}_bias"] = np.zeros(channels, np.float32)
        channels_in = channels
    if spec.representation_dim:
        fan_in, fan_out = int(np.prod(spec.feature_shape)), spec.representation_dim
        kernel = glorot_uniform(rng, (fan_in, fan_out), fan_in, fan_out)
        weights["representation_kernel"] = kernel
        weights["representation_bias"] = np.zeros(fan_out, np.float32)
    return weights | init_stack(rng, "head_", (spec.out_dim, *spec.head_dims, spec.num_classes))


def features(
    spec: CnnSpec, weights: AnyWeights, images: AnyArray, pool_last: bool = True
) -> AnyArray:
    """Return float32 [batch, height, width, channels]: the output of the last pooling.

    Args:
        spec: CnnSpec.
        weights: dict, see the module's docstring.
        images: uint8 [batch, height, width, channels]; scaled to -1 to 1 here.
        pool_last: whether to do the last pooling; without it there are twice as many rows and
            columns.
    """
    import jax
    import jax.numpy as jnp

    x = jnp.asarray(images, jnp.float32) / 127.5 - 1.0
    for i in range(len(spec.channels)):
        x = convolve(x, weights[f"conv_{i}_kernel"]) + weights[f"conv_{i}_bias"]
        x = jax.nn.relu(x)
        if pool_last or i < len(spec.channels) - 1:
            x = max_pool(x)
    return x


def represent(spec: CnnSpec, weights: AnyWeights, images: AnyArray) -> AnyArray:
    """Return float32 [batch, out_dim], the representation, before any noise."""
    import jax.numpy as jnp

    x = features(spec, weights, images)
    x = x.reshape(len(x), -1)
    if not spec.representation_dim:
        return x
    return jnp.tanh(x @ weights["representation_kernel"] + weights["representation_bias"])


def classify(
    spec: CnnSpec, weights: AnyWeights, representation: AnyArray, key: AnyArray | None = None
) -> AnyArray:
    """Return float32 [batch, num_classes], the target head's scores.

    Args:
        spec: CnnSpec.
        weights: dict, see the module's docstring.
        representation: float32 [batch, out_dim].
        key: JAX random key for the dropout; None for no dropout.
    """
    return apply_stack(weights, "head_", representation, spec.dropout, key)


def convolve(x: AnyArray, kernel: AnyArray) -> AnyArray:
    """Return the 3x3 convolution of float32 [batch, height, width, in], with zero padding.

    For small images it computes one matrix of patches and one product: on a CPU inside a compiled
    loop this is 4 to 15 times as fast as XLA's convolution. Large images use XLA's convolution.
    """
    import jax.numpy as jnp
    from jax import lax

    batch, height, width, channels = x.shape
    if batch * height * width * channels * 9 > PATCHES_UP_TO:
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate(
        [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], -1
    )
    return patches @ kernel.reshape(9 * channels, -1)


def max_pool(x: AnyArray) -> AnyArray:
    """Return the maximum of each 2x2 square; an odd last row or column is left out."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))
