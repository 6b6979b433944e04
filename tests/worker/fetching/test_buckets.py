"""`s3:` references, read from a real S3-compatible server in a process of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import botocore.session
import pytest

from schemas.base import compute_sha256
from schemas.errors import FetchError, FetchFailed, FetchRefused
from schemas.references import NamedFile
from storage.artifacts import FileArtifactStore
from tests.worker.fetching.servers import make_limits
from tests.worker.fetching.test_web import MODEL, Told
from tests.worker.process.processes import eventually
from worker.fetching.fetch import Fetcher

KEYS = ("models/m.onnx", "models/deep er/ü+&=?#%.onnx", "of-local/m.onnx", "of-another/m.onnx", "models-secret/m.onnx", "m.onnx")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as server:
        try:
            eventually(lambda: "Running on http://" in log.read_text(), 30)
            yield log.read_text().split("Running on ")[1].split()[0]
        finally:
            server.kill()


@pytest.fixture
def fetch(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    for name, value in {
        "ACCESS_KEY_ID": "id",
        "SECRET_ACCESS_KEY": "key",
        "REGION": "us-east-1",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    client = botocore.session.get_session().create_client("s3", config=botocore.config.Config(proxies={}))
    client.create_bucket(Bucket="bucket")
    for key in KEYS:
        client.put_object(Bucket="bucket", Key=key, Body=MODEL)
    artifacts = FileArtifactStore(tmp_path / "artifacts")

    def run(uri: str, prefixes: str = "s3://other/ s3://bucket/models/", sha256: str | None = None) -> str:
        fetcher = Fetcher(make_limits(fetch_s3=prefixes), artifacts, tmp_path)
        return fetcher.fetch_all([NamedFile("model", uri, sha256)], Told().errand)["model"]

    return run


def test_an_object_under_a_prefix_is_read(fetch: Callable[..., str]) -> None:
    assert fetch("s3://bucket/models/m.onnx") == compute_sha256(MODEL)
    assert fetch("s3://bucket/models/deep%20er/%C3%BC+&=%3F%23%25.onnx", sha256=compute_sha256(MODEL)) == compute_sha256(MODEL)


def test_a_prefix_may_be_one_tenants(fetch: Callable[..., str]) -> None:
    assert fetch("s3://bucket/of-local/m.onnx", "s3://bucket/of-{tenant}/") == compute_sha256(MODEL)
    with pytest.raises(FetchRefused, match="under no prefix"):
        fetch("s3://bucket/of-another/m.onnx", "s3://bucket/of-{tenant}/")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/m.onnx",
        "s3://bucket/models-secret/m.onnx",
        "s3://bucket/models/../m.onnx",
        "s3://bucket/models/%2e%2e/m.onnx",
        "s3://bucket/models//m.onnx",
        "s3://bucket/models/m.onnx?versionId=1",
        "s3://bucket.other/models/m.onnx",
        "s3://id:key@bucket/models/m.onnx",
        "s3://bucket",
        "s3:bucket/models/m.onnx",
        "s3://BUCKET/models/m.onnx",
    ],
)
def test_nothing_else_is_read(uri: str, fetch: Callable[..., str]) -> None:
    with pytest.raises(FetchRefused):
        fetch(uri)


def test_what_is_not_there_or_another_is_told(fetch: Callable[..., str]) -> None:
    with pytest.raises(FetchFailed, match="no such object") as failed:
        fetch("s3://bucket/models/missing.onnx")
    assert failed.value.faults[0].got == "s3://bucket/models/missing.onnx"
    with pytest.raises(FetchFailed, match="has not the sha256"):
        fetch("s3://bucket/models/m.onnx", sha256="0" * 64)


def test_nothing_is_read_when_the_operator_names_no_prefix(fetch: Callable[..., str]) -> None:
    with pytest.raises(FetchRefused, match="not enabled"):
        fetch("s3://bucket/models/m.onnx", "none")


def test_workers_without_credentials_say_so(fetch: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FetchError, match="cannot be signed"):
        fetch("s3://bucket/models/m.onnx")
