"""Artifacts: what can be read is whole, whatever became of its writers."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.errors import DigestMismatch, Unavailable, WorkerFault
from storage.artifacts import FileArtifactStore

OWNER = "local"
CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def store(root: Path) -> FileArtifactStore:
    return FileArtifactStore(root)


def find_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]


def run_python(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def test_bytes_and_files_come_back_by_their_digest(store: FileArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"model")
    digests = [store.put_bytes(OWNER, CONTENT), store.put_file(OWNER, source), store.put_bytes(OWNER, b"")]
    for digest, content in zip(digests, [CONTENT, b"model", b""], strict=True):
        assert digest == hashlib.sha256(content).hexdigest()
        path, file = store.path(OWNER, digest), store.open(OWNER, digest)
        assert path is not None
        assert file is not None
        with file:
            assert path.read_bytes() == file.read() == content
        assert store.size(OWNER, digest) == len(content)


def test_pieces_of_any_size_make_the_same_artifact(store: FileArtifactStore) -> None:
    for size in (1, 7, 4096, len(CONTENT)):
        with store.begin(OWNER) as upload:
            for start in range(0, len(CONTENT), size):
                upload.write(CONTENT[start : start + size])
            assert upload.size_bytes == len(CONTENT)
            assert upload.commit(SHA256) == SHA256


def test_nobody_else_can_read_the_files(store: FileArtifactStore, root: Path) -> None:
    store.put_bytes(OWNER, CONTENT)
    assert {path.stat().st_mode & 0o777 for path in find_files(root)} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in [root, *root.rglob("*")] if path.is_dir()} == {0o700}


def test_an_owner_has_only_its_own(store: FileArtifactStore) -> None:
    store.put_bytes(OWNER, CONTENT)
    assert store.path("other", SHA256) is None
    assert store.size("other", SHA256) is None
    assert store.open("other", SHA256) is None


@pytest.mark.parametrize("owner", ["..", ".", "", ".incoming", "a/b", "A", "a\0b", "x" * 300, "ü", "~"])
def test_any_owners_name_is_a_folder_of_its_own_inside_the_root(store: FileArtifactStore, root: Path, owner: str) -> None:
    store.put_bytes(owner, CONTENT)
    (path,) = [path for path in find_files(root) if path.name == SHA256]
    assert path.parent.parent.parent == root
    assert path.parent.parent.name not in {".incoming", "a"}
    assert store.path(owner, SHA256) == path
    assert store.path("a", SHA256) is None


@pytest.mark.parametrize("digest", ["", "../" + SHA256, SHA256.upper(), SHA256[:-1], SHA256 + "\n", "../../etc/passwd"])
def test_what_is_no_digest_names_nothing(store: FileArtifactStore, digest: str) -> None:
    store.put_bytes(OWNER, CONTENT)
    assert store.path(OWNER, digest) is None


def test_nothing_is_seen_before_commit_and_nothing_stays_after_abort(store: FileArtifactStore, root: Path) -> None:
    upload = store.begin(OWNER)
    upload.write(CONTENT)
    assert store.path(OWNER, SHA256) is None
    upload.abort()
    upload.abort()
    assert find_files(root) == []
    with pytest.raises(ValueError, match="over"):
        upload.write(b"more")


def test_other_bytes_than_announced_are_refused_and_removed(store: FileArtifactStore, root: Path) -> None:
    wrong = SHA256[::-1]
    upload = store.begin(OWNER)
    upload.write(CONTENT)
    with pytest.raises(DigestMismatch) as raised:
        upload.commit(wrong)
    (fault,) = raised.value.faults
    assert fault.expected == wrong
    assert SHA256 in fault.got
    assert find_files(root) == []


def test_an_error_inside_the_block_removes_what_was_written(store: FileArtifactStore, root: Path) -> None:
    def write_half() -> None:
        with store.begin(OWNER) as upload:
            upload.write(CONTENT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert find_files(root) == []


def test_storing_again_changes_nothing_but_the_time_of_use(store: FileArtifactStore, root: Path) -> None:
    store.put_bytes(OWNER, CONTENT)
    (path,) = find_files(root)
    os.utime(path, (1, 1))
    before = path.stat()
    assert store.put_bytes(OWNER, CONTENT) == SHA256
    assert find_files(root) == [path]
    assert path.stat().st_ino == before.st_ino
    assert time.time() - path.stat().st_mtime < 60


def test_a_file_that_the_disk_cut_short_is_replaced(store: FileArtifactStore, root: Path) -> None:
    store.put_bytes(OWNER, CONTENT)
    (path,) = find_files(root)
    path.write_bytes(CONTENT[:100])
    store.put_bytes(OWNER, CONTENT)
    assert path.read_bytes() == CONTENT


def test_equal_uploads_at_once_all_succeed_and_make_one_file(store: FileArtifactStore, root: Path) -> None:
    barrier = threading.Barrier(8)

    def put(_: int) -> str:
        with store.begin(OWNER) as upload:
            upload.write(CONTENT)
            barrier.wait()
            return upload.commit(SHA256)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(put, range(8))) == {SHA256}
    assert [path.read_bytes() for path in find_files(root)] == [CONTENT]


CRASH = """
import os, signal, sys
from pathlib import Path
from storage.artifacts import FileArtifactStore
upload = FileArtifactStore(Path(sys.argv[1])).begin("local")
upload.write(b"weights" * 500)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_that_can_be_read_and_is_swept_after_an_hour(store: FileArtifactStore, root: Path) -> None:
    assert run_python(CRASH, root).returncode == -9
    (left,) = find_files(root)
    assert left.parent == root / ".incoming"
    FileArtifactStore(root)
    assert find_files(root) == [left]
    os.utime(left, (time.time() - 3601,) * 2)
    FileArtifactStore(root)
    assert find_files(root) == []
    assert store.put_bytes(OWNER, CONTENT) == SHA256


