"""The real TensorBoard, in this process."""

import logging
import sys
import threading
import types
from pathlib import Path

from fedgru.core.errors import ConfigError

HOST = "localhost"


def start(folder: Path, port: int) -> str:
    """Start TensorBoard on the event files below a folder; it ends with this process.

    Args:
        folder: of one run or of many.
        port: int; 0 takes any free one.

    Returns:
        str, its address on this machine; nothing listens elsewhere.

    Raises:
        ConfigError: if the port cannot be used.
    """
    # with this module TensorBoard reads event files without TensorFlow, which takes seconds to
    # import and writes to stderr
    sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")
    from tensorboard import default, program

    logging.getLogger("tensorboard").setLevel(logging.CRITICAL)  # it repeats our error
    board = program.TensorBoard(default.get_plugins())
    # the fast loader is a separate program, which could outlive this one
    board.configure(logdir=str(folder), host=HOST, port=port, load_fast="false")
    try:
        return board.launch()
    except program.TensorBoardPortInUseError:
        raise ConfigError(
            f"`port` is {port}, which another program uses, perhaps another TensorBoard. Take "
            f"another, such as `port` {port + 1}, or `port` 0 for any free one."
        ) from None
    except program.TensorBoardServerException as error:
        raise ConfigError(f"`port` is {port}, which cannot be used: {error.msg}") from None


def wait_for_ctrl_c() -> None:
    """Wait until Ctrl-C, or until the process is asked to end."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
