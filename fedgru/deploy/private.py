"""The parts of Flower outside its public API that fedgru needs; setup.cfg bounds its version.

`tests/deploy/test_private.py` checks that these names exist and do what is written here.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.app import Message

SUPERLINK, SUPERNODE = "flwr.superlink.main", "flwr.supernode.main"
CLIENT = "flwr.supercore.protobuf.client"
CLIENT_PROGRAM = "flwr.supernode.runtime.run_clientapp"
NODE_LOOP = "flwr.supernode.start_client_internal"


def add_to_superlink(middleware: type, **options: Any) -> None:
    """Put an ASGI middleware in front of the app that the SuperLink will make."""
    _add(import_module(SUPERLINK), middleware, options)


def add_to_supernode(middleware: type, **options: Any) -> None:
    """Put an ASGI middleware in front of the app that the SuperNode will make."""
    _add(import_module(SUPERNODE), middleware, options)


def _add(main: Any, middleware: type, options: dict[str, Any]) -> None:
    create_app = main.create_app

    def create_guarded(*args: Any, **kwargs: Any) -> Any:
        app = create_app(*args, **kwargs)
        app.add_middleware(middleware, **options)
        return app

    main.create_app = create_guarded


def believe_no_proxy() -> None:
    """Let uvicorn take no caller's address from a header, whatever the environment says."""
    config: Any = import_module("uvicorn.config").Config
    init = config.__init__

    def init_without(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs | {"proxy_headers": False, "forwarded_allow_ips": ""})

    config.__init__ = init_without


def send_header(name: str, value: str) -> None:
    """Let this process's requests to Flower's APIs have a header more."""
    client: Any = import_module(CLIENT).ProtobufClient
    init = client.__init__

    def init_with(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._client.headers[name] = value

    client.__init__ = init_with


def check_apps(check: Callable[[bytes], object]) -> None:
    """Let a client's program call a function with an app before it installs it.

    Raises:
        LoadClientAppError: in the program, for any error of `check`: of it the server learns no
            more than that the app could not be loaded.
    """
    program: Any = import_module(CLIENT_PROGRAM)
    install = program.install_from_fab

    def check_and_install(content: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            check(content)
        except Exception as error:
            raise program.LoadClientAppError(str(error)) from error
        return install(content, *args, **kwargs)

    program.install_from_fab = check_and_install


def key_of(headers: dict[bytes, bytes]) -> bytes:
    """Return the public key that signed a request's time; it can be anybody's.

    With `is_registered` it does what Flower's `authenticate_node` does first, without the body.

    Raises:
        KeyError, ValueError, TypeError: if none did.
    """
    from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.date import now
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

    def header(name: str) -> bytes:
        return headers[name.lower().encode()]

    key = b64decode(header(FLEET_HTTP_PUBLIC_KEY_HEADER), validate=True)
    signature = b64decode(header(FLEET_HTTP_SIGNATURE_HEADER), validate=True)
    timestamp = header(TIMESTAMP_HEADER)
    age_s = (now() - datetime.fromisoformat(timestamp.decode("ascii"))).total_seconds()
    if not -SYSTEM_TIME_TOLERANCE < age_s < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
        raise ValueError("signed at another time")
    if not verify_signature(bytes_to_public_key(key), timestamp, signature):
        raise ValueError("not signed by its key")
    return key


def is_registered(key: bytes, linkstate_factory: Any) -> bool:
    """Whether the operator has registered a node's public key, and not withdrawn it."""
    return linkstate_factory.state().get_node_id_by_public_key(key) is not None


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
