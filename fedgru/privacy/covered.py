"""What leaves a client in a run, and which line of the privacy budget it is in, if any."""

from __future__ import annotations

from dataclasses import dataclass

from fedgru.config.settings import Settings

NOT_COVERED = "not covered"
NOT_SENT = "not sent"
ROUNDS = "the noise of the rounds"
SETUP = "the noise before round 1"


@dataclass(frozen=True)
class Line:
    """One thing that clients send, or that is made from their data.

    Attributes:
        what: its name.
        budget: the noise that covers it, NOT_SENT, or NOT_COVERED.
        how: what is done about it.
    """

    what: str
    budget: str
    how: str

    @property
    def is_covered(self) -> bool:
        """Whether epsilon holds for it."""
        return self.budget != NOT_COVERED


def lines(settings: Settings) -> list[Line]:
    """Return a Line for everything that leaves a client of a private run."""
    privacy, inputs = settings.privacy, settings.inputs
    learns = privacy.dp_setup_noise is not None
    found = [
        Line("updates", ROUNDS, "clipped as a whole, summed, noised"),
        Line("row ids", ROUNDS, "the whole table is sent, both ways, and all of it is noised"),
        Line("number of examples", NOT_SENT, "every client counts once"),
        Line(
            "size of the cohort",
            NOT_SENT,
            "a sum is divided by the expected size; an empty cohort gives noise",
        ),
        Line("loss and hits of training", NOT_SENT, "they are not recorded"),
    ]
    if privacy.dp_adaptive_clip is not None:
        found.append(
            Line("whether an update was clipped", ROUNDS, "the count is noised; updates get more")
        )
    found.append(
        Line("frequencies of classes", SETUP, "a client's own, of norm 1 at most, are noised")
        if learns
        else Line("frequencies of classes", NOT_SENT, "all classes count alike")
    )
    if inputs.prior == "kernel":
        found.append(
            Line("gradients of the kernel prior", SETUP, "clipped and noised in each round")
            if learns
            else Line("gradients of the kernel prior", NOT_SENT, "its start values are used")
        )
    public = "made from train here; the promise needs a table that was public before"
    found.append(Line("classes, and the values that have rows", NOT_COVERED, public))
    if inputs.scaling == "standard":
        found.append(Line("mean and spread of numbers", NOT_COVERED, public))
    return [
        *found,
        Line("number of clients", NOT_COVERED, "noise, means and cohorts are computed from it"),
        Line("who takes part, drops out or fails", NOT_COVERED, "the server knows its cohorts"),
        Line(
            "scores on validation",
            NOT_COVERED,
            "they choose nothing: the last round is kept; for who experiments, not for release",
        ),
        Line("scores on test, predictions", NOT_COVERED, "for who experiments, not for release"),
    ]
