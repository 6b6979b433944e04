"""Capabilities: what makes root more than a user. An audit process needs none of them."""

import ctypes
import errno

from worker.sandbox.kernel import PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAPBSET_DROP, control

VERSION_3 = 0x20080522
MOST = 64

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_all() -> bool:
    """Give up every capability, and where this process may, the means to get one back; False when the kernel refuses."""
    _drop_bounds()
    try:
        control(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError:
        return False
    header, nothing = _Header(VERSION_3, 0), (_Data * 2)()
    return bool(_libc.capset(ctypes.byref(header), nothing) == 0)


def _drop_bounds() -> None:
    """Empty the bounding set; a process without the right to do so has no capability that it could lose."""
    for capability in range(MOST):
        try:
            control(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EPERM:
                return
            if error.errno == errno.EINVAL:  # above the newest that the kernel knows
                return
            raise
