"""Online self-improvement: draw, reward, learn, round after round, and keep the best checkpoint on dev prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from selma.experts.draws import batch_indices
from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.lora.adapter import lora_state
from selma.lora.files import save_lora
from selma.policies.advantages import informative
from selma.policies.learner import Learner, Round
from selma.policies.state import load_state, save_state
from selma.runtime.devices import torch_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.runtime.params import Policy

# From a round's number, its pictures (item, place, image) as they come, and what gives all latents in the end, to
# rewards [n] and their means by judge.
Reward = Callable[
    [int, Iterator[tuple[Item, int, "Image"]], Callable[[], torch.Tensor]],
    tuple[torch.Tensor, dict[str, float]],
]
# From nothing to what the adapter, as it is, scores on dev prompts: the weighted reward by item, and means by judge.
Examine = Callable[[], tuple[dict[str, float], dict[str, float]]]
PLACES = 4  # of scores in the metrics
EQUAL = 3  # rounds in a row in which each prompt's rewards are all one number: there is nothing to learn from


@dataclass
class Progress:
    """What was found so far: the curve's rows, dev scores by round and item, and why it stopped early, if it did."""

    done: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    dev: dict[int, dict[str, float]] = field(default_factory=dict)
    equal: int = 0
    questions: int = 0  # asked of each judge about the rounds' pictures; a score for the prompt counts as one
    stopped: str | None = None

    def candidates(self, rounds: Sequence[int]) -> list[int]:
        """Those of the checkpoints' rounds that may be kept: the one at which it had collapsed is none of them."""
        return [number for number in rounds if not (self.stopped and number == self.done)] or list(rounds)

    def metrics(self, chosen: int, noise: Mapping[int, float]) -> dict[str, Any]:
        """What metrics/policy/<name>.json says of the rounds: the pictures and questions that they took, every examined
        round's dev score and its noise against the best, the one that is kept, and why they stopped early."""
        return {
            "images": self.rows[-1]["images"],
            "questions": self.questions,
            "chosen": chosen,
            "scores": {
                str(number): round(fmean(scores.values()), PLACES) for number, scores in self.dev.items()
            },
            "noise": {str(number): round(value, PLACES) for number, value in noise.items()},
            "stopped": self.stopped,
        }

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "dev": {str(number): scores for number, scores in self.dev.items()}}

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> Progress:
        """From plain data; a fresh one from None."""
        if record is None:
            return cls()
        return cls(**{**record, "dev": {int(number): scores for number, scores in record["dev"].items()}})


