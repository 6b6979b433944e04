"""Upload: a file that arrives in several requests."""

from schemas.artifact import Artifact
from schemas.base import Output


class UploadState(Output):
    """How much of a file is there: `offset_bytes` of `length_bytes`. `artifact` is what it became, when all of it was there.

    A file that was stored before needs no upload: `id` and `url` are null then.
    """

    id: str | None
    url: str | None
    length_bytes: int
    offset_bytes: int
    artifact: Artifact | None
