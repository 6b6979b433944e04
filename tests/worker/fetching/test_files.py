"""`file:` references: below the operator's folders, whatever stands in them."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.base import compute_sha256
from schemas.errors import FetchError, FetchFailed, FetchRefused
from schemas.references import NamedFile
from storage.artifacts import FileArtifactStore
from tests.worker.fetching.servers import make_limits
from tests.worker.fetching.test_web import MODEL, Told
from worker.fetching.fetch import Fetcher
from worker.fetching.files import open_beneath


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "deep er").mkdir(parents=True)
    (folder / "deep er/model.onnx").write_bytes(MODEL)
    (folder / "of-local").mkdir()
    (folder / "of-local/model.onnx").write_bytes(MODEL)
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


@pytest.fixture
def fetch(root: Path, tmp_path: Path) -> Callable[..., str]:
    artifacts = FileArtifactStore(tmp_path / "artifacts")

    def run(uri: str, roots: str | None = None, owner: str = "local") -> str:
        limits = make_limits(fetch_roots=str(root) if roots is None else roots)
        return Fetcher(limits, artifacts, tmp_path).fetch_all([NamedFile("model", uri)], Told(owner=owner).errand)["model"]

    return run


def test_a_file_below_a_folder_is_read(fetch: Callable[..., str], root: Path) -> None:
    for uri in (f"file://{root}/deep%20er/model.onnx", f"file:{root}/deep%20er/model.onnx"):
        assert fetch(uri) == compute_sha256(MODEL)
    assert fetch(f"file://{root}/deep%20er/model.onnx", f"/elsewhere {root}/") == compute_sha256(MODEL)


def test_a_folder_may_be_one_tenants(fetch: Callable[..., str], root: Path) -> None:
    uri, roots = f"file://{root}/of-local/model.onnx", f"{root}/of-{{tenant}}"
    assert fetch(uri, roots) == compute_sha256(MODEL)
    for owner in ("another", "../models/of-local", "local/x", "{tenant}"):
        with pytest.raises(FetchRefused):
            fetch(uri, roots, owner)


OUTSIDE = {
    "another folder": "/etc/passwd",
    "parent": "{root}/../secret",
    "parent at the end": "{root}/..",
    "parent encoded": "{root}/%2e%2e/secret",
    "slash encoded": "{root}/..%2fsecret",
    "twice encoded": "{root}/%252e%252e/secret",
    "dot": "{root}/./deep%20er/model.onnx",
    "empty part": "{root}//deep%20er/model.onnx",
    "neighbour with the same beginning": "{root}-secret/model.onnx",
    "folder itself": "{root}",
    "folder itself with a slash": "{root}/",
    "link out": "{root}/link",
    "link inside": "{root}/inner-link",
    "folder that is a link": "{root}/folder-link/secret",
    "link to /proc": "{root}/magic",
    "folder": "{root}/deep%20er",
    "pipe": "{root}/pipe",
    "socket": "{root}/socket",
    "device": "/dev/zero",
    "missing": "{root}/missing",
    "below a file": "{root}/deep%20er/model.onnx/more",
    "null": "{root}/deep%20er%00/model.onnx",
    "not UTF-8": "{root}/%ff",
    "query": "{root}/deep%20er/model.onnx?x",
}


@pytest.mark.parametrize("path", OUTSIDE.values(), ids=OUTSIDE)
def test_nothing_else_is_read(path: str, fetch: Callable[..., str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    (root / "inner-link").symlink_to("deep er/model.onnx")
    (root / "folder-link").symlink_to(root.parent)
    (root / "magic").symlink_to("/proc/self/cwd")
    root.with_name("models-secret").mkdir()
    root.with_name("models-secret").joinpath("model.onnx").write_bytes(b"secret")
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for start in ("file://", "file:"):
            with pytest.raises(FetchError):
                fetch(start + path.format(root=root))
    with pytest.raises(FetchError):
        fetch(f"file://localhost{path.format(root=root)}")


def test_nothing_is_read_when_the_operator_names_no_folder(fetch: Callable[..., str], root: Path) -> None:
    with pytest.raises(FetchRefused, match="not enabled"):
        fetch(f"file://{root}/deep%20er/model.onnx", "none")


def test_a_folder_that_is_swapped_for_a_link_leads_nowhere(root: Path) -> None:
    """Swap a folder and a link to outside for each other while it is read: every read gives the right file or none."""
    (root / "a").mkdir()
    (root / "a/secret").write_bytes(b"inside")
    (root / "b").symlink_to(root.parent)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "a").rename(root / "c")
            (root / "b").rename(root / "a")
            (root / "a").rename(root / "b")
            (root / "c").rename(root / "a")

    thread = threading.Thread(target=swap)
    thread.start()
    read: set[bytes] = set()
    refused = 0
    for _ in range(3000):
        try:
            with open_beneath(str(root), f"{root}/a/secret") as file:
                read.update(file.read_chunks())
        except (FetchRefused, FetchFailed):
            refused += 1
    stop.set()
    thread.join()
    assert read == {b"inside"}
    assert refused > 0
