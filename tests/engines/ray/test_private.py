"""fedgru/engines/ray/private.py: Ray has the names that are used there, and uses them."""

import inspect

import pytest

from fedgru.engines.ray import private

pytest.importorskip("ray", reason="needs Ray, fedgru[dist]")
pytestmark = pytest.mark.dist


def test_the_configuration_can_be_read_again():
    from ray import _raylet

    assert callable(_raylet.Config.initialize)
    private.read_environment_again()


def test_what_ray_prints_goes_through_one_function(monkeypatch):
    from ray._private import worker

    real = worker.print_to_stdstream
    assert list(inspect.signature(real).parameters) == ["data", "ignore_prefix"]
    assert real.__name__ in inspect.unwrap(worker.connect).__code__.co_names
    monkeypatch.setattr(worker, real.__name__, real)
    lines = []
    private.print_into(lines.append)
    worker.print_to_stdstream({"lines": ["one", "two"], "is_err": True}, ignore_prefix=True)
    assert lines == ["one", "two"]


def test_ray_knows_no_clusters_in_the_context():
    from ray._private import ray_constants, services

    assert ray_constants.ENABLE_RAY_CLUSTER is True
    assert services.ray_constants is ray_constants
    with private.on_loopback():
        assert services.get_node_ip_address() == "127.0.0.1"
    assert ray_constants.ENABLE_RAY_CLUSTER is True
