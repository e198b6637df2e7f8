"""fedgru/workflows/score.py: what is done with a trained run."""

import pytest

from fedgru import config
from fedgru.core.errors import ConfigError, RunError
from fedgru.workflows import score as score_workflow


def test_beating_a_baseline():
    def report(ours, theirs):
        return {"test/acc@1/micro": ours, "baselines": {"last": {"test/acc@1/micro": theirs}}}

    line = score_workflow.check_beats(report(0.25, 0.125), "last")
    assert line == "test acc@1 is 0.2500, above last with 0.1250."
    for theirs in (0.25, 0.5):  # as good as is not above
        with pytest.raises(RunError) as error:
            score_workflow.check_beats(report(0.25, theirs), "last")
        assert str(error.value) == f"test acc@1 is 0.2500, not above last with {theirs:.4f}."


def test_baselines_that_there_are():
    score_workflow.check_baseline("running_kernel", config.load({"prior": "kernel"}))
    with pytest.raises(ConfigError) as error:
        score_workflow.check_baseline("running_kernel", config.load({"prior": "none"}))
    assert str(error.value) == (
        "`must_beat` is running_kernel, expected one of commonest, last, global_markov, "
        "frequency, user_markov, running_markov, running_backoff."
    )
