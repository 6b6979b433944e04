"""Objects in S3 and its like. botocore finds credentials and endpoint and signs; the request is made as any other of ours.

Credentials, region and endpoint come from where every S3 client takes them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the
machine's role, AWS_REGION, AWS_ENDPOINT_URL_S3. They stay in this process: the audit process gets none of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from schemas.errors import Fault, FetchFailed
from schemas.references import STANDARD_PORTS, Place, Scheme
from storage.sources.rules import SourceRules
from worker.fetching.patience import Patience, Transient
from worker.fetching.web import PASSING, Answer, Web

SIGNED_S: Final = 900
ANYWHERE: Final = "0.0.0.0/0 ::/0"
"""The endpoint is the operator's word: it may well lie in a private network."""


class Buckets:
    """Reads objects of the operator's buckets."""

    def __init__(self, ca_file: Path | None = None) -> None:
        self._web = Web(SourceRules(fetch_private_networks=ANYWHERE), ca_file)

    @contextmanager
    def get(self, place: Place, patience: Patience) -> Iterator[Answer]:
        """Yield the answer with the object.

        Raises:
            FetchFailed: when it is not there, or not ours to read.
            Transient: when it may be later.
        """
        with self._web.exchange_at(self._sign(place), "GET", patience) as answer:
            if answer.status in PASSING:
                message = f"the store answers {answer.status}"
                raise Transient(message)
            if answer.status != 200:
                raise FetchFailed(_describe(answer.status, place))
            yield answer

    def _sign(self, place: Place) -> Place:
        try:
            asked = {"Bucket": place.name, "Key": place.path}
            url = urlsplit(self._client.generate_presigned_url("get_object", Params=asked, ExpiresIn=SIGNED_S))
        except BotoCoreError as error:
            advice = "tell the operator: the workers need credentials and a region, see docs/operations.md"
            raise FetchFailed(
                Fault("the request to the object store cannot be signed", got=type(error).__name__, advice=advice)
            ) from None
        scheme: Scheme = "http" if url.scheme == "http" else "https"
        return Place(scheme, url.hostname or "", f"{url.path}?{url.query}", url.port or STANDARD_PORTS[scheme])

    @cached_property
    def _client(self) -> Any:
        session = botocore.session.get_session()
        return session.create_client("s3", config=Config(signature_version="s3v4", proxies={}))


def _describe(status: int, place: Place) -> Fault:
    reasons = {
        403: "the workers' credentials may not read the object, or there is no such object",
        404: "there is no such object",
    }
    what = reasons.get(status, f"the object store answers {status}; is AWS_REGION the bucket's?")
    return Fault(
        what, "", "an object that the workers may read", f"s3://{place.name}/{place.path}", "correct the URI, or ask the operator"
    )
