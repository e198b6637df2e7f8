"""The default head, and the defaults that depend on it."""

import pytest

from fedgru import config
from fedgru.config import by_head
from fedgru.engines import registry


def values(settings, *names):
    sections = {name: section for name, (section, _) in config.fields().items()}
    return [getattr(getattr(settings, sections[name]), name) for name in names]


SOME = ("head", "hidden_dim", "client_optimizer", "client_lr", "server_lr", "mean", "rounds")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["candidates", 32, "sgd", 0.02, 0.01, "clients", 80]),
        ({"head": "dense"}, ["dense", 256, "adam", 0.002, 1.0, "owners", 30]),
        ({"prior": "backoff"}, ["dense", 256, "adam", 0.002, 1.0, "owners", 30]),
        (
            {"engine": "tff", "mean": "clients"},
            ["dense", 256, "adam", 0.002, 1.0, "clients", 30],
        ),
        ({"agnostic_to": "zone"}, ["dense", 256, "adam", 0.002, 1.0, "owners", 30]),
        ({"model": "some:thing"}, ["dense", 256, "adam", 0.002, 1.0, "owners", 30]),
        # a prior of another kind is possible, if one asks for it
        (
            {"prior": "backoff", "head": "candidates"},
            ["candidates", 32, "sgd", 0.02, 0.01, "clients", 80],
        ),
        ({"client_lr": 0.1}, ["candidates", 32, "sgd", 0.1, 0.01, "clients", 80]),
        # a step size belongs to its optimizer
        ({"client_optimizer": "adam"}, ["candidates", 32, "adam", 0.002, 0.01, "clients", 80]),
        ({"server_optimizer": "sgd"}, ["candidates", 32, "sgd", 0.02, 1.0, "clients", 80]),
        ({"robust": "median"}, ["candidates", 32, "sgd", 0.02, 0.01, "owners", 80]),
        ({"rounds": 3, "hidden_dim": 8}, ["candidates", 8, "sgd", 0.02, 0.01, "clients", 3]),
    ],
)
def test_what_is_filled_in(given, expected):
    settings, origins = config.resolve(given)
    assert values(settings, *SOME) == expected
    assert {name for name, origin in origins.items() if origin != "default"} == set(given)
    # nothing but what was given, and what goes with it, differs from the defaults
    assert config.differences(settings) == {
        name: value for name, value in given.items() if value != by_head.defaults_of(settings)[name]
    }
    registry.check(settings) if "model" not in given else None


def test_a_falling_rate_goes_with_its_optimizer():
    assert values(config.load({}), "server_lr_schedule") == ["linear"]
    assert values(config.load({"server_optimizer": "sgd"}), "server_lr_schedule") == ["constant"]


def test_why_the_head_is_dense():
    def why(given):
        return config.why_dense(config.load(given))

    assert why({}) is None
    assert why({"head": "dense"}) is None
    assert why({"prior": "none"}) == "`prior` is none"
    assert why({"engine": "tff"}) == "`engine` is tff"
    assert why({"agnostic_to": "zone"}) == "`agnostic_to` is zone"


@pytest.mark.parametrize("given", [{}, {"head": "dense"}, {"client_optimizer": "adam"}])
def test_what_a_run_stores_is_read_as_it_stands(given, tmp_path):
    settings = config.load(given)
    file = tmp_path / "config.toml"
    file.write_text(config.dump(settings))
    assert config.read_stored(file) == settings == config.load(config_file=file)
    # a run from before there was a choice has no line with its head
    text = file.read_text().replace('head = "candidates"\n', "").replace('head = "dense"\n', "")
    file.write_text(text)
    assert config.read_stored(file).model.head == "dense"


def test_help_names_both_defaults():
    assert config.default_text("rounds") == "80 with --head candidates, else 30"
    assert config.default_text("head") == "candidates with --prior kernel, else dense"
    assert config.default_text("seed") == "0"
    assert config.default_text("head_dim") == ""
