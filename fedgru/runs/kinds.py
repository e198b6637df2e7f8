"""The kinds of run in one table. Code asks a kind for its properties, never for its name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunKind:
    """A kind of run, and what a run of it has and is.

    Attributes:
        name: as run.json, test.json and `fedgru baseline` have it.
        shares_model: whether training gives one set of weights that all clients share: it can be
            audited, fine-tuned, predicted with and exported.
        resumes: whether it keeps checkpoints, so that a stopped run can be resumed.
        learns_kernel: whether the clients learn one kernel prior together, kept in run.json.
        counting: for a counting baseline, which trains no model, its name in a report's
            `baselines`; None for the others.
        is_baseline: whether `fedgru baseline` makes it.
        pools: whether all clients' check-ins are trained on in one place.
        has_engine: whether one of the engines runs the clients, and what they exchange counts.
        learns_alone: whether each client learns or counts from its own check-ins alone.
        knows_moment: whether it can use the moment of the next check-in, with `asked_at`.
        needs_moment: whether it is nothing without that.
        has_check_ins: whether this machine has its check-ins. Without them the task cannot be
            built again, and there are no predictions.
    """

    name: str
    shares_model: bool = False
    resumes: bool = False
    learns_kernel: bool = False
    counting: str | None = None
    is_baseline: bool = True
    pools: bool = False
    has_engine: bool = False
    learns_alone: bool = False
    knows_moment: bool = True
    needs_moment: bool = False
    has_check_ins: bool = True

    @property
    def trains(self) -> bool:
        """Whether it trains: it has rounds and weights."""
        return self.counting is None

    @property
    def command(self) -> tuple[str, ...]:
        """The words of the command that makes such a run, a tuple.

        >>> CENTRAL.command, FEDERATED.command, DEPLOYED.command
        (('fedgru', 'baseline', 'central'), ('fedgru', 'train'), ('fedgru', 'deploy'))
        """
        if self.is_baseline:
            return "fedgru", "baseline", self.name
        return "fedgru", "train" if self.has_engine else "deploy"

    @property
    def row(self) -> str:
        """The name of the run's own row in a table with the baselines."""
        return "model" if self.has_engine else self.name

    @property
    def words(self) -> str:
        """The words that follow "is" in a sentence about such a run.

        >>> LOCAL.words, FEDERATED.words, DEPLOYED.words
        ('the baseline local', 'of fedgru train', 'of fedgru deploy')
        """
        return f"the baseline {self.name}" if self.is_baseline else f"of {' '.join(self.command)}"


FEDERATED = RunKind(
    "federated",
    shares_model=True,
    resumes=True,
    learns_kernel=True,
    is_baseline=False,
    has_engine=True,
)
DEPLOYED = RunKind(
    "deployed",
    shares_model=True,
    resumes=True,
    learns_kernel=True,
    is_baseline=False,
    has_check_ins=False,
)
CENTRAL = RunKind("central", shares_model=True, resumes=True, learns_kernel=True, pools=True)
LOCAL = RunKind("local", learns_alone=True)  # each client learns a kernel of its own


def _blind(name: str, counting: str | None = None, learns_alone: bool = False) -> RunKind:
    """A counting baseline that does not know the moment of the next check-in."""
    counting = name.replace("-", "_") if counting is None else counting
    return RunKind(name, counting=counting, learns_alone=learns_alone, knows_moment=False)


KINDS = {
    kind.name: kind
    for kind in (
        FEDERATED,
        DEPLOYED,
        _blind("commonest"),
        _blind("last", learns_alone=True),
        _blind("frequency", learns_alone=True),
        _blind("markov", counting="user_markov", learns_alone=True),
        _blind("global-markov"),
        _blind("popular-nearby"),
        _blind("running-user-markov", learns_alone=True),
        _blind("running-markov"),
        RunKind("running-by-hour", counting="running_by_hour", needs_moment=True),
        RunKind("running-backoff", counting="running_backoff"),
        RunKind("kernel", counting="running_kernel", learns_kernel=True),
        CENTRAL,
        LOCAL,
    )
}
BASELINES = {name: kind for name, kind in KINDS.items() if kind.is_baseline}
