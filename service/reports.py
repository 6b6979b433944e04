"""Finds the report of an audit, or says why there is none."""

import asyncio
from typing import BinaryIO

from schemas.errors import Cancelled, Conflict, Fault, NotAcceptable, Unavailable
from schemas.job import TERMINAL_STATES
from schemas.problem import Problem, build_problem
from schemas.report import Report
from service.conditional import accepts
from storage.artifacts import ArtifactStore
from storage.records import JobRecord

NO_REPORT_STATUS = 409
MEDIA_TYPE = "application/json"


class NoReport(Exception):
    """The audit has no report; `problem` is the whole answer."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


def check_acceptable(wanted: str | None, accept: str | None) -> None:
    """Check that the caller takes JSON, the one representation there is; `?format=` outranks Accept.

    Raises:
        NotAcceptable: if it does not.

    """
    if wanted is None and not accepts(accept, MEDIA_TYPE):
        advice = f"Accept {MEDIA_TYPE}."
        raise NotAcceptable(Fault("the report has no such representation", "header: Accept", MEDIA_TYPE, str(accept), advice))


def read_report_digest(record: JobRecord) -> str:
    """Return the digest of the job's report.

    Raises:
        NoReport: with the job's own problem when it ended without one, with a conflict while it runs.

    """
    if record.report_sha256 is not None:
        return record.report_sha256
    raise NoReport(_explain_end(record) if record.state in TERMINAL_STATES else _explain_wait(record))


async def open_report(store: ArtifactStore, record: JobRecord) -> BinaryIO:
    """Return the job's report, open.

    Raises:
        Unavailable: if the record names a report that the store does not hold.

    """
    sha256 = read_report_digest(record)
    file = await asyncio.to_thread(store.open, record.owner, sha256)
    if file is None:
        advice = "Check that API and workers use the same data folder; submit the audit again with fresh: true."
        raise Unavailable(Fault("the report is not in the store", "", f"artifact {sha256}", "nothing", advice))
    return file


def load_report(file: BinaryIO) -> Report:
    """Return the report in `file`, which is closed."""
    with file:
        return Report.model_validate_json(file.read())


def _explain_wait(record: JobRecord) -> Problem:
    advice = f"Poll GET /v1/audits/{record.id}, with Prefer: wait=30 to be told when it ends."
    return build_problem(
        Conflict(Fault(f"the audit is {record.state}", "path: audit_id", "a succeeded audit", record.state, advice))
    )


def _explain_end(record: JobRecord) -> Problem:
    """Return the job's own problem, told as the state of this resource: the request for the report was not at fault."""
    if record.problem is not None:
        return Problem.model_validate({**record.problem, "status": NO_REPORT_STATUS})
    fault = Fault(f"the audit is {record.state}", "path: audit_id", "a succeeded audit", record.state, "Submit the audit again.")
    return build_problem(Cancelled(fault))
