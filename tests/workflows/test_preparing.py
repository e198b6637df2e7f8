"""fedgru/workflows/preparing.py: it logs how many priors and candidates are computed."""

import dataclasses
import logging
import re
import threading
import time

import pytest

from fedgru.core.errors import Interrupted
from fedgru.task import kernel_prior, priors
from fedgru.task.preparation import Preparation
from fedgru.workflows import open as open_workflow
from fedgru.workflows import preparing
from fedgru.workflows import train as train_workflow

EVERY_S = 0.02


def wait_for(found, number):
    until = time.monotonic() + 10
    while len(found) < number:
        assert time.monotonic() < until
        time.sleep(EVERY_S / 4)


def test_reports_while_clients_are_computed_and_not_else(caplog):
    caplog.set_level(logging.INFO, "fedgru")
    prepared, shown = Preparation(), []
    with preparing.reporting(prepared, shown.append, EVERY_S):
        time.sleep(4 * EVERY_S)
        assert shown == []
        with prepared.computing("priors", 3):  # one long history: nobody is done yet
            wait_for(shown, 1)
        for client, what in ((3, "priors"), (5, "priors"), (3, "candidates")):
            with prepared.computing(what, client):
                pass
        with prepared.computing("candidates", 5):
            wait_for(shown, len(shown) + 2)
    assert shown[0] == "preparing clients: none yet"
    assert shown[-2:] == ["preparing clients: priors of 2, candidates of 1", ""]
    assert re.fullmatch(
        r"preparing clients: priors of 2, candidates of 1, \d s so far", caplog.messages[-1]
    )
    assert "preparing clients" not in [thread.name for thread in threading.enumerate()]


def test_training_reports_and_heeds_ctrl_c(make_task, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "fedgru")
    monkeypatch.setattr(preparing, "EVERY_S", EVERY_S)
    own, computed = priors.count_prior, []

    def slow(*args):
        computed.append(args)
        if len(computed) == 3:
            raise KeyboardInterrupt
        time.sleep(4 * EVERY_S)
        return own(*args)

    monkeypatch.setattr(priors, "count_prior", slow)
    task = make_task(rounds=1, prior="backoff", engine="reference", threads=1)
    with pytest.raises(Interrupted, match="stopped by Ctrl-C before round 1"):
        train_workflow.train(task, {}, tmp_path / "log")
    assert any(re.match("preparing clients: priors of [12], ", text) for text in caplog.messages)
    assert "preparing clients" not in [thread.name for thread in threading.enumerate()]


def test_learning_the_kernel_is_reported_where_it_takes_long(make_task, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "fedgru")
    task = dataclasses.replace(make_task(prior="kernel"), kernel=None)
    open_workflow.learn_prior(task)
    assert not [text for text in caplog.messages if text.startswith("learning")]
    monkeypatch.setattr(open_workflow, "EVERY_S", 0.0)
    open_workflow.learn_prior(task)
    found = [text for text in caplog.messages if text.startswith("learning the kernel prior")]
    assert len(found) == kernel_prior.FIT_ROUNDS
    assert re.fullmatch(r"learning the kernel prior: round 80 of 80, loss \d\.\d{3}", found[-1])
