"""One warmed audit process, always ready: importing the engine takes seconds, and they are spent before a job comes."""

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import WorkerFault
from schemas.problem import clean_text
from worker.messages import ReadyMessage
from worker.process import Child, ChildCrashed, ChildSpec
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

WARM_UP_LIMIT_S = 300.0
MAX_DELAY_S = 30.0

# Everything else of the worker's environment, its secrets above all, stays out of the audit process.
INHERITED = (
    *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
)


def build_child_spec(settings: WorkerSettings, environment: Mapping[str, str]) -> ChildSpec:
    """Return how this worker starts its audit processes."""
    threads = str(settings.threads)
    options = ("--parent", "{parent}", "--device", settings.device, "--threads", threads, "--sandbox", settings.sandbox)
    fixed = {
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # Threads of numpy and Arrow would start at import, before the sandbox, and so stay outside Landlock.
        "OPENBLAS_NUM_THREADS": "1",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    kept = {name: environment[name] for name in INHERITED if name in environment}
    # -P: the scratch folder, which the model's code may write to, is never searched for modules.
    return ChildSpec((sys.executable, "-P", "-m", "worker.child", *options), {**kept, **fixed}, settings.job_output_bytes)


class WarmChild:
    """Keeps one audit process warm and replaces it when it is taken.

    All processes are started by one thread that lives as long as this process, because a child's
    death signal follows the thread that started it.
    """

    def __init__(self, spec: ChildSpec, scratch: Path) -> None:
        self._spec = spec
        self._scratch = scratch
        self._changed = threading.Condition()
        self._ready: Child | None = None
        self._has_been_ready = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="warm-child", daemon=True)

    def start(self) -> None:
        """Begin to warm the first process."""
        self._thread.start()

    @property
    def has_been_ready(self) -> bool:
        """Whether a process got ready at least once: the engine can be imported on this machine."""
        return self._has_been_ready

    def wait(self, timeout_s: float) -> bool:
        """Return whether a process is ready, waiting up to `timeout_s` for it."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ready is not None, timeout_s)

    def take(self, timeout_s: float) -> Child | None:
        """Return the warm process, which is now the caller's to discard; None when none was ready in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready is not None, timeout_s)
            child = self._ready
            if child is None or child.has_ended():  # a dead one is left to the thread that keeps it
                return None
            self._ready = None
            self._changed.notify_all()
            return child

    def close(self) -> None:
        """End the warm process and start no other."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        try:
            self._keep_warm()
        except Exception:  # whatever it was: a worker without this thread would take jobs that it cannot start
            log.exception("the thread that starts audit processes failed; the worker ends")
            os._exit(1)

    def _keep_warm(self) -> None:
        delay_s = 0.5
        while not self._closed:
            child = self._warm_one()
            if child is None:
                self._pause(delay_s)
                delay_s = min(delay_s * 2, MAX_DELAY_S)
            else:
                delay_s = 0.5
                self._offer(child)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def _warm_one(self) -> Child | None:
        """Start a process and return it once it says that it is ready; None when it failed."""
        try:
            child = Child(self._spec, self._scratch / os.urandom(6).hex())
        except OSError as error:
            log.warning("an audit process cannot be started: %s", error)
            return None
        deadline = time.monotonic() + WARM_UP_LIMIT_S
        try:
            while not self._closed and time.monotonic() < deadline:
                if any(isinstance(message, ReadyMessage) for message in child.receive(0.1)):
                    return child
        except (ChildCrashed, WorkerFault) as error:
            log.warning("an audit process did not get ready: %s\n%s", error, clean_text(child.log))
        child.discard()
        return None

    def _offer(self, child: Child) -> None:
        """Hold the process ready until it is taken, dies or this worker closes."""
        with self._changed:
            self._ready = child
            self._has_been_ready = True
            self._changed.notify_all()
            while self._ready is child and not self._closed:
                self._changed.wait(1.0)
                if self._ready is child and child.has_ended():
                    log.warning("the warm audit process died; starting another")
                    break
            if self._ready is child:
                self._ready = None
                child.discard()
