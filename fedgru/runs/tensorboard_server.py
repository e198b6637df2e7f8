"""The real TensorBoard, in this process."""

import logging
import sys
import threading
import types

from fedgru.core.errors import ConfigError

HOST = "localhost"


def start(folder, port):
    """Start TensorBoard on the event files below a folder; it ends with this process.

    Args:
        folder: of one run or of many.
        port: int; 0 takes any free one.

    Returns:
        str, its address on this machine; nothing listens elsewhere.

    Raises:
        ConfigError: if the port cannot be used.
    """
    # TensorBoard's own sign that it is to read event files without TensorFlow, which takes seconds
    # to import and has things to say on stderr
    sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")
    from tensorboard import default, program

    logging.getLogger("tensorboard").setLevel(logging.CRITICAL)  # it would say it a second time
    board = program.TensorBoard(default.get_plugins())
    # the fast loader is a program of its own, which could outlive this one
    board.configure(logdir=str(folder), host=HOST, port=port, load_fast="false")
    try:
        return board.launch()
    except program.TensorBoardPortInUseError:
        raise ConfigError(
            f"--port is {port}, which another program uses, perhaps another TensorBoard. Take "
            f"another, such as --port {port + 1}, or --port 0 for any free one."
        ) from None
    except program.TensorBoardServerException as error:
        raise ConfigError(f"--port is {port}, which cannot be used: {error.msg}") from None


def wait_for_ctrl_c():
    """Wait until Ctrl-C, or until the process is asked to end."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
