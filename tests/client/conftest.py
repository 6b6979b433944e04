"""A real store and API, a crew that ends jobs, files to audit, and the command as a subprocess and in this process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.api import Client
from client.cli import run
from client.errors import ExitCode
from service.settings import Settings
from tests.client.crew import Crew
from tests.gate.reports import build_document
from tests.project.tree import BIN
from tests.service.running import running_app
from tests.storage.valkey import running_valkey

POLICIES: dict[str, list[dict[str, Any]]] = {
    "pass": [{"id": "loss", "require": {"loss_change_at_most": 1000}}],
    "warn": [{"id": "loss", "require": {"loss_change_at_most": 0.5}, "severity": "warning"}],
    "fail": [{"id": "loss", "require": {"loss_change_at_most": 0.5}}],
    "inconclusive": [{"id": "loss", "where": {"norm": "inf"}, "require": {"loss_change_at_most": 0.5}}],
}

Faultline = Callable[..., subprocess.CompletedProcess[str]]
Inside = Callable[..., tuple[ExitCode, str, str]]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service whose jobs a crew works off."""
    data_dir = tmp_path_factory.mktemp("client-data")
    with ExitStack() as stack:
        store = stack.enter_context(running_valkey(tmp_path_factory.mktemp("client-store")))
        url = stack.enter_context(running_app(Settings(redis_url=store.redis_url, data_dir=data_dir, max_wait_s=20)))
        stack.enter_context(Crew(url, store.redis_url, data_dir))
        yield url


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server) as opened:
        yield opened


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for every test, with a model, data, a report and a policy for each outcome; no server is named."""
    monkeypatch.chdir(tmp_path)
    for name in ("FAULTLINE_URL", "FAULTLINE_KEY", "FAULTLINE_DATA_DIR", "REDIS_URL", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "model.onnx").write_bytes(b"a model that nobody opens here")
    (tmp_path / "data.npz").write_bytes(b"data that nobody opens here")
    (tmp_path / "report.json").write_text(json.dumps(build_document(), indent=1), encoding="utf-8")
    for outcome, conditions in POLICIES.items():
        (tmp_path / f"{outcome}.yaml").write_text(yaml.safe_dump({"name": outcome, "conditions": conditions}), encoding="utf-8")
    return tmp_path


@pytest.fixture
def faultline(folder: Path) -> Faultline:
    """The installed command in a process of its own."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "faultline"), *arguments]
        return subprocess.run(
            command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
        )

    return call


@pytest.fixture
def inside(capfd: pytest.CaptureFixture[str]) -> Inside:
    """The command in this process: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[ExitCode, str, str]:
        capfd.readouterr()
        code = run(arguments)
        sys.stdout.flush()
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call
