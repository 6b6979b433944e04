"""Before an audit: every file that its request names, as an artifact of its owner, and what the request is with these files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Fault, FetchFailed, InvalidRequest, NotFound
from schemas.kinds import JobRequest, compute_request_digest, settle_files
from schemas.policy import Policy
from schemas.policy_files import MAX_POLICY_BYTES, describe_faults, parse_policy
from schemas.references import ARTIFACT
from schemas.version import ENGINE_VERSION
from storage.artifacts import ArtifactStore
from storage.leases import Claim, Leases, NotedAnswer
from worker.fetching.fetch import Errand, Fetcher
from worker.heartbeat import Heartbeat
from worker.messages import ProgressMessage

MIB = 2**20


@dataclass(frozen=True)
class Gathered:
    """A request whose files are known and here: all of them named by their digests. `paths` is by field of the request.

    answer: what became of the job by that, and the report of an equal one if there is one.
    """

    request: JobRequest
    request_digest: str
    paths: dict[str, Path]
    answer: NotedAnswer = "ok"
    report_sha256: str | None = None


def gather(
    claim: Claim,
    request: JobRequest,
    fetcher: Fetcher,
    leases: Leases,
    artifacts: ArtifactStore,
    heartbeat: Heartbeat,
    check: Callable[[], None],
) -> Gathered:
    """Return the request with its files, fetching what is not here; `check` raises to interrupt.

    Where the report of an equal audit is known, only a policy is still to be had.
    """
    remote = dict(claim.files)

    def note(part: str, sha256: str) -> None:
        remote[part] = sha256
        leases.note_files(claim.id, claim.attempt, remote)

    def tell(done: int, total: int) -> None:
        heartbeat.tell(ProgressMessage(phase="fetch", done=done // MIB, total=max(done, total) // MIB))

    files = [file for file in request.list_references() if claim.report_sha256 is None or file.part == "policy"]
    digests = fetcher.fetch_all(files, Errand(claim.owner, claim.files, note, tell, check))
    settled, digest = settle_files(request, digests), claim.request_digest
    paths = {part: _locate(artifacts, claim.owner, part, sha256) for part, sha256 in digests.items()}
    if "policy" in paths:
        settled = settled.model_copy(update={"policy": _load_policy(paths["policy"])})
    if claim.report_sha256 is not None or all(file.uri.startswith(ARTIFACT) for file in files):
        return Gathered(settled, digest, paths, report_sha256=claim.report_sha256)
    digest = compute_request_digest(settled, ENGINE_VERSION, claim.kind)
    noted = leases.note_files(claim.id, claim.attempt, remote, digest)
    return Gathered(settled, digest, paths, noted.answer, noted.report_sha256)


def _load_policy(path: Path) -> Policy:
    try:
        with path.open("rb") as file:
            return parse_policy(file.read(MAX_POLICY_BYTES + 1))
    except InvalidRequest as error:
        raise FetchFailed(*describe_faults(error, "/policy/uri")) from None


def _locate(artifacts: ArtifactStore, owner: str, part: str, sha256: str) -> Path:
    path = artifacts.path(owner, sha256)
    if path is None:
        advice = "upload the file again and post the audit again"
        raise NotFound(Fault("the artifact is not in the store any more", f"/{part}/uri", "an artifact", sha256, advice))
    return path.resolve()
