"""The check-ins a prediction starts from: of a client of the data set, or of a file."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from fedgru.core.errors import ConfigError, DataError
from fedgru.core.types import Weights
from fedgru.data.categories import Scheme, load_scheme, translate
from fedgru.data.checkins import FIELDS, Coded
from fedgru.data.ledger import Ledger
from fedgru.data.reading import delimited, headers
from fedgru.predict.predictor import Predictor, check_ins_of, evaluation_noise
from fedgru.predict.schema import CheckIn, Schema
from fedgru.task.task import Task

MAX_LISTED = 10
_MINUTE = timedelta(minutes=1)
EXAMPLE = "2012-04-10T18:30"  # of a moment


@dataclass(frozen=True)
class Past:
    """What a prediction is based on.

    Attributes:
        user: whose check-ins they are.
        check_ins: list of CheckIn, in order of time; can be empty.
        following: the CheckIn that came next, where that is known.
        position: in the run's task, of that next check-in, where the evaluation scores it.
        has_clock: whether the local time of the check-ins is known.
        ledger: what happened to the rows of a file at import.
    """

    user: str
    check_ins: list[CheckIn]
    following: CheckIn | None = None
    position: int | None = None
    has_clock: bool = True
    ledger: Ledger = Ledger()


def client_past(task: Task, client_id: str, until: int | None = None) -> Past:
    """Return the Past of a user of the run's data set, even of one that the run left out.

    Args:
        task: Task.
        client_id: the user.
        until: take this many check-ins, the first ones; all by default.

    Raises:
        DataError: if the data set has no such user, or the user has fewer check-ins.
    """
    users = task.check_ins.user
    if client_id not in users.values:
        raise DataError(
            f"data set {task.settings.data.data} has no user {client_id!r}. "
            + _name_some(client_id, task.clients.client_ids, "The run's clients are")
        )
    rows = np.flatnonzero(users.codes == users.values.index(client_id))
    every = check_ins_of(task.check_ins, rows)
    past, following = _cut(every, until, f"client {client_id}")
    position = None
    scored = task.clients.scored
    if following is not None and past and client_id in scored.client_ids:
        client = scored.client_ids.index(client_id)
        position = int(scored.starts[client]) + len(past)
    return Past(client_id, past, following, position)


def file_past(
    path: str | Path,
    categories: Mapping[str, Any],
    columns: Mapping[str, str] | None = None,
    user: str | None = None,
    table: str | Path | None = None,
    offset_min: int | None = None,
    until: int | None = None,
    skip_bad_rows: bool = False,
    times_without_zone: str | None = None,
) -> Past:
    """Return the Past in a file of check-ins, see `fedgru.data.reading.delimited.read_csv`.

    Args:
        path: the file.
        categories: "categories" of the passport of the run's data set: the file's category names
            become categories by the same scheme. A name that it lacks stays as it is, so that a
            file can also hold the categories themselves.
        columns: {field: name in the header}; a field that is left out is looked for under its own
            name.
        user: whose check-ins to take, where the file has several people's.
        table: path of the table of a scheme that does not come with fedgru.
        offset_min: minutes from UTC of every row's local clock, or None.
        until: take this many check-ins, the first ones; all by default.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.
        times_without_zone: "local" or "utc", see `read_csv`.

    Raises:
        ConfigError: if the table is missing or not the one of the import; as `read_csv`.
        DataError: if the file cannot be used; if it has several users and none is chosen, or not
            the chosen one.
    """
    header = headers.read_column_names(path)
    columns = {field: field for field in FIELDS if field in header} | dict(columns or {})
    reading = delimited.read_csv(
        path,
        columns,
        None,
        offset_min,
        skip_bad_rows,
        times_without_zone=times_without_zone,
    )
    found, file = reading.check_ins, reading.source.file
    users = found.user.values
    if user is None and len(users) > 1:
        raise DataError(
            f"{file} has check-ins of {len(users)} users. Choose one with `client`: "
            f"{', '.join(users[:MAX_LISTED])}{' ...' if len(users) > MAX_LISTED else ''}."
        )
    user = users[0] if user is None else user
    if user not in users:
        raise DataError(f"{file} has no user {user!r}. {_name_some(user, users, 'Its users are')}")
    if len(found.category.values):
        scheme = _find_scheme(categories, table)
        values = tuple(translate(scheme, name) for name in found.category.values)
        found = replace(found, category=Coded(found.category.codes, values))
    every = check_ins_of(found, np.flatnonzero(found.user.codes == users.index(user)))
    past, following = _cut(every, until, file)
    has_clock = offset_min is not None or "offset" in columns or bool(found.offset_min.any())
    return Past(user, past, following, has_clock=has_clock, ledger=reading.ledger)


def forecast(
    task: Task,
    schema: Schema,
    weights: Weights,
    past: Past,
    k: int = 5,
    at: str | None = None,
) -> dict[str, Any]:
    """Return the k most probable next values, and what the model knows of the past.

    Args:
        task: Task.
        schema: Schema of the task.
        weights: name -> float32 array.
        past: Past.
        k: int.
        at: with `asked_at`, when the next check-in is asked for: ISO 8601, such as
            2012-04-10T18:30-04:00; without an offset on the local clock of the last check-in. None
            takes the moment of the check-in that came next, where that is known.

    Returns:
        dict that JSON can hold: `user`, `task` (see `Settings.task_name`), `check_ins` (their
        number), `last` (venue, category, Unix seconds, minutes from UTC of the local clock; None
        without one), with `asked_at` `asked` (Unix seconds, minutes from UTC), `cold_start` (fewer
        check-ins than any client of the run had), `unknown` ({feature or "target": check-ins whose
        value the model does not know}), `target`, `prior`, `top` (list of {"value",
        "probability"}) and, where it is known, `came` (value, probability and rank of what came
        next; None for a value that the model does not know).

    Raises:
        ConfigError: with `asked_at`, if no moment is given or known, or it is no moment; without,
            if one is given.
        DataError: if the moment is earlier than the last check-in.
    """
    moment = _moment(schema, past, at)
    predictor = Predictor.start(schema, weights).extend(past.check_ins)
    if moment is not None:
        predictor = predictor.asked(**moment)
    noise = None
    if "noise" in schema.representation and past.position is not None:
        noise = evaluation_noise(task, past.position)
    log_probs = predictor.log_probs(noise)
    last = past.check_ins[-1] if past.check_ins else None
    found: dict[str, Any] = {
        "user": past.user,
        "task": task.settings.task_name,
        "check_ins": len(past.check_ins),
        "last": last
        and {
            "venue": last.venue,
            "category": last.category,
            "time_s": int(last.time_s),
            "offset_min": int(last.offset_min),
        },
        **({} if moment is None else {"asked": moment}),
        "cold_start": len(past.check_ins) < schema.min_checkins,
        "unknown": predictor.stream.unknown,
        "target": schema.target,
        "prior": schema.prior,
        "top": [{"value": v, "probability": p} for v, p in predictor.top(k, noise)],
    }
    if past.following is not None:
        value = getattr(past.following, schema.target)
        found["came"] = {"value": value, "probability": None, "rank": None}
        place = predictor.stream.class_of(value)
        if place >= 0:
            score = log_probs[place]
            rank = int((log_probs > score).sum()) + 1
            found["came"] |= {"probability": float(np.exp(score)), "rank": rank}
    return found


def _moment(schema: Schema, past: Past, at: str | None) -> dict[str, int] | None:
    """Return the `time_s` and `offset_min` of the moment of asking; None where nothing reads it."""
    if not schema.asked_at:
        if at is not None:
            raise ConfigError(
                "`at` has no effect: the run was trained without `asked_at`, so its model does not "
                "read when the next check-in is. Leave it out."
            )
        return None
    if at is not None:
        return _parse_moment(at, past.check_ins[-1].offset_min if past.check_ins else 0)
    following = past.following
    if following is not None:
        return {"time_s": int(following.time_s), "offset_min": int(following.offset_min)}
    if not past.check_ins:
        return None  # the frequencies of all clients, at any time
    raise ConfigError(
        "the run was trained with `asked_at`: its model needs the moment of the next check-in. "
        f"Give it with `at`, such as `at` {EXAMPLE}."
    )


def _parse_moment(text: str, offset_min: int) -> dict[str, int]:
    """Return the moment in a text; without an offset it is on a clock of `offset_min`."""
    try:
        if ":" not in text:  # a day alone would be midnight, which nobody means
            raise ValueError
        written = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"`at` is {text!r}, expected a day and a time, such as {EXAMPLE} or {EXAMPLE}-04:00."
        ) from None
    if written.tzinfo is None:
        written = written.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    offset = written.utcoffset()
    assert offset is not None, "it has a time zone"
    return {"time_s": math.floor(written.timestamp()), "offset_min": round(offset / _MINUTE)}


def _cut(
    check_ins: list[CheckIn], until: int | None, whose: str
) -> tuple[list[CheckIn], CheckIn | None]:
    """The check-ins up to `until`, and the one after them if there is one."""
    if until is None:
        return check_ins, None
    if until > len(check_ins):
        raise DataError(f"`until` is {until}, but {whose} has {len(check_ins)} check-ins.")
    return check_ins[:until], check_ins[until] if until < len(check_ins) else None


def _find_scheme(categories: Mapping[str, Any], table: str | Path | None) -> Scheme | None:
    """The scheme by which the data set's categories were made; None if names stay as they are."""
    name, sha256 = categories["scheme"], categories["sha256"]
    if sha256 is None:  # raw names, or a made-up city with categories of its own
        if table is not None:
            raise ConfigError(
                f"`categories` {table} has no effect: the run's data set has the names as they are."
            )
        return None
    if table is None and name != "coarse":
        raise ConfigError(
            f"the categories of the run's data set were made by the table {name}: give it with "
            f"`categories` {name}."
        )
    scheme = load_scheme(table or "coarse")
    other_depth = scheme.depth is not None and not name.endswith(f":{scheme.depth}")
    if scheme.sha256 != sha256 or other_depth:
        raise ConfigError(
            f"{table or 'the coarse table of this fedgru'} is not the table that the categories of "
            f"the run's data set were made by ({name}, SHA-256 {sha256[:12]}...)."
        )
    return scheme


def _name_some(wanted: str, names: Sequence[str], title: str) -> str:
    close = difflib.get_close_matches(wanted, names, MAX_LISTED, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    more = f" ... ({len(names)} in all)" if len(names) > MAX_LISTED else ""
    return f"{title} {', '.join(names[:MAX_LISTED])}{more}."
