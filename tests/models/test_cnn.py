"""fedgru/models/cnn.py and dense.py: the image network against hand-worked numbers and Keras."""

import numpy as np
import pytest

from fedgru.core import seeding
from fedgru.models import cnn, dense

SMALL = cnn.CnnSpec((16, 16, 1), (4, 6), representation_dim=5, head_dims=(7,), num_classes=3)


@pytest.fixture
def photos():
    return seeding.rng(0, "photos").integers(0, 256, (3, 16, 16, 1)).astype(np.uint8)


def test_a_convolution_worked_by_hand():
    # the kernel takes the pixel on the left once and the one below ten times; zeros outside
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32).reshape(1, 2, 2, 1)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 0], kernel[2, 1] = 1.0, 10.0
    # [0 + 30, 1 + 40], [0 + 0, 3 + 0]; a true (mirrored) convolution would give 2 at the first
    np.testing.assert_array_equal(cnn.convolve(x, kernel)[0, ..., 0], [[30, 41], [0, 3]])


def test_both_ways_to_convolve_are_one(monkeypatch, photos):
    x = photos.astype(np.float32) / 255
    kernel = seeding.rng(1, "kernel").normal(size=(3, 3, 1, 4)).astype(np.float32)
    by_patches = cnn.convolve(x, kernel)
    monkeypatch.setattr(cnn, "PATCHES_UP_TO", 0)
    np.testing.assert_allclose(by_patches, cnn.convolve(x, kernel), atol=1e-5)


def test_pooling_leaves_out_an_odd_row():
    x = np.arange(15, dtype=np.float32).reshape(1, 3, 5, 1)  # rows 0-4, 5-9, 10-14
    np.testing.assert_array_equal(cnn.max_pool(x)[0, ..., 0], [[6, 8]])


@pytest.mark.parametrize("representation_dim", [0, 5])
def test_the_forward_pass_is_that_of_stock_keras(photos, representation_dim):
    import keras

    spec = cnn.CnnSpec((16, 16, 1), (4, 6), representation_dim, (7, 8), 3)
    weights = cnn.init_weights(spec, seeding.rng(2, "weights"))
    weights = {n: w + 0.01 if n.endswith("bias") else w for n, w in weights.items()}
    layers = [keras.layers.Input((16, 16, 1)), keras.layers.Rescaling(1 / 127.5, -1.0)]
    named = []
    for i, channels in enumerate(spec.channels):
        conv = keras.layers.Conv2D(channels, 3, padding="same", activation="relu")
        named.append((f"conv_{i}", conv))
        layers += [conv, keras.layers.MaxPooling2D()]
    layers.append(keras.layers.Flatten())
    if representation_dim:
        named.append(("representation", keras.layers.Dense(representation_dim, "tanh")))
        layers.append(named[-1][1])
    for i, units in enumerate((7, 8, 3)):
        named.append((f"head_{i}", keras.layers.Dense(units, None if i == 2 else "relu")))
        layers.append(named[-1][1])
    model = keras.Sequential(layers)
    for name, layer in named:
        layer.set_weights([weights[f"{name}_kernel"], weights[f"{name}_bias"]])
    ours = cnn.classify(spec, weights, cnn.represent(spec, weights, photos))
    np.testing.assert_allclose(ours, np.asarray(model(photos.astype(np.float32))), atol=1e-5)


def test_the_papers_network_has_the_papers_sizes():
    spec = cnn.CnnSpec((224, 224, 3), cnn.PAPER_CHANNELS, 0, cnn.PAPER_HEAD, 2, 0.5)
    assert spec.feature_shape == (7, 7, 512)  # 224 halved five times
    # 3*3*(3*64 + 64*128 + 128*256 + 256*512 + 512*512) + (64 + 128 + 256 + 512 + 512)
    convolutions = 9 * 434_368 + 1472
    # 25088*1024 + 3 * 1024*1024 + 1024*2 + (4*1024 + 2)
    head = 25_690_112 + 3_145_728 + 2048 + 4098
    small = cnn.CnnSpec((224, 224, 3), cnn.PAPER_CHANNELS, 0, cnn.PAPER_HEAD, 2)
    weights = cnn.init_weights(small, seeding.rng(0, "weights"))
    assert sum(w.size for w in weights.values()) == convolutions + head


def test_start_weights_depend_on_the_generator_alone():
    first, again = (cnn.init_weights(SMALL, seeding.rng(3, "weights")) for _ in range(2))
    other = cnn.init_weights(SMALL, seeding.rng(4, "weights"))
    for name, w in first.items():
        np.testing.assert_array_equal(w, again[name])
        assert w.dtype == np.float32
        assert name.endswith("bias") or (w != other[name]).any()


def test_dropout_keeps_the_mean_and_is_off_without_a_key():
    from jax import random

    # one hidden layer that copies 1 to 1000 units, and a sum over them
    weights = {
        "x0_kernel": np.ones((1, 1000), np.float32),
        "x0_bias": np.zeros(1000, np.float32),
        "x1_kernel": np.ones((1000, 1), np.float32),
        "x1_bias": np.zeros(1, np.float32),
    }
    x = np.ones((1, 1), np.float32)
    assert float(dense.apply_stack(weights, "x", x, 0.5)[0, 0]) == 1000
    dropped = float(dense.apply_stack(weights, "x", x, 0.5, random.key(0))[0, 0])
    # 2 * Binomial(1000, 0.5): mean 1000, deviation 2 * sqrt(250) = 32; without scaling about 500
    assert dropped != 1000
    assert abs(dropped - 1000) < 130
    assert dropped % 2 == 0
