"""Artifact: a stored file, named by its sha-256."""

from schemas.base import Output


class Artifact(Output):
    """One file in the store; `uri` is what an audit request names it by."""

    sha256: str
    size_bytes: int
    uri: str
    url: str
