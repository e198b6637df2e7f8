"""fedgru/engines/registry.py: what each engine can do, and the one refusal."""

import pytest

from fedgru import config
from fedgru.core.errors import ConfigError
from fedgru.engines import registry
from fedgru.engines.base import Engine


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"threads": 2, "engine": "reference", "prior": "none"},
            "`engine` reference does not know `threads`. Use `engine` jax, tff or ray, or leave "
            "`threads` out.",
        ),
        (
            {"device": "cpu", "engine": "reference"},
            "`engine` reference does not know `device`. Use `engine` jax, or leave `device` out.",
        ),
        (
            {"clients_per_call": 2, "engine": "tff", "mean": "clients"},
            "`engine` tff does not know `clients_per_call`. Use `engine` jax, or leave "
            "`clients_per_call` out.",
        ),
        (
            {"engine": "tff", "mean": "clients", "prox_mu": 0.1},
            "`engine` tff does not know `prox_mu`. Use `engine` jax, reference or ray, or leave "
            "`prox_mu` out.",
        ),
        (
            {"engine": "tff", "mean": "clients", "client_dropout": 0.1},
            "`engine` tff does not know `client_dropout`. Use `engine` jax, reference or ray, or "
            "leave `client_dropout` out.",
        ),
        (
            {"engine": "tff", "mean": "clients", "robust": "krum"},
            "`engine` tff does not know `robust`. Use `engine` jax, reference or ray, or leave "
            "`robust` out.",
        ),
        (
            {"engine": "tff", "mean": "clients", "agnostic_to": "zone"},
            "`engine` tff does not know `agnostic_to`. Use `engine` jax, reference or ray, or "
            "leave `agnostic_to` out.",
        ),
        (
            {"engine": "tff", "mean": "clients", "server_optimizer": "adagrad"},
            "`engine` tff does not know `server_optimizer` adagrad. Use `engine` jax, reference or "
            "ray, or `server_optimizer` sgd.",
        ),
        (
            {"engine": "tff"},
            "`engine` tff does not know `mean` owners. Use `engine` jax, reference or ray, or "
            "`mean` clients.",
        ),
        (
            {"engine": "reference", "agnostic_to": "zone", "method": "hsic"},
            "`engine` reference does not know `method` hsic. Use `engine` jax or ray, or `method` "
            "reversal.",
        ),
        (
            {"tff_aggregator": "robust"},
            "`engine` jax does not know `tff_aggregator`. Use `engine` tff, or leave "
            "`tff_aggregator` out.",
        ),
        (
            {"ray_actors": 2},
            "`engine` jax does not know `ray_actors`. Use `engine` ray, or leave `ray_actors` out.",
        ),
    ],
)
def test_what_an_engine_does_not_know_is_refused(given, message):
    with pytest.raises(ConfigError) as error:
        registry.check(config.load(given))
    assert str(error.value) == message


@pytest.mark.parametrize(
    "given",
    [
        {"threads": 2, "engine": "reference", "prior": "kernel"},  # the prior is learnt in threads
        {"engine": "reference", "method": "reversal", "agnostic_to": "zone"},
        {"engine": "tff", "mean": "clients", "tff_aggregator": "robust"},
        {"engine": "ray", "ray_actors": 2, "prox_mu": 0.1, "local_loop": "xla"},
        {"engine": "jax", "clients_per_call": 2, "client_dropout": 0.1},
    ],
)
def test_what_it_knows_passes(given):
    registry.check(config.load(given))


def test_every_engine_of_the_settings_is_in_the_table():
    _, field = config.fields()["engine"]
    assert list(registry.ENGINES) == ["jax", "reference", "tff", "ray"]
    assert set(registry.ENGINES) == set(field.annotation.__args__)
    for name, info in registry.ENGINES.items():
        engine = info.load()  # none needs its package for that
        assert issubclass(engine, Engine) and engine.name == name
    sections = {section for section, _ in config.fields().values()}
    assert {*config.fields(), *sections} >= registry.LIMITED
