"""Uploads in several parts: the file is the state, whatever becomes of its writers."""

import hashlib
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.errors import DigestMismatch, NotFound
from storage.artifacts import FileArtifactStore
from storage.resumable import OffsetConflict, Progress, ResumableUploads

OWNER = "local"
CONTENT = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def artifacts(root: Path) -> FileArtifactStore:
    return FileArtifactStore(root)


@pytest.fixture
def uploads(root: Path, artifacts: FileArtifactStore) -> ResumableUploads:
    return ResumableUploads(root, artifacts)


def find(uploads: ResumableUploads, id: str) -> Progress:
    progress = uploads.find(OWNER, id)
    assert progress is not None
    return progress


def append(uploads: ResumableUploads, id: str, size: int) -> None:
    progress = find(uploads, id)
    with uploads.open(OWNER, progress) as part:
        part.write(CONTENT[progress.offset : progress.offset + size])
        part.sync()


def list_files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".uploads").rglob("*") if path.is_file())


def test_parts_of_any_size_become_the_artifact(uploads: ResumableUploads, artifacts: FileArtifactStore, root: Path) -> None:
    chance = random.Random(2)
    id = uploads.create(OWNER, len(CONTENT), SHA256).id
    while find(uploads, id).offset < len(CONTENT):
        append(uploads, id, chance.randrange(60_000))
    completed = uploads.complete(OWNER, find(uploads, id))
    assert completed == (SHA256, len(CONTENT), True)
    path = artifacts.path(OWNER, SHA256)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o600
    assert find(uploads, id) == Progress(id, len(CONTENT), SHA256, len(CONTENT), SHA256)
    assert list_files(root) == [f"{id}.json"]


def test_an_empty_file_is_an_upload_too(uploads: ResumableUploads) -> None:
    begun = uploads.create(OWNER, 0, None)
    assert uploads.complete(OWNER, begun).sha256 == hashlib.sha256(b"").hexdigest()


def test_another_owner_has_no_part_in_it(uploads: ResumableUploads, artifacts: FileArtifactStore) -> None:
    begun = uploads.create(OWNER, len(CONTENT), SHA256)
    assert uploads.find("other", begun.id) is None
    assert not uploads.abandon("other", begun.id)
    with pytest.raises(NotFound):
        uploads.open("other", begun)
    append(uploads, begun.id, len(CONTENT))
    uploads.complete(OWNER, find(uploads, begun.id))
    assert artifacts.path("other", SHA256) is None


@pytest.mark.parametrize("id", ["", "x", "../" * 5, "A" * 32, "0" * 31, "0" * 32 + "\n"])
def test_what_is_no_id_names_nothing(uploads: ResumableUploads, id: str) -> None:
    assert uploads.find(OWNER, id) is None
    assert not uploads.abandon(OWNER, id)


def test_of_two_writers_at_one_offset_the_slower_is_told_the_true_one(uploads: ResumableUploads) -> None:
    begun = uploads.create(OWNER, len(CONTENT), SHA256)
    with uploads.open(OWNER, begun) as first, uploads.open(OWNER, begun) as second:
        first.write(CONTENT[:1000])
        with pytest.raises(OffsetConflict) as raised:
            second.write(CONTENT[:1000])
        assert raised.value.offset == 1000
        first.write(CONTENT[1000:2000])
    assert find(uploads, begun.id).offset == 2000


def test_many_writers_at_once_leave_a_beginning_of_the_file(uploads: ResumableUploads, root: Path) -> None:
    begun = uploads.create(OWNER, len(CONTENT), SHA256)
    barrier = threading.Barrier(6)

    def send(_: int) -> bool:
        with uploads.open(OWNER, begun) as part:
            barrier.wait()
            try:
                for at in range(0, len(CONTENT), 10_000):
                    part.write(CONTENT[at : at + 10_000])
            except OffsetConflict:
                return False
            return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(send, range(6))) <= 1
    (part,) = list(root.rglob("*.part"))
    assert CONTENT.startswith(part.read_bytes())
    append(uploads, begun.id, len(CONTENT))
    assert uploads.complete(OWNER, find(uploads, begun.id)).sha256 == SHA256


def test_completing_twice_at_once_makes_one_artifact(uploads: ResumableUploads, artifacts: FileArtifactStore) -> None:
    begun = uploads.create(OWNER, len(CONTENT), SHA256)
    append(uploads, begun.id, len(CONTENT))
    full = find(uploads, begun.id)
    barrier = threading.Barrier(4)

    def complete(_: int) -> str:
        barrier.wait()
        try:
            return uploads.complete(OWNER, full).sha256
        except (NotFound, OffsetConflict):
            return find(uploads, begun.id).sha256 or ""

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(complete, range(4))) == {SHA256}
    assert artifacts.size(OWNER, SHA256) == len(CONTENT)


def test_equal_files_in_two_uploads_become_one_artifact(uploads: ResumableUploads, root: Path) -> None:
    ids = [uploads.create(OWNER, len(CONTENT), announced).id for announced in (SHA256, None)]
    for id in ids:
        append(uploads, id, len(CONTENT))
    completed = [uploads.complete(OWNER, find(uploads, id)) for id in ids]
    assert [one.is_new for one in completed] == [True, False]
    assert [find(uploads, id).sha256 for id in ids] == [SHA256, SHA256]
    assert len(list(root.rglob(SHA256))) == 1
    assert list(root.rglob("*.part")) == []


