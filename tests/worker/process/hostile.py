"""An audit process whose engine is replaced by one misdeed: `python hostile.py MISDEED` and the child's options."""

import ctypes
import json
import mmap
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from schemas.errors import DataMismatch, Fault, ModelUnreadable
from schemas.report import Measurement
from tests.project.tree import ROOT
from worker import child
from worker.messages import JobMessage

ReportProgress = Callable[[str, int, int], None]


def stop_here() -> NoReturn:
    sys.stdout.flush()
    os._exit(0)


def write_to_protocol(content: bytes) -> None:
    """Write behind the protocol's back, as code in the same process can: to every pipe it finds."""
    for descriptor in range(3, 20):
        try:
            if str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("pipe:"):
                os.write(descriptor, content)
        except OSError:
            continue


def say_garbage(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    write_to_protocol(b"\x00\xff{{{ not json\n")
    time.sleep(60)
    raise AssertionError


def say_unknown_type(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    write_to_protocol(b'{"type": "verdict", "outcome": "pass"}\n')
    time.sleep(60)
    raise AssertionError


def claim_cancelled(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    write_to_protocol(b'{"type": "failure", "code": "cancelled", "faults": []}\n')
    time.sleep(60)
    raise AssertionError


def say_too_much(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    while True:
        write_to_protocol(b"x" * 65536)


def say_a_half_result(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    write_to_protocol(b'{"type": "result", "measurement": {"format": "onnx"}}\n')
    time.sleep(60)
    raise AssertionError


def exit_silently(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    stop_here()


def crash(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    ctypes.string_at(0)
    raise AssertionError


def use_memory(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    """Through shared mappings, which a limit on data does not count: only the watch from outside sees them."""
    for _ in range(1000):
        mapped = mmap.mmap(-1, 1 << 24)
        mapped[::4096] = b"x" * len(mapped[::4096])
        hoard.append(mapped)
        time.sleep(0.01)
    raise AssertionError


hoard: list[object] = []


def allocate(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    hoard.extend(bytearray(1 << 26) for _ in range(1000))
    raise AssertionError


def never_end(_job: JobMessage, report: ReportProgress) -> NoReturn:
    """With a second process in the group, which must not outlive it."""
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    for i in range(6000):
        report("measuring", i, 6000)
        time.sleep(0.1)
    raise AssertionError


def fill_the_folder(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    for i in range(64):
        Path(f"file-{i}").write_bytes(bytes(1 << 20))
    time.sleep(60)
    raise AssertionError


def refuse_the_model(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    sys.stdout.write("what the model's code prints is no message\n")
    raise ModelUnreadable(Fault(what="one \x1b[31mred", where="model"), Fault(what="two"))


def fail_with_a_bug(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    message = "secret detail of the implementation"
    raise KeyError(message)


def tell_what_it_has(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    """Report environment, folder and limits as the text of a refusal."""
    core, files = resource.getrlimit(resource.RLIMIT_CORE)[1], resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    told = {
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "mode": oct(Path.cwd().stat().st_mode & 0o777),
        "core": core,
        "files": files,
        "no_new_privileges": status["NoNewPrivs"],
        "own_group": os.getpgrp() == os.getpid(),
        "own_session": os.getsid(0) == os.getpid(),
        "stdin": str(Path("/proc/self/fd/0").readlink()),
        "policy": "policy" in _job.request,
        "labels": _job.request.get("labels", {}),
    }
    raise DataMismatch(*(Fault(what=name, got=json.dumps(value)) for name, value in told.items()))


def measure_well(_job: JobMessage, report: ReportProgress) -> Measurement:
    """No misdeed: the figures of a golden report, with one counterexample."""
    report("loading", 0, 1)
    return measure_with("counterexample.npz")


def measure_slowly(_job: JobMessage, report: ReportProgress) -> Measurement:
    """Three seconds, then the same as `measure_well`."""
    for i in range(30):
        report("measuring", i, 30)
        time.sleep(0.1)
    return measure_with("counterexample.npz")


def measure_briefly(_job: JobMessage, report: ReportProgress) -> Measurement:
    """Long enough to be seen running, short enough for a drain time of one second."""
    for i in range(13):
        report("measuring", i, 13)
        time.sleep(0.1)
    return measure_with("counterexample.npz")


def lie_about_time(_job: JobMessage, _report: ReportProgress) -> Measurement:
    """Claim days, with figures that the honest ones come too late for."""
    phases = '[{"name": "engine", "began_s": 0, "seconds": 1000000}]'
    write_to_protocol(f'{{"type": "timing", "phases": {phases}}}\n'.encode())
    return measure_with("counterexample.npz")


def name_a_path(_job: JobMessage, _report: ReportProgress) -> Measurement:
    return measure_with("../lock")


def name_a_link(_job: JobMessage, _report: ReportProgress) -> Measurement:
    Path("linked").symlink_to("/etc/hostname")
    return measure_with("linked", write=False)


def name_a_second_name(_job: JobMessage, _report: ReportProgress) -> Measurement:
    Path("first").write_bytes(b"first")
    os.link("first", "second")
    return measure_with("second", write=False)


def name_a_missing_file(_job: JobMessage, _report: ReportProgress) -> Measurement:
    return measure_with("missing", write=False)


def name_a_pipe(_job: JobMessage, _report: ReportProgress) -> Measurement:
    os.mkfifo("pipe")
    return measure_with("pipe", write=False)


def name_no_finding(_job: JobMessage, _report: ReportProgress) -> Measurement:
    measured = measure_with("counterexample.npz")
    return measured.model_copy(update={"counterexamples": {"f-9999": "counterexample.npz"}})


def hide_half_a_character(_job: JobMessage, _report: ReportProgress) -> NoReturn:
    content = json.loads(measure_with("counterexample.npz").model_dump_json())
    content["producer"] = "\ud800"
    write_to_protocol(json.dumps({"type": "result", "measurement": content}).encode() + b"\n")
    time.sleep(60)
    raise AssertionError


def measure_with(name: str, *, write: bool = True) -> Measurement:
    """Return a measurement whose first finding has the counterexample `name`."""
    if write:
        Path(name).write_bytes(b"a counterexample")
    golden = json.loads((ROOT / "tests/golden/report-0.1.0.json").read_bytes())
    subject = golden["subject"]
    golden |= {
        "format": subject["model"]["format"],
        "producer": subject["model"]["producer"],
        "opset": subject["model"]["opset"],
        "examples": subject["data"]["examples"],
        "labels_counted": subject["data"]["labels_counted"],
        "counterexamples": {golden["findings"][0]["id"]: name},
    }
    return Measurement.model_validate_json(json.dumps(golden))


MISDEEDS = {
    function.__name__: function
    for function in (
        *(say_garbage, say_unknown_type, claim_cancelled, say_too_much, say_a_half_result, exit_silently, crash, use_memory),
        *(allocate, never_end, fill_the_folder, refuse_the_model, fail_with_a_bug, tell_what_it_has, measure_well, name_a_path),
        *(measure_slowly, measure_briefly, lie_about_time),
        *(name_a_link, name_a_second_name, name_a_missing_file, name_a_pipe, name_no_finding, hide_half_a_character),
    )
}


def main() -> None:
    misdeed = MISDEEDS[sys.argv.pop(1)]

    def warm_up(_device: str, _threads: int) -> child.Work:
        def audit(job: JobMessage, report: ReportProgress) -> Measurement:
            return misdeed(job, report)

        return audit

    child.main(warm_up)


if __name__ == "__main__":
    main()
