"""Attacks by one system call or a few: each either succeeds or is refused, and then nothing has happened.

They run as what a model that took over the process could run: native code, which `ctypes` is.
"""

import ctypes
import errno
import mmap
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from worker.sandbox.attacks.bait import Bait
from worker.sandbox.kernel import call, control, find_machine

Attack = Callable[[Bait], object]

# Numbers that the filter's table leaves out on purpose: x86-64, ARM64.
NUMBERS = {
    "ptrace": (101, 117), "mount": (165, 40), "bpf": (321, 280), "perf_event_open": (298, 241), "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282), "add_key": (248, 217), "process_vm_readv": (310, 270), "pidfd_open": (434, 434),
    "unshare": (272, 97), "init_module": (175, 105), "open_by_handle_at": (304, 265), "memfd_create": (319, 279),
    "execveat": (322, 281), "kexec_load": (246, 104), "truncate": (76, 45), "shmget": (29, 194), "fanotify_init": (300, 262),
    "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41),
}  # fmt: skip
PTRACE_ATTACH = 16
FIRST_CONTACT_S = 2.0


def call_by_name(name: str, *arguments: object) -> int:
    """Make a system call that the C library may not wrap."""
    return call(NUMBERS[name][0 if find_machine() == "x86_64" else 1], *arguments)


def connect(family: int, kind: int, address: tuple[str, int] | str) -> None:
    """Reach a listener."""
    with socket.socket(family, kind) as caller:
        caller.settimeout(FIRST_CONTACT_S)
        caller.connect(address)
        caller.send(b"x")


def write_over(path: str) -> None:
    """Replace what a file holds."""
    Path(path).write_bytes(b"overwritten")


def read_by_link(path: str) -> bytes:
    """Read a file by a symbolic link in the own folder."""
    Path("link").symlink_to(path)
    return Path("link").read_bytes()


def read_by_second_name(path: str) -> bytes:
    """Read a file by a hard link in the own folder."""
    os.link(path, "second")
    return Path("second").read_bytes()


def fetch_signals(victim: int) -> None:
    """Let a descriptor's signals go to another process: F_SETOWN, F_SETSIG."""
    control_descriptor = ctypes.CDLL(None, use_errno=True).fcntl
    for command, value in ((8, victim), (10, signal.SIGKILL)):
        if control_descriptor(0, command, value) < 0:
            raise OSError(ctypes.get_errno(), "fcntl")


def run_a_program() -> None:
    """Become another program."""
    os.execv("/bin/sh", ["sh", "-c", "exit 0"])  # noqa: S606 - the attack itself


def run_from_memory() -> None:
    """Run a program that never was a file."""
    descriptor = call_by_name("memfd_create", ctypes.c_char_p(b"program"), 0)
    os.write(descriptor, Path("/bin/sh").read_bytes())
    call_by_name("execveat", descriptor, ctypes.c_char_p(b""), 0, 0, 0x1000)