def test_other_bytes_than_announced_are_gone(uploads: ResumableUploads, artifacts: FileArtifactStore, root: Path) -> None:
    begun = uploads.create(OWNER, len(CONTENT), SHA256[::-1])
    append(uploads, begun.id, len(CONTENT))
    with pytest.raises(DigestMismatch) as raised:
        uploads.complete(OWNER, find(uploads, begun.id))
    assert SHA256 in raised.value.faults[0].got
    assert uploads.find(OWNER, begun.id) is None
    assert artifacts.path(OWNER, SHA256) is None
    assert list_files(root) == []


def test_what_is_not_all_there_is_not_completed(uploads: ResumableUploads) -> None:
    begun = uploads.create(OWNER, len(CONTENT), SHA256)
    append(uploads, begun.id, 10)
    with pytest.raises(OffsetConflict) as raised:
        uploads.complete(OWNER, begun)
    assert raised.value.offset == 10


def test_nothing_is_written_beyond_the_length(uploads: ResumableUploads) -> None:
    begun = uploads.create(OWNER, 10, None)
    with uploads.open(OWNER, begun) as part, pytest.raises(ValueError, match="beyond"):
        part.write(CONTENT[:11])
    assert find(uploads, begun.id).offset == 0


def test_a_writer_of_an_upload_that_was_given_up_finds_out(uploads: ResumableUploads, root: Path) -> None:
    begun = uploads.create(OWNER, len(CONTENT), SHA256)
    with uploads.open(OWNER, begun) as part:
        assert uploads.abandon(OWNER, begun.id)
        with pytest.raises(NotFound):
            part.write(b"x")
    assert not uploads.abandon(OWNER, begun.id)
    assert list_files(root) == []


CRASH = """
import os, signal, sys
from pathlib import Path
import storage.resumable
from storage.artifacts import FileArtifactStore
from storage.resumable import ResumableUploads
root, id, content, point = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes(), sys.argv[4]
artifacts = FileArtifactStore(root)
uploads = ResumableUploads(root, artifacts)
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
progress = uploads.find("local", id)
with uploads.open("local", progress) as part:
    part.write(content[progress.offset : progress.offset + 100_000])
    if point == "write":
        die()
    part.write(content[progress.offset + 100_000 :])
if point == "hashed":
    storage.resumable._write_note = die
elif point == "noted":
    artifacts.adopt = die
else:
    adopt = artifacts.adopt
    artifacts.adopt = lambda *arguments: die(adopt(*arguments))
uploads.complete("local", uploads.find("local", id))
"""


@pytest.mark.parametrize("point", ["write", "hashed", "noted", "named"])
def test_a_process_that_dies_at_any_point_loses_nothing(
    uploads: ResumableUploads, artifacts: FileArtifactStore, root: Path, tmp_path: Path, point: str
) -> None:
    source = tmp_path / "content"
    source.write_bytes(CONTENT)
    id = uploads.create(OWNER, len(CONTENT), None).id
    append(uploads, id, 10_000)
    command = [sys.executable, "-c", CRASH, str(root), id, str(source), point]
    assert subprocess.run(command, check=False, timeout=60).returncode == -9
    left = find(uploads, id)
    assert left.offset == (110_000 if point == "write" else len(CONTENT))
    assert left.sha256 == (SHA256 if point == "named" else None)
    if left.sha256 is None:
        append(uploads, id, len(CONTENT))
        assert uploads.complete(OWNER, find(uploads, id)).sha256 == SHA256
    path = artifacts.path(OWNER, SHA256)
    assert path is not None
    assert path.read_bytes() == CONTENT


def test_an_upload_whose_artifact_is_gone_is_gone(uploads: ResumableUploads, artifacts: FileArtifactStore) -> None:
    begun = uploads.create(OWNER, 0, None)
    path = artifacts.path(OWNER, uploads.complete(OWNER, begun).sha256)
    assert path is not None
    path.unlink()
    assert uploads.find(OWNER, begun.id) is None


FULL_DISK = """
import resource, sys
from pathlib import Path
from schemas.errors import Unavailable
from storage.artifacts import FileArtifactStore
from storage.resumable import ResumableUploads
root, id = Path(sys.argv[1]), sys.argv[2]
uploads = ResumableUploads(root, FileArtifactStore(root))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
with uploads.open("local", uploads.find("local", id)) as part:
    try:
        part.write(Path(sys.argv[3]).read_bytes())
    except Unavailable as error:
        print(error.faults[0].got)
print(uploads.find("local", id).offset)
"""


def test_a_full_disk_keeps_what_fitted_and_the_upload_goes_on_when_there_is_room(
    uploads: ResumableUploads, root: Path, tmp_path: Path
) -> None:
    source = tmp_path / "content"
    source.write_bytes(CONTENT)
    id = uploads.create(OWNER, len(CONTENT), SHA256).id
    command = [sys.executable, "-c", FULL_DISK, str(root), id, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["File too large", "10000"]
    append(uploads, id, len(CONTENT))
    assert uploads.complete(OWNER, find(uploads, id)).sha256 == SHA256


def test_an_upload_that_expires_under_a_writer_tells_it(uploads: ResumableUploads) -> None:
    begun = uploads.create(OWNER, len(CONTENT), SHA256)
    with uploads.open(OWNER, begun) as part:
        part.write(CONTENT[:10])
        assert uploads.expire(time.time() - 60) == 0
        assert uploads.expire(time.time() + 60) == 1
        with pytest.raises(NotFound):
            part.write(CONTENT[10:])
    assert uploads.find(OWNER, begun.id) is None


def test_a_thousand_blocks_of_two_writers_in_turn_are_the_file(uploads: ResumableUploads) -> None:
    """Each goes on where the other stopped, as two processes of the API do."""
    id = uploads.create(OWNER, len(CONTENT), SHA256).id
    for _ in range(0, len(CONTENT), 300):
        append(uploads, id, 300)
    assert uploads.complete(OWNER, find(uploads, id)).sha256 == SHA256
