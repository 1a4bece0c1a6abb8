"""Image-caption pairs, encoded once: what training reads instead of images and text.

An image becomes the mean and deviation of its latents, from which every step samples again: the same
distribution as encoding inside the training loop, without its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import torch

from selma.backbones import conditioning
from selma.backbones.ahead import Plan, ahead, plan
from selma.backbones.conditioning import Conditioning, TokenIds
from selma.backbones.latents import from_vae
from selma.backbones.loading import image_size
from selma.ground.errors import UserError
from selma.ground.files import atomic
from selma.ground.pairs import read_image
from selma.runtime.devices import enough_memory

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.backbones.loading import Pipeline
    from selma.ground.pairs import Pair
    from selma.runtime.params import Training

ENCODE_BATCH = 8  # images per pass of the VAE encoder
_IMAGES = ("mean", "std", "time_ids", "mirror_mean", "mirror_std")  # what Examples hold of images
_LOSERS = "losers."  # how the keys of theirs begin in a file
ENCODE_PIXELS = 8 * 512 * 512  # in passes that a CPU makes side by side


@dataclass(frozen=True)
class Examples:
    """Encoded pairs, all on one device.

    mean, std  [n, channels, h, w] fp32, of the scaled latents
    texts      every caption once, encoded, or its token ids where text encoders are trained; row 0 is the empty one
    caption    [n], each pair's row in `texts`
    time_ids   [n, 6] fp32, each image's size and crop, which condition SDXL only
    mirror_mean, mirror_std    those of the mirrored images; None: training never mirrors
    losers     row by row, the images that lost against these for the same texts; None: the data hold no pairs
    teacher    [n], the number of the expert that each pair is from, where several are distilled; None: there are none
    """

    mean: torch.Tensor
    std: torch.Tensor
    texts: Conditioning | TokenIds
    caption: torch.Tensor
    time_ids: torch.Tensor
    mirror_mean: torch.Tensor | None = None
    mirror_std: torch.Tensor | None = None
    losers: Examples | None = None
    teacher: torch.Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.mean.device

    @property
    def numbers(self) -> int:
        """Numbers that hold one example's latents."""
        return self.mean[0].numel()

    @property
    def pixels(self) -> int:
        """Latents' pixels of one example, a pair of images counted as two."""
        return self.mean[0, 0].numel() * (1 if self.losers is None else 2)


def kept(file: Path, encode: Callable[[], Examples], device: torch.device) -> Examples:
    """The examples of a safetensors file, on a device; `encode` makes them where there is no such file yet.

    On the CPU the file is mapped, not read: the system may drop what memory holds of it, and a run that is started
    again begins to train at once.
    """
    from safetensors.torch import load_file, save_file

    if not file.is_file():
        found = encode()
        tensors = {
            **vars(found.texts),  # states and pooled, or ids
            "caption": found.caption,
            **{name: getattr(found, name) for name in _IMAGES},
            **{f"{_LOSERS}{name}": getattr(found.losers, name, None) for name in _IMAGES},
        }
        with atomic(file) as temporary:
            save_file(
                {name: each.contiguous() for name, each in tensors.items() if each is not None}, temporary
            )
    tensors = load_file(file, device=str(device))
    said = (
        TokenIds(tensors.pop("ids"))
        if "ids" in tensors
        else Conditioning(tensors.pop("states"), tensors.pop("pooled", None))
    )
    texts = {"texts": said, "caption": tensors.pop("caption")}
    lost = {key.removeprefix(_LOSERS): tensors.pop(key) for key in list(tensors) if key.startswith(_LOSERS)}
    return Examples(**texts, **tensors, losers=Examples(**texts, **lost) if lost else None)


def of_pairs(file: Path, pipe: Pipeline, pairs: Sequence[Pair], settings: Training, losers: bool) -> Examples:
    """The examples of image-text pairs, kept in a file, as section `expert` says (resolution, flip).

    With `losers` the images that lost are encoded, too. Raises UserError for images that cannot be read, as `encode`
    does, and where memory runs out.
    """
    images = (read_image(pair.file) for pair in pairs)
    lost = (read_image(pair.rejected) for pair in pairs) if losers else None
    texts = [pair.text for pair in pairs]
    with enough_memory("lower expert.resolution"):
        encoded = partial(
            encode, pipe, images, texts, settings.resolution, settings.flip, lost, settings.text_encoder
        )
        return kept(file, encoded, pipe.device)


