"""What fedgru needs of Flower that is none of its public API; setup.cfg bounds Flower's version.

`tests/deploy/test_private.py` holds that these names are there, and are what is written here.
"""

from importlib import import_module

SUPERLINK = "flwr.superlink.main"
NODE_LOOP = "flwr.supernode.start_client_internal"


def add_to_superlink(middleware):
    """Let the app that the SuperLink is about to make have an ASGI middleware in front."""
    main = import_module(SUPERLINK)
    create_app = main.create_app

    def create_guarded(*args, **kwargs):
        app = create_app(*args, **kwargs)
        app.add_middleware(middleware)
        return app

    main.create_app = create_guarded


def forget_ignored_messages():
    """Let a SuperNode pull its messages by `make_pull`."""
    import_module(NODE_LOOP)._pull_and_store_message = make_pull()


def make_pull():
    """Return Flower's function that pulls a message, made to end what it began if it ignores it.

    By itself Flower 1.42 leaves a client's program waiting for the rest of such a message forever.
    Once that is ended from outside, the node sends an error for the old message in place of the
    next reply, and from then on each reply one message late.
    """
    pull = import_module(NODE_LOOP)._pull_and_store_message

    def pull_or_forget(*, state, object_store, receive, **others):
        received, before = [], {task.task_id for task in state.get_tasks()}

        def receive_and_note():
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


def wire_bytes(message):
    """Return the bytes of a message, as Flower puts them on the wire."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    return b"".join(one.deflate() for one in get_all_nested_objects(message).values())
