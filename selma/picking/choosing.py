"""A picker's verdicts on every prompt's images, written as a folder to train on, and counted."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import write_jsonl
from selma.ground.pairs import HELD_OUT, METADATA, read_prompts
from selma.picking.shots import KEPT, REJECTED, Shot

VERDICTS = "verdicts.jsonl"
PLACES = 6

Verdicts = Mapping[tuple[str, int], str]  # by prompt id and number


def judged(shots: Mapping[str, Sequence[Shot]], picker: Callable[[Sequence[Shot]], list[str]]) -> Verdicts:
    """The picker's verdicts; raises UserError where no image is kept, saying why."""
    said = {
        (id, shot.k): verdict
        for id, group in shots.items()
        for shot, verdict in zip(group, picker(group), strict=True)
    }
    if KEPT not in said.values():
        counted = ", ".join(f"{count} {verdict}" for verdict, count in Counter(said.values()).most_common())
        highest: dict[str, float] = {}
        for group in shots.values():
            for shot in group:
                for judge, score in shot.scores.items():
                    highest[judge] = max(score, highest.get(judge, score))
        scores = ", ".join(f"{judge} {score:g}" for judge, score in highest.items())
        raise UserError(f"no image is kept: {counted}; the highest scores are {scores or 'none'}")
    return said


def write_picked(
    folder: Path, shots: Mapping[str, Sequence[Shot]], said: Verdicts, held_out: Sequence[Path]
) -> None:
    """Copy the kept images and the rejected ones beside them into `folder`, an HF imagefolder.

    metadata.jsonl has a row {file_name, text, id, seed} for each kept image and, where the picker makes pairs,
    `rejected` and `rejected_seed`: the file of the worse one, and what it was drawn from. Of several pairs of a prompt
    the first kept one has the first rejected one, and so on.
    verdicts.jsonl says of every image what became of it.
    """
    rows, verdicts = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for id, group in shots.items():
        rejected = iter([shot for shot in group if said[id, shot.k] == REJECTED])
        for shot in group:
            verdict = said[id, shot.k]
            verdicts.append({"id": id, "k": shot.k, "verdict": verdict, "scores": dict(shot.scores)})
            if verdict not in (KEPT, REJECTED):
                continue
            shutil.copyfile(shot.pair.file, folder / shot.pair.file.name)
            if verdict == KEPT:
                worse = next(rejected, None)
                row = {
                    "file_name": shot.pair.file.name,
                    "text": shot.pair.text,
                    "id": id,
                    "seed": shot.pair.seed,
                }
                row |= {"k": shot.k} if shot.k else {}
                row |= {"tokens": list(shot.pair.tokens)} if shot.pair.tokens else {}
                row |= {"rejected": worse.pair.file.name, "rejected_seed": worse.pair.seed} if worse else {}
                row |= {"rejected_tokens": list(worse.pair.tokens)} if worse and worse.pair.tokens else {}
                rows.append(row)
    write_jsonl(folder / METADATA, rows)
    write_jsonl(folder / VERDICTS, verdicts)
    if prompts := [prompt for file in held_out for prompt in read_prompts(file)]:
        write_jsonl(folder / HELD_OUT, prompts)


def summary(shots: Mapping[str, Sequence[Shot]], said: Verdicts) -> dict[str, Any]:
    """What was kept, how often each verdict fell, and the judges' mean scores of all and of the kept images."""
    every = [(shot, said[id, shot.k]) for id, group in shots.items() for shot in group]
    kept = [shot for shot, verdict in every if verdict == KEPT]
    judges = every[0][0].scores
    return {
        "prompts": len(shots),
        "images": len(every),
        "kept": len(kept),
        "prompts_kept": len({shot.pair.id for shot in kept}),
        "verdicts": dict(Counter(verdict for _, verdict in every).most_common()),
        "scores": {
            judge: {
                "all": round(fmean(shot.scores[judge] for shot, _ in every), PLACES),
                "kept": round(fmean(shot.scores[judge] for shot in kept), PLACES),
            }
            for judge in judges
        },
    }
