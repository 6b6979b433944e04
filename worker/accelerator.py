"""The accelerator's memory as its driver's library (NVML) tells it: no CUDA context, which would cost memory of its own."""

import ctypes
import os
from typing import NamedTuple, Self

LIBRARY = "libnvidia-ml.so.1"


class AcceleratorMemory(NamedTuple):
    """Bytes."""

    total: int
    used: int


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Accelerator:
    """The one device that this worker's audits see."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._library = library
        self._handle = handle

    @classmethod
    def find(cls, library: str = LIBRARY) -> Self | None:
        """Return the first device of CUDA_VISIBLE_DEVICES, by its UUID or by its number on the bus; None without a driver."""
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            return None
        handle = ctypes.c_void_p()
        if driver.nvmlInit_v2() != 0:
            return None
        if named.isdigit():
            code = driver.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(named)), ctypes.byref(handle))
        else:
            code = driver.nvmlDeviceGetHandleByUUID(ctypes.c_char_p(named.encode()), ctypes.byref(handle))
        return cls(driver, handle) if code == 0 else None

    def measure_memory(self) -> AcceleratorMemory:
        """Return the device's memory now; zeros when the driver does not tell."""
        memory = _Memory()
        if self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory)) != 0:
            return AcceleratorMemory(0, 0)
        return AcceleratorMemory(memory.total, memory.used)
