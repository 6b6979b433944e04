"""Runs the API over loopback: in a thread of the test's process, or as the process that an operator starts."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from service.app import create_app
from service.settings import Settings
from tests.project.tree import ROOT
from tests.service.eventually import eventually


@contextmanager
def running_app(settings: Settings) -> Iterator[str]:
    """Serve the app from a thread; yield its URL."""
    config = uvicorn.Config(
        create_app(settings), host="127.0.0.1", port=0, log_config=None, access_log=False, server_header=False
    )
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def running_process(redis_url: str, data_dir: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `python -m service` on a free port; yield the process and the URL that it says it listens on."""
    environment = {**os.environ, "REDIS_URL": redis_url, "FAULTLINE_DATA_DIR": str(data_dir), "FAULTLINE_PORT": "0", **settings}
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()
