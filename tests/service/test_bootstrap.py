"""The first key, and a service that does not start where nobody could get in."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import redis

from schemas.keys import KEY, OPERATOR
from service.bootstrap import check_keys, main
from service.settings import BadSettings, Settings
from tests.project.tree import ROOT
from tests.service.keyed import Keyring, read_id
from tests.service.running import running_process
from tests.storage.valkey import running_valkey


def test_where_others_can_reach_it_the_service_starts_with_a_first_key_or_not_at_all(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        environment = {
            **os.environ,
            "REDIS_URL": server.redis_url,
            "FAULTLINE_DATA_DIR": str(tmp_path),
            "FAULTLINE_HOST": "0.0.0.0",
        }
        command = [sys.executable, "-m", "service"]
        refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode == 3
        assert "no admin key" in refused.stderr
        assert "service.bootstrap" in refused.stderr
        # The store lies in this folder, as that of `faultline up` does.
        environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        command = [sys.executable, "-m", "service.bootstrap", "--data-dir", str(tmp_path)]
        made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
        key = made.stdout.strip()
        assert KEY.fullmatch(key), made.stderr
        with running_process(server.redis_url, tmp_path, FAULTLINE_HOST="0.0.0.0") as (_, url):
            local = url.replace("0.0.0.0", "127.0.0.1")
            assert httpx2.get(f"{local}/v1/audits").status_code == 401
            assert httpx2.get(f"{local}/v1/audits", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_a_key_that_lives_and_is_the_operators_is_needed_only_where_the_address_alone_asks_for_keys(
    redis_url: str, store: redis.Redis, tmp_path: Path
) -> None:
    keyring = Keyring(redis_url)

    def check(auth: str, host: str) -> None:
        asyncio.run(
            check_keys(Settings.model_validate({"redis_url": redis_url, "data_dir": tmp_path, "auth": auth, "host": host}))
        )

    for auth, host in (("required", "0.0.0.0"), ("off", "0.0.0.0"), ("auto", "127.0.0.1")):
        check(auth, host)
    keyring.make("another tenants", "admin")
    keyring.make("reader", "read", tenant=OPERATOR)
    key = keyring.make("first", "admin", tenant=OPERATOR)
    check("auto", "0.0.0.0")
    keyring.run(lambda keys: keys.revoke(read_id(key), None))
    with pytest.raises(BadSettings):
        check("auto", "0.0.0.0")


@pytest.mark.parametrize("arguments", [("--tenant", "No Such"), ("--label", ""), ("--expires-in-s", "0"), ("--scope", "read")])
def test_bad_usage_makes_no_key(redis_url: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    try:
        code: object = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 3


def test_without_a_store_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert main(["--data-dir", str(tmp_path)]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert "out of reach" in written.err
