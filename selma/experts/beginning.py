"""What the training of an expert begins with: the model that holds its adapter, and how its examples are made.

A diffusion backbone's UNet, perhaps with its text encoders, or these alone, or a multimodal backbone's language model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selma.backbones.loading import fingerprint, load_pipeline, text_fingerprint
from selma.backbones.multimodal import load_multimodal
from selma.backbones.schedulers import training_schedule
from selma.experts import codes, examples, features, loop, samples
from selma.ground.adapters import CARD, LANGUAGE, TEXT_ENCODERS, layer_of, read_adapter
from selma.ground.backbones import is_multimodal
from selma.ground.drawer import Drawer, read_drawer
from selma.ground.errors import UserError
from selma.lora.adapter import NAME, add_lora
from selma.lora.text import TEXT_TARGETS, add_text_lora, save_with_texts
from selma.runtime.candidates import Diversity

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

    from selma.ground.pairs import Pair
    from selma.runtime.params import Runtime, Training


@dataclass
class Beginning:
    """`model` is what is trained, with its adapter; `save` writes a checkpoint of it, if that is more or else than a
    UNet's LoRA, `told` is for its card. `opened` is the backbone; nothing else keeps it in memory."""

    model: torch.nn.Module
    opened: Any
    schedule: DDPMScheduler | None = None
    save: loop.Save | None = None
    told: dict[str, Any] = field(default_factory=dict)
    drawer: Drawer | None = None  # of what a text encoder alone learns from
    foreign: bool = False  # images were drawn by another backbone, so their tokens say nothing to this one

    def examples(
        self, file: Path, pairs: Sequence[Pair], settings: Training, compares: bool
    ) -> examples.Examples | codes.Codes | features.Features:
        """The pairs, encoded once and kept in a file."""
        if isinstance(self.model, codes.Writer):
            known = [replace(pair, tokens=None) for pair in pairs] if self.foreign else pairs
            return codes.of_pairs(file, self.opened, known, compares, self.model if compares else None)
        if self.drawer is not None:
            how = self.drawer.diversity and Diversity(**self.drawer.diversity)
            return features.of_pairs(file, self.opened, self.model, pairs, how, pairs[0].file.parent)
        return examples.of_pairs(file, self.opened, pairs, settings, compares)

    def show(self, texts: Sequence[str], settings: Training, seed: int, file: Path) -> Callable[[int], None]:
        """What draws samples at a checkpoint (samples.py); of a multimodal backbone there are none."""
        if isinstance(self.model, codes.Writer):
            return lambda step: None
        return samples.show(self.opened, texts, settings, seed, file)


def begin(
    backbone: Path,
    runtime: Runtime,
    settings: Training,
    seed: int,
    where: str,
    objective: str,
    states: Mapping[str, Any],
    data: Sequence[Path],
) -> Beginning:
    """The beginning of an expert that is trained by an objective, whose file `states` for which kind of backbone it is
    (BACKBONE), whether it learns from PAIRS, and whether text encoders learn alone (TEXT).

    `seed` is that of the adapter's first A, `where` names the row of params.yaml, `data` are the folders of images.
    What does not fit is said here, before anything is computed.
    """
    kind = states.get("BACKBONE", "diffusion")
    found = "multimodal" if is_multimodal(backbone) else "diffusion"
    if found != kind:
        raise UserError(
            f"{where}.objective is {objective}, which trains {kind} backbones; {backbone} is a {found} one"
        )
    if kind == "diffusion" and not states.get("TEXT"):
        return _diffusion(backbone, runtime, settings, seed, where)
    drawers = [read_drawer(folder) for folder in data]
    own = fingerprint(backbone)
    foreign = next(
        (folder for folder, one in zip(data, drawers, strict=True) if one.backbone not in (None, own)), None
    )
    if foreign and states.get("PAIRS"):
        raise UserError(
            f"{foreign}: its images were drawn by another backbone than {backbone}; objective {objective} learns from "
            "pairs of the model's own"
        )
    if states.get("TEXT"):
        return _text(backbone, runtime, settings, seed, where, drawers[0])
    start = drawers[0].lora if states.get("PAIRS") else None
    return _multimodal(backbone, runtime, settings, seed, where, start, foreign is not None)


