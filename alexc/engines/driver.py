"""What NVIDIA's driver says of this machine. Loads nothing but the driver."""

from __future__ import annotations

import ctypes
import sys

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # attributes of a device, in CUDA's driver API


def gpu_count() -> int:
    """How many NVIDIA GPUs the driver offers; 0 without a driver. Loads nothing but the driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        ready = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if ready else 0


def machine() -> tuple[str | None, tuple[str, ...]]:
    """The version of CUDA that the driver offers, and each GPU's name and compute capability."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        version, count, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
        if driver.cuInit(0) or driver.cuDriverGetVersion(ctypes.byref(version)):
            return None, ()
        driver.cuDeviceGetCount(ctypes.byref(count))
        gpus = []
        for index in range(count.value):
            device, capability = ctypes.c_int(), []
            driver.cuDeviceGet(ctypes.byref(device), index)
            driver.cuDeviceGetName(name, len(name), device)
            for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
                value = ctypes.c_int()
                driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
                capability.append(str(value.value))
            gpus.append(f"{name.value.decode(errors='replace')} {'.'.join(capability)}")
    except (OSError, AttributeError):
        return None, ()
    return str(version.value), tuple(gpus)