def read_memory(victim: int) -> None:
    """Read another process's memory."""
    here = ctypes.create_string_buffer(8)
    pair = struct.pack("QQ", ctypes.addressof(here), 8)
    try:
        call_by_name("process_vm_readv", victim, ctypes.c_char_p(pair), 1, ctypes.c_char_p(pair), 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:  # nothing stands at that address there; but it might have been read
            raise


def list_processes() -> None:
    """See who else runs on the machine."""
    if len([path for path in Path("/proc").iterdir() if path.name.isdigit()]) > 1:
        return
    raise OSError(errno.EACCES, "nobody else is seen")


def start_process() -> None:
    """Start a second process, which could outlive this one."""
    if os.fork() == 0:
        os._exit(0)


def open_raw_memory() -> None:
    """Read the machine's memory or log."""
    for name in ("/dev/mem", "/dev/kmsg", "/proc/kcore"):
        if Path(name).exists():
            with Path(name).open("rb") as file:
                file.read(1)
            return
    raise OSError(errno.ENOENT, "the machine shows none")


def make_device() -> None:
    """Make a device file of the disk."""
    os.mknod("disk", 0o60600, os.makedev(8, 0))


def leave_for_a_foreign_root() -> None:
    """Change the root of the file system."""
    call_by_name("chroot", ctypes.c_char_p(b"."))


def map_foreign_code() -> None:
    """Make memory that is written and executed: allowed, for kernels are compiled at run time. It must not help."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.close()


CALLS: dict[str, Attack] = {
    "TCP over IPv4": lambda bait: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", bait.tcp4)),
    "TCP over IPv6": lambda bait: connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", bait.tcp6)),
    "UDP": lambda bait: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", bait.udp4)),
    "unix socket with a path": lambda bait: connect(socket.AF_UNIX, socket.SOCK_STREAM, bait.unix_socket),
    "unix socket without a path": lambda bait: connect(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{bait.abstract_socket}"),
    "netlink socket": lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "pair of sockets": lambda _: socket.socketpair(),
    "read a file of the user": lambda bait: Path(bait.secret).read_bytes(),
    "write a file of the user": lambda bait: write_over(bait.secret),
    "make a file beside it": lambda bait: Path(bait.secret).with_name("new").touch(),
    "overwrite the audited model": lambda bait: write_over(bait.model),
    "delete a file": lambda bait: Path(bait.secret).unlink(),
    "change a file's mode": lambda bait: Path(bait.secret).chmod(0o777),
    "cut a file short": lambda bait: call_by_name("truncate", ctypes.c_char_p(bait.secret.encode()), 0),
    "change a file's times": lambda bait: os.utime(bait.secret, (0, 0)),
    "move a file into the own folder": lambda bait: Path(bait.secret).rename("mine"),
    "symbolic link to a file": lambda bait: read_by_link(bait.secret),
    "hard link to a file": lambda bait: read_by_second_name(bait.secret),
    "read another job's folder": lambda bait: Path(bait.other_job).read_bytes(),
    "list another job's folder": lambda bait: list(Path(bait.other_job).parent.iterdir()),
    "write the artifact store": lambda bait: write_over(bait.store),
    "list the artifact store": lambda bait: list(Path(bait.store).parent.iterdir()),
    "the parent's environment": lambda _: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "other processes in /proc": lambda _: list_processes(),
    "another root by /proc": lambda bait: Path(f"/proc/self/root{bait.secret}").read_bytes(),
    "the machine's memory": lambda _: open_raw_memory(),
    "device file": lambda _: make_device(),
    "file by its handle": lambda _: call_by_name("open_by_handle_at", -100, ctypes.c_char_p(bytes(16)), 0),
    "run a program": lambda _: run_a_program(),
    "run a program from memory": lambda _: run_from_memory(),
    "start a process": lambda _: start_process(),
    "trace the parent": lambda _: call_by_name("ptrace", PTRACE_ATTACH, os.getppid(), 0, 0),
    "read another process's memory": lambda bait: read_memory(bait.victim),
    "kill another process": lambda bait: os.kill(bait.victim, signal.SIGKILL),
    "kill the supervisor": lambda _: os.kill(os.getppid(), signal.SIGKILL),
    "kill by handle": lambda bait: call_by_name("pidfd_open", bait.victim, 0),
    "signals of a descriptor": lambda bait: fetch_signals(bait.victim),
    "outlive the supervisor": lambda _: control(1, 0),
    "slow others down": lambda bait: os.setpriority(os.PRIO_PROCESS, bait.victim, 19),
    "new user namespace": lambda _: call_by_name("unshare", 0x10000000),
    "another's namespaces": lambda _: call_by_name("setns", 0, 0),
    "mount": lambda _: call_by_name("mount", 0, ctypes.c_char_p(b"."), ctypes.c_char_p(b"tmpfs"), 0, 0),
    "change the root": lambda _: leave_for_a_foreign_root(),
    "load a kernel module": lambda _: call_by_name("init_module", 0, 0, ctypes.c_char_p(b"")),
    "replace the kernel": lambda _: call_by_name("kexec_load", 0, 0, 0, 0),
    "kernel programs (bpf)": lambda _: call_by_name("bpf", 0, 0, 0),
    "performance counters": lambda _: call_by_name("perf_event_open", 0, 0, -1, -1, 0),
    "io_uring": lambda _: call_by_name("io_uring_setup", 1, ctypes.c_char_p(bytes(128))),
    "page faults by hand": lambda _: call_by_name("userfaultfd", 0),
    "kernel keys": lambda _: call_by_name(
        "add_key", ctypes.c_char_p(b"user"), ctypes.c_char_p(b"k"), ctypes.c_char_p(b"v"), 1, -3
    ),
    "shared memory segment": lambda _: call_by_name("shmget", 7, 4096, 0o1666),
    "watch all files": lambda _: call_by_name("fanotify_init", 0, 0),
}
"""What to try, by what it is for."""
ALLOWED: dict[str, Attack] = {"executable memory": lambda _: map_foreign_code()}
"""What works and is told as such."""


def attempt(attack: Attack, bait: Bait) -> str | None:
    """Return how the attack was refused, None when it succeeded."""
    try:
        attack(bait)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "refused")
    return None
