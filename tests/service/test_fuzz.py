"""schemathesis over the whole OpenAPI document and along its links, against the running API; seeded and bounded."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from service.openapi import examples, previews
from tests.service import documents
from tests.service.conftest import Worker
from tests.service.keyed import Keyring, running_keyed

EXAMPLES, SECONDS = os.environ.get("FUZZ_EXAMPLES", "12"), os.environ.get("FUZZ_SECONDS", "24")
"""What CI has time for; `make fuzz` goes on for longer."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "negative_data_rejection",
)


def test_the_api_is_what_its_document_says(
    url: str, http: httpx2.Client, submit: Callable[..., dict[str, Any]], worker: Worker, tmp_path: Path
) -> None:
    worker.leases.announce("test", 300)
    job = submit(policy=examples.POLICY)
    worker.succeed(job["id"], verdict="fail")
    document = http.get("/openapi.json").text
    begun = http.post("/v1/uploads", headers={"Upload-Length": "61234"})
    # The examples then name files and an audit that are there, so that not every call ends in 404.
    for shown, real in (
        (examples.MODEL_SHA256, documents.MODEL_SHA256),
        (examples.DATA_SHA256, documents.DATA_SHA256),
        (examples.AUDIT_ID, job["id"]),
        (previews.UPLOAD_ID, begun.json()["id"]),
    ):
        assert shown in document
        document = document.replace(shown, real)
    page = tmp_path / "openapi.json"
    page.write_text(document)
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(page), "--url", url, "--checks", ",".join(CHECKS)]
    bounds = ["--max-examples", EXAMPLES, "--max-time", SECONDS, "--seed", "20260131", "--no-color", "--no-shrink"]
    limit_s = 120 + int(SECONDS)
    done = subprocess.run([*command, *bounds], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=limit_s)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    operations = sum(map(len, json.loads(document)["paths"].values()))
    assert f"Tested: {operations}" in done.stdout, done.stdout
    covered = re.search(r"API Links:\s+(\d+) covered / (\d+) selected / (\d+) total", done.stdout)
    assert covered is not None, done.stdout
    assert int(covered[1]) >= 4, done.stdout  # calls that go on where others led


def test_every_operation_that_asks_for_a_key_turns_away_who_has_none(
    redis_url: str, data_dir: Path, worker: Worker, tmp_path: Path
) -> None:
    worker.leases.announce("test", 300)
    key = Keyring(redis_url).make("fuzz", "admin")
    with running_keyed(redis_url, data_dir, requests_per_s=0) as url:
        page = tmp_path / "openapi.json"
        page.write_text(require_keys(httpx2.get(f"{url}/openapi.json").text))
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(page), "--url", url, "--no-color", "--seed", "20260131"]
        command += ["--phases", "examples,coverage", "--checks", "ignored_auth,not_a_server_error", "--max-time", SECONDS]
        # These would end the fuzzer's own key, and every later answer would be 401 for that reason.
        command += ["--exclude-operation-id", "delete_key", "--exclude-operation-id", "post_rotation"]
        command += ["--header", f"Authorization: Bearer {key}"]
        limit_s = 120 + int(SECONDS)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=limit_s)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    operations = sum(map(len, json.loads(page.read_text())["paths"].values())) - 2
    assert f"Tested: {operations}" in done.stdout, done.stdout


def require_keys(document: str) -> str:
    """Return the document of a service that asks everybody for a key; the published one leaves open whether it does."""
    content = json.loads(document)
    for operations in content["paths"].values():
        for operation in operations.values():
            operation["security"] = [one for one in operation["security"] if one]
    return json.dumps(content)
