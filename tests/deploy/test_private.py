"""fedgru/deploy/private.py: Flower has the names that are used there, and uses them."""

import inspect
from importlib import import_module

import pytest

from fedgru.deploy import private

pytest.importorskip("flwr", reason="needs Flower, fedgru[flower]")
pytestmark = pytest.mark.dist


@pytest.fixture
def superlink(monkeypatch):
    """Flower's module, put back afterwards."""
    from flwr.superlink import main

    monkeypatch.setattr(main, "create_app", main.create_app)
    return main


@pytest.fixture
def node_loop(monkeypatch):
    """Flower's module, put back afterwards."""
    from flwr.supernode import start_client_internal as loop

    name = "_pull_and_store_message"
    monkeypatch.setattr(loop, name, getattr(loop, name))
    return loop


def test_the_superlink_makes_its_app_by_the_patched_function(superlink, monkeypatch):
    made = []

    class App:
        def add_middleware(self, middleware):
            made.append(middleware)

    monkeypatch.setattr(superlink, "create_app", lambda config, lifespan: App())
    private.add_to_superlink("middleware")
    from flwr.superlink.main import create_app  # as flower_superlink imports it

    assert isinstance(create_app("config", "lifespan"), App)
    assert made == ["middleware"]


def test_the_superlink_takes_the_function_when_it_starts(superlink):
    flower_superlink = import_module("flwr.superlink.cli.flower_superlink")
    assert list(inspect.signature(superlink.create_app).parameters)[0] == "config"
    assert not hasattr(flower_superlink, "create_app")  # imported before, it would be the real one
    users = [f for f in vars(flower_superlink).values() if inspect.isfunction(f)]
    assert any("create_app" in f.__code__.co_varnames for f in users)


def test_a_node_pulls_its_messages_by_the_patched_function(node_loop):
    real = node_loop._pull_and_store_message
    parameters = inspect.signature(real).parameters
    assert {"state", "object_store", "receive"} < parameters.keys()
    users = [f for f in vars(node_loop).values() if inspect.isfunction(f)]
    assert any(real.__name__ in f.__code__.co_names for f in users)
    private.forget_ignored_messages()
    assert node_loop._pull_and_store_message is not real


def test_the_bytes_of_a_message():
    from flwr.app import ConfigRecord, RecordDict  # a part of a message, which needs no run

    content = RecordDict({"some": ConfigRecord({"text": "fedgru"})})
    assert b"fedgru" in private.wire_bytes(content)
