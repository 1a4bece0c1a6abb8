"""Noise schedules and samplers on a backbone's own scheduler config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selma.ground.errors import UserError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    from selma.backbones.loading import Pipeline


# Name in params.yaml -> (class in diffusers, options set over the backbone's own scheduler config).
# Latents have no fixed range, so DDIM must never clip them, whatever the config it inherits says.
SCHEDULERS: dict[str, tuple[str, dict]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
}


def make_scheduler(name: str, config: dict) -> SchedulerMixin:
    """Build the sampler `name` on a backbone's scheduler config (betas, prediction type, offsets).

    Raises UserError for a name that is not in SCHEDULERS.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise UserError(f"scheduler: {name!r} is unknown; allowed: {', '.join(SCHEDULERS)}")
    class_name, options = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(config, **options)


def training_schedule(pipe: Pipeline) -> DDPMScheduler:
    """The backbone's noise schedule: its own betas and prediction type, whatever sampler it names."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(pipe.scheduler.config)
