"""fedgru/core/cpus.py: how many processors this process may use, on any system."""

import os

import pytest

from fedgru.core.cpus import usable_cpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_process_held_to_one_processor_has_one():
    allowed = os.sched_getaffinity(0)
    assert usable_cpus() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_elsewhere_it_is_what_the_machine_has(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus() == 1
