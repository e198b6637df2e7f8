"""fedgru/console/sweeps.py: the text about a sweep."""

from fedgru.console.sweeps import describe_best
from fedgru.sweep.plan import make_plan


def test_counting_without_probabilities_has_no_loss():
    asked = {"name": "try", "seeds": 1, "trials": None, "prune": None}
    plan = make_plan({"client_lr": (0.1, 0.2)}, {}, **asked)
    record = {
        "trial": 1, "params": {"client_lr": 0.1}, "value": 2.0, "lowest": 2.0, "highest": 2.0,
        "runs": [{"seed": 0}],
    }  # fmt: skip
    ranks = {"test/acc@1/micro": 0.25, "test/acc@5/micro": 0.5, "test/mrr/micro": 0.375}
    report = ranks | {
        "run": "log/x", "test/targets": 4, "test/clients": 2, "test/loss/micro": 1.5, "gains": {},
        "baselines": {"last": ranks}, "best_counting": {"name": "last"},
    }  # fmt: skip
    lines = describe_best(plan, record, [report], "fedgru train").splitlines()
    assert lines[3:6] == [
        "                        acc@1    acc@5      mrr     loss",
        "  model                0.2500   0.5000   0.3750   1.5000",
        "  last                 0.2500   0.5000   0.3750        -",
    ]
