"""fedgru/images/data.py and folders.py: what is drawn, what is read, what is shared."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from fedgru.core import seeding
from fedgru.core.errors import ConfigError, DataError
from fedgru.images import data as image_data
from fedgru.images import folders as image_folders
from fedgru.images import settings as image_settings

SCENES = Path(__file__).parents[3] / "shared/data/scenes"


@pytest.fixture(scope="module")
def data():
    return image_data.digits_on(
        image_data.Textures(16, 0.08), 0, ink=0.5, correlation=0.95, draws=20
    )


def save_image(path, value, size=(20, 16), noise=True):
    """Write a grey image, `value` on average."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, value, np.float64)
    if noise:
        pixels += seeding.rng(value, str(path.name)).normal(0, 20, size)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Two targets and two contexts of 22 images each."""
    for kind, names in (("target", ("cat", "dog")), ("context", ("grass", "sofa"))):
        for value, name in enumerate(names):
            for i in range(22):
                save_image(tmp_path / kind / name / f"{i}.png", 60 + 100 * value)
    return tmp_path


def test_no_digit_is_in_two_sets(data):
    sources = {name: set(s.groups) for name, s in data.sets.items() if (s.target >= 0).any()}
    assert set(sources) == {"train", "probe_fit", "val", "holdout", "counter", "probe_test"}
    for a, b in itertools.combinations(sources, 2):
        assert not sources[a] & sources[b], (a, b)


def test_no_background_is_drawn_twice(data):
    # the corners are rarely under a digit; drawn textures repeat nowhere
    corners = [s.images[:, :2, :8, 0].reshape(len(s), -1) for s in data.sets.values() if len(s)]
    corners = np.concatenate(corners)
    assert len(np.unique(corners, axis=0)) > 0.999 * len(corners)


def test_test_digits_are_the_same_for_every_seed():
    first, second = image_data.digit_pools(0), image_data.digit_pools(1)
    for label in (0, 1):
        tested = [
            set(np.concatenate([pools[n][label] for n in ("holdout", "counter", "probe_test")]))
            for pools in (first, second)
        ]
        assert tested[0] == tested[1]
        assert len(tested[0]) == image_data.TEST_DIGITS
        assert set(first["train"][label]) != set(second["train"][label])


def test_the_correlation_is_exact(data):
    # 60 digits of each class, 20 draws: 1200; 95 % of them is 1140
    train = data.sets["train"]
    for target in (0, 1):
        chosen = train.target == target
        assert chosen.sum() == 1200
        assert (train.context[chosen] == target).sum() == 1140
    counter = data.sets["counter"]
    assert (counter.context == 1 - counter.target).all()
    for name in ("val", "probe_fit", "probe_test"):
        balanced = data.sets[name]
        for target, context in itertools.product((0, 1), repeat=2):
            chosen = (balanced.target == target) & (balanced.context == context)
            assert chosen.sum() == (balanced.target == target).sum() / 2


def test_the_textures_differ_in_direction_alone():
    falling, rising = (image_data.textures(seeding.rng(0, "t"), 400, c, 16) for c in (0, 1))
    for crops in (falling, rising):
        assert abs(crops.std() - 1) < 0.05
        assert abs(crops.mean()) < 0.05
    # waves that fall to the right repeat along the other diagonal: x[i, j] is like x[i+1, j-1]
    along = (falling[:, :-1, 1:] * falling[:, 1:, :-1]).mean()
    across = (falling[:, :-1, :-1] * falling[:, 1:, 1:]).mean()
    assert along > 0.7
    assert across < 0.2
    assert (rising[:, :-1, :-1] * rising[:, 1:, 1:]).mean() > 0.7


def test_a_glyph_worked_by_hand():
    # one full pixel at the top left corner of a glyph, ink 0.5 on white: 1 -> 0.5 there
    glyph = np.zeros((1, 8, 8))
    glyph[0, 0, 0] = 1.0
    white = np.ones((1, 16, 16, 1), np.float32)
    drawn = image_data.draw_glyphs(seeding.rng(0, "g"), white, glyph, 0.5)[0, ..., 0]
    # enlarged from 8 to 12: position 1 lies at 7/11, so that the glyph there is 1 - 7/11
    top, left = np.argwhere(drawn == drawn.min())[0]
    assert drawn[top, left] == pytest.approx(0.5)
    assert drawn[top, left + 1] == pytest.approx(1 - 0.5 * 4 / 11)
    assert drawn[top + 1, left + 1] == pytest.approx(1 - 0.5 * (4 / 11) ** 2)
    assert (drawn < 1).sum() == 4


def test_drawing_again_gives_the_same():
    again = [
        image_data.digits_on(image_data.Textures(16, 0.08), 3, 0.5, 0.95, 2).sets for _ in range(2)
    ]
    for name in again[0]:
        for a, b in zip(*(vars(sets[name]).values() for sets in again), strict=True):
            np.testing.assert_array_equal(a, b)


def test_folders_are_split_into_sets_that_share_no_image(folders):
    data = image_folders.target_and_context_folders(
        folders / "target", folders / "context", 16, 1, pair_contexts=False
    )
    # 22 of each class: train 15.4, val 17.6, holdout 22 -> 15, 2, 5; contexts 11, 15.4, 18.7, 22
    sizes = {name: len(s) for name, s in data.sets.items()}
    assert sizes == {
        "train": 30,
        "val": 4,
        "holdout": 10,
        "context_train": 22,
        "probe_fit": 8,
        "probe_test": 6,
        "context_holdout": 8,
    }
    for names in (image_folders.TARGET_SHARES, image_folders.CONTEXT_SHARES):
        rows = np.concatenate([data.sets[name].groups for name in names])
        assert sorted(rows) == list(range(44))
    assert (data.sets["train"].context == -1).all()
    assert data.target_names == ("cat", "dog")
    bright = data.sets["context_train"]
    assert bright.images[bright.context == 1].mean() > bright.images[bright.context == 0].mean()


def test_paired_contexts_and_their_order(folders):
    data = image_folders.target_and_context_folders(
        folders / "target", folders / "context", 16, 1, True, ["sofa", "grass"]
    )
    train, held = data.sets["train"], data.sets["holdout"]
    np.testing.assert_array_equal(train.context, train.target)
    assert (held.context == -1).all()  # an assumption to train with, no truth to test with
    assert data.context_names == ("sofa", "grass")


def test_the_centre_is_taken_after_scaling_the_shorter_side(tmp_path):
    from PIL import Image

    # 16 high, 48 wide: thirds of 0, 200, 0; the centre square is the middle third
    pixels = np.zeros((16, 48), np.uint8)
    pixels[:, 16:32] = 200
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(pixels + (name == "b")).save(tmp_path / name / "x.png")
    found = image_folders.read_folder(tmp_path, "context", 16)
    assert found.images[0, :, 2:14].min() == 200


def test_what_is_no_image_or_repeats_is_counted(folders):
    (folders / "context/grass/notes.txt").write_text("hello")
    (folders / "context/sofa/Thumbs.db").write_text("x")
    (folders / "context/sofa/.DS_Store").write_text("x")
    twin = folders / "context/sofa/twin.png"
    twin.write_bytes((folders / "context/sofa/3.png").read_bytes())
    found = image_folders.read_folder(folders / "context", "context", 16)
    assert len(found.images) == 44
    assert found.notes == (
        f"{folders}/context: skipped files that are not images: 1 x .db, 1 x .txt.",
        f"{folders}/context: skipped 1 exact copy of other images.",
    )


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError) as error:
        image_folders.read_folder(tmp_path / "no", "context", 16)
    assert str(error.value) == (
        f"{tmp_path}/no is not a folder. `context` takes a folder with one sub-folder for each "
        "class of the context."
    )


def test_one_class_only(tmp_path):
    save_image(tmp_path / "cat/1.png", 100)
    with pytest.raises(DataError) as error:
        image_folders.read_folder(tmp_path, "target", 16)
    assert str(error.value) == (
        f"{tmp_path} has 1 class folder (cat), expected at least 2: one sub-folder for each class "
        "of the target."
    )


def test_an_empty_class_folder(tmp_path):
    save_image(tmp_path / "cat/1.png", 100)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/readme.md").write_text("none yet")
    with pytest.raises(DataError) as error:
        image_folders.read_folder(tmp_path, "target", 16)
    assert str(error.value) == (
        f"{tmp_path}/dog holds no image (other files: 1). Put images there (.jpg, .jpeg, .png, "
        ".bmp, .gif, .tif, .tiff, .webp, .ppm, .pgm), or remove the folder."
    )


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_corrupt_image_is_named(folders, damage):
    file = folders / "context/sofa/3.png"
    file.write_bytes(file.read_bytes()[:150] if damage == "cut" else b"not an image")
    with pytest.raises(DataError) as error:
        image_folders.read_folder(folders / "context", "context", 16)
    kind = {"cut": "OSError", "text": "UnidentifiedImageError"}[damage]
    assert str(error.value) == (
        f"{file} cannot be read as an image ({kind}). Replace or remove it."
    )


def test_too_few_images(folders):
    for i in range(16):
        (folders / f"context/sofa/{i}.png").unlink()
    with pytest.raises(DataError) as error:
        image_folders.Photographs(folders / "context", 16, 0.1)
    assert str(error.value) == (
        f"{folders}/context/sofa has 6 images, expected at least 20: they are split into 8 "
        "disjoint sets."
    )


def test_digits_need_two_contexts_and_targets_as_many_as_contexts(folders):
    for i in range(22):
        save_image(folders / f"context/wall/{i}.png", 120)
    with pytest.raises(DataError) as error:
        image_folders.Photographs(folders / "context", 16, 0.1)
    assert str(error.value) == (
        f"{folders}/context has 3 class folders, expected 2 to draw the two digits on. Give "
        "`target` for a target with as many classes."
    )
    with pytest.raises(DataError) as error:
        image_folders.target_and_context_folders(
            folders / "target", folders / "context", 16, 1, False
        )
    assert str(error.value) == (
        f"{folders}/target has 2 classes and {folders}/context has 3, expected equal numbers: "
        "each target class needs a matching context."
    )


def test_a_wrong_order_of_contexts(folders):
    with pytest.raises(DataError) as error:
        image_folders.read_folder(folders / "context", "context", 16, order=["sofa", "lawn"])
    assert str(error.value) == (
        f"`context_order` is sofa,lawn, expected the classes of {folders}/context in some order: "
        "grass,sofa."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": "x"}, "`target` also needs `context`: a folder of context images."),
        (
            {"target": "x", "context": "y", "ink": 0.3},
            "`ink` has no effect with `target`.",
        ),
        ({"target_context": "paired"}, "`target_context` has no effect without `target`."),
        ({"colour": True}, "`colour` has no effect without `context`."),
        ({"crop_size": 20}, "`crop_size` is 20, larger than `image_size` 16."),
        (
            {"channels": "8,x"},
            "`channels` is 8,x, expected whole numbers above 0, separated by commas.",
        ),
        (
            {"channels": "4,4,4,4,4"},
            "`channels` 4,4,4,4,4 halves the image 5 times, and nothing is left of 16 pixels. Give "
            "fewer channels, or a larger `image_size`.",
        ),
        ({"correlation": 1.5}, "`correlation` is 1.5, expected at most 1."),
        ({"lr": 0.0}, "`lr` is 0.0, expected a number above 0."),
    ],
)
def test_settings_that_cannot_be(given, message):
    with pytest.raises(ConfigError) as error:
        image_settings.load(given)
    assert str(error.value) == message


def test_noise_needs_a_bounded_representation():
    settings = image_settings.load({"representation_dim": 0})
    with pytest.raises(ConfigError) as error:
        image_settings.check_method("hsic+bottleneck", settings)
    assert str(error.value) == (
        "`method` hsic+bottleneck adds noise, which needs a bounded representation: give "
        "`representation_dim`, such as 64."
    )


def test_draws_that_need_contexts_which_are_not_known():
    settings = image_settings.load({"target": "x", "context": "y"})
    assert image_settings.default_method(settings) == "hsic"
    assert image_settings.default_method(image_settings.load()) == "hsic+decorrelate"
    with pytest.raises(ConfigError) as error:
        image_settings.check_method("hsic+decorrelate", settings)
    assert str(error.value) == (
        "`method` hsic+decorrelate has no effect with `target`: it draws each target equally "
        "often with each context, and the contexts of your target images are not known. Use "
        "`method` hsic."
    )


@pytest.mark.realdata
def test_photographs_as_contexts():
    if not SCENES.exists():
        pytest.skip("needs ../shared/data/scenes, which is not here")
    settings = image_settings.load({"context": str(SCENES), "contrast": 0.2, "draws": 4})
    data = image_folders.open_images(settings, 0)
    assert data.context_names == ("coast", "forest")
    source = image_folders.Photographs(SCENES, 16, 0.2)
    rows = np.concatenate(list(source.rows.values()))
    assert sorted(rows) == list(range(688))  # each photograph in one set
    backgrounds, drawn = source.draw(seeding.rng(0, "x"), "counter", np.array([0, 1, 1], np.int32))
    assert set(drawn) <= set(source.rows["counter"])
    np.testing.assert_array_equal(source.folders.labels[drawn], [0, 1, 1])
    assert abs(backgrounds.mean() - 0.5) < 0.03
    assert len(data.sets["train"]) == 2 * 60 * 4
