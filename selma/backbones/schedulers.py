"""Noise schedules and samplers on a backbone's own scheduler config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selma.ground.errors import UserError, first_line

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
PREDICTIONS = ("epsilon", "v_prediction")
# The noise that a backbone was trained on; a class of diffusers drops what it does not know, without a word.
SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


def make_scheduler(name: str, config: Mapping[str, Any], steps: int | None = None) -> SchedulerMixin:
    """Build the sampler `name` on a backbone's scheduler config (betas, prediction type, offsets).

    Where `steps` are given its timesteps are set, on the CPU.
    Raises UserError for a name that is not in SCHEDULERS, for a config of which the sampler would drop what the
    backbone was trained on, and, where `steps` are given, for more of them than the backbone has.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise UserError(f"scheduler: {name!r} is unknown; allowed: {', '.join(SCHEDULERS)}")
    if dropped := _dropped(name, config):
        others = [other for other in SCHEDULERS if not _dropped(other, config)]
        raise UserError(
            f"scheduler: {name} does not know {dropped[0]}, which this backbone was trained with; "
            f"allowed: {', '.join(others) or 'none'}"
        )
    class_name, options = SCHEDULERS[name]
    try:
        scheduler = getattr(diffusers, class_name).from_config(config, **options)
        if steps is not None:
            trained = scheduler.config.num_train_timesteps
            if steps > trained:
                raise ValueError(
                    f"{steps} steps are more than the {trained} that the backbone was trained on"
                )
            scheduler.set_timesteps(steps)
            if scheduler.timesteps.max() >= trained:  # by its offset: 1,000 steps from 1 on
                raise ValueError(f"{steps} steps would begin beyond the last of {trained}; take fewer")
    except Exception as error:  # an unknown spacing or beta schedule, each an error of its own kind
        raise UserError(f"scheduler: {name} cannot draw with this backbone ({first_line(error)})") from error
    return scheduler


def training_schedule(pipe: Pipeline) -> DDPMScheduler:
    """The backbone's noise schedule: its own betas and prediction type, whatever sampler it names."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(pipe.scheduler.config)


def check_schedule(scheduler: SchedulerMixin) -> None:
    """Raise ValueError unless a backbone's own scheduler states the noise it was trained on, in terms known here.

    Schedulers of other families (flow matching, EDM) know no betas: built on their config, every sampler would take
    its own defaults.
    """
    config = scheduler.config
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"scheduler/scheduler_config.json: a {type(scheduler).__name__} has no betas; "
            "a schedule of discrete steps is needed"
        )
    if config.prediction_type not in PREDICTIONS:
        raise ValueError(
            f"scheduler/scheduler_config.json: prediction_type is {config.prediction_type!r}; "
            f"allowed: {', '.join(PREDICTIONS)}"
        )
    if len(scheduler.alphas_cumprod) != config.num_train_timesteps:
        raise ValueError(
            f"scheduler/scheduler_config.json: has {len(scheduler.alphas_cumprod)} trained_betas; "
            f"num_train_timesteps is {config.num_train_timesteps}, which must be as many"
        )
    if not scheduler.alphas_cumprod.isfinite().all():
        raise ValueError("scheduler/scheduler_config.json: its betas are not finite")


def _dropped(name: str, config: Mapping[str, Any]) -> list[str]:
    """What of SCHEDULE is set in `config` and unknown to a sampler's class."""
    import diffusers

    known = inspect.signature(getattr(diffusers, SCHEDULERS[name][0]).__init__).parameters
    return [key for key in SCHEDULE if config.get(key) and key not in known]
