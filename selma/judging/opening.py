"""Opening a judge's folder: transformers' own classes, safetensors only, nothing downloaded, nothing missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.backbones.opening import open_model, open_part
from selma.ground.errors import UserError
from selma.runtime.devices import enough_memory, pick_device

_WHAT = "this judge"


def load_model(cls: Any, folder: Path, device: str, dtype: str, unused: str | None = None) -> Any:
    """A model of transformers' class `cls` from `folder`, frozen, in eval mode, on its device.

    Raises UserError when it cannot be opened and when the files leave one of its weights uninitialised, other than
    those whose names begin with `unused`.
    """
    model, missing = open_model(cls, folder, dtype, _WHAT)
    check_filled(folder, [key for key in missing if unused is None or not key.startswith(unused)])
    with enough_memory("this judge needs another runtime.device, or bfloat16 as runtime.dtype"):
        model.to(pick_device(device))
    return model.eval().requires_grad_(False)


def load_part(cls: Any, folder: Path) -> Any:
    """A tokenizer or processor of transformers' class `cls` from `folder`; raises UserError if it cannot be opened."""
    return open_part(cls, folder, _WHAT)


def check_filled(folder: Path, missing: list[str]) -> None:
    """Raise UserError where weights are missing: transformers itself only warns, and scores would be noise."""
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} weights are missing or of the wrong shape (first: {missing[0]})"
        )
