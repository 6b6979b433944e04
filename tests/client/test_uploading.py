"""Large files: the client goes on where the line broke."""

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.api import Client
from client.errors import ExitCode, Refused, Unreachable
from client.uploading import RESUMABLE_BYTES
from tests.client.conftest import Inside
from tests.client.cutting import cutting
from tests.project.tree import ROOT

SIZE = RESUMABLE_BYTES + 1_000_003


@pytest.fixture
def large(folder: Path) -> Path:
    path = folder / "large.npz"
    path.write_bytes(os.urandom(SIZE))
    return path


def hash_stored(client: Client, digest: str, folder: Path) -> str:
    client.download(digest, folder / "back")
    return hashlib.sha256((folder / "back").read_bytes()).hexdigest()


def test_a_line_that_breaks_ten_times_brings_the_file(server: str, client: Client, large: Path, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    with cutting(server, cuts=10, longest=900_000) as proxy, Client(proxy.url) as through:
        uri = through.upload(large, on_progress=lambda sent, size: seen.append((sent, size)))
        assert proxy.cut == 10
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    assert uri == f"artifact:sha256:{digest}"
    assert hash_stored(client, digest, folder) == digest
    assert seen[-1] == (SIZE, SIZE)
    again = sum(later[0] < earlier[0] for earlier, later in itertools.pairwise(seen))
    assert again <= 10


def test_a_file_that_the_server_holds_is_not_sent(client: Client, large: Path) -> None:
    client.upload(large)
    seen: list[int] = []
    client.upload(large, on_progress=lambda sent, _: seen.append(sent))
    assert seen == []


def test_a_server_that_goes_away_for_good_is_unreachable(server: str, large: Path) -> None:
    with cutting(server, cuts=10**9, longest=2_000_000) as proxy, Client(proxy.url, patience_s=1.0) as through:

        def cut_for_good(sent: int, _: int) -> None:
            if sent > 4_000_000:
                proxy.close()

        with pytest.raises(Unreachable):
            through.upload(large, on_progress=cut_for_good)


def test_a_file_that_changes_on_the_way_is_refused(client: Client, large: Path) -> None:
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    large.write_bytes(os.urandom(SIZE))
    with pytest.raises(Refused) as raised:
        client.upload(large, digest)
    assert raised.value.problem.code == "digest_mismatch"


def test_the_command_shows_how_much_has_gone(inside: Inside, server: str, large: Path) -> None:
    code, _, shown = inside("audit", "model.onnx", "--data", large.name, "--server", server)
    assert code == 0
    assert "Uploading large.npz, MB" in shown


def test_breaking_a_file_twenty_times_keeps_digest_and_memory() -> None:
    """`make upload` in small, its rate aside."""
    command = [sys.executable, "-m", "benchmarks.upload", "--megabytes", "24", "--breaks", "20", "--rate", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    unbroken, broken, two = (line.split() for line in ended.stdout.splitlines()[1:4])
    assert unbroken[-1] == broken[-1] == two[-1] == "right"
    assert broken[4] == "20"


def test_audits_and_files_are_deleted_by_the_command(inside: Inside, client: Client, server: str) -> None:
    Path("model.onnx").write_bytes(os.urandom(100))  # jobs of other tests need the standing one
    digest = client.upload(Path("model.onnx")).rpartition(":")[2]
    request = {"model": {"uri": f"artifact:sha256:{digest}"}, "data": {"uri": client.upload(Path("data.npz"))}, "fresh": True}
    job = client.submit({**request, "labels": {"play": "leave"}})
    assert inside("delete", job.id, "--server", server)[0] == ExitCode.USAGE
    client.cancel(job.id)
    code, _, shown = inside("delete", job.id, digest, "--server", server)
    assert (code, shown.count("Deleted")) == (ExitCode.SUCCESS, 2)
    assert not client.has_artifact(digest)
    assert inside("delete", job.id, "--server", server)[0] == ExitCode.USAGE
