"""What the adapted layers read when experts see their own images: the statistics of closed-form merges.

One forward pass of the backbone over a few image-caption pairs, noised to random time steps, with the expert's update
beside its layers. Sums of products are kept, never the tokens: at most one expert's, one matrix a layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from selma.backbones.schedulers import training_schedule
from selma.experts import examples
from selma.ground.errors import UserError
from selma.ground.pairs import read_image
from selma.runtime.devices import enough_memory

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline
    from selma.ground.pairs import Pair
    from selma.lora.files import LoraWeights

Moments = dict[str, torch.Tensor]
BATCH_PIXELS = (
    2 * 128 * 128
)  # latents' pixels of one pass of the UNet: two SDXL images, or 512 of the embedded world


class Tokens(Protocol):
    """What an operator with NEEDS = ("tokens",) gets: the second moments of what one expert's layers read.

    E[x x^T], [n, n] for each layer, fp32 on the CPU: x is a token or, of a convolution, a patch of in * h * w, and the
    mean is over all tokens of up to `pairs` of the expert's own pairs, drawn by `seed`. With `rows`, matrices [r, n] by
    layer, it is E[(rows x)(rows x)^T], [r, r] instead. Layers that read the same share one tensor.
    """

    def __call__(
        self, expert: str, *, pairs: int, seed: int, rows: Mapping[str, torch.Tensor] | None = None
    ) -> Moments: ...


def calibration(
    pipe: Pipeline,
    experts: Mapping[str, LoraWeights],
    pairs: Mapping[str, Sequence[Pair]],
    resolution: int | None = None,
) -> Tokens:
    """`Tokens` of experts on the backbone `pipe`, each on its own `pairs`; `resolution` as in section `expert`.

    Raises UserError, before the backbone runs, for an expert that has no pairs.
    """
    for name in experts:
        if not pairs.get(name):
            raise UserError(f"calibration: expert {name} has no images and captions; at least one is needed")

    def tokens(
        expert: str, *, pairs: int, seed: int, rows: Mapping[str, torch.Tensor] | None = None
    ) -> Moments:
        chosen = sample(own[expert], pairs, seed)
        with enough_memory("lower expert.resolution"):
            return moments(pipe, experts[expert], chosen, seed=seed, resolution=resolution, rows=rows)

    own = pairs
    return tokens


def sample(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """Up to `count` pairs, those whose ids hash lowest with the seed: no order of the data changes them."""
    return sorted(pairs, key=lambda pair: _digest(seed, pair))[:count]


def _digest(seed: int, pair: Pair) -> bytes:
    return hashlib.sha256(f"{seed}:{pair.id}:{pair.k}".encode()).digest()


@torch.no_grad()
def moments(
    pipe: Pipeline,
    expert: LoraWeights,
    pairs: Sequence[Pair],
    *,
    seed: int,
    resolution: int | None = None,
    rows: Mapping[str, torch.Tensor] | None = None,
) -> Moments:
    """The second moments (see `Tokens`) of what the expert's layers read of `pairs`.

    Time steps are uniform; they and the noise of a pair are drawn from the seed and its id, on the CPU.
    """
    images = (read_image(pair.file) for pair in pairs)
    encoded = examples.encode(pipe, images, [pair.text for pair in pairs], resolution)
    schedule = training_schedule(pipe)
    device, dtype = pipe.device, pipe.unet.dtype
    generators = [
        torch.Generator().manual_seed(int.from_bytes(_digest(seed, pair)[:8], "little") >> 1)
        for pair in pairs
    ]
    steps = schedule.config.num_train_timesteps
    times = torch.cat([torch.randint(steps, (1,), generator=each) for each in generators]).to(device)
    shape = encoded.mean.shape[1:]
    size = max(1, BATCH_PIXELS // (shape[1] * shape[2]))
    with reading(pipe.unet, expert, rows) as found:
        for start in range(0, len(pairs), size):
            part = slice(start, start + size)
            draws = [torch.randn((2, *shape), generator=each) for each in generators[part]]
            sampled, noise = torch.stack(draws, dim=1).to(device)
            latents = encoded.mean[part] + encoded.std[part] * sampled
            noisy = schedule.add_noise(latents, noise, times[part]).to(dtype)
            texts = encoded.texts[encoded.caption[part]].to(dtype)
            pipe.unet(noisy, times[part], **texts.unet_inputs(encoded.time_ids[part]), return_dict=False)
    return found


@contextmanager
def reading(
    unet: torch.nn.Module, expert: LoraWeights, rows: Mapping[str, torch.Tensor] | None = None
) -> Iterator[Moments]:
    """Let the UNet compute with the expert's update, and sum up what its layers read; means at the end of the body.

    The update is added beside each layer, so that no weight is changed (or rounded, in half precision).
    """
    found: Moments = {}
    sums = _Sums(rows or {}, share=rows is None)
    handles = [
        unet.get_submodule(module).register_forward_hook(sums.hook(module, *factors, expert.scaling))
        for module, factors in expert.factors.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    found.update(sums.means())


class _Sums:
    """Sums over tokens of x x^T by layer; layers of one input (to_q, to_k, to_v; all that read the text) share one."""

    def __init__(self, rows: Mapping[str, torch.Tensor], share: bool) -> None:
        self._rows, self._share = rows, share
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._leader: dict[str, str] = {}  # layer -> the layer whose sum it shares
        self._last: dict[int, tuple[torch.Tensor, str]] = {}  # by width: the input read last, and its leader

    def hook(
        self, module: str, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]:
        """A forward hook of the layer: count what it reads, and add scaling * B A x to what it returns."""

        def read(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
            x = inputs[0]
            self._add(module, layer, x)
            down, up = (factor.to(x.device, x.dtype) for factor in (a, b))
            if a.ndim == 2:
                return out + scaling * functional.linear(functional.linear(x, down), up)
            thin = functional.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
            return out + scaling * functional.conv2d(thin, up)

        return read

    def _add(self, module: str, layer: torch.nn.Module, x: torch.Tensor) -> None:
        linear = isinstance(layer, torch.nn.Linear)
        if linear and self._share:
            seen, leader = self._last.get(x.shape[-1], (None, module))
            if seen is x:
                self._leader[module] = leader
                return
            self._last[x.shape[-1]] = x, module
        tokens = x.flatten(0, -2) if linear else _patches(layer, x)
        tokens = tokens.float()
        if module in self._rows:
            tokens = tokens @ self._rows[module].to(tokens).T
        product = tokens.T @ tokens
        self._sums[module] = self._sums[module].add_(product) if module in self._sums else product
        self._counts[module] = self._counts.get(module, 0) + len(tokens)

    def means(self) -> Moments:
        """The mean over tokens for each layer, on the CPU; raises UserError where one is not finite."""
        own = {name: (total / self._counts[name]).cpu() for name, total in self._sums.items()}
        for name, mean in own.items():
            if not mean.isfinite().all():
                raise UserError(f"calibration: what {name} reads is not finite; try another runtime.dtype")
        return own | {name: own[leader] for name, leader in self._leader.items()}


def _patches(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """What a convolution's kernel is laid on, [patches, in * h * w]."""
    unfolded = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)
