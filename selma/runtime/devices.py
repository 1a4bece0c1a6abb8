"""Where and in which precision models run: names in params.yaml become torch's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from selma.ground.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> str:
    """Resolve "auto" to the best device at hand; a named device that is not available raises UserError."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.append("mps")
    if torch.cuda.is_available():
        available.append("cuda")
    if name == "auto":
        return available[-1]
    if name.split(":")[0] not in available:
        raise UserError(
            f"runtime.device: {name!r} is not available on this machine; allowed: auto, {', '.join(available)}"
        )
    return name


def device_name(device: str) -> str:
    """The name of a device as its maker gives it, of a CPU with the number of cores in use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cores, names = torch.get_num_threads(), []
    with suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {cores} {'core' if cores == 1 else 'cores'}"


def torch_dtype(name: str) -> torch.dtype:
    """Map "float32", "bfloat16" or "float16" to torch's dtype; any other name raises UserError."""
    if name not in DTYPES:
        raise UserError(f"runtime.dtype: {name!r} is unknown; allowed: {', '.join(DTYPES)}")
    return DTYPES[name]


# What torch and the libraries under it say when memory runs out; on the CPU it is a bare RuntimeError.
_OUT = (
    "out of memory",
    "not enough memory",
    "t allocate memory",
    "ALLOC_FAILED",
    "buffer size",
    "size calculation",
)


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Turn running out of memory in the body into one UserError that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT):
            raise UserError(f"out of memory; {advice}") from error
        raise


def check_memory(size: int, device: torch.device, key: str) -> None:
    """Raise UserError, naming the setting `key`, if `size` bytes are more than the device has; "meta" has any."""
    if device.type == "meta":
        return
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > total:
        raise UserError(
            f"{key}: needs {size / 1e9:,.0f} GB of memory; {device.type} has {total / 1e9:,.0f} GB"
        )
