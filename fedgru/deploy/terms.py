"""What a client demands before it sends an update, and the ledger of the updates that it has sent.

The server says how many clients train in a round, and whoever wrote the app how much noise they
add. A client cannot check either, so it has terms of its own, and refuses what is beyond them. What
an update costs is written to the ledger before it is made: a client that is killed then counts one
that it may not have sent, never the other way round.

An update costs what the server learns from it. With `--secure` it sees the sum of the round, which
has the app's noise as long as all add their share. Without, it sees each update with its own share
of the noise, that of a round of one: `noise` / sqrt(`cohort`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from fedgru.core.errors import DataError, FedgruError
from fedgru.privacy.accounting import DELTA, Releases, epsilon
from fedgru.storage.files import read_json_object, write_text

if TYPE_CHECKING:
    from fedgru.deploy.app import App
    from fedgru.deploy.privacy import Privacy

TERMS, LEDGER = "terms.json", "ledger.json"  # in the client's folder
MAX_COHORT = 100  # that is believed if nothing else is said: more would make the noise small
REPEATS = 3  # rounds that a server which was killed asks for again


class Refused(FedgruError):
    """The client does not send an update; the server learns this name alone."""


@dataclass(frozen=True)
class Terms:
    """What a client demands.

    Attributes:
        min_cohort: fewest clients of a round, itself among them.
        max_cohort: most clients of a round that it believes.
        min_noise: least noise in a round's sum, in units of the clip; None takes part without.
        max_clip: largest clip; None takes part with any, and without.
        max_epsilon: of all updates that it has ever sent from its folder; None for any.
        delta: of `max_epsilon`.
        runs: how many times it takes part in each app.
    """

    min_cohort: int = 1
    max_cohort: int = MAX_COHORT
    min_noise: float | None = None
    max_clip: float | None = None
    max_epsilon: float | None = None
    delta: float = DELTA
    runs: int = 1

    def write(self, folder: Path) -> None:
        """Write them to a client's folder, for the processes that answer messages."""
        write_text(folder / TERMS, json.dumps(asdict(self), indent=2) + "\n")


def read_terms(folder: Path) -> Terms:
    """Return the Terms of a client's folder; the default ones if there are none.

    Raises:
        DataError: if the file is damaged.
    """
    found = _read(folder / TERMS)
    try:
        return Terms(**found)
    except TypeError:
        raise DataError(f"{folder / TERMS} is damaged. Start the client again.") from None


@dataclass(frozen=True)
class Sent:
    """An update in the ledger.

    Attributes:
        time: when it was made, UTC, ISO 8601.
        app: SHA-256 of the app's settings and tables.
        round_num, cohort: as the server said.
        noise: standard deviation, in units of the clip, of the noise in what the server sees; None
            without noise.
    """

    time: str
    app: str
    round_num: int
    cohort: int
    noise: float | None


@dataclass(frozen=True)
class Ledger:
    """The updates that a client has sent, in order."""

    sent: tuple[Sent, ...] = field(default=())

    def epsilon(self, delta: float = DELTA) -> float:
        """Return the epsilon of them all; infinite if one had no noise.

        Noise 2 twice is as noise sqrt(2) once: Gaussian noise composes to Gaussian noise.
        """
        if not self.sent:
            return 0.0
        noises = [one.noise for one in self.sent]
        if None in noises:
            return float("inf")
        precision = sum(noise**-2 for noise in noises if noise is not None)
        return epsilon(Releases(precision**-0.5), 1, delta)

    def of_app(self, app: str) -> int:
        """Return the number of updates sent to an app."""
        return sum(one.app == app for one in self.sent)


def read_ledger(folder: Path) -> Ledger:
    """Return the Ledger of a client's folder; an empty one if there is none.

    Raises:
        DataError: if it is damaged: it is then not taken for empty.
    """
    file = folder / LEDGER
    found = _read(file)
    try:
        return Ledger(tuple(Sent(**one) for one in found.get("sent", [])))
    except TypeError:
        raise DataError(_damaged(file)) from None


