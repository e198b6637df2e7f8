"""The parts of Flower outside its public API that fedgru needs; setup.cfg bounds its version.

`tests/deploy/test_private.py` checks that these names exist and do what is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.app import Message

SUPERLINK = "flwr.superlink.main"
NODE_LOOP = "flwr.supernode.start_client_internal"


def add_to_superlink(middleware: type) -> None:
    """Put an ASGI middleware in front of the app that the SuperLink will make."""
    main: Any = import_module(SUPERLINK)
    create_app = main.create_app

    def create_guarded(*args: Any, **kwargs: Any) -> Any:
        app = create_app(*args, **kwargs)
        app.add_middleware(middleware)
        return app

    main.create_app = create_guarded


def forget_ignored_messages() -> None:
    """Let a SuperNode pull its messages with `make_pull`."""
    node_loop: Any = import_module(NODE_LOOP)
    node_loop._pull_and_store_message = make_pull()


def make_pull() -> Callable[..., Any]:
    """Return Flower's function that pulls a message; it also ends the task of an ignored message.

    Without this, Flower 1.42 leaves a client's program waiting forever for the rest of such a
    message. If the program is killed, the node sends an error for the old message in place of the
    next reply, and from then on each reply is one message late.
    """
    pull = import_module(NODE_LOOP)._pull_and_store_message

    def pull_or_forget(
        *, state: Any, object_store: Any, receive: Callable[[], Any], **others: Any
    ) -> Any:
        received, before = [], {task.task_id for task in state.get_tasks()}

        def receive_and_note() -> Any:
            found = receive()
            if found is not None:
                received.append(found[0].metadata.message_id)
            return found

        run_id = pull(state=state, object_store=object_store, receive=receive_and_note, **others)
        if run_id is None and received:
            for task in state.get_tasks():
                if task.task_id not in before:
                    state.finish_task(task.task_id, "stopped", "its message is ignored")
            state.delete_messages(message_ids=received)
            object_store.delete(received[0])
        return run_id

    return pull_or_forget


def wire_bytes(message: Message) -> bytes:
    """Return the bytes of a message, as Flower sends them."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    return b"".join(one.deflate() for one in get_all_nested_objects(message).values())
