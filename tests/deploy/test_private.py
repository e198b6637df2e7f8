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
        def add_middleware(self, middleware, **options):
            made.append((middleware, options))

    monkeypatch.setattr(superlink, "create_app", lambda config, lifespan: App())
    private.add_to_superlink("middleware", secret="s")
    from flwr.superlink.main import create_app  # as flower_superlink imports it

    assert isinstance(create_app("config", "lifespan"), App)
    assert made == [("middleware", {"secret": "s"})]


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


def test_a_node_makes_its_app_by_the_patched_function():
    flower_supernode = import_module("flwr.supernode.cli.flower_supernode")
    assert not hasattr(flower_supernode, "create_app")
    users = [f for f in vars(flower_supernode).values() if inspect.isfunction(f)]
    assert any("create_app" in f.__code__.co_varnames for f in users)


def test_uvicorn_believes_no_proxy(monkeypatch):
    from uvicorn import Config

    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    monkeypatch.setattr(Config, "__init__", Config.__init__)
    assert Config("app").proxy_headers
    private.believe_no_proxy()
    config = Config("app", host="127.0.0.1")
    assert (config.proxy_headers, config.forwarded_allow_ips) == (False, "")


def test_every_request_of_flowers_clients_has_the_header(monkeypatch):
    client = import_module(private.CLIENT).ProtobufClient
    monkeypatch.setattr(client, "__init__", client.__init__)
    private.send_header("x-some", "value")
    assert client("http://localhost:1")._client.headers["x-some"] == "value"
    # those of `flwr`, and of the programs that run apps
    for module, name in (
        ("flwr.supercore.control.control_http_client", "ControlHttpClient"),
        ("flwr.supercore.runtime.runtime_http_client", "RuntimeHttpClient"),
    ):
        assert issubclass(getattr(import_module(module), name), client)


def test_a_client_checks_an_app_before_it_installs_it(monkeypatch):
    program = import_module(private.CLIENT_PROGRAM)
    installed = []
    monkeypatch.setattr(program, "install_from_fab", lambda content, **_: installed.append(content))

    def check(content):
        if content != b"good":
            raise ValueError("no")

    private.check_apps(check)
    program.install_from_fab(b"good", skip_prompt=True)
    with pytest.raises(program.LoadClientAppError, match="no"):
        program.install_from_fab(b"bad", skip_prompt=True)
    assert installed == [b"good"]
    # what is checked is what is run, and it is done before
    source = inspect.getsource(program.run_clientapp)
    assert source.index("install_from_fab(fab.content") < source.index("load_client_app_fn(")
