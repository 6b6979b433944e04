"""The commands for keys against a real API that asks for them, and what becomes of a key that is not accepted."""

import json
import re
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.api import Client
from client.credentials import check_key, find_key
from client.errors import BadUsage, ExitCode, Refused, Unreachable
from schemas.keys import KEY, OPERATOR, NewKey
from tests.client.conftest import Faultline, Inside
from tests.client.test_exit_codes import answering
from tests.service.keyed import Keyring, read_id, running_keyed
from tests.storage.valkey import RunningValkey, running_valkey


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningValkey]:
    with running_valkey(tmp_path_factory.mktemp("keyed-store")) as server:
        yield server


@pytest.fixture(scope="module")
def url(valkey: RunningValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_keyed(valkey.redis_url, tmp_path_factory.mktemp("keyed-data")) as found:
        yield found


@pytest.fixture
def admin(valkey: RunningValkey, url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with valkey.connect() as client:
        client.flushall()
    key = Keyring(valkey.redis_url).make("first", "admin", tenant=OPERATOR)
    monkeypatch.setenv("FAULTLINE_URL", url)
    monkeypatch.setenv("FAULTLINE_KEY", key)
    return key


def test_a_key_is_made_listed_rotated_and_revoked(inside: Inside, admin: str, url: str) -> None:
    code, out, err = inside("keys", "create", "--label", "ci", "--tenant", "acme", "--expires-in", "90d")
    assert (code, KEY.fullmatch(out.strip()) is not None) == (ExitCode.SUCCESS, True)
    made = out.strip()
    assert made not in err
    assert "label ci, for read, submit, until" in err
    _, listed, _ = inside("keys", "list")
    assert read_id(made) in listed
    assert made not in listed
    code, out, _ = inside("keys", "rotate", read_id(made), "--overlap", "1h", "--json")
    successor = json.loads(out)
    assert successor["info"]["label"] == "ci"
    code, out, _ = inside("keys", "revoke", read_id(made), "--json")
    assert json.loads(out)["state"] == "revoked"
    _, out, _ = inside("keys", "list", "--tenant", "acme", "--json")
    assert [info["id"] for info in json.loads(out)["items"]] == [successor["info"]["id"]]
    _, out, _ = inside("keys", "list", "--tenant", "acme", "--all", "--json")
    assert {info["state"] for info in json.loads(out)["items"]} == {"live", "revoked"}
    with Client(url, successor["key"]) as client, pytest.raises(Refused, match="scopes do not allow"):
        client.list_keys()


def test_a_key_goes_into_a_file_that_only_its_owner_reads_and_comes_from_it(inside: Inside, admin: str, tmp_path: Path) -> None:
    code, out, _ = inside("keys", "create", "--label", "file", "--scope", "admin", "--key-out", "new.key")
    assert (code, out) == (ExitCode.SUCCESS, "")
    assert Path("new.key").stat().st_mode & 0o777 == 0o600
    before = Path("new.key").read_bytes()
    assert inside("keys", "create", "--label", "file", "--key-out", "new.key")[0] == ExitCode.USAGE
    assert Path("new.key").read_bytes() == before
    code, out, _ = inside("keys", "list", "--key-file", "new.key", "--json")
    assert code == ExitCode.SUCCESS
    assert {info["tenant"] for info in json.loads(out)["items"]} == {OPERATOR}


def test_the_first_key_is_made_on_the_store(faultline: Faultline, valkey: RunningValkey, url: str, admin: str) -> None:
    done = faultline("keys", "bootstrap", "--label", "again", "--json", REDIS_URL=valkey.redis_url)
    made = json.loads(done.stdout)
    assert made["info"]["scopes"] == ["admin"]
    assert made["key"] not in done.stderr
    listed = faultline("keys", "list", "--json", FAULTLINE_KEY=made["key"])
    assert {info["label"] for info in json.loads(listed.stdout)["items"]} == {"first", "again"}


def test_without_a_key_that_is_accepted_every_command_ends_with_5_and_says_where_keys_come_from(
    inside: Inside, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [("status", "x"), ("cancel", "x"), ("report", "x"), ("audit", "model.onnx", "--data", "data.npz"), ("keys", "list")]
    for key in ("", f"{admin[:-1]}{'0' if admin[-1] != '0' else '1'}", "something-else"):
        monkeypatch.setenv("FAULTLINE_KEY", key)
        for call in calls:
            code, _, err = inside(*call)
            assert code == ExitCode.DENIED
            assert "FAULTLINE_KEY" in err
            if key:
                assert key not in err


def test_a_scope_that_is_missing_ends_with_5(inside: Inside, admin: str, valkey: RunningValkey) -> None:
    Path("reader.key").write_text(Keyring(valkey.redis_url).make("reader", "read"))
    code, _, err = inside("keys", "list", "--key-file", "reader.key")
    assert code == ExitCode.DENIED
    assert "scopes do not allow this" in err
    code, _, _ = inside("audit", "model.onnx", "--data", "data.npz", "--key-file", "reader.key")
    assert code == ExitCode.DENIED


@pytest.mark.parametrize(
    "arguments",
    [
        *(("keys", "create"), ("keys", "create", "--label", "a:b"), ("keys", "create", "--label", "x", "--scope", "root")),
        *(("keys", "create", "--label", "x", "--expires-in", "soon"), ("keys", "create", "--label", "x", "--tenant", "A B")),
        *(("keys", "rotate", "x", "--overlap", "1y"), ("keys", "list", "--key-file", "missing"), ("keys", "nonsense")),
        ("keys", "create", "--label", "x", "--key-out", "missing/new.key"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_3(inside: Inside, admin: str, arguments: tuple[str, ...]) -> None:
    assert inside(*arguments)[0] == ExitCode.USAGE


def test_no_command_takes_a_key_as_an_argument(inside: Inside) -> None:
    for command in (("audit",), ("status",), ("keys", "create"), ("keys", "list")):
        _, told, _ = inside(*command, "--help")
        assert re.search(r"--key(?![\w-])", told) is None
        assert "--key-file" in told


@pytest.mark.parametrize("content", ["", "\n", "a b", "a\nb", "fl_ключ", "x\r\nx-admin: 1", "x" * 2000])
def test_what_can_be_no_header_is_no_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(BadUsage) as caught:
        find_key(path, {})
    if content.strip():
        assert content not in str(caught.value.faults)
    with pytest.raises(BadUsage):
        check_key(content, "here")


def test_the_file_that_is_named_comes_before_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("fl_file\n")
    assert find_key(path, {"FAULTLINE_KEY": "fl_environment"}) == "fl_file"
    assert find_key(None, {"FAULTLINE_KEY": " fl_environment\n"}) == "fl_environment"
    assert find_key(None, {}) is None


def test_over_its_quota_a_process_ends_with_5(faultline: Faultline) -> None:
    with answering(429, b"{}", retry_after="60") as url:
        done = faultline("status", "x", FAULTLINE_URL=url, FAULTLINE_KEY="fl_x_y")
    assert done.returncode == ExitCode.DENIED
    assert "429" in done.stderr


@pytest.mark.parametrize(("status", "is_asked_again"), [(502, False), (503, True), (504, False), (429, True)])
def test_a_key_is_not_asked_for_again_when_it_may_have_been_made(status: int, is_asked_again: bool) -> None:
    asked: list[bytes] = []

    class Turnstile(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            """Answer one call and hang up."""
            asked.append(self.rfile.readline())
            self.wfile.write(f"HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())

    with socketserver.TCPServer(("127.0.0.1", 0), Turnstile) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with (
                Client(f"http://127.0.0.1:{server.server_address[1]}", "fl_x_y", patience_s=0.5) as client,
                pytest.raises(Refused),
            ):
                client.create_key(NewKey(label="x", scopes=("read",)))
        finally:
            server.shutdown()
            thread.join()
    assert asked[0].startswith(b"POST /v1/keys ")
    assert (len(asked) > 1) == is_asked_again


def test_a_lost_answer_to_a_new_key_is_told_at_once() -> None:
    with Client("http://127.0.0.1:9", "fl_x_y", patience_s=0.3) as client, pytest.raises(Unreachable):
        client.create_key(NewKey(label="x", scopes=("read",)))