def spend(folder: Path, app: App, round_num: int, cohort: int) -> None:
    """Check an update against the client's Terms, and write it to the ledger before it is made.

    Args:
        folder: the client's.
        app: App.
        round_num, cohort: as the server says.

    Raises:
        Refused: names the first of the terms that is not met.
        DataError: if terms or ledger are damaged.
    """
    terms = read_terms(folder)
    _check_round(terms, app, round_num, cohort)
    with FileLock(folder / f".{LEDGER}.lock"):
        ledger = read_ledger(folder)
        _check_app(terms, app, ledger)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        noise = seen_noise(app.privacy, cohort)
        after = replace(
            ledger, sent=(*ledger.sent, Sent(now, app.sha256, round_num, cohort, noise))
        )
        _check_epsilon(terms, after)
        content = {"sent": [asdict(one) for one in after.sent]}
        write_text(folder / LEDGER, json.dumps(content, indent=1) + "\n")


def check_app(folder: Path, app: App) -> None:
    """Raise Refused if a client sends no update to an app at all; errors as `spend`."""
    terms, ledger = read_terms(folder), read_ledger(folder)
    _check_app(terms, app, ledger)
    least = Sent("", app.sha256, 1, 1, seen_noise(app.privacy, terms.min_cohort))
    _check_epsilon(terms, replace(ledger, sent=(*ledger.sent, least)))


def seen_noise(privacy: Privacy, cohort: int) -> float | None:
    """Return the noise in what the server sees of a client, in units of the clip; None for none."""
    if privacy.noise is None:
        return None
    return privacy.noise if privacy.secure else float(privacy.noise / cohort**0.5)


def _check_app(terms: Terms, app: App, ledger: Ledger) -> None:
    privacy, rounds = app.privacy, app.settings.loop.rounds
    if terms.max_clip is not None and (privacy.clip is None or privacy.clip > terms.max_clip):
        clip = "does not clip updates" if privacy.clip is None else f"clips at {privacy.clip:g}"
        raise Refused(f"the app {clip}, this client takes part up to --max-clip {terms.max_clip:g}")
    if terms.min_noise is not None and (privacy.noise or 0.0) < terms.min_noise:
        noise = "no noise" if privacy.noise is None else f"noise {privacy.noise:g}"
        raise Refused(f"the app has {noise}, this client wants --min-noise {terms.min_noise:g}")
    most = terms.runs * (rounds + REPEATS)
    if ledger.of_app(app.sha256) >= most:
        raise Refused(
            f"this client has sent {most} updates to this app of {rounds} rounds: that was --runs "
            f"{terms.runs}. If you want to take part once more, use --runs {terms.runs + 1}"
        )


def _check_round(terms: Terms, app: App, round_num: int, cohort: int) -> None:
    rounds = app.settings.loop.rounds
    if not 1 <= round_num <= rounds:
        raise Refused(f"the server asks for round {round_num}, the app has rounds 1 to {rounds}")
    if cohort < terms.min_cohort:
        raise Refused(
            f"the round has {cohort} clients, this client wants --min-cohort {terms.min_cohort}"
        )
    if cohort > terms.max_cohort:
        raise Refused(
            f"the server says that the round has {cohort} clients, this client believes up to "
            f"--max-cohort {terms.max_cohort}: its share of the noise would be too small"
        )


def _check_epsilon(terms: Terms, after: Ledger) -> None:
    if terms.max_epsilon is None:
        return
    found = after.epsilon(terms.delta)
    if found > terms.max_epsilon:
        raise Refused(
            f"with one more update, all that this client has sent would have epsilon {found:.3f}, "
            f"more than --max-epsilon {terms.max_epsilon:g}"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except ValueError:
        raise DataError(_damaged(file)) from None


def _damaged(file: Path) -> str:
    return (
        f"{file} is damaged, so nobody knows what has been sent. Restore it from a copy; delete it "
        "only if all that was sent may be forgotten."
    )
