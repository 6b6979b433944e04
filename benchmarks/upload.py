"""Bar: 2 GB, broken at random 20 times and resumed, arrive whole at 150 MB/s, and the API's memory stays flat.

    python -m benchmarks.upload [--megabytes 2000] [--breaks 20] [--rate 150] [--folder FOLDER]

A store and one API process of its own, the client that `faultline audit` uses, over loopback. Breaks are where a seed says; the
connection is closed there in the middle of a request. The rate counts from the first call to the last answer, with every break,
question and hash of the server; the client has hashed the file before. Then two clients send one file at once, broken too.
Exit code 1 when the digest is wrong, a rate is below the bar, or the API's peak memory grew by more than 32 MiB. On a machine
that has other work (a load above its cores) the rate is judged per second of the API's processor time, the last column but two.
"""

import argparse
import hashlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, Popen

import httpx2

from client.api import Client
from client.uploading import RESUMABLE_BYTES
from storage.connection import connect
from storage.embedded import EmbeddedStore, find_server

ROOT = Path(__file__).resolve().parent.parent
MB, MIB = 10**6, 2**20
BAR_MB_S, FLAT_MIB = 150, 32


@dataclass
class Breaker:
    """Breaks the connection when so many bytes have gone in all, again and again."""

    places: list[int]
    gone: int = 0
    last: int = 0
    breaks: int = field(default=0)

    def __call__(self, sent: int, _size: int) -> None:
        """Count what was sent; a smaller number than the last one is another request."""
        self.gone += sent - self.last if sent > self.last else 0
        self.last = sent
        if self.places and self.gone >= self.places[0]:
            self.places.pop(0)
            self.breaks += 1
            message = "broken on purpose"
            raise httpx2.WriteError(message)


def choose_breaks(size_bytes: int, count: int, seed: int) -> Breaker:
    """Return a breaker for `count` places inside the file."""
    chance = random.Random(seed)  # noqa: S311 - places to break at
    return Breaker(sorted(chance.randrange(size_bytes * 95 // 100) for _ in range(count)))


def write_file(path: Path, size_bytes: int, seed: int) -> str:
    """Write bytes that nothing compresses or shares, and return their sha-256."""
    blocks = [random.Random(seed + i).randbytes(MIB) for i in range(16)]  # noqa: S311 - content of a file
    digest, left, number = hashlib.sha256(), size_bytes, 0
    with path.open("wb") as file:
        while left > 0:
            block = (number.to_bytes(8, "big") + blocks[number % 16][8:])[:left]
            file.write(block)
            digest.update(block)
            left, number = left - len(block), number + 1
    return digest.hexdigest()


@contextmanager
def running_service(folder: Path) -> Iterator[tuple[int, str]]:
    """Run a store and the API; yield the API's process id and address."""
    store = EmbeddedStore(find_server(), folder / "store")
    environment = {**os.environ, "REDIS_URL": store.redis_url, "FAULTLINE_DATA_DIR": str(folder), "FAULTLINE_PORT": "0"}
    with Popen(store.command, stdout=PIPE) as server:
        try:
            _wait_for_store(store.redis_url)
            with (
                (folder / "api.log").open("w") as log,
                Popen([sys.executable, "-m", "service"], cwd=ROOT, env=environment, stdout=PIPE, stderr=log, text=True) as api,
            ):
                try:
                    assert api.stdout is not None  # noqa: S101 - a pipe was asked for
                    yield api.pid, api.stdout.readline().split()[-1]
                finally:
                    api.terminate()
        finally:
            server.terminate()


def _wait_for_store(redis_url: str) -> None:
    with connect(redis_url) as client:
        client.ping()


def read_peak_mib(pid: int) -> float:
    """Return the most memory that a process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def send(url: str, path: Path, sha256: str, breaker: Breaker) -> float:
    """Send the file and return the seconds that it took."""
    with Client(url) as client:
        start = time.perf_counter()
        client.upload(path, sha256, breaker)
        return time.perf_counter() - start


def check_stored(url: str, sha256: str) -> bool:
    """Tell whether what the server gives under the digest has it."""
    digest = hashlib.sha256()
    with httpx2.Client(base_url=url, timeout=120) as http, http.stream("GET", f"/v1/artifacts/{sha256}") as response:
        for chunk in response.iter_bytes():
            digest.update(chunk)
    return digest.hexdigest() == sha256


def measure(folder: Path, size_bytes: int, breaks: int, seed: int, bar_mb_s: float) -> bool:
    """Print one line for each way to send, and return whether every bar was met."""
    source, good = folder / "source", True
    with running_service(folder) as (pid, url):
        send(url, source, write_file(source, RESUMABLE_BYTES, seed - 1), choose_breaks(RESUMABLE_BYTES, 1, seed))
        print(f"{'':24}{'MB':>8}{'breaks':>8}{'seconds':>9}{'MB/s':>7}{'MB/CPU s':>10}{'peak MiB':>10}  digest")
        for name, count in (("unbroken", 0), ("broken and resumed", breaks)):
            sha256 = write_file(source, size_bytes, seed + count)
            breaker, before, used = choose_breaks(size_bytes, count, seed), read_peak_mib(pid), read_cpu_s(pid)
            seconds = send(url, source, sha256, breaker)
            rate, cpu_rate = size_bytes / MB / seconds, size_bytes / MB / (read_cpu_s(pid) - used)
            right, grown = check_stored(url, sha256), read_peak_mib(pid) - before
            print(
                f"{name:24}{size_bytes // MB:8}{breaker.breaks:8}{seconds:9.2f}{rate:7.0f}"
                f"{cpu_rate:10.0f}{grown:+10.1f}  {'right' if right else 'WRONG'}"
            )
            judged = cpu_rate if os.getloadavg()[0] > (os.cpu_count() or 1) else rate
            good = good and right and judged >= bar_mb_s and grown <= FLAT_MIB and breaker.breaks == count
        return measure_two(folder, url, max(size_bytes // 4, 2 * RESUMABLE_BYTES), breaks, seed) and good


def read_cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_two(folder: Path, url: str, size_bytes: int, breaks: int, seed: int) -> bool:
    """Let two clients send one file at once, and return whether it is there, whole and once."""
    source = folder / "source"
    sha256 = write_file(source, size_bytes, seed + 1000)
    with ThreadPoolExecutor(2) as pool:
        breakers = [choose_breaks(size_bytes, breaks // 2, seed + i) for i in range(2)]
        seconds = list(pool.map(send, [url] * 2, [source] * 2, [sha256] * 2, breakers))
    left = list((folder / "artifacts").rglob("*.part"))
    right = check_stored(url, sha256) and len(list((folder / "artifacts").rglob(sha256))) == 1 and not left
    breaks = sum(breaker.breaks for breaker in breakers)
    print(
        f"{'two clients, one file':24}{size_bytes // MB:8}{breaks:8}{max(seconds):9.2f}{'':27}  {'right' if right else 'WRONG'}"
    )
    return right


def main(arguments: list[str] | None = None) -> int:
    """Print the figures and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--breaks", type=int, default=20)
    parser.add_argument("--rate", type=float, default=BAR_MB_S, help="bar in MB/s (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the files are written and removed (default: the temporary folder)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="faultline-upload-", dir=given.folder, ignore_cleanup_errors=True) as folder:
        good = measure(Path(folder), given.megabytes * MB, given.breaks, given.seed, given.rate)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("every bar met" if good else "A BAR WAS MISSED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
