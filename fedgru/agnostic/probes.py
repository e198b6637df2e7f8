"""The probe audit: how much newly trained classifiers recover from a frozen representation.

The protected head's accuracy during training proves nothing: it can be at chance while a fresh
probe recovers everything (Elazar and Goldberg 2018, arXiv:1808.06640). So this module fits fresh
probes on one part of the examples and tests them on another part, which neither they nor training
have seen. A probe's accuracy is compared with a floor (always the most frequent value), a control
(the same probe fitted on shuffled labels), and a ceiling (the same probe on the raw input).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fedgru.agnostic.erasure import Moments, fit_eraser
from fedgru.core import metrics, seeding
from fedgru.core.errors import DataError
from fedgru.core.types import AnyInts, Bools, Doubles

PROBES = ("logistic", "mlp", "knn")
NUM_NEIGHBOURS = 15
MLP_UNITS = 128
MLP_EPOCHS = 100
LOGISTIC_STEPS = 300

Matrix: TypeAlias = Any  # float [n, dim], a NumPy array or a scipy.sparse matrix


@dataclass(frozen=True)
class Examples:
    """What a probe is fitted on, or tested on.

    Attributes:
        views: name -> float [n, dim] (dense or scipy sparse): the same examples as the
            representation, the logits, the raw input.
        labels: int [n], values of the concept; -1 where it is unknown.
        groups: int [n], the owner of each example. The interval draws groups, because the examples
            of one person or image are not independent.
    """

    views: dict[str, Matrix]
    labels: AnyInts
    groups: AnyInts

    def known(self) -> "Examples":
        """Return the Examples with a known label."""
        kept = self.labels >= 0
        if kept.all():
            return self
        views = {name: x[kept] for name, x in self.views.items()}
        return Examples(views, self.labels[kept], self.groups[kept])


@dataclass(frozen=True)
class ProbeResult:
    """How well one probe recovers the concept from one view.

    Attributes:
        view, probe: their names.
        accuracy: mean over seeds, on the test examples.
        lowest, highest: minimum and maximum over seeds.
        interval: (low, high), 95 % by bootstrap over groups, of the mean over seeds.
        control: accuracy of the same probe fitted on shuffled labels, mean over seeds; None
            if it was not fitted.
        converged: whether the probe's fit converged with every seed.
    """

    view: str
    probe: str
    accuracy: float
    lowest: float
    highest: float
    interval: tuple[float, float]
    control: float | None
    converged: bool


@dataclass(frozen=True)
class Audit:
    """How much fresh probes recover, view by view.

    Attributes:
        concept: its name.
        num_values: number of values in the fit examples.
        num_fit, num_test: examples with a known label.
        num_unknown: examples left out: their label is unknown or not in the fit examples.
        floor: accuracy of always giving the most frequent value of the fit examples.
        readings: list of ProbeResult.
    """

    concept: str
    num_values: int
    num_fit: int
    num_test: int
    num_unknown: int
    floor: float
    readings: list[ProbeResult]

    def worst(self, view: str) -> ProbeResult:
        """Return the ProbeResult with the highest accuracy on a view: the headline."""
        return max((r for r in self.readings if r.view == view), key=lambda r: r.accuracy)

    def excess(self, view: str) -> float:
        """Return the best probe's accuracy on a view above the floor; at least 0."""
        return max(self.worst(view).accuracy - self.floor, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        readings = [vars(r) | {"interval": list(r.interval)} for r in self.readings]
        views = dict.fromkeys(r.view for r in self.readings)
        worst = {view: self.worst(view).accuracy for view in views}
        return vars(self) | {"readings": readings, "worst": worst}


def audit(
    concept: str,
    fit: Examples,
    test: Examples,
    probes: Sequence[str] = PROBES,
    seeds: Sequence[int] = (0,),
    erase: str | None = None,
    controls: bool = True,
    on_fit: Callable[[], object] | None = None,
) -> Audit:
    """Fit fresh probes on some examples and test them on others.

    Args:
        concept: its name, for messages.
        fit, test: Examples with the same views, disjoint in time or image.
        probes: names out of PROBES, or "naive_bayes" for views that hold counts.
        seeds: for each seed one fit of a probe that draws (the MLP), and one shuffled control.
        erase: name of a view. It adds a view "NAME + leace": the view after concept erasure, which
            is fitted on the fit examples. None adds nothing.
        controls: whether to fit the shuffled control too; it doubles the time.
        on_fit: called without arguments after each fitted probe, for a progress bar.

    Returns:
        Audit.

    Raises:
        DataError: if the concept has fewer than two values in `fit` or in `test`.

    Source: Hewitt and Liang 2019 (arXiv:1909.03368) for the control; Belrose et al. 2023 for the
        erasure.
    """
    fit_known, test_known = fit.known(), test.known()
    values = np.unique(fit_known.labels)
    in_fit = np.isin(test_known.labels, values)
    num_unknown = len(fit.labels) + len(test.labels) - len(fit_known.labels) - int(in_fit.sum())
    labels_tested = np.where(in_fit, test_known.labels, -1)
    test_known = Examples(test_known.views, labels_tested, test_known.groups).known()
    for name, examples in (("fitted", fit_known), ("tested", test_known)):
        found = len(np.unique(examples.labels))
        if found < 2:
            raise DataError(
                f"no probe can be {name} for concept {concept}: its {len(examples.labels)} "
                f"examples hold {found} of its values, expected at least 2."
            )
    views = {name: (fit_known.views[name], test_known.views[name]) for name in fit_known.views}
    if erase is not None:
        x, codes = views[erase][0], np.searchsorted(values, fit_known.labels)
        eraser = fit_eraser(Moments.of(x, codes, len(values)))
        x, x_test = views[erase]
        views[f"{erase} + leace"] = eraser(x), eraser(x_test)
    readings: list[ProbeResult] = []
    for view, (x, x_test) in views.items():
        for probe in probes:
            reading = _read(view, probe, x, x_test, fit_known, test_known, seeds, controls)
            readings.append(reading)
            if on_fit is not None:
                on_fit()
    commonest = values[np.argmax(np.bincount(np.searchsorted(values, fit_known.labels)))]
    return Audit(
        concept=concept,
        num_values=len(values),
        num_fit=len(fit_known.labels),
        num_test=len(test_known.labels),
        num_unknown=num_unknown,
        floor=float((test_known.labels == commonest).mean()),
        readings=readings,
    )


def _read(
    view: str,
    probe: str,
    x: Matrix,
    x_test: Matrix,
    fit: Examples,
    test: Examples,
    seeds: Sequence[int],
    with_control: bool,
) -> ProbeResult:
    hits: list[Bools] = []
    controls: list[float] = []
    converged = True
    for seed in seeds if probe == "mlp" else seeds[:1]:
        answers, came_to_end = _fit_and_answer(probe, x, fit.labels, x_test, seed)
        hits.append(answers == test.labels)
        converged &= came_to_end
    for seed in seeds if with_control else ():
        shuffled = seeding.rng(seed, "probe control").permutation(fit.labels)
        answers, _ = _fit_and_answer(probe, x, shuffled, x_test, seed)
        controls.append(float((answers == test.labels).mean()))
    by_seed = [float(hit.mean()) for hit in hits]
    return ProbeResult(
        view=view,
        probe=probe,
        accuracy=float(np.mean(by_seed)),
        lowest=min(by_seed),
        highest=max(by_seed),
        interval=_interval(np.mean(hits, axis=0), test.groups, seeds[0]),
        control=float(np.mean(controls)) if controls else None,
        converged=bool(converged),
    )


def _fit_and_answer(
    probe: str, x: Matrix, labels: AnyInts, x_test: Matrix, seed: int
) -> tuple[AnyInts, bool]:
    """Return the probe's answers, and whether its fit converged."""
    from sklearn.exceptions import ConvergenceWarning

    model = _make(probe, seed, x, labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = model.fit(x, labels).predict(x_test)
    unfinished = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    return answers, not unfinished


def _make(probe: str, seed: int, x: Matrix, labels: AnyInts) -> Any:
    """Return a scikit-learn pipeline. It scales first, so that probes recover faint traces too."""
    from scipy.sparse import issparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if probe == "naive_bayes":
        return MultinomialNB()  # takes counts, unscaled
    if probe == "logistic":
        model = LogisticRegression(max_iter=LOGISTIC_STEPS)
    elif probe == "mlp":
        # scikit-learn holds out a tenth, which must have an example of every value
        counts = np.unique(labels, return_counts=True)[1]
        can_hold_out = counts.min() > 1 and len(labels) >= 10 * len(counts)
        model = MLPClassifier(
            (MLP_UNITS,),
            early_stopping=bool(can_hold_out),
            n_iter_no_change=5,
            max_iter=MLP_EPOCHS,
            random_state=seed,
        )
    else:
        model = KNeighborsClassifier(min(NUM_NEIGHBOURS, len(labels)))
    return make_pipeline(StandardScaler(with_mean=not issparse(x)), model)


def _interval(hits: Doubles, groups: AnyInts, seed: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval, over groups, of a mean of hits."""
    _, group = np.unique(groups, return_inverse=True)
    generator = seeding.rng(seed, "probe interval")
    return metrics.bootstrap_interval(np.bincount(group, hits), np.bincount(group), generator)
