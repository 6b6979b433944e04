"""System calls by number: what computing on files that are already at hand needs, and nothing else.

The tests compare the numbers with the kernel's headers.
"""

from typing import Final

SHARED: Final = frozenset(
    [
        # Memory. Executable memory stays allowed: kernels are compiled at run time, and files cannot be executed anyway.
        *("brk", "mmap", "munmap", "mprotect", "mremap", "madvise", "mincore", "msync", "membarrier", "mlock", "munlock"),
        *("get_mempolicy", "mbind", "set_mempolicy"),
        # Files, as far as Landlock lets; nothing that changes owners, modes or times, which Landlock does not watch.
        *("read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "lseek", "close", "close_range"),
        *("openat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "getdents64", "readlinkat", "faccessat", "faccessat2"),
        *("getcwd", "mkdirat", "unlinkat", "renameat", "renameat2", "ftruncate", "fallocate", "fsync", "fdatasync", "fadvise64"),
        *("dup", "dup3", "pipe2", "eventfd2", "epoll_create1", "epoll_ctl", "epoll_pwait", "ppoll", "pselect6", "flock"),
        *("copy_file_range", "sendfile"),
        # Threads of this process, and waiting. `clone` has a rule of its own.
        *("futex", "set_robust_list", "get_robust_list", "rseq", "set_tid_address", "sched_yield", "sched_getaffinity"),
        *("sched_getparam", "sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min", "getcpu", "exit"),
        *("exit_group", "restart_syscall", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday"),
        *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "rt_sigpending", "sigaltstack"),
        # What a process may know of itself and its machine.
        *("getpid", "gettid", "getppid", "getpgid", "getsid", "getuid", "geteuid", "getgid", "getegid", "getresuid"),
        *("getresgid", "getgroups", "getrusage", "getrandom", "sysinfo", "uname", "times", "getpriority", "capget"),
    ]
)
"""Allowed on every machine, whatever the arguments."""

OLD: Final = frozenset(
    [
        *("open", "stat", "lstat", "access", "readlink", "getdents", "mkdir", "rmdir", "unlink", "rename", "dup2", "pipe"),
        *("poll", "select", "epoll_create", "epoll_wait", "eventfd", "time", "getrlimit", "getpgrp", "arch_prctl"),
    ]
)
"""Older forms of the same, which only x86-64 has."""

X86_64: Final = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23, "sched_yield": 24,
    "mremap": 25, "msync": 26, "mincore": 27, "madvise": 28, "dup": 32, "dup2": 33, "nanosleep": 35, "getpid": 39,
    "sendfile": 40, "clone": 56, "exit": 60, "uname": 63, "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75,
    "ftruncate": 77, "getdents": 78, "getcwd": 79, "rename": 82, "mkdir": 83, "rmdir": 84, "unlink": 87, "readlink": 89,
    "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104,
    "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115, "getresuid": 118, "getresgid": 120,
    "getpgid": 121, "getsid": 124, "capget": 125, "rt_sigpending": 127, "rt_sigtimedwait": 128, "sigaltstack": 131,
    "statfs": 137, "fstatfs": 138, "getpriority": 140, "sched_getparam": 143, "sched_getscheduler": 145,
    "sched_get_priority_max": 146, "sched_get_priority_min": 147, "mlock": 149, "munlock": 150, "prctl": 157,
    "arch_prctl": 158, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204, "epoll_create": 213,
    "getdents64": 217, "set_tid_address": 218, "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228,
    "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233, "tgkill": 234,
    "mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239, "openat": 257, "mkdirat": 258, "newfstatat": 262,
    "unlinkat": 263, "renameat": 264, "readlinkat": 267, "faccessat": 269, "pselect6": 270, "ppoll": 271,
    "set_robust_list": 273, "get_robust_list": 274, "epoll_pwait": 281, "eventfd": 284, "fallocate": 285, "eventfd2": 290,
    "epoll_create1": 291, "dup3": 292, "pipe2": 293, "preadv": 295, "pwritev": 296, "prlimit64": 302, "getcpu": 309,
    "renameat2": 316, "seccomp": 317, "getrandom": 318, "membarrier": 324, "copy_file_range": 326, "statx": 332,
    "rseq": 334, "clone3": 435, "close_range": 436, "faccessat2": 439,
}  # fmt: skip

AARCH64: Final = {
    "getcwd": 17, "eventfd2": 19, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "dup": 23, "dup3": 24,
    "fcntl": 25, "ioctl": 29, "flock": 32, "mkdirat": 34, "unlinkat": 35, "renameat": 38, "statfs": 43, "fstatfs": 44,
    "ftruncate": 46, "fallocate": 47, "faccessat": 48, "openat": 56, "close": 57, "pipe2": 59, "getdents64": 61, "lseek": 62,
    "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68, "preadv": 69, "pwritev": 70,
    "sendfile": 71, "pselect6": 72, "ppoll": 73, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "fsync": 82,
    "fdatasync": 83, "capget": 90, "exit": 93, "exit_group": 94, "set_tid_address": 96, "futex": 98, "set_robust_list": 99,
    "get_robust_list": 100, "nanosleep": 101, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115,
    "sched_getscheduler": 120, "sched_getparam": 121, "sched_getaffinity": 123, "sched_yield": 124,
    "sched_get_priority_max": 125, "sched_get_priority_min": 126, "restart_syscall": 128, "tgkill": 131,
    "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigpending": 136, "rt_sigtimedwait": 137,
    "rt_sigreturn": 139, "getpriority": 141, "getresuid": 148, "getresgid": 150, "times": 153, "getpgid": 155,
    "getsid": 156, "getgroups": 158, "uname": 160, "getrusage": 165, "prctl": 167, "getcpu": 168, "gettimeofday": 169,
    "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178,
    "sysinfo": 179, "brk": 214, "munmap": 215, "mremap": 216, "clone": 220, "mmap": 222, "fadvise64": 223, "mprotect": 226,
    "msync": 227, "mlock": 228, "munlock": 229, "mincore": 232, "madvise": 233, "mbind": 235, "get_mempolicy": 236,
    "set_mempolicy": 237, "prlimit64": 261, "renameat2": 276, "seccomp": 277, "getrandom": 278, "membarrier": 283,
    "copy_file_range": 285, "statx": 291, "rseq": 293, "clone3": 435, "close_range": 436, "faccessat2": 439,
}  # fmt: skip

NUMBERS: Final = {"x86_64": X86_64, "aarch64": AARCH64}