def improve(
    learner: Learner,
    items: Sequence[Item],
    reward: Reward,
    examine: Examine,
    policy: Policy,
    *,
    images: int,
    seed: int,
    folder: Path,
    state: Path,
    provenance: Mapping[str, Any],
    progress: Callable[[range], Iterable[int]] = iter,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Progress:
    """Spend a budget of `images` drawn and judged pictures on the items' prompts, and return what was found.

    Writes folder/step-000000/ (before the first round), step-000010/ and so on, numbered by rounds: every
    `policy.examine_every` and after the last, each the moving average of the adapter as a LoRA folder, whose lora.json
    is `provenance`, `rounds` and `images`. A run that finds the file `state` goes on behind the last round that it
    holds, and ends in the same bytes. It stops early where pictures of one prompt grow alike or predictions leave the
    start further than `policy` allows.
    Raises UserError for rewards that are not finite, and for a judge that gives all pictures of a prompt the same.
    """
    for half_written in folder.rglob(".tmp-*"):
        half_written.unlink()
    found = Progress.of(load_state(state, learner))
    rounds = images // (policy.prompts * policy.group)

    def keep(number: int) -> None:
        with learner.using("average"):
            scores, means = examine()
            if scores:
                found.dev[number] = scores
            done = {"rounds": number, "images": number * policy.prompts * policy.group}
            out = folder / f"step-{number:06d}"
            unet = learner.sampler.denoiser.unet
            save_lora(out, lora_state(unet), {**provenance, **done}, torch_dtype(policy.save_dtype))
        found.rows[-1] |= means

    if not found.rows:
        found.rows.append({"round": 0, "images": 0})
        keep(0)
        on_row(found.rows[-1])
        save_state(state, learner, found.record())
    for number in progress(range(found.done + 1, rounds + 1)):
        if found.stopped:
            break
        chosen = [items[i] for i in batch_indices(len(items), policy.prompts, seed, number - 1).tolist()]
        drawn, row = _draw(learner, chosen, reward, policy, seed, number)
        found.equal = 0 if informative(drawn.rewards).any() else found.equal + 1
        if found.equal == EQUAL:
            raise UserError(
                f"in {EQUAL} rounds in a row no picture of a prompt is rewarded more than another (the last reward is "
                f"{drawn.rewards[-1, -1].item():g}); take another judge or other prompts"
            )
        row |= {
            "loss": round(learner.learn(number, drawn), 6),
            "distance": round(learner.distance(number, drawn), 6),
        }
        found.rows.append(row)
        found.questions += policy.group * sum(len(item.questions) or 1 for item in chosen)
        found.stopped = _collapsed(found.rows, policy)
        if number % policy.examine_every == 0 or number == rounds or found.stopped:
            keep(number)
        found.done = number
        on_row(row)
        save_state(state, learner, found.record())
    return found


def _draw(
    learner: Learner, chosen: Sequence[Item], reward: Reward, policy: Policy, seed: int, number: int
) -> tuple[Round, dict[str, Any]]:
    """Round `number`, of the items `chosen` for it, and its row of the curve so far."""
    shots = [(item, k) for item in chosen for k in range(policy.group)]
    # The place in the round, too: where a round is larger than the set, a prompt is there twice.
    seeds = [image_seed(seed, number, place, item.id) for place, (item, _) in enumerate(shots)]
    sampler, parts = learner.sampler, []

    def pictures() -> Iterator[tuple[Item, int, Image]]:
        places = iter(enumerate(shots))
        for part in sampler.draw([item.prompt for item, _ in shots], seeds):
            parts.append(part)
            for image in part.images:
                place, (item, _) = next(places)
                yield item, place, image

    with learner.drawing():
        rewards, means = reward(number, pictures(), lambda: torch.cat([part.clean for part in parts]))
    clean = torch.cat([part.clean for part in parts])
    path = None if parts[0].path is None else torch.cat([part.path for part in parts])
    rows = torch.tensor(sampler.rows([item.prompt for item, _ in shots]))
    drawn = Round(rows, clean, path, rewards.view(policy.prompts, policy.group))
    row = {
        "round": number,
        "images": number * len(shots),
        "reward": round(rewards.mean().item(), 6),
        "diversity": round(diversity(clean, policy.group), 6),
        **means,
    }
    return drawn, row


def image_seed(seed: int, number: int, place: int, item: str) -> int:
    """The seed of a picture, 0 <= it < 2**31: a stable hash of the run's seed, the round, its place, its prompt."""
    digest = hashlib.sha256(f"{seed}:round {number}:{place}:{item}".encode()).hexdigest()
    return int(digest[:8], 16) >> 1


def diversity(clean: torch.Tensor, group: int) -> float:
    """How far pictures of one prompt are apart: the root mean square difference of two of a group's latents
    [prompts * group, c, h, w], averaged over prompts. 0: all alike."""
    groups = clean.float().view(-1, group, clean[0].numel())
    return (2 * groups.var(dim=1).mean(dim=1)).sqrt().mean().item()


def _collapsed(rows: Sequence[Mapping[str, Any]], policy: Policy) -> str | None:
    """Why to stop; None: go on."""
    first, last = rows[1], rows[-1]
    least = policy.least_diversity * first["diversity"]
    if last["diversity"] < least:
        return (
            f"round {last['round']}: pictures of one prompt are {last['diversity']:.3g} apart, less than "
            f"{policy.least_diversity:g} of the first round's {first['diversity']:.3g} (policy.least_diversity)"
        )
    if policy.most_distance is not None and last["distance"] > policy.most_distance:
        return (
            f"round {last['round']}: predictions are {last['distance']:.3g} from the start's, more than "
            f"{policy.most_distance:g} (policy.most_distance)"
        )
    return None


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a curve, in the order in which they come; a round that was not examined has no dev scores."""
    return list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))
