"""The best counting is chosen on validation, one for all runs, by hand."""

from fedgru.evaluation import best_counting


def rows(**accuracies):
    """Return a report with {baseline: (acc@1 on validation, on test)}."""
    return {
        "baselines": {
            name: {"val/acc@1/micro": val, "test/acc@1/micro": test}
            for name, (val, test) in accuracies.items()
        }
    }


def test_validation_chooses_not_test():
    assert best_counting.choose([rows(last=(0.25, 0.75), frequency=(0.5, 0.125))]) == "frequency"


def test_among_equals_the_first():
    assert best_counting.choose([rows(last=(0.5, 0), frequency=(0.5, 1))]) == "last"


def test_one_for_all_runs_also_where_not_all_have_a_kernel():
    plain = rows(last=(0.5, 0.25))
    first, second = (
        rows(last=(0.5, 0.25), running_kernel=(val, test))
        for val, test in ((0.625, 0.5), (0.5, 0.25))
    )
    # the kernel has a mean of 0.5625, above 0.5; alone the second run would say last
    runs = [plain, first, second]
    assert best_counting.choose(runs) == "running_kernel"
    assert best_counting.test_accuracy(runs, "running_kernel") == 0.375
    assert best_counting.choose([second]) == "last"


def test_reports_of_earlier_versions_choose_nothing():
    assert best_counting.choose([{"baselines": {"last": {"test/acc@1/micro": 1.0}}}]) is None
    assert best_counting.choose([{"round": 1}]) is None
