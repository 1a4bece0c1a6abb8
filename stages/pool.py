"""Name the skills whose images are pooled, beside them: an expert trained on data/images reads these and no others.

    python -m stages.pool

reads   nothing but params
writes  data/images/skills.json   the names in `skills`, in their order

A file of its own, so that one more skill concerns those who read data/images, and no expert of another skill.
"""

from __future__ import annotations

from pathlib import Path

from selma.ground.files import write_json
from selma.ground.pairs import POOL
from selma.runtime import stage, work
from selma.runtime.params import load_params
from selma.runtime.places import IMAGES


def main() -> None:
    params = load_params()
    with work.folder(stage.name()) as folder:
        write_json(folder / POOL, params.skills)
        work.publish(folder / POOL, Path(IMAGES) / POOL)


if __name__ == "__main__":
    stage.run(main)
