import subprocess
import sys

import pytest

from service.settings import BadSettings, Settings, load_settings
from tests.project.tree import ROOT


def test_every_problem_of_the_environment_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "http://localhost")
    monkeypatch.setenv("FAULTLINE_PORT", "seventy")
    monkeypatch.setenv("FAULTLINE_MAX_UPLOAD_BYTES", "0")
    monkeypatch.setenv("FAULTLINE_AUTHS", "required")
    with pytest.raises(BadSettings) as caught:
        load_settings()
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines] == ["REDIS_URL", "FAULTLINE_PORT", "FAULTLINE_MAX_UPLOAD_BYTES", "FAULTLINE_AUTHS"]
    assert lines[-1] == "FAULTLINE_AUTHS is no setting; did you mean FAULTLINE_AUTH?"


def test_a_misspelt_variable_alone_stops_the_start_and_an_empty_commit_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1")
    monkeypatch.setenv("FAULTLINE_COMMIT", "")
    assert load_settings().commit is None
    monkeypatch.setenv("FAULTLINE_MAX_WAITS", "1")
    with pytest.raises(BadSettings, match="did you mean FAULTLINE_MAX_WAIT_S"):
        load_settings()


def test_the_store_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(BadSettings, match="REDIS_URL is not set"):
        load_settings()


def test_a_bad_environment_stops_the_start_without_a_traceback() -> None:
    environment = {"FAULTLINE_PORT": "99999", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "service"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "REDIS_URL is not set" in done.stderr
    assert "FAULTLINE_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_documentation_names_every_variable() -> None:
    page = (ROOT / "docs/http.md").read_text()
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"FAULTLINE_{name.upper()}"
        assert f"`{variable}`" in page
        assert field.description