@torch.no_grad()
def encode(
    pipe: Pipeline,
    images: Iterable[Image],
    texts: list[str],
    resolution: int | None = None,
    flip: bool = False,
    losers: Iterable[Image] | None = None,
    as_ids: bool = False,
) -> Examples:
    """Encode RGB images and their captions with the pipeline's VAE and text encoders, onto its device.

    `losers` are, one for each image, those that lost against them for the same texts. With `as_ids` captions stay token
    ids, for text encoders that change.

    An image of a size other than `resolution` (pixels of each side, by default the backbone's own) is resized and
    cropped around its centre; SDXL is conditioned on both, as in diffusers' own training. With `flip` the mirrored
    images are encoded, too. Images are read a few at a time. Raises UserError, naming the text, for latents that are
    not finite.
    """
    unique = list(dict.fromkeys(["", *texts]))
    row = {text: i for i, text in enumerate(unique)}
    size = image_size(pipe, resolution)
    found = _encode_images(pipe, images, texts, size, flip)
    lost = None if losers is None else _encode_images(pipe, losers, texts, size, flip)
    captions = {
        "texts": conditioning.token_ids(pipe, unique)
        if as_ids
        else conditioning.encode_texts(pipe, unique).to(pipe.device),
        "caption": torch.tensor([row[text] for text in texts], device=pipe.device),
    }
    return Examples(**captions, **found, losers=lost and Examples(**captions, **lost))


def _encode_images(
    pipe: Pipeline, images: Iterable[Image], texts: list[str], size: tuple[int, int], flip: bool
) -> dict[str, torch.Tensor]:
    """What Examples hold of images, by its name there; `texts` name an image whose latents are not finite."""
    ids: list[tuple[int, ...]] = []

    def encoded(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():  # each thread has its own switch
            scaled = (part.to(pipe.device).float() / 127.5 - 1).to(pipe.vae.dtype)
            posterior = pipe.vae.encode(scaled).latent_dist
            return from_vae(pipe, posterior.mean.float(), posterior.std.float())

    def jobs() -> Iterator[Callable[[Event], tuple[torch.Tensor, torch.Tensor]]]:
        left = iter(images)
        while batch := list(islice(left, ENCODE_BATCH)):
            fitted = [_fit(image, size) for image in batch]
            ids.extend(time_ids for _, time_ids in fitted)
            part = torch.stack([pixels for pixels, _ in fitted])
            yield lambda _, part=part: encoded(part)
            if flip:
                yield lambda _, part=part: encoded(part.flip(-1))

    at_once = max(ENCODE_BATCH, ENCODE_PIXELS // (size[0] * size[1]))
    parts = plan(len(texts), at_once, ENCODE_BATCH, pipe.device.type) if texts else Plan(1, 1, 1)
    means, stds = zip(*ahead(jobs(), parts.workers, parts.threads), strict=True)
    if len(ids) != len(texts):
        raise ValueError(f"{len(ids)} images but {len(texts)} texts")
    every = 1 + flip  # parts alternate: as it is, mirrored
    mean, std = torch.cat(means[::every]), torch.cat(stds[::every])
    mirror = (torch.cat(means[1::every]), torch.cat(stds[1::every])) if flip else ()
    found = torch.stack([each.isfinite().flatten(1).all(dim=1) for each in (mean, std, *mirror)])
    finite = found.all(dim=0).tolist()
    if not all(finite):
        raise UserError(
            f"the latents of the image of {texts[finite.index(False)]!r} are not finite in {pipe.vae.dtype}; "
            "try another runtime.dtype"
        )
    return {
        "mean": mean,
        "std": std,
        "time_ids": torch.tensor(ids, device=pipe.device).float(),
        **dict(zip(("mirror_mean", "mirror_std"), mirror, strict=False)),
    }


def _fit(image: Image, size: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, ...]]:
    """An image as uint8 [3, height, width], fitted to `size` (width, height), and its time ids."""
    from PIL import Image as pil
    from PIL import ImageOps

    original, (width, height) = (image.height, image.width), size
    scale = max(width / image.width, height / image.height)
    corner = tuple(round((side * scale - to) / 2) for side, to in zip(original, (height, width), strict=True))
    if image.size != size:
        image = ImageOps.fit(image, size, pil.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return pixels, conditioning.time_ids(original, corner, (height, width))
