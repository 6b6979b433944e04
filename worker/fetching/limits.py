"""How much a fetch may take: the part of the worker's settings beside the rules that it shares with the service."""

from typing import Annotated

from pydantic import ConfigDict, Field, FilePath

from storage.sources.hooks import WebhookRules


class FetchLimits(WebhookRules):
    """What may be fetched, what one file may take, and how long receivers of webhooks are tried."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    fetch_max_bytes: Annotated[int, Field(ge=1)] = 4 * 2**30
    """Largest file that is fetched."""

    fetch_timeout_s: Annotated[float, Field(gt=0, le=86400)] = 900.0
    """Longest that one file may take, all attempts together."""

    fetch_silence_s: Annotated[float, Field(gt=0, le=3600)] = 20.0
    """Longest wait for a connection or the next bytes; then the fetch is tried again."""

    fetch_tries: Annotated[int, Field(ge=1, le=20)] = 4
    """Attempts at one file when a server fails for the moment."""

    fetch_free_bytes: Annotated[int, Field(ge=0)] = 2**30
    """Room that fetching leaves on the disk of the data folder."""

    fetch_ca_file: FilePath | None = None
    """A PEM file of certificate authorities that are trusted beside the system's."""

    webhook_timeout_s: Annotated[float, Field(gt=0, le=300)] = 15.0
    """Longest that a receiver of a webhook may take to answer."""

    webhook_tries: Annotated[int, Field(ge=1, le=20)] = 8
    """Attempts at one webhook."""

    webhook_pause_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Pause after the first attempt; each later one is four times as long, up to six hours."""
