"""Flower's nodes as numbered clients: who is there, asking them, and waiting for their replies."""

import hashlib
import logging
import time
from dataclasses import asdict, dataclass

from fedgru.algorithms import faults
from fedgru.core.version import __version__

POLL_S = 0.3
TELL_S = 60.0  # how often a waiting server says what it is waiting for

logger = logging.getLogger(__name__)


@dataclass
class Member:
    """A client that has joined.

    Attributes:
        key: hex digits of the SHA-256 of its public key: who it is.
        name: what the log and the tables call it.
        node_id: Flower's number for it.
        checkins, examples: what it has, and trains on in a round counting each local epoch.
    """

    key: str
    name: str
    node_id: int
    checkins: int
    examples: int

    to_dict = asdict


class Federation:
    """The clients of a run, numbered from 0 in the order in which they joined.

    Those that are there when a run begins are numbered by their check-ins, most first, as in a
    simulation. From then on numbers never change: a client draws by its number.

    Attributes:
        members: list of Member, in order of their numbers.
        admitted: how many of them cohorts are drawn from; who joins in a round waits for the next.

    Args:
        grid: Flower's Grid.
        members: list of Member of an earlier part of the run, in order of their numbers.
        timeout_s: how long to wait for a reply.
        on_change: called without arguments when somebody has joined, or come back as a new node.
    """

    def __init__(self, grid, members=(), timeout_s=600.0, on_change=lambda: None):
        self._grid, self.members, self.timeout_s = grid, list(members), timeout_s
        self.on_change = on_change
        self.admitted = len(self.members)
        self._turned_away = {}  # key -> when the node that was turned away had been activated
        self._there = None  # keys of the members that were there when last looked

    def __len__(self):
        return len(self.members)

    @property
    def names(self):
        return tuple(member.name for member in self.members)

    def online(self):
        """Return the numbers of the clients that are there now, ascending; lets new ones join."""
        nodes = {_key(node): node for node in self._grid.get_nodes()}
        numbers = {member.key: number for number, member in enumerate(self.members)}
        changed = False
        for key, number in numbers.items():
            if key in nodes and nodes[key].node_id != self.members[number].node_id:
                self.members[number].node_id, changed = nodes[key].node_id, True
        strangers = {
            key: node
            for key, node in nodes.items()
            if key not in numbers and self._turned_away.get(key) != node.last_activated_at
        }
        if strangers:
            changed |= self._greet(strangers)
        if changed:
            self.on_change()
        self._tell_changes({member.key for member in self.members} & set(nodes))
        return [n for n, member in enumerate(self.members) if member.key in nodes]

    def _tell_changes(self, there):
        before, self._there = self._there, there
        for member in self.members if before is not None else ():
            if (member.key in before) != (member.key in there):
                is_back = member.key in there
                logger.info("%s %s", member.name, "is there" if is_back else "went away")

    def begin(self):
        """Number the clients that have joined so far anew, before round 1."""
        self.members.sort(key=lambda member: (-member.checkins, member.name))
        self.admit()

    def admit(self):
        """Let cohorts be drawn from all that have joined."""
        self.admitted = len(self.members)

    def _greet(self, strangers):
        """Let nodes join that answer; return whether any has."""
        from flwr.app import RecordDict

        by_id = {node.node_id: (key, node) for key, node in strangers.items()}
        replies = self._exchange({node_id: RecordDict() for node_id in by_id}, "query", "hello")
        joined = []
        for node_id, reply in replies.items():
            key, node = by_id[node_id]
            name = node.name or f"client-{key[:8]}"
            why = reply if isinstance(reply, str) else _unfit(reply)
            if why is not None:
                logger.warning("%s cannot take part: %s", name, why)
                self._turned_away[key] = node.last_activated_at
                continue
            counts = {what: int(reply["hello"][what]) for what in ("checkins", "examples")}
            joined.append(Member(key, name, node_id, **counts))
        for member in joined:
            logger.info("%s joined with %d check-ins", member.name, member.checkins)
            if self._there is not None:
                self._there.add(member.key)
        self.members += joined
        return bool(joined)

    def wait_for(self, number):
        """Wait until so many clients are there; return the numbers of all that are."""
        told_at = None
        while True:
            there = self.online()
            if len(there) >= number:
                return there
            now = time.monotonic()
            if told_at is None or now - told_at > TELL_S:
                told_at = now
                logger.info("waiting for clients: %d of %d are there", len(there), number)
            time.sleep(POLL_S)

    def ask(self, contents, group):
        """Send each client its question and wait for the answers.

        Args:
            contents: client -> RecordDict.
            group: text that Flower's log shows, the round.

        Returns:
            {client: RecordDict, or why there is none: one of the reasons of
            `fedgru.algorithms.faults`}.
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

    def _exchange(self, contents, kind, group):
        """Return {node id: RecordDict, or a text that says why there is none}."""
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
                found[node_id] = f"{faults.FAILED} with {what} (its own log says more)"
            else:
                found[node_id] = reply.content
        return found

    def exchange(self, messages):
        """Send a list of Message and return the replies without an error, a list of Message."""
        replies = [reply for _, reply in self._collect(messages) if reply is not None]
        return [one for one in replies if not one.has_error() and "error" not in one.content]

    def _collect(self, messages):
        """Yield (node id, its reply, or None if it is not there) as they come, until the timeout.

        Flower itself answers for a node that is no longer there; that takes it up to a minute.
        """
        for message in messages:
            message.metadata.ttl = self.timeout_s
        nodes = [message.metadata.dst_node_id for message in messages]
        waiting = {}  # message id -> the node it went to, whatever node a reply says it is from
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


def _key(node):
    return hashlib.sha256(node.public_key).hexdigest()


def _unfit(reply):
    """Why a client that said hello cannot take part, or None."""
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
    except (KeyError, TypeError, ValueError):
        return "its answer is not one of fedgru's"
    return None


def _what_flower_says(error):
    """Why there is no reply of a client, where Flower itself answers for it; names Flower's reason.

    A message is unavailable once it has expired, which it does when the server waits no longer, or
    its node's key was withdrawn.
    """
    from flwr.common.constant import ErrorCode

    names = {code: name for name, code in vars(ErrorCode).items() if name.isupper()}
    reason = f"(Flower: {names.get(error.code, error.code)})"
    if error.code == ErrorCode.NODE_UNAVAILABLE:
        return f"went away {reason}"
    if error.code in (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE):
        return f"did not answer in time {reason}"
    return f"{faults.FAILED} {reason}"


def unpack_members(dicts):
    """Return the list of Member that `Member.to_dict` described."""
    return [Member(**one) for one in dicts]
