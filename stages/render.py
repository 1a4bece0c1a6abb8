"""Render real pairs of the embedded world: captions of skills, and pictures that show what they say.

    python -m stages.render real

reads   data/benchmarks/<name>/     those of evaluate.benchmarks: no caption is near a prompt of any split
writes  data/rendered/<name>/       <id>.webp and metadata.jsonl {file_name, text, id, seed}: an HF imagefolder;
                                    prompts.jsonl, the captions with their questions

In a real profile a folder of one's own takes its place: `data` of an expert, `prompts` of a row of `draws`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import write_jsonl
from selma.ground.items import Item, exam_prompts, write_items
from selma.ground.pairs import METADATA, prompt_id, write_image
from selma.prompts.diversity import exam_filter
from selma.prompts.training import FILE
from selma.runtime import stage, work
from selma.runtime.params import load_params
from selma.runtime.places import RENDERED
from selma.shapes.world.real import real_pairs


def main(name: str) -> None:
    params = load_params()
    if name not in params.renders:
        raise UserError(
            f"renders: no row {name!r} in params.yaml; allowed: {', '.join(params.renders) or 'none'}"
        )
    row = params.renders[name]
    exam = exam_prompts(Path("data/benchmarks") / benchmark for benchmark in params.evaluate.benchmarks)
    guard = exam_filter(exam)

    def is_new(text: str) -> bool:
        return next(iter(guard.judge([text]))).kept

    found = (
        (skill, *made)
        for skill in row.skills
        for made in real_pairs(row.seed, skill, row.images, is_new, spread=row.spread, jitter=row.jitter)
    )
    with work.folder(stage.name()) as folder:
        out, rows, items = folder / "images", [], []
        shutil.rmtree(out, ignore_errors=True)  # incomplete, if a run was stopped here
        for skill, text, questions, image in stage.progress(
            found, row.images * len(row.skills), f"render {name}"
        ):
            id = prompt_id(skill, text)
            write_image(out / f"{id}.webp", image)
            rows.append({"file_name": f"{id}.webp", "text": text, "id": id, "seed": row.seed})
            items.append(Item(id, text, skill, "rendered", questions))
        write_jsonl(out / METADATA, rows)
        write_items(out / FILE, items)
        work.publish(out, Path(RENDERED) / name)


if __name__ == "__main__":
    stage.run(main)
