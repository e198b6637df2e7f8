"""What the kept round adds to the prior alone: the numbers and the sentence."""

import numpy as np
import pytest

from fedgru.console.describe import describe_kept
from fedgru.runs import listing
from fedgru.workflows import train as train_workflow

LOSS, ACC = "val/loss/micro", "val/acc@1/micro"


def kept(model, alone, key=LOSS, number=3):
    return {
        "round": number,
        "stop_metric": key,
        "prior": "kernel",
        "model": dict(zip((LOSS, ACC), model, strict=True)),
        "alone": dict(zip((LOSS, ACC), alone, strict=True)),
    }


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (
            kept((2.0123, 0.41), (2.059, 0.4)),
            "On validation round 3, which is kept, is better than the kernel prior alone: "
            "val/loss/micro is 2.0123, 2.0590 without the network.",
        ),
        (
            kept((2.0123, 0.39), (2.059, 0.4)),
            "On validation round 3, which is kept, is better than the kernel prior alone: "
            "val/loss/micro is 2.0123, 2.0590 without the network. Its acc@1 is lower, 0.3900 "
            "against 0.4000.",
        ),
        (
            kept((2.07, 0.41), (2.059, 0.4)),
            "On validation no round is better than the kernel prior alone: val/loss/micro is "
            "2.0700 in round 3, 2.0590 without the network. The network adds nothing.",
        ),
        (
            kept((2.059, 0.4), (2.059, 0.4), number=0),
            "On validation no round is better than the kernel prior alone: val/loss/micro is "
            "2.0590 in round 0, 2.0590 without the network. The network adds nothing.",
        ),
        (
            kept((2.07, 0.41), (2.059, 0.4), key=ACC),
            "On validation round 3, which is kept, is better than the kernel prior alone: "
            "val/acc@1/micro is 0.4100, 0.4000 without the network. Its loss is higher, 2.0700 "
            "against 2.0590.",
        ),
        (
            kept((2.0, 0.4), (2.059, 0.4), key=ACC),
            "On validation no round is better than the kernel prior alone: val/acc@1/micro is "
            "0.4000 in round 3, 0.4000 without the network. The network adds nothing.",
        ),
    ],
)
def test_the_sentence(facts, text):
    assert describe_kept(facts) == text


@pytest.mark.parametrize("eval_clients", [None, 2])
def test_the_prior_alone_by_hand(make_task, tmp_path, eval_clients):
    task = make_task(rounds=2, prior="kernel", eval_clients=eval_clients, local_epochs=1)
    run, task, result = train_workflow.train(task, {}, tmp_path)
    found = run.facts()["kept"]
    losses, hits = [], []
    chosen = range(6) if eval_clients is None else task.validation_clients
    for client in chosen:
        start = task.clients.starts[client]
        for target in range(task.clients.train_ends[client], task.clients.val_ends[client]):
            (row,) = task.log_prior(client, [target - 1 - start])
            losses.append(-row[task.classes[target]])
            hits.append(row.argmax() == task.classes[target])
    assert found["alone"][LOSS] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["alone"][ACC] == pytest.approx(np.mean(hits))
    assert found["round"] == result.best.round_num
    assert found["model"][LOSS] == pytest.approx(result.best_value)
    assert describe_kept(found) in (run.path / "run.log").read_text()
    again = listing.open_run(tmp_path)
    assert again.facts()["kept"] == found


def test_without_a_prior_there_is_nothing_to_compare_with(make_task, tmp_path):
    run, _, _ = train_workflow.train(make_task(rounds=1, prior="none"), {}, tmp_path)
    assert "kept" not in run.facts()