FULL_DISK = """
import resource, sys
from pathlib import Path
from schemas.errors import Unavailable
from storage.artifacts import FileArtifactStore
store = FileArtifactStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    store.put_bytes("local", b"x" * 100_000)
except Unavailable as error:
    print(error.faults[0].what, "|", error.faults[0].got, "|", error.faults[0].advice)
print(store.put_bytes("local", b"small"))
"""


def test_a_full_disk_is_said_clearly_and_leaves_nothing(store: FileArtifactStore, root: Path) -> None:
    result = run_python(FULL_DISK, root)
    assert result.returncode == 0, result.stderr
    said, small = result.stdout.splitlines()
    assert "cannot be written" in said
    assert "File too large" in said
    assert "free space" in said
    assert [path.name for path in find_files(root)] == [small]
    assert store.size(OWNER, small) == 5


def test_a_root_that_cannot_be_a_folder_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        FileArtifactStore(tmp_path / "file" / "artifacts")


def test_a_root_that_vanishes_is_unavailable(store: FileArtifactStore, root: Path) -> None:
    (root / ".incoming").rmdir()
    with pytest.raises(Unavailable):
        store.begin(OWNER)


def make_link(path: Path) -> None:
    path.with_suffix(".secret").write_text("another's")
    path.symlink_to(path.with_suffix(".secret"))


@pytest.mark.parametrize(
    "make_trap", [make_link, os.mkfifo, os.mkdir, lambda path: None], ids=["link", "pipe", "folder", "missing"]
)
def test_only_plain_files_are_copied(
    store: FileArtifactStore, root: Path, tmp_path: Path, make_trap: Callable[[Path], None]
) -> None:
    trap = tmp_path / "counterexample.npz"
    make_trap(trap)
    with pytest.raises(WorkerFault) as raised:
        store.put_file(OWNER, trap)
    assert raised.value.faults[0].where == trap.name
    assert find_files(root) == []
