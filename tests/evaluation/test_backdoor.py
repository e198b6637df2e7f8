"""fedgru/evaluation/backdoor.py: which targets are counted, and where the rate is reported."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedgru.console import describe
from fedgru.core import seeding
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import evaluate
from fedgru.evaluation.backdoor import success_rate
from fedgru.models import gru
from fedgru.workflows import score as score_workflow
from fedgru.workflows import train as train_workflow


def test_honest_targets_after_the_trigger_count(make_task):
    task = make_task(attack="backdoor", attackers=2)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    found = evaluate.evaluate(JaxEngine(task), weights, "test")
    planted, places = task.backdoor, []
    for place, position in enumerate(found.positions):  # the same, one by one
        client = int(np.searchsorted(task.clients.starts, position, side="right")) - 1
        after = task.history.categories[position - 1] == planted.trigger_code
        other = task.classes[position] != planted.target_class
        if client not in task.attackers and after and other:
            places.append(place)
    assert len(places) > 3
    predicted = np.full(len(found.positions), planted.target_class, np.int32)
    predicted[places[:-2]] = (planted.target_class + 1) % task.num_classes  # two of them are hit
    hit = replace(found, scores=replace(found.scores, predicted=predicted))
    assert success_rate(task, hit) == {
        "test/backdoor/micro": pytest.approx(2 / len(places)),
        "test/backdoor_targets": len(places),
    }
    assert success_rate(make_task(), found) == {}
    # of some clients alone
    honest = min(set(range(6)) - task.attackers)
    one = evaluate.evaluate(JaxEngine(task), weights, "test", clients=[honest])
    number = success_rate(task, one)["test/backdoor_targets"]
    owners = task.clients.client_of[found.positions[places]]
    assert number == int((owners == honest).sum())


def test_without_such_a_target_there_is_no_rate(make_task):
    task = make_task(attack="backdoor", attackers=6)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    found = evaluate.evaluate(JaxEngine(task), weights, "test")
    assert success_rate(task, found) == {"test/backdoor/micro": None, "test/backdoor_targets": 0}


def test_the_rate_is_in_metrics_test_json_and_at_the_terminal(make_task, tmp_path):
    given = {"attack": "backdoor", "attackers": 2, "rounds": 2, "patience": 0}
    task = make_task(**given)
    run, _, _ = train_workflow.train(task, {}, tmp_path)
    rates = run.rounds()["val/backdoor/micro"]
    assert len(rates) == 3 and all(0 <= rate <= 1 for rate in rates)
    report = score_workflow.evaluate_run(run, task)
    planted = {"trigger": task.backdoor.trigger, "target": task.backdoor.target}
    assert json.loads((run.path / "test.json").read_text())["backdoor"] == planted
    rate, number = report["test/backdoor/micro"], report["test/backdoor_targets"]
    assert 0 <= rate <= 1 and number > 3
    line = (
        f"Backdoor: {planted['target']} is predicted for {100 * rate:.1f} % of {number} test "
        f"targets of honest clients after {planted['trigger']}; none of them is "
        f"{planted['target']}."
    )
    assert line in describe.describe_report(report, run.kind).splitlines()
    unknown = report | {"test/backdoor/micro": None}
    assert (
        f"Backdoor: there are no test targets of honest clients after {planted['trigger']}, so its "
        "success rate is not known."
    ) in describe.describe_report(unknown, run.kind).splitlines()
