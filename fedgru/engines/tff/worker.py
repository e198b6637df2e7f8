"""TensorFlow Federated's local runtime: a separate program, which ends when fedgru ends.

Its computations run in a worker, which gets graphs and data over gRPC. A worker that TFF starts
inherits stdout, so `fedgru train | tee` waits for it, and it goes on when fedgru is killed. So
fedgru starts the same program itself.
"""

import logging
import os
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from fedgru.core.errors import TrainingError
from fedgru.engines.tff.open_port import check_open_port

NO_LIMIT = ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)

# The kernel kills the worker as soon as fedgru ends, for whatever reason. To ask for this before
# the worker's first instruction, the process that becomes the worker must do it.
LAUNCHER = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):  # else fedgru has ended already
    os.execv(sys.argv[2], sys.argv[2:])
"""

logger = logging.getLogger(__name__)


class Worker:
    """One running worker and the TFF context in which computations go to it.

    It ends by `stop`, when the Worker is collected as garbage, and when the thread that made it
    ends.

    Args:
        clients_at_once: how many clients it works on at the same time.

    Raises:
        ConfigError: on a machine with a public address, see `check_open_port`.
        TrainingError: if the worker cannot be started; with what it printed.
    """

    def __init__(self, clients_at_once: int) -> None:
        import grpc
        import portpicker
        import tensorflow_federated as tff

        check_open_port()
        port = portpicker.pick_unused_port()
        program = Path(tff.__file__).parent / "data" / "worker_binary"
        printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        # A session of its own: Ctrl-C comes to fedgru alone, which then ends the worker.
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), str(program)),
                f"--port={port}",
                f"--max_concurrent_computation_calls={clients_at_once}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
        self.pid = process.pid
        self.stop = weakref.finalize(self, _kill, process)
        channel = grpc.insecure_channel(f"localhost:{port}", NO_LIMIT)
        ready = grpc.channel_ready_future(channel)
        while not ready.done():
            _check_running(process, printed)
            time.sleep(0.05)
        logger.warning(
            "TensorFlow Federated's worker listens on port %d of all network interfaces and asks "
            "for no password: keep this machine behind a firewall.",
            port,
        )
        stub = tff.framework.RemoteExecutorGrpcStub(channel)

        def make_executor(cardinalities: dict[Any, int]) -> Any:
            _check_running(process, printed)  # TFF itself would try a lost one again for ever
            cardinalities.setdefault(tff.CLIENTS, 0)
            executor = tff.framework.RemoteExecutor(stub)
            executor.set_cardinalities(cardinalities)
            return executor

        self._context = tff.framework.SyncExecutionContext(
            tff.framework.ResourceManagingExecutorFactory(make_executor),
            tff.backends.native.desugar_and_transform_to_native,
            transform_args=tff.tensorflow.transform_args,
            transform_result=tff.tensorflow.transform_result,
        )

    def context(self) -> AbstractContextManager[Any]:
        """Return a context manager; TFF computations called inside it run in this worker."""
        import tensorflow_federated as tff

        return tff.framework.get_context_stack().install(self._context)


def _check_running(process: subprocess.Popen[bytes], printed: IO[bytes]) -> None:
    code = process.poll()
    if code is None:
        return
    printed.seek(0)
    text = printed.read().decode(errors="replace").strip()[-2000:]
    raise TrainingError(
        f"TensorFlow Federated's worker ended by itself (exit code {code}). If memory ran out, try "
        f"a smaller `threads` or `clients_per_round`. It printed: {text or 'nothing'}"
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
