"""The key that a command shows: from a file that was named, or from the environment. Never from an argument, which others see."""

import os
from collections.abc import Mapping
from pathlib import Path

from client.errors import BadUsage
from client.files import describe_unreadable
from schemas.errors import Fault

MAX_KEY_BYTES = 1024


def find_key(key_file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the key in the file, else that of FAULTLINE_KEY, else None.

    Raises:
        BadUsage: when the file cannot be read or what it holds can be no key.

    """
    if key_file is not None:
        return check_key(_read_file(key_file), str(key_file))
    given = environment.get("FAULTLINE_KEY", "").strip()
    return check_key(given, "FAULTLINE_KEY") if given else None


def check_key(key: str, where: str) -> str:
    """Return the key if it can be sent in a header.

    Raises:
        BadUsage: when it is empty or more than one word; what it is stands in no message.

    """
    if key and len(key) <= MAX_KEY_BYTES and key.isascii() and key.isprintable() and " " not in key:
        return key
    got = "nothing" if not key else f"{len(key)} characters, more than one word or not all of them plain"
    raise BadUsage(Fault("this can be no key", where, "one line: fl_<id>_<secret>", got, "Copy the key as it was shown."))


def write_key(path: Path, key: str) -> None:
    """Write a key into a new file that only its owner may read.

    Raises:
        BadUsage: when there is such a file already, or it cannot be written.

    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        got = error.strerror or type(error).__name__
        raise BadUsage(Fault(f"{path} cannot be written", str(path), "a new file", got, "Name another file.")) from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{key}\n")


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES + 2).decode("latin-1").strip()
    except OSError as error:
        raise BadUsage(describe_unreadable(path, error)) from error
