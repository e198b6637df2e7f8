"""fedgru/runs/kinds.py: what each kind of run is, as the commands have it."""

import pytest

from fedgru.evaluation import evaluate
from fedgru.runs.kinds import BASELINES, KINDS


def names(question):
    """The kinds of which a question is true."""
    return {name for name, kind in KINDS.items() if getattr(kind, question)}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("shares_model", {"federated", "deployed", "central"}),
        ("resumes", {"federated", "deployed", "central"}),
        ("trains", {"federated", "deployed", "central", "local"}),
        ("learns_kernel", {"federated", "deployed", "central", "kernel"}),
        ("pools", {"central"}),
        ("has_engine", {"federated"}),
        ("is_baseline", set(KINDS) - {"federated", "deployed"}),
        ("has_check_ins", set(KINDS) - {"deployed"}),
    ],
)
def test_what_is_true_of_which(question, expected):
    assert names(question) == expected


def test_a_kind_goes_by_its_own_name():
    assert [kind.name for kind in KINDS.values()] == list(KINDS)


def test_each_counting_baseline_of_a_report_can_be_a_run():
    running = [f"running_{name}" for name in evaluate.RUNNING_BASELINES]
    counted = [kind.counting for kind in BASELINES.values() if not kind.trains]
    assert sorted(counted) == sorted([*evaluate.RANKING_BASELINES, *running])
