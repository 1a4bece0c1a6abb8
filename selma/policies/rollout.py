"""Drawing a round's images with the policy: groups of one prompt, by DDIM with or without noise.

Latents are kept as they come from the sampler, so that nothing is encoded again, and of a noisy rollout the steps that
will be trained on. Every image has a seed of its own and every part of a batch one size, so that no image depends on
what is drawn beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from selma.backbones import conditioning
from selma.backbones.ahead import ahead, plan
from selma.backbones.loading import image_size
from selma.backbones.schedulers import make_scheduler
from selma.ground.errors import UserError
from selma.images.denoise import decode
from selma.images.memory import TextMemory, remembering
from selma.images.sampler import PART_PIXELS
from selma.policies.diffusion import Denoiser, Diffusion
from selma.policies.transitions import Transitions
from selma.runtime.devices import enough_memory

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.backbones.loading import Pipeline
    from selma.runtime.params import Drawing


@dataclass(frozen=True)
class Noisy:
    """Which steps of a rollout are drawn with noise, to be trained on: the share of them from `start` to `end`."""

    form: str
    eta: float
    start: float = 0.0
    end: float = 1.0

    def window(self, steps: int) -> tuple[int, int]:
        """The first of them, and the first behind them, of `steps` steps; at least one."""
        first = min(int(self.start * steps), steps - 1)
        return first, max(first + 1, round(self.end * steps))


def noisy_steps(algorithm: ModuleType, settings: Mapping[str, Any]) -> Noisy | None:
    """What an algorithm's file and settings ask for; None where it learns from pictures, not from steps."""
    if not algorithm.STEPS:
        return None
    return Noisy(settings["form"], settings["eta"], settings.get("start", 0.0), settings.get("end", 1.0))


@dataclass(frozen=True)
class Drawn:
    """Some images of a round, [n, ...] each: final latents (fp32), the latents before and after the steps that were
    drawn with noise [n, kept steps + 1, c, h, w] (None without noise), and the pictures."""

    clean: torch.Tensor
    path: torch.Tensor | None
    images: list[Image]


class Sampler:
    """Draws images of known texts with a pipeline's UNet, as it is at the time."""

    def __init__(
        self,
        pipe: Pipeline,
        diffusion: Diffusion,
        texts: Sequence[str],
        drawing: Drawing,
        noisy: Noisy | None,
    ) -> None:
        """`texts` are all that will be drawn; `noisy` says which steps are drawn with noise, None is none.

        Raises UserError for what cannot be drawn: more steps than the backbone has, an impossible size.
        """
        self._pipe, self._drawing = pipe, drawing
        scheduler = make_scheduler("ddim", pipe.scheduler.config, drawing.steps)
        times = scheduler.timesteps.to(pipe.device)
        after = (times - scheduler.config.num_train_timesteps // drawing.steps).clamp(min=-1)
        self.transitions = Transitions(
            diffusion, times, after, *((noisy.form, noisy.eta) if noisy else ("ddim", 0.0))
        )
        first, last = noisy.window(drawing.steps) if noisy else (0, 0)
        std = self.transitions.std(torch.arange(drawing.steps, device=pipe.device)).flatten()
        # A step without noise has no density: DDIM's last one, where it ends on a clean image.
        self.noisy = [i for i in range(first, last) if std[i] > 1e-4]
        if noisy and not self.noisy:
            raise UserError(
                f"the rollout's steps {first} to {last - 1} are drawn without noise; widen the window"
            )
        width, height = image_size(pipe, drawing.resolution)
        self.shape = (
            pipe.unet.config.in_channels,
            height // pipe.vae_scale_factor,
            width // pipe.vae_scale_factor,
        )
        unique = list(dict.fromkeys(["", *texts]))
        self._row = {text: i for i, text in enumerate(unique)}
        # On the CPU: a thousand texts of SDXL's are more than a gigabyte.
        self.texts = conditioning.encode_texts(pipe, unique)
        ids = torch.tensor(
            [conditioning.time_ids((height, width), (0, 0), (height, width))], device=pipe.device
        )
        empty = self.texts[[0]].to(pipe.device)
        self.denoiser = Denoiser(pipe.unet, empty, ids.float(), drawing.guidance)

    def rows(self, texts: Sequence[str]) -> list[int]:
        """Each text's row in `self.texts`."""
        return [self._row[text] for text in texts]

    def draw(self, texts: Sequence[str], seeds: Sequence[int]) -> Iterator[Drawn]:
        """The images of texts[i] from seeds[i], in order, some at a time; the rest is drawn while the caller is at
        work. Raises UserError, naming its text, for an image that is not finite."""
        pipe, drawing = self._pipe, self._drawing
        pixels = self.shape[1] * self.shape[2] * pipe.vae_scale_factor**2
        parts = plan(len(texts), drawing.batch, PART_PIXELS // pixels, pipe.device.type)
        rows = self.rows(texts)

        def part(start: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
            # The last part is padded: every part has one size.
            chosen = [min(i, len(texts) - 1) for i in range(start, start + parts.size)]
            advice = f"lower policy.drawing.batch ({drawing.batch} images at once)"
            with enough_memory(advice), torch.no_grad():
                return self._part([rows[i] for i in chosen], [seeds[i] for i in chosen], memory)

        starts = range(0, len(texts), parts.size)
        with remembering(pipe.unet) as memory:
            drawn = ahead(
                (lambda _, start=start: part(start) for start in starts), parts.workers, parts.threads
            )
            try:
                for start, (clean, path, shown) in zip(starts, drawn, strict=True):
                    n = min(parts.size, len(texts) - start)
                    finite = shown[:n].isfinite().flatten(1).all(dim=1)  # decoding keeps what is not
                    if not finite.all():
                        text = texts[start + finite.tolist().index(False)]
                        raise UserError(f"the image of {text!r} is not finite; lower the learning rate")
                    pictures = pipe.image_processor.postprocess(shown[:n], output_type="pil")
                    yield Drawn(clean[:n], None if path is None else path[:n], pictures)
            finally:
                drawn.close()

    def _part(
        self, rows: list[int], seeds: list[int], memory: TextMemory
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        pipe, steps = self._pipe, self.transitions
        device, n = pipe.device, len(rows)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def noise() -> torch.Tensor:  # drawn on the CPU: the same numbers on every device
            return torch.stack([torch.randn(self.shape, generator=each) for each in generators]).to(device)

        latents, path = noise(), []
        condition = self.denoiser.condition(self.texts[rows].to(device))
        with memory.of(condition.states):
            for i in range(steps.steps):
                index = torch.full((n,), i, device=device)
                if i in self.noisy and not path:
                    path.append(latents)
                prediction = self.denoiser(latents, steps.times[index], condition)
                mean = steps.mean(prediction, latents, index, noise_free=i not in self.noisy)
                latents = mean + steps.std(index) * noise() if i in self.noisy else mean
                if i in self.noisy:
                    path.append(latents)
        kept = torch.stack(path, dim=1).cpu() if path else None
        return latents.cpu(), kept, decode(pipe, latents).cpu()
