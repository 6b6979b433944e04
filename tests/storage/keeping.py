"""Jobs with files, over a real store and real artifacts: what the tests of collection are made of."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from schemas.base import canonical_bytes, compute_sha256
from schemas.request import AuditRequest
from service.acceptance import accept_with_files
from storage.artifacts import FileArtifactStore
from storage.collection import Collector
from storage.queue import Accepted
from storage.references import touch_results
from storage.resumable import ResumableUploads
from tests.storage.desk import Desk

GRACE_S = 3600.0
TIMES = ("created_at", "started_at", "ended_at")


def make_report(name: str, counterexamples: list[str]) -> bytes:
    entries = [{"artifact": f"sha256:{digest}", "finding": f"f-{i}"} for i, digest in enumerate(counterexamples)]
    return json.dumps({"counterexamples": entries, "name": name}, separators=(",", ":"), sort_keys=True).encode()


def build_request(model: bytes, data: bytes, *, fresh: bool = False) -> AuditRequest:
    named = {part: {"uri": f"artifact:sha256:{compute_sha256(content)}"} for part, content in (("model", model), ("data", data))}
    return AuditRequest.model_validate({**named, "fresh": fresh})


@dataclass
class Keeper:
    """The API's and the worker's calls about files, for one owner after the other."""

    desk: Desk
    root: Path
    artifacts: FileArtifactStore = field(init=False)
    uploads: ResumableUploads = field(init=False)
    collector: Collector = field(init=False)

    def __post_init__(self) -> None:
        self.artifacts = FileArtifactStore(self.root)
        self.uploads = ResumableUploads(self.root, self.artifacts)
        self.collector = Collector(self.desk.client, self.artifacts, self.uploads)

    def submit(self, owner: str, request: AuditRequest) -> Accepted:
        """Accept as service/submission.py does; InvalidRequest when a file is not there."""
        digest = compute_sha256(canonical_bytes(request.model_copy(update={"fresh": False})))
        queue, body = self.desk.queue, compute_sha256(canonical_bytes(request))
        return self.desk.run(
            accept_with_files(queue, self.artifacts, request, lambda: queue.accept(request, owner, digest, None, body))
        )

    def write_results(self, owner: str, name: str, counterexamples: list[bytes]) -> str:
        """Store what an audit found, as a worker does before it names it; return the report's digest."""
        digests = [self.artifacts.put_bytes(owner, content) for content in counterexamples]
        return self.artifacts.put_bytes(owner, make_report(name, digests))

    def take_over(self, owner: str, report_sha256: str) -> bool:
        """Use a finished report as a worker does that finds one for its job."""
        return touch_results(self.artifacts, owner, report_sha256)

    def read(self, owner: str, sha256: str) -> bytes | None:
        path = self.artifacts.path(owner, sha256)
        content = None if path is None else path.read_bytes()
        assert content is None or hashlib.sha256(content).hexdigest() == sha256
        return content

    def holds_results(self, owner: str, report_sha256: str) -> bool:
        content = self.read(owner, report_sha256)
        if content is None:
            return False
        entries = json.loads(content)["counterexamples"]
        return all(self.read(owner, entry["artifact"].removeprefix("sha256:")) is not None for entry in entries)

    def list_artifacts(self, owner: str) -> set[str]:
        return {entry.name for _, entry in self.artifacts.walk(owner)}

    def find_files(self) -> Iterator[Path]:
        return (path for path in self.root.rglob("*") if path.is_file())

    def let_pass(self, seconds: float) -> None:
        """Make everything older, instead of waiting."""
        for path in self.find_files():
            found = path.stat()
            os.utime(path, (found.st_atime - seconds, found.st_mtime - seconds))
        for key in cast("list[bytes]", self.desk.client.keys("faultline:job:*")):
            fields = cast("dict[bytes, bytes]", self.desk.client.hgetall(key))
            for name in TIMES:
                if name.encode() in fields:
                    self.desk.client.hset(key, name, int(fields[name.encode()]) - round(seconds * 1e6))
