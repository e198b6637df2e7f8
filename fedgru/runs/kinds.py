"""The kinds of run, one table: what tells them apart is asked of the kind, never of its name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunKind:
    """A kind of run, and what a run of it has and is.

    Attributes:
        name: as run.json, test.json and `fedgru baseline` have it.
        shares_model: whether training gives one set of weights that all clients share: it can be
            audited, fine-tuned, predicted with and exported.
        resumes: whether it keeps checkpoints, to be gone on with from the last.
        learns_kernel: whether the clients learn one kernel prior together, kept in run.json.
        counting: for a counting baseline, which trains no model, its name in a report's
            `baselines`; None for the others.
        is_baseline: whether `fedgru baseline` makes it.
        pools: whether all clients' check-ins are trained on in one place.
        has_engine: whether one of the engines runs the clients, and what they exchange counts.
        has_check_ins: whether its check-ins are at hand: without them no task can be built again,
            and there are no predictions.
    """

    name: str
    shares_model: bool = False
    resumes: bool = False
    learns_kernel: bool = False
    counting: str | None = None
    is_baseline: bool = True
    pools: bool = False
    has_engine: bool = False
    has_check_ins: bool = True

    @property
    def trains(self):
        """Whether it trains: it has rounds and weights."""
        return self.counting is None

    @property
    def command(self):
        """The words of the command that makes such a run, a tuple.

        >>> CENTRAL.command, FEDERATED.command, DEPLOYED.command
        (('fedgru', 'baseline', 'central'), ('fedgru', 'train'), ('fedgru', 'deploy'))
        """
        if self.is_baseline:
            return "fedgru", "baseline", self.name
        return "fedgru", "train" if self.has_engine else "deploy"

    @property
    def row(self):
        """What the row of the run's own scores is called, in a table beside the baselines."""
        return "model" if self.has_engine else self.name

    @property
    def words(self):
        """What stands after "is" in a sentence about such a run.

        >>> LOCAL.words, FEDERATED.words, DEPLOYED.words
        ('the baseline local', 'of fedgru train', 'of fedgru deploy')
        """
        return f"the baseline {self.name}" if self.is_baseline else f"of {' '.join(self.command)}"


_BY_ROUNDS = {"shares_model": True, "resumes": True, "learns_kernel": True}

FEDERATED = RunKind("federated", **_BY_ROUNDS, is_baseline=False, has_engine=True)
DEPLOYED = RunKind("deployed", **_BY_ROUNDS, is_baseline=False, has_check_ins=False)
CENTRAL = RunKind("central", **_BY_ROUNDS, pools=True)
LOCAL = RunKind("local")  # each client learns a kernel of its own

KINDS = {
    kind.name: kind
    for kind in (
        FEDERATED,
        DEPLOYED,
        RunKind("commonest", counting="commonest"),
        RunKind("last", counting="last"),
        RunKind("frequency", counting="frequency"),
        RunKind("markov", counting="user_markov"),
        RunKind("global-markov", counting="global_markov"),
        RunKind("running-markov", counting="running_markov"),
        RunKind("running-backoff", counting="running_backoff"),
        RunKind("kernel", counting="running_kernel", learns_kernel=True),
        CENTRAL,
        LOCAL,
    )
}
BASELINES = {name: kind for name, kind in KINDS.items() if kind.is_baseline}
