"""What is known of a LoRA of one's own before any stage runs, by the header of its file: whether a merge can hold it.

Stage own_lora reads the file in full and checks every layer against the backbone; this looks at names and shapes alone,
so that what cannot be merged is said before anything is trained.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from selma.ground.errors import UserError
from selma.runtime.origins import check_own_lora

if TYPE_CHECKING:
    from selma.runtime.params import Params

_DOWN = re.compile(r"(?P<name>.+?)(\.lora_A(\.default)?|[._]lora(_linear_layer)?\.down|\.lora_down)\.weight")
_TEXT = ("lora_te", "text_encoder")
TEXT_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
)  # what experts train of the text encoders: lora/text.py
# The original UNet's names of a ResNet's layers and of a downsampler's, as SDXL's kohya files have them: diffusers'.
_ORIGINAL = {
    "_in_layers_2": "_conv1",
    "_out_layers_3": "_conv2",
    "_emb_layers_1": "_time_emb_proj",
    "_skip_connection": "_conv_shortcut",
    "_0_op": "_conv",
}
_MOST = 100 * 2**20  # bytes of a header, safetensors' own limit


def check_loras(params: Params) -> None:
    """Raise UserError for a LoRA of one's own that has the name of an expert, beside which it lies, or of what is made
    of experts, and for a file that is never loaded."""
    for name, own in params.own.loras.items():
        for section in ("experts", "policies", "merges", "mixtures"):
            if name in getattr(params, section):
                raise UserError(f"own.loras.{name}: `{section}` has a row of that name; choose another")
        check_own_lora(f"own.loras.{name}", own)


def header(path: Path) -> dict[str, tuple[int, ...]] | None:
    """The shape of every tensor in a LoRA's file, or in the only one of a folder; None where that cannot be told yet.

    The file may be on another machine, or broken: the stage says so.
    """
    file = _file(path)
    if file is None:
        return None
    try:
        with open(file, "rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            found = json.loads(opened.read(size)) if size <= _MOST else None
        return {key: tuple(row["shape"]) for key, row in found.items() if key != "__metadata__"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        return None


def _file(path: Path) -> Path | None:
    if not path.is_dir():
        return path if path.suffix == ".safetensors" and path.is_file() else None
    found = sorted(path.glob("*.safetensors"))
    return found[0] if len(found) == 1 else None


def rank_of(shapes: dict[str, tuple[int, ...]]) -> int:
    """The highest rank of its factors; 0 if there are none."""
    return max((shape[0] for key, shape in shapes.items() if _DOWN.fullmatch(key) and shape), default=0)


def adapts_texts(shapes: Iterable[str]) -> bool:
    """Whether it adapts a text encoder."""
    return any(key.startswith(_TEXT) for key in shapes)


def stranger(shapes: Iterable[str], targets: Iterable[str], texts: bool = False) -> str | None:
    """A layer of the UNet, or with `texts` of a text encoder, that none of `targets` names, or a target that names none
    of its layers; None if they agree.

    By the ends of names in all layouts: a kohya file has underscores for dots.
    """
    names = [
        match["name"] for key in shapes if (match := _DOWN.fullmatch(key)) and key.startswith(_TEXT) == texts
    ]
    ends = {target: target.replace(".", "_") for target in targets}
    flat = {name: _flat(name) for name in names}
    for name, own in flat.items():
        if not any(f"{own}_0".endswith(f"_{end}") or own.endswith(f"_{end}") for end in ends.values()):
            return name
    for target, end in ends.items():
        if not any(f"{own}_0".endswith(f"_{end}") or own.endswith(f"_{end}") for own in flat.values()):
            return target
    return None


def _flat(name: str) -> str:
    """A layer's name with underscores for dots; its end is diffusers' own."""
    flat = name.replace(".processor.", ".").replace(".", "_")
    return next((flat.removesuffix(end) + own for end, own in _ORIGINAL.items() if flat.endswith(end)), flat)
