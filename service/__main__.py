"""`python -m service` runs the API in this process, with the settings of the environment."""

import argparse
import asyncio
import math
import socket
import sys

import uvicorn

from service.app import create_app
from service.bootstrap import check_keys
from service.settings import BadSettings, Settings, load_settings
from telemetry.logs import set_up_logs

USAGE = 3


class Server(uvicorn.Server):
    """Says on standard output where it listens as soon as it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start and tell the address, which an automatic port makes worth telling."""
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"faultline API ready on http://{shown}:{port}\n")
        sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--fd", type=int, help="listen on this open descriptor; several processes may share one")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings()
        asyncio.run(check_keys(settings))
    except BadSettings as error:
        sys.stderr.write(f"The API cannot start with this environment:\n{error}\n")
        return USAGE
    set_up_logs(settings.log_level, settings.log_format)
    serve(settings, given.fd)
    return 0


def serve(settings: Settings, descriptor: int | None = None) -> None:
    """Listen and answer until SIGTERM or SIGINT; open requests then get `drain_s`."""
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
    )
    listener = config.bind_socket() if descriptor is None else socket.socket(fileno=descriptor)
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
