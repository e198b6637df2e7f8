"""Named methods: the switches of the objective that hide the concept.

`reversal` is the paper's method, as published. A fresh probe can still recover the concept: the
probe's scaling magnifies a residue too faint for the head inside training, and a perfect head
gives no gradient to reverse. The other methods are the literature's answers to this.
"""

from dataclasses import dataclass

from fedgru.core.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """The switches of a method. alpha weighs them; at alpha 0 none has any effect.

    `erase` and `decorrelate` are not weighed: at any alpha above 0 they are fully on.

    Attributes:
        adversaries: protected heads behind the reversal; 0 for none.
        confusion: whether heads are pulled to the uniform answer instead of reversed.
        adversary_steps: steps of the heads for each step of the extractor.
        resets: how often in a training one of the heads, in turn, is initialised again.
        noise: standard deviation of the Gaussian noise on the representation at alpha 1, in units
            of the representation's standard deviation, or of its bound if it is bounded. The
            noise is added in training, evaluation and probes.
        dependence: weight of the kernel measure of dependence, added to the reversal.
        erase: whether concept erasure is applied between extractor and heads.
        decorrelate: whether examples are weighted, or drawn, so that target and concept are
            independent.
        source: the papers.
    """

    adversaries: int = 1
    confusion: bool = False
    adversary_steps: int = 1
    resets: int = 0
    noise: float = 0.0
    dependence: float = 0.0
    erase: bool = False
    decorrelate: bool = False
    source: str = ""


METHODS = {
    "reversal": Method(source="Jia et al. 2018; Ganin et al. 2016 (arXiv:1505.07818)"),
    "confusion": Method(confusion=True, source="Tzeng et al. 2015 (arXiv:1510.02192)"),
    "ensemble": Method(
        adversaries=3,
        adversary_steps=3,
        resets=6,
        source="Elazar and Goldberg 2018 (arXiv:1808.06640), several adversaries",
    ),
    # reversal through a noisy bottleneck, and the bottleneck alone
    "bottleneck": Method(noise=1.0, source="Alemi et al. 2017 (arXiv:1612.00410), fixed variance"),
    "noise": Method(adversaries=0, noise=1.0, source="Alemi et al. 2017, fixed variance"),
    "hsic": Method(adversaries=0, dependence=1.0, source="Gretton et al. 2005"),
    "decorrelate": Method(
        adversaries=0, decorrelate=True, source="Kamiran and Calders 2012, reweighing"
    ),
    "leace": Method(adversaries=0, erase=True, source="Belrose et al. 2023 (arXiv:2306.03819)"),
}

DEFAULT_METHOD = "hsic+decorrelate"  # for images; best in the audit, see docs/agnostic.md


def parse_method(name: str) -> Method:
    """Return the Method of a name; of several names joined by "+", the maximum of each switch.

    >>> parse_method("reversal+bottleneck")
    Method(adversaries=1, confusion=False, adversary_steps=1, resets=0, noise=1.0, dependence=0.0, \
erase=False, decorrelate=False, source='')

    Raises:
        ConfigError: for an unknown name; lists the accepted ones.
    """
    parts = name.split("+")
    unknown = [part for part in parts if part not in METHODS]
    if unknown:
        raise ConfigError(
            f"unknown method {unknown[0]!r}. Accepted: {', '.join(METHODS)}, or several joined "
            "by +, such as reversal+bottleneck."
        )
    if len(parts) == 1:
        return METHODS[name]
    chosen = [METHODS[part] for part in parts]
    switches = {
        switch: max(getattr(method, switch) for method in chosen)
        for switch in Method.__dataclass_fields__
        if switch != "source"
    }
    return Method(**switches)
