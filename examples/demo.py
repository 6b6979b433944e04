"""The demo: start Faultline, audit a brittle and a sturdy model over HTTP, let the gate judge both, stop everything.

`make demo` runs it. It uses nothing but the `faultline` command, as a CI job would.
Exit code: 0 when the brittle model is failed and the sturdy one is passed, else 1.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
FAULTLINE = str(Path(sys.executable).with_name("faultline"))
READY = re.compile(r"http://[\w.:-]+")
START_LIMIT_S = 120.0
STOP_LIMIT_S = 40.0
OUTCOMES = {0: "pass", 1: "FAIL", 2: "inconclusive", 3: "bad request", 4: "gave up waiting", 5: "not allowed"}


class Model(NamedTuple):
    """One audit of the demo and the exit code that it should end with."""

    name: str
    file: Path
    expected: int


class Audited(NamedTuple):
    """What came of it."""

    model: Model
    exit_code: int
    report: dict[str, Any]
    seconds: float


MODELS = (
    Model("brittle", HERE / "artifacts" / "digits_cnn.onnx", expected=1),
    Model("sturdy", HERE / "artifacts" / "digits_cnn_sturdy.onnx", expected=0),
)
DATA = HERE / "artifacts" / "digits.npz"
POLICY = HERE / "policy.yaml"
REQUEST = HERE / "request.yaml"


def main() -> int:
    """Run the demo."""
    with tempfile.TemporaryDirectory(prefix="faultline-") as folder, serve(Path(folder)) as url:
        audited = [audit(model, url, Path(folder)) for model in MODELS]
        say("stopping the server")
    show_summary(audited)
    return 0 if all(one.exit_code == one.model.expected for one in audited) else 1


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Run `faultline up` on a free port while the block runs; gives its URL."""
    say("faultline up --port 0   (store, API and one worker)")
    started = time.monotonic()
    # Its own session: Ctrl-C comes to the demo, and the demo stops the server in order.
    command = [FAULTLINE, "up", "--port", "0", "--data-dir", str(folder / "data")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        url = wait_until_ready(server)
        print(f"ready at {url} after {time.monotonic() - started:.1f} s")
        yield url
    finally:
        stop(server)


def wait_until_ready(server: "subprocess.Popen[str]") -> str:
    """Return the URL of the ready line.

    Raises:
        SystemExit: when the server ends before it is ready.
    """
    if server.stdout is None:
        raise SystemExit(1)
    for line in server.stdout:
        found = READY.search(line)
        if found:
            return found[0]
    message = f"faultline up ended with exit code {server.wait()} before it was ready"
    raise SystemExit(message)


def stop(server: "subprocess.Popen[str]") -> None:
    """End the server as Ctrl-C would."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def audit(model: Model, url: str, folder: Path) -> Audited:
    """Run `faultline audit` on one model, as a person would see it."""
    shown = f"faultline audit {model.file.name} --data {DATA.name} --request {REQUEST.name} --policy {POLICY.name}"
    say(f"{shown}   (the {model.name} model)")
    report = folder / f"{model.name}.json"
    options = {"--data": DATA, "--request": REQUEST, "--policy": POLICY, "--server": url, "--report-out": report}
    arguments = [str(part) for option in options.items() for part in option]
    started = time.monotonic()
    ran = subprocess.run([FAULTLINE, "audit", str(model.file), *arguments], check=False)
    seconds = time.monotonic() - started
    print(f"exit code {ran.returncode}: {OUTCOMES.get(ran.returncode, 'unknown')}")
    content = json.loads(report.read_text()) if report.is_file() else {}
    return Audited(model, ran.returncode, content, seconds)


def show_summary(audited: list[Audited]) -> None:
    """Print both audits side by side."""
    say("summary")
    titles = ("model", "clean accuracy", "breaking point", "gate", "exit code", "seconds")
    rows = [titles, *(summarise(one) for one in audited)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def summarise(one: Audited) -> tuple[str, ...]:
    """Return one row of the summary."""
    accuracy = one.report.get("clean", {}).get("metrics", {}).get("accuracy")
    points = one.report.get("breaking_points", [])
    return (
        one.model.name,
        "-" if accuracy is None else f"{accuracy:.3f}",
        describe_point(points[0]) if points else "-",
        OUTCOMES.get(one.exit_code, "unknown"),
        f"{one.exit_code} (expected {one.model.expected})",
        f"{one.seconds:.1f}",
    )


def describe_point(point: dict[str, Any]) -> str:
    """Return the epsilon that was found to break the limit."""
    if not point["reached"]:
        return "none found in range"
    norm = point["set"]["norm"]
    return f"epsilon {point['bracket']['hi']:.3g} (L{norm if isinstance(norm, str) else f'{norm:g}'})"


def say(text: str) -> None:
    """Print a line that sets off what comes next."""
    print(f"\n$ {text}" if text.startswith("faultline") else f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
