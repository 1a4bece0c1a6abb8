"""Opening a folder by transformers' own classes: safetensors only, nothing downloaded, no code of the folder's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.ground.errors import UserError, first_line
from selma.runtime.devices import torch_dtype


def open_model(cls: Any, folder: Path, dtype: str, what: str) -> tuple[Any, list[str]]:
    """A model of class `cls`, and the names of its weights that the files leave out or have in another shape.

    Raises UserError, which calls it `what`, where it cannot be opened.
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
        raise _broken(folder, error, what) from error
    return model, [*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])]


def open_part(cls: Any, folder: Path, what: str) -> Any:
    """A tokenizer or processor of class `cls`; raises UserError, which calls it `what`, if it cannot be opened."""
    _silence()
    try:
        return cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise _broken(folder, error, what) from error


def _broken(folder: Path, error: Exception, what: str) -> UserError:
    return UserError(f"{folder}: {what} cannot be opened ({first_line(error)})")


def _silence() -> None:
    """Stderr is for progress and one error line; what transformers warns of is checked by who opens a folder."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