def _diffusion(backbone: Path, runtime: Runtime, settings: Training, seed: int, where: str) -> Beginning:
    pipe = load_pipeline(backbone, runtime.device, runtime.dtype)
    schedule = training_schedule(pipe)
    loop.check_precision(pipe.unet)
    add_lora(pipe.unet, settings.rank, settings.lora_alpha, list(settings.targets), seed, where)
    if not settings.text_encoder:
        return Beginning(pipe.unet, pipe, schedule)
    model = add_text_lora(pipe, settings.rank, settings.lora_alpha, seed, where)
    told = {"text_backbone": text_fingerprint(backbone)}
    return Beginning(model, pipe, schedule, partial(save_with_texts, model), told)


def _text(
    backbone: Path, runtime: Runtime, settings: Training, seed: int, where: str, drawer: Drawer
) -> Beginning:
    pipe = load_pipeline(backbone, runtime.device, runtime.dtype)
    loop.check_precision(pipe.unet)
    model = add_text_lora(pipe, settings.rank, settings.lora_alpha, seed, where)
    told: dict[str, Any] = {"text_backbone": text_fingerprint(backbone)}
    if drawer.lora is not None:
        encoders = zip(TEXT_ENCODERS, model.encoders, strict=False)
        layers = {layer_of(part, name): each for part, one in encoders for name, each in one.named_modules()}
        _start_from(layers, drawer.lora, settings, TEXT_TARGETS, "text_targets", where)
        told["start"] = drawer.lora.as_posix()
    return Beginning(model, pipe, None, partial(save_with_texts, model), told, drawer)


def _multimodal(
    backbone: Path,
    runtime: Runtime,
    settings: Training,
    seed: int,
    where: str,
    started: Path | None,
    foreign: bool,
) -> Beginning:
    opened = load_multimodal(backbone, runtime.device, runtime.dtype)
    if settings.resolution not in (None, opened.side):
        raise UserError(
            f"{where}.resolution is {settings.resolution}; {backbone} draws {opened.side} pixels alone"
        )
    writer = codes.Writer(opened)
    loop.check_precision(writer)
    add_lora(writer.language_model, settings.rank, settings.lora_alpha, list(settings.targets), seed, where)
    if started is not None:
        named = writer.language_model.named_modules()
        layers = {layer_of(LANGUAGE, name): layer for name, layer in named}
        _start_from(layers, started, settings, settings.targets, "targets", where)
    told = {"start": started.as_posix()} if started else {}
    return Beginning(writer, opened, save=partial(codes.save_writer, writer), told=told, foreign=foreign)


def _start_from(
    layers: Mapping[str, torch.nn.Module],
    folder: Path,
    settings: Training,
    targets: Sequence[str],
    key: str,
    where: str,
) -> None:
    """Give adapted layers what the LoRA in a folder holds: a round goes on from the one that drew its images.

    Raises UserError unless its card's `key` says the same `targets`, and it adapts these layers and no others.
    """
    adapter = read_adapter(folder)
    said, wanted = adapter.card, (settings.rank, settings.lora_alpha, set(targets))
    theirs = said.get(key, [])
    if (said["rank"], said["alpha"], set(theirs)) != wanted:
        raise UserError(
            f"{where}: goes on from {folder}, whose {CARD} says rank {said['rank']}, alpha {said['alpha']:g} and "
            f"{key} {', '.join(theirs) or 'none'}; rank, alpha and targets must be the same"
        )
    if other := next((name for name in adapter.factors if not hasattr(layers.get(name), "lora_A")), None):
        raise UserError(
            f"{where}: goes on from {folder}, which adapts {other}, too; this objective does not train it"
        )
    with torch.no_grad():
        for name, (a, b) in adapter.factors.items():
            layer = layers[name]
            layer.lora_A[NAME].weight.copy_(a)
            layer.lora_B[NAME].weight.copy_(b)
