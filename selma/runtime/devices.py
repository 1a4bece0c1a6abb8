"""Where and in which precision models run: names in params.yaml become torch's own."""

from __future__ import annotations

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


def torch_dtype(name: str) -> torch.dtype:
    """Map "float32", "bfloat16" or "float16" to torch's dtype; any other name raises UserError."""
    if name not in DTYPES:
        raise UserError(f"runtime.dtype: {name!r} is unknown; allowed: {', '.join(DTYPES)}")
    return DTYPES[name]
