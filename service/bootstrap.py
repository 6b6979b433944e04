"""`python -m service.bootstrap`: the first key, made on the store itself by whoever runs it; it makes all others over HTTP."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from schemas.errors import FaultlineError, Unavailable
from schemas.keys import OPERATOR, MadeKey, NewKey
from service.settings import BadSettings, Settings
from storage.connection import SERVICE_RETRIES, connect_async
from storage.keys import KeyStore
from storage.sockets import choose_socket

FAILED, USAGE = 2, 3
CREATOR = "bootstrap"


class _Parser(argparse.ArgumentParser):
    """Exits with 3 on bad usage, as every program of ours."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make an admin key, print it on standard output, and return the exit code."""
    given = _parse(arguments)
    try:
        new = NewKey(label=given.label, scopes=("admin",), tenant=given.tenant, expires_in_s=given.expires_in_s)
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            sys.stderr.write(f"faultline: {entry['loc'][0]}: {entry['msg']}, got {entry['input']!r}\n")
        return USAGE
    try:
        made = asyncio.run(create_first(find_store(given.data_dir), new))
    except FaultlineError as error:
        for fault in error.faults:
            sys.stderr.write(f"faultline: {fault.what}; {fault.advice}\n")
        return FAILED if isinstance(error, Unavailable) else USAGE
    sys.stderr.write(f"Admin key {made.info.id} of tenant {made.info.tenant}; it is shown this once:\n")
    sys.stdout.write(f"{made.model_dump_json() if given.json else made.key}\n")
    return 0


def find_store(data_dir: Path) -> str:
    """Return the address of the store: REDIS_URL, or the one that `faultline up` runs on this folder."""
    return os.environ.get("REDIS_URL") or f"unix://{quote(str(choose_socket(data_dir / 'store')))}"


async def create_first(redis_url: str, new: NewKey) -> MadeKey:
    """Return a new key, made without asking for one: who reaches the store may do everything anyway."""
    async with connect_async(redis_url, SERVICE_RETRIES) as client:
        return await KeyStore(client).create(new, new.tenant or OPERATOR, CREATOR)


async def check_keys(settings: Settings) -> None:
    """Check that somebody could get in, where keys are asked for only because of the address.

    Raises:
        BadSettings: when there is no admin key.

    """
    if settings.is_keyless or settings.auth == "required":
        return
    async with connect_async(settings.redis_url) as client:
        try:
            if await KeyStore(client).has_operator():
                return
        except Unavailable:  # a late store does not stop the start; until it is there, nobody gets in
            return
    message = (
        f"FAULTLINE_HOST is {settings.host}, which others can reach, and there is no admin key.\n"
        "Make one with `python -m service.bootstrap` and start again; or say what is meant with FAULTLINE_AUTH: "
        "`required` starts without keys and lets nobody in until there is one, `off` lets everybody in."
    )
    raise BadSettings(message)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m service.bootstrap", description=__doc__)
    default_folder = Path(os.environ.get("FAULTLINE_DATA_DIR", "faultline-data"))
    parser.add_argument("--data-dir", type=Path, default=default_folder, help="folder of `faultline up` (default: %(default)s)")
    parser.add_argument("--tenant", default=OPERATOR, help="whose key it is (default: %(default)s)")
    parser.add_argument("--label", default=CREATOR, help="what it is called (default: %(default)s)")
    parser.add_argument("--expires-in-s", type=int, help="seconds until it ends (default: never)")
    parser.add_argument("--json", action="store_true", help="print what POST /v1/keys would answer")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
