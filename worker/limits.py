"""The limits of one job: wall clock, resident memory, files. Watched from outside the audit process."""

import signal
import time
from typing import NoReturn

from schemas.errors import DeadlineMissed, Fault, MemoryLimit, TimeLimit
from worker.deadline import Deadline
from worker.messages import refuse_output
from worker.process import Child, ChildCrashed
from worker.settings import WorkerSettings
from worker.watch import count_memory_kills, measure_folder_bytes, measure_group_bytes

LOOK_PERIOD_S = 0.2
MEMORY_ADVICE = "audit a smaller model, fewer scopes or fewer examples, or ask the operator to raise FAULTLINE_JOB_MEMORY_BYTES"


class JobLimits:
    """Watches one audit process from its start."""

    def __init__(self, settings: WorkerSettings, child: Child, deadline: Deadline) -> None:
        self._settings = settings
        self._child = child
        self._deadline = time.monotonic() + settings.job_timeout_s
        self._own_deadline = deadline
        self._next_look = 0.0
        self._memory_kills = count_memory_kills()

    def check(self) -> None:
        """Look at the process; cheap to call often.

        Raises:
            TimeLimit, DeadlineMissed, MemoryLimit: when it has passed its limit.
            WorkerFault: when it has filled its folder.
        """
        now = time.monotonic()
        if now >= self._deadline:
            self._raise_time_limit()
        if self._own_deadline.is_past(self._settings.deadline_grace_s):
            self._raise_deadline_missed()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_PERIOD_S
        used = measure_group_bytes(self._child.pid)
        if used > self._settings.memory_bytes:
            self._raise_memory_limit(f"{used} bytes resident")
        files = measure_folder_bytes(self._child.scratch)
        if files > self._settings.job_scratch_bytes:
            refuse_output(f"files of {files} bytes, above the limit of {self._settings.job_scratch_bytes}")

    def explain(self, crash: ChildCrashed) -> NoReturn:
        """Raise the reason for the crash: the machine's memory ran out, or else the crash itself."""
        if crash.returncode == -signal.SIGKILL and count_memory_kills() > self._memory_kills:
            self._raise_memory_limit("ended by the kernel because the machine's memory ran out")
        raise crash

    def _raise_time_limit(self) -> NoReturn:
        limit = f"{self._settings.job_timeout_s:g} s"
        advice = "ask for fewer sets, scopes or passes, or ask the operator to raise FAULTLINE_JOB_TIMEOUT_S"
        raise TimeLimit(Fault(what=f"the audit ran longer than {limit}", expected=f"at most {limit}", advice=advice))

    def _raise_deadline_missed(self) -> NoReturn:
        grace = f"{self._settings.deadline_grace_s:g} s"
        fault = Fault(
            what=f"the audit did not end within {grace} after its deadline",
            where="/deadline_s",
            expected="a report of what was measured",
            got="an audit that goes on",
            advice="a pass over the data, or opening the model, takes longer: ask for a later deadline or fewer examples",
        )
        raise DeadlineMissed(fault)

    def _raise_memory_limit(self, got: str) -> NoReturn:
        limit = self._settings.memory_bytes
        raise MemoryLimit(
            Fault(what="the audit used more memory than it may", expected=f"at most {limit} bytes", got=got, advice=MEMORY_ADVICE)
        )
