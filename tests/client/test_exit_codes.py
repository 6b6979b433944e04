"""Every exit code of docs/cli.md: each once by the command in a process of its own, the other cases in this process."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client.errors import ExitCode
from tests.client.conftest import Faultline, Inside
from tests.project.tree import BIN

AUDIT = ("audit", "model.onnx", "--data", "data.npz")


@contextmanager
def answering(status: int, body: bytes = b"", **headers: str) -> Iterator[str]:
    """A server that gives every call one answer, as a gateway in front of the service does."""

    class Gateway(BaseHTTPRequestHandler):
        def __getattr__(self, name: str) -> Callable[[], None]:
            """Take every method alike: the base class looks for do_GET, do_PUT and so on."""
            if not name.startswith("do_"):
                raise AttributeError(name)
            return self.answer

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    gateway = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{gateway.server_port}"
    finally:
        gateway.shutdown()
        thread.join()
        gateway.server_close()


PROCESSES: list[tuple[tuple[str, ...], int, str]] = [
    (AUDIT, 0, "No policy was given, so nothing was judged, exit code 0"),
    ((*AUDIT, "--policy", "fail.yaml"), 1, "Verdict: FAIL (do not deploy: a limit was exceeded), exit code 1"),
    ((*AUDIT, "--fresh", "--label", "play=fail"), 2, "the ONNX file ends early"),
    (("audit", "--nonsense"), 3, "No such option"),
    ((*AUDIT, "--fresh", "--label", "play=leave", "--wait", "0.1"), 4, "faultline status"),
]


@pytest.mark.parametrize(("arguments", "code", "told"), PROCESSES, ids=[str(code) for _, code, _ in PROCESSES])
def test_a_process_ends_with_the_code(
    faultline: Faultline, server: str, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = faultline(*arguments, FAULTLINE_URL=server)
    assert done.returncode == code, done.stderr
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_that_a_gateway_turns_away_ends_with_5(faultline: Faultline) -> None:
    with answering(401, b"<html>login</html>", content_type="text/html") as url:
        done = faultline(*AUDIT, FAULTLINE_URL=url, FAULTLINE_KEY="fl_x_y")
    assert done.returncode == 5
    assert "401" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--policy", "pass.yaml"), 0),
        (("--policy", "warn.yaml"), 0),
        (("--policy", "inconclusive.yaml"), 2),
        (("--policy", "inconclusive.yaml", "--on-inconclusive", "warn"), 0),
        (("--policy", "inconclusive.yaml", "--on-inconclusive", "pass"), 0),
        (("--policy", "fail.yaml", "--on-inconclusive", "pass"), 1),
    ],
)
def test_an_audit_ends_with_its_verdict_s_code(inside: Inside, server: str, arguments: tuple[str, ...], code: int) -> None:
    found, out, _ = inside(*AUDIT, *arguments, "--server", server)
    assert found == code
    assert out.rstrip().endswith(f"exit code {code}")


def test_an_audit_that_cannot_be_done_is_2_and_lists_every_fault(inside: Inside, server: str) -> None:
    code, _, err = inside(*AUDIT, "--fresh", "--label", "play=fail", "--on-inconclusive", "pass", "--server", server)
    assert code == ExitCode.INCONCLUSIVE
    assert "the ONNX file ends early" in err
    assert "no graph was found" in err


@pytest.mark.parametrize(("leniency", "code"), [("warn", 0), ("pass", 0)])
def test_a_timeout_is_let_through_when_the_caller_says_so(inside: Inside, server: str, leniency: str, code: int) -> None:
    waiting = ("--fresh", "--label", "play=leave", "--wait", "0.1", "--on-timeout", leniency, "--server", server)
    found, out, err = inside(*AUDIT, *waiting, "--json")
    assert found == code
    job = json.loads(out)["job"]
    assert job["id"] in err
    assert inside("status", job["id"], "--json", "--server", server)[0] == ExitCode.SUCCESS
    assert inside("status", job["id"], "--wait", "0.1", "--server", server)[0] == ExitCode.GAVE_UP


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("adit",),
        ("audit",),
        ("audit", "model.onnx"),
        ("audit", "model.onnx", "--data", "data.npz", "--wait", "long"),
        ("audit", "model.onnx", "--data", "missing.npz"),
        ("audit", "model.onnx", "--data", "data.npz", "--set", "norm=0.5,epsilon=1"),
        ("verdict", "report.json"),
        ("verdict", "report.json", "--policy", "model.onnx"),
        ("verdict", "model.onnx", "--policy", "pass.yaml"),
        ("status", "no-server-is-named"),
        ("status", "x", "--server", "localhost:8321"),
        ("status", "x", "--server", "http://user:password@localhost"),
        ("up", "--port", "99999"),
    ],
    ids=" ".join,
)
def test_what_the_caller_can_mend_is_3(inside: Inside, arguments: tuple[str, ...]) -> None:
    code, out, err = inside(*arguments)
    assert code == ExitCode.USAGE
    assert out == ""
    assert err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["status", "report", "cancel"])
def test_an_audit_that_is_not_there_is_3(inside: Inside, server: str, command: str) -> None:
    code, _, err = inside(command, "0" * 29, "--server", server)
    assert code == ExitCode.USAGE
    assert "Not found" in err


def test_what_the_server_refuses_is_3(inside: Inside, server: str) -> None:
    unknown = "artifact:sha256:" + "f" * 64
    code, _, err = inside("audit", unknown, "--data", unknown, "--server", server)
    assert code == ExitCode.USAGE
    assert "was not uploaded" in err


@pytest.mark.parametrize("status", [401, 403])
def test_a_gateway_that_wants_a_key_is_5(inside: Inside, status: int) -> None:
    with answering(status) as url:
        assert inside("status", "x", "--server", url)[0] == ExitCode.DENIED


def test_a_quota_that_does_not_end_soon_is_5(inside: Inside) -> None:
    with answering(429, retry_after="3600") as url:
        assert inside(*AUDIT, "--server", url)[0] == ExitCode.DENIED


def test_what_is_no_faultline_server_is_2(inside: Inside) -> None:
    with answering(200, b"<html>hello</html>", content_type="text/html") as url:
        code, _, err = inside("status", "x", "--server", url)
    assert code == ExitCode.INCONCLUSIVE
    assert "did not answer as expected" in err


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["text", "json"])
def test_results_that_cannot_be_written_are_2_and_not_the_gate_s_1(folder: Path, more: tuple[str, ...]) -> None:
    command = [str(BIN / "faultline"), "verdict", "report.json", "--policy", "pass.yaml", *more]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "No space left" in done.stderr


def test_a_reader_that_goes_away_does_not_change_the_code(folder: Path) -> None:
    command = [str(BIN / "faultline"), "verdict", "report.json", "--policy", "fail.yaml"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 1


def test_a_place_that_takes_no_file_is_3_before_anything_is_done(inside: Inside) -> None:
    code, _, err = inside(*AUDIT, "--report-out", "missing/report.json")
    assert code == ExitCode.USAGE
    assert "missing/report.json cannot be written" in err


@pytest.mark.parametrize("arguments", [("--help",), ("audit", "--help"), ("replay", "-h"), ("--version",)], ids=" ".join)
def test_help_is_0(inside: Inside, arguments: tuple[str, ...]) -> None:
    code, out, err = inside(*arguments)
    assert (code, err) == (ExitCode.SUCCESS, "")
    assert out


@pytest.mark.parametrize(("outcome", "code"), [("pass", 0), ("warn", 0), ("fail", 1), ("inconclusive", 2)])
def test_a_verdict_on_a_file_needs_no_server(inside: Inside, outcome: str, code: int) -> None:
    found, out, _ = inside("verdict", "report.json", "--policy", f"{outcome}.yaml")
    assert found == code
    assert f"Verdict: {outcome.upper()}" in out


def test_a_verdict_about_another_model_than_the_deployed_is_1(inside: Inside) -> None:
    code, out, _ = inside("verdict", "report.json", "--policy", "pass.yaml", "--expect-model", "model.onnx")
    assert code == ExitCode.GATE_FAILED
    assert "Another model is being deployed" in out
    assert out.rstrip().endswith("exit code 1")
