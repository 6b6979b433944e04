"""Lists audits page by page."""

from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field

from schemas.job import JobState
from schemas.keys import TENANT
from service.presentation import AUDITS
from storage.records import JOB_ID
from storage.trail import ENTRY_ID

MAX_LIMIT = 100


class PageQuery(BaseModel):
    """Query of GET /v1/audits; unknown parameters are refused, for a misspelt filter would show everything."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 20
    """Most audits on the page."""

    cursor: Annotated[str, Field(pattern=f"^{JOB_ID.pattern}$")] | None = None
    """Where the page starts: `next` of the page before."""

    state: JobState | None = None
    """Only audits in this state."""


class TrailQuery(BaseModel):
    """Query of GET /v1/audit-log."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tenant: Annotated[str, Field(pattern=TENANT)] | None = None
    """Whose calls; left out, those of the caller's tenant. Another's for the operator only."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    """Most entries on the page."""

    cursor: Annotated[str, Field(pattern=f"^{ENTRY_ID.pattern}$")] | None = None
    """Where the page starts: `next` of the page before."""


class FormatQuery(BaseModel):
    """Query of GET /v1/audits/{id}/report."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal["json"] | None = None
    """The representation; it outranks Accept."""


def build_next_link(query: PageQuery, next_cursor: str) -> str:
    """Return the Link header (RFC 8288) that leads to the following page."""
    following = query.model_copy(update={"cursor": next_cursor}).model_dump(exclude_none=True)
    return f'<{AUDITS}?{urlencode(following)}>; rel="next"'
