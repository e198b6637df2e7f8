"""fedgru/task/round_task.py: both kinds of task have what the round loop reads."""

import inspect

import numpy as np
import pytest

from fedgru import config
from fedgru.deploy.engine import RemoteTask
from fedgru.deploy.federation import Federation, Member
from fedgru.models.gru import ModelSpec
from fedgru.task.round_task import RoundClients, RoundTask
from fedgru.task.task import Task
from fedgru.training.loop import draw_cohort

NUM_CLIENTS = 6


@pytest.fixture(params=["here", "elsewhere"])
def task(request, make_task):
    """Tasks of six clients, three of them drawn for a round."""
    here = make_task(clients_per_round=3)
    if request.param == "here":
        return here
    members = [
        Member(f"{number:02}", f"client-{number}", number, 9, 9, 3, 3)
        for number in range(NUM_CLIENTS)
    ]
    return RemoteTask(here.settings, here.spec, None, Federation(None, members), None)


def test_it_has_what_the_round_loop_reads(task):
    assert isinstance(task, RoundTask)
    assert isinstance(task.clients, RoundClients)
    assert isinstance(task.settings, config.Settings) and isinstance(task.spec, ModelSpec)
    assert all(isinstance(name, str) for name in task.clients.client_ids)
    assert task.training_clients.tolist() == list(range(NUM_CLIENTS))
    assert len(task.attackers) == 0 and task.protection is None


def test_a_cohort_is_drawn_from_it(task):
    cohorts = [draw_cohort(task, round_num).tolist() for round_num in range(1, 30)]
    assert all(cohort == sorted({*cohort}) and len(cohort) == 3 for cohort in cohorts)
    assert {client for cohort in cohorts for client in cohort} == {*range(NUM_CLIENTS)}
    assert draw_cohort(task, 1).dtype == np.int64


def test_what_lacks_a_part_is_none():
    parts = [name for name in vars(RoundTask) if not name.startswith("_")]
    assert {"settings", "clients", "training_clients", "draw", "release"} < {*parts}
    whole = dict.fromkeys(parts, lambda: None)
    assert isinstance(type("Whole", (), whole)(), RoundTask)
    for name in parts:
        others = {part: value for part, value in whole.items() if part != name}
        assert not isinstance(type("Without", (), others)(), RoundTask), name


@pytest.mark.parametrize("kind", [Task, RemoteTask])
@pytest.mark.parametrize("method", ["draw", "release"])
def test_methods_take_the_same_arguments(kind, method):
    expected, found = (inspect.signature(getattr(one, method)) for one in (RoundTask, kind))
    assert list(found.parameters) == list(expected.parameters)
