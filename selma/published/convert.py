"""Published pickles become safetensors, once: read with `weights_only`, mapped to the layout that is loaded."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import save_file

from selma.ground.errors import UserError, first_line
from selma.ground.files import atomic
from selma.published.folder import PICKLED

WEIGHTS = "model.safetensors"


def convert(folder: Path, kind: str) -> None:
    """Turn the one pickle in a judge's folder, if there is one, into model.safetensors, and remove it.

    HPS and ImageReward, which are published in layouts of their own, also get the config.json that their
    loaders read. Raises UserError for a pickle that holds more than tensors, and where a layout does not fit.
    """
    pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLED)
    if len(pickles) > 1:
        raise UserError(
            f"{folder}: holds {len(pickles)} pickles; one is allowed, or any number of safetensors"
        )
    for file in pickles:
        state = read_pickle(file)
        if kind in ("hpsv2", "hpsv21"):
            from transformers import CLIPConfig

            from selma.published import openclip

            config = CLIPConfig(**openclip.VIT_H_14)
            state = openclip.to_transformers(state, config, str(file))
            config.save_pretrained(folder)
        elif kind == "image_reward":
            from transformers import BlipConfig

            from selma.published import reward

            config = BlipConfig(**reward.BLIP_LARGE)
            state = reward.to_reward(state, config, str(file))
            config.save_pretrained(folder)
        with atomic(folder / WEIGHTS) as temporary:
            # Cloned: safetensors refuses tensors that share memory, as tied ones of a pickle do.
            save_file(
                {key: tensor.clone().contiguous() for key, tensor in state.items()},
                temporary,
                metadata={"format": "pt"},
            )
        file.unlink()


def read_pickle(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `torch.save` file by name, on the CPU; no code in it ever runs."""
    try:
        read = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(
            f"{file}: holds more than tensors, so reading it could run code; only tensors are allowed"
        ) from None
    except Exception as error:  # torch's readers raise many kinds for odd bytes
        raise UserError(f"{file}: is not a complete weights file ({first_line(error)})") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(read, dict) and isinstance(read.get(wrapper), dict):
            read = read[wrapper]
    if not isinstance(read, dict) or not all(isinstance(value, torch.Tensor) for value in read.values()):
        raise UserError(f"{file}: is not a weights file; it must hold tensors by name")
    return dict(read)
