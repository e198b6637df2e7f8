"""Training, measuring and sweeping the image network, small and short."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedgru.agnostic.objective import TradeOff
from fedgru.config.methods import METHODS, Method, parse_method
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, RunError, TrainingError
from fedgru.images import cross_domain as image_cross_domain
from fedgru.images import folders as image_folders
from fedgru.images import maps as image_maps
from fedgru.images import settings as image_settings
from fedgru.images import sweep as image_sweep
from fedgru.images import training as image_training
from fedgru.models import cnn, heads
from tests.conftest import slow_but

TINY = {"channels": "4,6", "representation_dim": 6, "head": "8", "draws": 4, "epochs": 2}


@pytest.fixture(scope="module")
def settings():
    return image_settings.load(TINY)


@pytest.fixture(scope="module")
def data(settings):
    return image_folders.open_images(settings, 0)


@pytest.mark.parametrize("method", slow_but(("bottleneck", "hsic+decorrelate"), "bottleneck"))
def test_alpha_0_is_ordinary_training_to_the_bit(settings, data, method):
    train = data.sets["train"]
    ordinary = image_training.train_ordinary(settings, train.images, train.target, 2, 0)
    agnostic = image_training.train(settings, data, parse_method(method), TradeOff("alpha", 0.0), 0)
    own, protected = heads.split_heads(agnostic.weights)
    assert own.keys() == ordinary.weights.keys()
    for name, w in own.items():
        np.testing.assert_array_equal(w, ordinary.weights[name], name)
    assert agnostic.noise == 0.0
    assert agnostic.eraser is None
    fresh = heads.init_heads(seeding.rng(0, "protected heads", 0), 1, 6, (8,), 2)
    assert any((protected[name] != w).any() for name, w in fresh.items())  # they are trained


METHODS_TRIED = "confusion", "leace", "hsic+bottleneck+decorrelate"


@pytest.mark.parametrize("method", slow_but(METHODS_TRIED, "leace"))
def test_a_method_changes_training_and_repeats_to_the_bit(settings, data, method):
    one_epoch = settings.model_copy(update={"epochs": 1 if method != "leace" else 2})
    chosen, strong = parse_method(method), TradeOff("alpha", 0.6)
    first, again = (
        image_training.train(one_epoch, data, chosen, strong, 0).weights for _ in range(2)
    )
    ordinary = image_training.train(one_epoch, data, chosen, TradeOff("alpha", 0.0), 0).weights
    for name, w in first.items():
        np.testing.assert_array_equal(w, again[name])
    assert (first["conv_0_kernel"] != ordinary["conv_0_kernel"]).any()


@pytest.mark.slow
def test_one_reversed_step_against_plain_gradients():
    """sgd, one step: extractor descends (1-a) L_y - a L_p, each head its own loss in full."""
    import jax
    import jax.numpy as jnp

    settings = image_settings.load(
        TINY
        | {"optimizer": "sgd", "momentum": 0.0, "lr": 0.1, "epochs": 1, "draws": 1}
        | {"batch_size": 120, "context_batch_size": 120, "alpha_schedule": "constant"}
    )
    data = image_folders.open_images(settings, 0)
    alpha, targets, contexts = 0.3, data.sets["train"], data.sets["context_train"]
    assert len(targets) == len(contexts) == 120  # 60 digits of 2 classes: one step
    spec = image_training.make_spec(settings, data)
    own = cnn.init_weights(spec, seeding.rng(0, "image weights"))
    protected = heads.init_heads(seeding.rng(0, "protected heads", 0), 1, 6, (8,), 2)

    def loss(scores, labels):
        return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(len(labels)), labels])

    def target_loss(own):
        z = cnn.represent(spec, own, targets.images)
        return loss(cnn.classify(spec, own, z), targets.target)

    def protected_loss(own, protected):  # equation (1): a mean over targets, one over contexts
        parts = [
            loss(
                heads.apply_head(protected, 0, cnn.represent(spec, own, part.images)), part.context
            )
            for part in (targets, contexts)
        ]
        return sum(parts)

    def objective(own):
        return (1 - alpha) * target_loss(own) - alpha * protected_loss(own, protected)

    own_gradients = jax.jit(jax.grad(objective))(own)
    head_gradients = jax.jit(jax.grad(protected_loss, 1))(own, protected)
    trained = image_training.train(
        settings, data, METHODS["reversal"], TradeOff("alpha", alpha), 0
    ).weights
    for name, w in own.items():
        np.testing.assert_allclose(trained[name], w - 0.1 * own_gradients[name], atol=2e-5)
    for name, w in protected.items():
        np.testing.assert_allclose(trained[name], w - 0.1 * head_gradients[name], atol=2e-5)


def test_sgd_with_momentum_and_decay_worked_by_hand():
    from fedgru.models.optimizers import descend

    weights, zeros = {"w": np.float32(2.0)}, ({"w": np.float32(0)}, {"w": np.float32(0)})
    recipe = ("sgd", 0.5, 0.1)
    # gradient 1 + 0.1 * 2 = 1.2; w = 2 - 0.5 * 1.2 = 1.4
    weights, slots = descend(recipe, weights, {"w": np.float32(1.0)}, zeros, 0.5, 1)
    assert float(weights["w"]) == pytest.approx(1.4)
    # gradient 1 + 0.14 = 1.14; momentum 0.5 * 1.2 + 1.14 = 1.74; w = 1.4 - 0.87 = 0.53
    weights, _ = descend(recipe, weights, {"w": np.float32(1.0)}, slots, 0.5, 2)
    assert float(weights["w"]) == pytest.approx(0.53)


def test_adam_worked_by_hand():
    from fedgru.models.optimizers import descend

    weights, zeros = {"w": np.float32(2.0)}, ({"w": np.float32(0)}, {"w": np.float32(0)})
    # corrected moments are 4 and 16 after one step: w = 2 - 0.1 * 4 / 4
    weights, slots = descend(("adam", 0.9, 0.0), weights, {"w": np.float32(4.0)}, zeros, 0.1, 1)
    assert float(weights["w"]) == pytest.approx(1.9)
    # gradient 0: m = 0.9 * 0.4 / 0.19 = 1.8947, v = 0.999 * 0.016 / 0.001999 = 7.996
    weights, _ = descend(("adam", 0.9, 0.0), weights, {"w": np.float32(0.0)}, slots, 0.1, 2)
    assert float(weights["w"]) == pytest.approx(1.9 - 0.1 * 1.8947 / 7.996**0.5, abs=1e-5)


@pytest.mark.slow
def test_the_noise_of_a_bottleneck_is_served(settings, data):
    network = image_training.train(settings, data, METHODS["bottleneck"], TradeOff("alpha", 0.5), 0)
    assert network.noise == 0.5  # alpha times the method's 1.0
    shown = data.sets["holdout"].images
    bare, served = (
        network.mean_representation(shown),
        network.represent(shown, np.random.default_rng(0)),
    )
    assert abs((served - bare).std() - 0.5) < 0.03
    assert abs(bare).max() <= 1


def test_erasure_leaves_equal_means(settings, data):
    network = image_training.train(settings, data, METHODS["leace"], TradeOff("alpha", 0.5), 0)
    assert network.eraser is not None
    train = data.sets["train"]
    bare = replace(network, eraser=None)
    after, before = (n.mean_representation(train.images) for n in (network, bare))
    # within a target class, where the context is all that differs, the means come closer
    for target in (0, 1):
        mine = train.target == target

        def gap(z, mine=mine):
            means = [z[mine & (train.context == c)].mean(0) for c in (0, 1)]
            return np.abs(means[0] - means[1]).max()

        assert gap(after) < gap(before)


def test_decorrelating_draws_make_target_and_context_independent(settings, data):
    run = image_training._Run(
        settings,
        image_training.make_spec(settings, data),
        data,
        Method(adversaries=0, decorrelate=True),
        TradeOff("alpha", 0.5),
        0,
    )
    train = data.sets["train"]
    joint = np.zeros((2, 2))
    np.add.at(joint, (train.target, train.context), run.draw_shares)
    np.testing.assert_allclose(joint, 0.25, atol=1e-6)


def test_a_head_starts_anew_in_turn(settings, data, monkeypatch):
    resets = []
    plain = heads.reset_head
    monkeypatch.setattr(
        heads, "reset_head", lambda w, i, fresh: resets.append(i) or plain(w, i, fresh)
    )
    six = settings.model_copy(update={"epochs": 6})
    method = Method(adversaries=2, resets=3)
    image_training.train(six, data, method, TradeOff("alpha", 0.5), 0)
    # 3 resets in 6 epochs: after epochs 2 and 4; the one after the last is left out. Each
    # resets a head's weights and its two optimizer slots
    assert resets == [1, 1, 1, 0, 0, 0]


def test_a_loss_that_is_no_number(data):
    settings = image_settings.load(TINY | {"optimizer": "sgd", "lr": 1e30})
    with pytest.raises(TrainingError) as error:
        image_training.train(settings, data, METHODS["reversal"], TradeOff("alpha", 0.5), 0)
    assert str(error.value).startswith("training loss became NaN in epoch 1, step ")
    assert str(error.value).endswith("Try a smaller `lr` (now 1e+30).")


def test_crops_and_flips():
    import jax

    from fedgru.images.steps import augment

    images = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6, 1).repeat(50, 0)
    cropped = np.asarray(augment(images, 4, True, jax.random.key(0)))
    corners = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    seen = set()
    for image, crop in zip(images, cropped, strict=True):
        for number, (top, left) in enumerate(corners):
            cut = image[top : top + 4, left : left + 4]
            for mirrored in (False, True):
                if (crop == (cut[:, ::-1] if mirrored else cut)).all():
                    seen.add((number, mirrored))
    assert seen == {(number, mirrored) for number in range(5) for mirrored in (False, True)}
    centre = image_training.centre_crop(images, 4)
    np.testing.assert_array_equal(centre, images[:, 1:5, 1:5])


def test_representing_in_chunks_is_representing_at_once(settings, data, monkeypatch):
    weights = cnn.init_weights(image_training.make_spec(settings, data), seeding.rng(0, "w"))
    network = image_training.Network(image_training.make_spec(settings, data), weights)
    images = data.sets["val"].images[:70]
    whole = network.mean_representation(images)
    monkeypatch.setattr(image_training, "CHUNK", 32)
    np.testing.assert_allclose(network.mean_representation(images), whole, atol=1e-6)


def test_cross_domain_trains_two_networks(settings, data):
    rows = image_cross_domain.run(settings, data, 0)
    assert [(r["network"], r["epoch"]) for r in rows] == [
        ("target", 1), ("target", 2), ("context", 1), ("context", 2)
    ]  # fmt: skip
    train = data.sets["train"]
    network = image_training.train_ordinary(settings, train.images, train.target, 2, 0)
    held = data.sets["context_holdout"]
    answers = network.target_scores(network.mean_representation(held.images)).argmax(1)
    assert rows[1]["on_context"] == (answers == held.context).mean()


def test_maps_of_the_strongest_response():
    maps = np.array([[[0, 1], [2, 3.0]], [[1, 1], [1, 1.0]]])
    # the second is flat: alike whatever it is held against
    np.testing.assert_allclose(
        image_maps.map_correlations(maps, maps[:1].repeat(2, 0)[:, ::-1]), [-0.6, 1.0]
    )


def test_a_map_is_the_last_convolution_before_pooling(settings, data):
    import jax

    spec = image_training.make_spec(settings, data)  # convolutions at 16 and at 8 pixels
    weights = cnn.init_weights(spec, seeding.rng(0, "w"))
    images = data.sets["val"].images[:3]
    maps = image_maps.activation_maps(image_training.Network(spec, weights), images)
    x = images.astype(np.float32) / 127.5 - 1
    x = cnn.max_pool(jax.nn.relu(cnn.convolve(x, weights["conv_0_kernel"])))
    x = np.asarray(jax.nn.relu(cnn.convolve(x, weights["conv_1_kernel"]))).max(-1)
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    np.testing.assert_allclose(maps, (x - low) / (high - low), atol=1e-5)


def test_the_examples_shown_are_the_least_alike_and_of_different_sources(data):
    held = data.sets["holdout"].where(np.array([0, 1, 4, 8, 100, 104]))
    np.testing.assert_array_equal(held.target, [0, 0, 0, 0, 1, 1])
    assert held.groups[0] == held.groups[1]  # two draws of one digit
    first = np.tile(np.array([[0.0, 1], [2, 3]]), (6, 1, 1))
    second = first.copy()
    second[0], second[1], second[2] = first[0].T * -1, first[0] * -1, [[0, 2], [1, 3]]
    rows, correlations = image_maps.least_alike(held, first, second, 2)
    assert correlations[1] == pytest.approx(-1)
    # of draws 0 and 1 the less alike; then the next digit
    assert list(rows[:2]) == [1, 2]


def test_the_sweep_goes_on_where_it_was_stopped(settings, tmp_path, monkeypatch):
    calls = []

    def fake(settings, point):
        calls.append(point)
        return {"ceiling": 0.9, "floor": 0.5} if point.method == "ceiling" else {"probe": 0.1}

    monkeypatch.setattr(image_sweep, "measure_point", fake)
    folder = image_sweep.SweepFolder(tmp_path / "s", settings)
    first = image_sweep.run(settings, folder, ["hsic"], [0.0, 0.5], range(2), threads=2)
    assert len(first) == len(calls) == 6
    with open(folder.results, "a") as stream:
        stream.write('{"method": "hsic", "al')  # the machine went down here
    calls.clear()
    progress = []
    again = image_sweep.run(
        settings,
        image_sweep.SweepFolder(tmp_path / "s", settings),
        ["hsic"],
        [0.0, 0.5, 1.0],
        range(2),
        on_done=lambda done, total: progress.append((done, total)),
    )
    assert sorted(calls, key=lambda p: p.seed) == [
        image_sweep.Point("hsic", 1.0, 0), image_sweep.Point("hsic", 1.0, 1)
    ]  # fmt: skip
    assert progress[0] == (6, 8) and progress[-1] == (8, 8)
    assert [r for r in again if r["alpha"] < 1] == first
    assert len(folder.results.read_text().splitlines()) == 8


def test_a_sweep_with_other_settings_is_refused(settings, tmp_path):
    image_sweep.SweepFolder(tmp_path, settings)
    other = settings.model_copy(update={"epochs": 3})
    with pytest.raises(RunError) as error:
        image_sweep.SweepFolder(tmp_path, other)
    assert str(error.value) == (
        f"{tmp_path} was made with `epochs` 2, now it is 3. Give another `name`, or the same "
        "settings to continue it."
    )


def test_a_damaged_line_of_results(settings, tmp_path):
    folder = image_sweep.SweepFolder(tmp_path, settings)
    folder.results.write_text('{"method": "hsic", "alpha": 0.5, "seed": 0}\nabc\n')
    with pytest.raises(RunError) as error:
        folder.rows()
    assert str(error.value) == (
        f"{folder.results}, line 2: it is not JSON. Remove the line to compute it again."
    )


def test_the_summary_worked_by_hand():
    rows = [
        {"method": "ceiling", "alpha": 0.0, "seed": 0, "ceiling": 0.9, "floor": 0.5},
        {"method": "ceiling", "alpha": 0.0, "seed": 1, "ceiling": 0.8, "floor": 0.5},
        {"method": "ordinary", "alpha": 0.0, "seed": 0, "probe": 1.0, "counter": None},
        {"method": "hsic", "alpha": 0.5, "seed": 0, "probe": 0.5, "counter": None},
        {"method": "hsic", "alpha": 0.5, "seed": 1, "probe": 0.7, "counter": None},
        {"method": "leace", "alpha": 0.5, "seed": 0, "probe": 0.9, "counter": None},
    ]
    table = image_sweep.summarise(rows, ["hsic"])
    assert [(line["alpha"], line["seeds"]) for line in table] == [(0.0, 1), (0.5, 2)]
    assert table[1]["probe"] == pytest.approx(0.6)
    assert table[1]["probe_sd"] == pytest.approx(0.02**0.5)  # n - 1: (0.01 + 0.01) / 1
    assert table[1]["counter"] is None
    assert table[0]["ceiling"] == pytest.approx(0.85)


def test_alpha_is_chosen_by_validation_alone():
    lines = [
        {"alpha": 0.0, "val_target": 0.95, "val_probe": 0.99, "counter": 0.99},  # 0.46
        {"alpha": 0.5, "val_target": 0.90, "val_probe": 0.55, "counter": 0.50},  # 0.85
        {"alpha": 0.9, "val_target": 0.80, "val_probe": 0.45, "counter": 0.70},  # 0.80, not 0.85
    ]
    assert image_sweep.choose_alpha(lines)["alpha"] == 0.5
    assert image_sweep.choose_alpha([lines[0] | {"val_target": None}]) is None


def test_what_is_measured(settings, data):
    network = image_training.train(settings, data, METHODS["bottleneck"], TradeOff("alpha", 0.5), 0)
    row = image_sweep.measure(settings, data, network, 0)
    again = image_sweep.measure(settings, data, network, 0)
    assert row == again
    assert row["floor"] == 0.5
    assert row["probe"] == max(row[f"probe_{p}"] for p in ("logistic", "mlp", "knn"))
    assert row["noiseless"] != row["probe"]
    counter = data.sets["counter"]
    z = network.represent(counter.images, seeding.rng(0, "noise counter"))
    assert row["counter"] == (network.target_scores(z).argmax(1) == counter.target).mean()
    assert json.loads(json.dumps(row)) == row


@pytest.mark.slow
def test_target_and_context_of_ones_own(tmp_path):
    from tests.images.test_data import save_image

    for kind, names in (("target", ("cat", "dog")), ("context", ("grass", "sofa"))):
        for value, name in enumerate(names):
            for i in range(30):
                save_image(tmp_path / kind / name / f"{i}.png", 60 + 100 * value)
    own = {"target": str(tmp_path / "target"), "context": str(tmp_path / "context")}
    mine = {k: v for k, v in TINY.items() if k != "draws"} | own
    settings = image_settings.load(mine | {"image_size": 20, "crop_size": 16, "flips": True})
    row = image_sweep.measure_point(settings, image_sweep.Point("hsic+leace", 0.5, 0))
    assert row["counter"] is None and row["val_probe"] is None
    assert 0 <= row["probe"] <= 1


def test_an_alpha_outside_0_to_1(settings, tmp_path):
    folder = image_sweep.SweepFolder(tmp_path, settings)
    with pytest.raises(ConfigError) as error:
        image_sweep.run(settings, folder, ["hsic"], [0.0, 1.2], [0])
    assert str(error.value) == "`alpha` is 1.2, expected 0 to 1."
