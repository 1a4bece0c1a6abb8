"""Opening a judge's folder: transformers' own classes, safetensors only, nothing downloaded, nothing missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from selma.ground.errors import UserError, first_line
from selma.runtime.devices import enough_memory, pick_device, torch_dtype


def load_model(cls: Any, folder: Path, device: str, dtype: str, unused: str | None = None) -> Any:
    """A model of transformers' class `cls` from `folder`, frozen, in eval mode, on its device.

    Raises UserError when it cannot be opened and when the files leave one of its weights uninitialised, other than
    those whose names begin with `unused`.
    """
    _silence()
    try:
        model, info = cls.from_pretrained(
            folder,
            dtype=torch_dtype(dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except UserError:
        raise
    except Exception as error:  # safetensors, json and transformers each raise their own kind
        raise _broken(folder, error) from error
    missing = [*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])]
    check_filled(folder, [key for key in missing if unused is None or not key.startswith(unused)])
    with enough_memory("this judge needs another runtime.device, or bfloat16 as runtime.dtype"):
        model.to(pick_device(device))
    return model.eval().requires_grad_(False)


def load_part(cls: Any, folder: Path) -> Any:
    """A tokenizer or processor of transformers' class `cls` from `folder`; raises UserError if it cannot be opened."""
    _silence()
    try:
        return cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise _broken(folder, error) from error


def check_filled(folder: Path, missing: list[str]) -> None:
    """Raise UserError where weights are missing: transformers itself only warns, and scores would be noise."""
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} weights are missing or of the wrong shape (first: {missing[0]})"
        )


def _broken(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder}: this judge cannot be opened ({first_line(error)})")


def _silence() -> None:
    """Keep transformers' messages and progress bars off stderr, which is for our progress and one error line."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
