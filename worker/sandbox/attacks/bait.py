"""What an attack is after: files outside, listeners, a victim. Laid out by the check, watched by the check."""

import contextlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bait:
    """Where the attack finds what it must not reach. `victim` is a process of the same user."""

    secret: str
    other_job: str
    store: str
    model: str
    unix_socket: str
    abstract_socket: str
    tcp4: int
    tcp6: int
    udp4: int
    victim: int

    @classmethod
    def aim_at_nothing(cls, model: str) -> "Bait":
        """Return a bait for a process that attacks nothing and reads `model` only."""
        return cls("", "", "", model, "", "", 0, 0, 0, 0)

    def encode(self) -> str:
        """Return the bait as text that a job message can carry."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Bait":
        """Return what `encode` made."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Trap:
    """The bait with what must still be so afterwards."""

    bait: Bait
    files: dict[Path, tuple[bytes, int]]
    folders: dict[Path, frozenset[str]]
    listeners: tuple[socket.socket, ...]
    victim: subprocess.Popen[bytes]

    def find_damage(self) -> list[str]:
        """Return what an attack changed, reached or ended."""
        return [
            *self._find_changed_files(),
            *self._find_calls(),
            *(["the victim ended"] if self.victim.poll() is not None else []),
        ]

    def _find_changed_files(self) -> Iterator[str]:
        for path, (content, mode) in self.files.items():
            if not path.is_file() or path.read_bytes() != content or path.stat().st_mode != mode:
                yield f"{path.name} was changed"
        for folder, names in self.folders.items():
            if list_names(folder) != names:
                yield f"{folder.name}/ was changed"

    def _find_calls(self) -> Iterator[str]:
        for listener in self.listeners:
            with contextlib.suppress(BlockingIOError):
                if listener.type == socket.SOCK_DGRAM:
                    listener.recv(1)
                else:
                    listener.accept()[0].close()
                yield "a listener was reached"


@contextlib.contextmanager
def lay_bait() -> Iterator[Trap]:
    """Lay everything out on this machine, loopback only, and clear it away at the end."""
    folder = Path(tempfile.mkdtemp(prefix="faultline-check-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        paths = {name: folder / name / "file" for name in ("secret", "other_job", "store", "model")}
        for path in paths.values():
            path.parent.mkdir()
            path.write_bytes(secrets.token_hex(16).encode())
        abstract = f"faultline-check-{secrets.token_hex(8)}"
        listeners = _listen(folder / "socket", abstract, stack)
        victim = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL)
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        bait = Bait(
            secret=str(paths["secret"]),
            other_job=str(paths["other_job"]),
            store=str(paths["store"]),
            model=str(paths["model"]),
            unix_socket=str(folder / "socket"),
            abstract_socket=abstract,
            tcp4=find_port(listeners, socket.AF_INET, socket.SOCK_STREAM),
            tcp6=find_port(listeners, socket.AF_INET6, socket.SOCK_STREAM),
            udp4=find_port(listeners, socket.AF_INET, socket.SOCK_DGRAM),
            victim=victim.pid,
        )
        files = {path: (path.read_bytes(), path.stat().st_mode) for path in paths.values()}
        folders = {path.parent: list_names(path.parent) for path in paths.values()}
        yield Trap(bait, files, folders, tuple(listeners), victim)


def list_names(folder: Path) -> frozenset[str]:
    """Return what the folder holds."""
    return frozenset(path.name for path in folder.iterdir())


def find_port(listeners: list[socket.socket], family: int, kind: int) -> int:
    """Return the port that one of the listeners has, 1 where the machine has no such network."""
    ports = (listener.getsockname()[1] for listener in listeners if (listener.family, listener.type) == (family, kind))
    return next(ports, 1)


def _listen(path: Path, abstract: str, stack: contextlib.ExitStack) -> list[socket.socket]:
    places: list[tuple[int, int, tuple[str, int] | str]] = [
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        (socket.AF_UNIX, socket.SOCK_STREAM, str(path)),
        (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{abstract}"),
        (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
    ]
    listeners = []
    for family, kind, address in places:
        if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
            continue
        listener = stack.enter_context(socket.socket(family, kind))
        listener.bind(address)
        listener.settimeout(0)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        listeners.append(listener)
    return listeners
