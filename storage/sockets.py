"""Where the embedded store's unix socket lies: in its data folder, unless that path is too long for a socket."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from schemas.errors import Conflict, Fault

SOCKET: Final = "store.sock"
NOTE: Final = "socket-path"
LONGEST_PATH_BYTES: Final = 107
"""sun_path has 108 bytes, one of them for the end."""


def choose_socket(data_dir: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the socket's path: in the folder, else as noted by the server that last ran here, else in a private folder.

    Raises:
        Conflict: when the private folder is another user's or open to others.

    """
    data_dir = data_dir.resolve()
    path = data_dir / SOCKET
    if len(os.fsencode(path)) <= LONGEST_PATH_BYTES:
        return path
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    folder = runtime / f"faultline-{os.getuid()}-{sha256(os.fsencode(data_dir)).hexdigest()[:16]}"
    with contextlib.suppress(FileNotFoundError):
        noted = Path((data_dir / NOTE).read_text())
        folder = noted.parent if noted.parent.name == folder.name else folder  # a copied folder brings another's note
    make_private(folder)
    return folder / SOCKET


def note_socket(data_dir: Path, socket: Path) -> None:
    """Note the path for programs whose environment would choose another one."""
    temporary = data_dir / f"{NOTE}.{os.getpid()}"
    temporary.write_text(str(socket))
    temporary.replace(data_dir / NOTE)


def make_private(folder: Path) -> None:
    """Make the folder if it is not there.

    Raises:
        Conflict: when it is another user's, a link, or others can write to it.

    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        advice = "remove it, or set XDG_RUNTIME_DIR to a folder of your own"
        where, expected = str(folder), "a folder that only you can write to"
        raise Conflict(Fault("the store's socket has no private folder", where, expected, advice=advice))
