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
        "frequency, user_markov, running_user_markov, running_markov, running_backoff, best."
    )
    for_venues = config.load({"target": "venue", "features": "user,venue"})
    score_workflow.check_baseline("popular_nearby", for_venues)
    with pytest.raises(ConfigError, match="`must_beat` is popular_nearby, expected one of"):
        score_workflow.check_baseline("popular_nearby", config.load({}))


def test_beating_the_best_takes_what_validation_chose():
    rows = {"last": {"test/acc@1/micro": 0.125}, "commonest": {"test/acc@1/micro": 0.5}}
    report = {
        "test/acc@1/micro": 0.25,
        "baselines": rows,
        "best_counting": {"name": "last"},
        "popular_nearby": {"absent": "the data set has no coordinates"},
    }
    assert score_workflow.check_beats(report, "best") == (
        "test acc@1 is 0.2500, above last, the best counting on validation, with 0.1250."
    )
    report["best_counting"] = {"name": "commonest"}
    with pytest.raises(RunError) as error:
        score_workflow.check_beats(report, "best")
    assert str(error.value) == (
        "test acc@1 is 0.2500, not above commonest, the best counting on validation, with 0.5000."
    )
    with pytest.raises(RunError) as error:
        score_workflow.check_beats(report, "popular_nearby")
    assert str(error.value) == "popular_nearby was not counted: the data set has no coordinates."
    with pytest.raises(RunError) as error:
        score_workflow.check_beats(report | {"best_counting": None}, "best")
    assert str(error.value) == (
        "validation has no targets, so no counting baseline is the best on it."
    )
