"""Flower's nodes as numbered clients: who is connected, what they are asked, what they reply."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedgru.algorithms import faults
from fedgru.core.version import __version__
from fedgru.deploy import claims

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid

POLL_S = 0.3
_COUNTS = ("checkins", "examples", "val", "test")  # of a client's hello
LOG_S = 60.0  # how often a waiting server logs what it waits for

logger = logging.getLogger(__name__)


@dataclass
class Member:
    """A client that has joined.

    Attributes:
        key: hex digits of the SHA-256 of its public key, which identify it.
        name: its name in the log and in tables.
        node_id: Flower's number for it.
        checkins: number of its check-ins.
        examples: training examples in a round, counted once for each local epoch.
        val, test: targets of these splits.
    """

    key: str
    name: str
    node_id: int
    checkins: int
    examples: int
    val: int
    test: int

    to_dict = asdict


class Federation:
    """The clients of a run, numbered from 0 in the order in which they joined.

    Those connected when a run begins are numbered by their check-ins, most first, as in a
    simulation. After that numbers never change: a client's number seeds its random draws.

    Attributes:
        members: list of Member, in order of their numbers.
        admitted: how many of them are in the draw of cohorts; a new client waits for the next
            round.

    Args:
        grid: Flower's Grid.
        members: list of Member of an earlier part of the run, in order of their numbers.
        timeout_s: how long to wait for a reply.
        on_change: called without arguments when a client joins, or returns as a new node.
        local_epochs: of the run, in which a client counts its examples.
    """

    def __init__(
        self,
        grid: Grid,
        members: Iterable[Member] = (),
        timeout_s: float = 600.0,
        on_change: Callable[[], None] = lambda: None,
        local_epochs: int = 1,
    ) -> None:
        self._grid, self.members, self.timeout_s = grid, list(members), timeout_s
        self.on_change, self._local_epochs = on_change, local_epochs
        self.admitted = len(self.members)
        self._refused: dict[str, Any] = {}  # key -> activation time of the refused node
        self._there: set[str] | None = None  # keys of the members that were online before

    def __len__(self) -> int:
        return len(self.members)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    def online(self) -> list[int]:
        """Return the numbers of the clients that are online, ascending; let new ones join."""
        nodes = {_key(node): node for node in self._grid.get_nodes()}
        numbers = {member.key: number for number, member in enumerate(self.members)}
        changed = False
        for key, number in numbers.items():
            if key in nodes and nodes[key].node_id != self.members[number].node_id:
                self.members[number].node_id, changed = nodes[key].node_id, True
        strangers = {
            key: node
            for key, node in nodes.items()
            if key not in numbers and self._refused.get(key) != node.last_activated_at
        }
        if strangers:
            changed |= self._greet(strangers)
        if changed:
            self.on_change()
        self._log_changes({member.key for member in self.members} & set(nodes))
        return [n for n, member in enumerate(self.members) if member.key in nodes]

    def _log_changes(self, there: set[str]) -> None:
        before, self._there = self._there, there
        if before is None:
            return
        for member in self.members:
            if (member.key in before) != (member.key in there):
                is_back = member.key in there
                logger.info("%s %s", member.name, "is there" if is_back else "went away")

    def begin(self) -> None:
        """Number the joined clients again, before round 1."""
        self.members.sort(key=lambda member: (-member.checkins, member.name))
        self.admit()

    def admit(self) -> None:
        """Put all joined clients into the draw of cohorts."""
        self.admitted = len(self.members)

    def _greet(self, strangers: dict[str, Any]) -> bool:
        """Let nodes that answer join; return whether any has joined."""
        from flwr.app import RecordDict

        by_id = {node.node_id: (key, node) for key, node in strangers.items()}
        replies = self._exchange({node_id: RecordDict() for node_id in by_id}, "query", "hello")
        joined = []
        for node_id, reply in replies.items():
            key, node = by_id[node_id]
            name = node.name or f"client-{key[:8]}"
            why = reply if isinstance(reply, str) else _unfit(reply, self._local_epochs)
            if why is not None:
                logger.warning("%s cannot take part: %s", name, why)
                self._refused[key] = node.last_activated_at
                continue
            counts = {what: int(reply["hello"][what]) for what in _COUNTS}
            joined.append(Member(key, name, node_id, **counts))
        for member in joined:
            logger.info("%s joined with %d check-ins", member.name, member.checkins)
            if self._there is not None:
                self._there.add(member.key)
        self.members += joined
        return bool(joined)

    def wait_for(self, number: int) -> list[int]:
        """Wait until this many clients are online; return the numbers of all that are."""
        logged_at = None
        while True:
            there = self.online()
            if len(there) >= number:
                return there
            now = time.monotonic()
            if logged_at is None or now - logged_at > LOG_S:
                logged_at = now
                logger.info("waiting for clients: %d of %d are there", len(there), number)
            time.sleep(POLL_S)

    def ask(self, contents: dict[int, Any], group: str) -> dict[int, Any]:
        """Send each client its question and wait for the answers.

        Args:
            contents: client -> RecordDict.
            group: text that Flower's log shows, the round.

        Returns:
            {client: RecordDict, or the reason why there is none, from `fedgru.algorithms.faults`}.
        """
        ids = {self.members[client].node_id: client for client in contents}
        sent = {self.members[client].node_id: content for client, content in contents.items()}
        found = {}
        for node_id, reply in self._exchange(sent, "train", group).items():
            client = ids[node_id]
            if isinstance(reply, str):
                logger.info("%s, %s: %s", group, self.members[client].name, reply)
                reply = faults.FAILED if reply.startswith(faults.FAILED) else faults.DROPPED_OUT
            found[client] = reply
        return found

    def _exchange(self, contents: dict[int, Any], kind: str, group: str) -> dict[int, Any]:
        """Return {node id: RecordDict, or a text with the reason why there is none}."""
        from flwr.app import Message

        messages = [
            Message(content, node_id, kind, group_id=group) for node_id, content in contents.items()
        ]
        found = dict.fromkeys(contents, f"did not answer in {self.timeout_s:g} s")
        for node_id, reply in self._collect(messages):
            if reply is None:
                found[node_id] = "went away"
            elif reply.has_error():
                found[node_id] = _what_flower_says(reply.error)
            elif "error" in reply.content:
                what = str(reply.content["error"].get("kind"))
                what = what if what.isidentifier() else "an error"
                found[node_id] = f"{faults.FAILED} with {what} (details in its own log)"
            else:
                found[node_id] = reply.content
        return found

    def exchange(self, messages: list[Message]) -> list[Message]:
        """Send a list of Message and return the replies without an error, a list of Message."""
        replies = [reply for _, reply in self._collect(messages) if reply is not None]
        return [one for one in replies if not one.has_error() and "error" not in one.content]

    def _collect(self, messages: list[Message]) -> Iterator[tuple[int, Message | None]]:
        """Yield (node id, reply, or None for an offline node) as they come, until the timeout.

        If a node goes offline, Flower answers in its place, within a minute.
        """
        for message in messages:
            message.metadata.ttl = self.timeout_s
        nodes = [message.metadata.dst_node_id for message in messages]
        waiting = {}  # message id -> the node it was sent to; the sender in a reply is not trusted
        for node_id, message_id in zip(nodes, self._grid.push_messages(messages), strict=True):
            if message_id:
                waiting[message_id] = node_id
            else:
                yield node_id, None
        deadline = time.monotonic() + self.timeout_s
        while waiting and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(list(waiting)):
                node_id = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node_id is not None:
                    yield node_id, reply
            if waiting:
                time.sleep(POLL_S)


def _key(node: Any) -> str:
    return hashlib.sha256(node.public_key).hexdigest()


def _unfit(reply: RecordDict, local_epochs: int) -> str | None:
    """The reason why a client that answered cannot take part, or None."""
    try:
        counts = reply["hello"]
        version = [int(part) for part in __version__.split(".")[:3]]
        if list(counts["version"])[:2] != version[:2]:
            theirs = ".".join(map(str, counts["version"]))
            return f"it has fedgru {theirs}, the server {__version__}"
        if counts["examples"] <= 0:
            return "it has too few check-ins to train on"
        if counts["checkins"] <= 0:
            return "it has no check-ins"
        false = claims.false_counts({what: int(counts[what]) for what in _COUNTS}, local_epochs)
        if false is not None:
            return f"{faults.FALSE_CLAIM}: {false}"
    except (KeyError, TypeError, ValueError, OverflowError):
        return "its answer is not one of fedgru's"
    return None


def _what_flower_says(error: Any) -> str:
    """The reason why a client did not reply, with Flower's own reason in brackets.

    A message is unavailable after it has expired (the server has stopped waiting), or after the
    key of its node was withdrawn.
    """
    from flwr.common.constant import ErrorCode

    names = {code: name for name, code in vars(ErrorCode).items() if name.isupper()}
    reason = f"(Flower: {names.get(error.code, error.code)})"
    if error.code == ErrorCode.NODE_UNAVAILABLE:
        return f"went away {reason}"
    if error.code in (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE):
        return f"did not answer in time {reason}"
    return f"{faults.FAILED} {reason}"


def unpack_members(dicts: Iterable[dict[str, Any]]) -> list[Member]:
    """Return the list of Member from the results of `Member.to_dict`."""
    return [Member(**one) for one in dicts]
