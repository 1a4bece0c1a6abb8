"""Write the self-contained HTML report and print the short table.

    python -m stages.report

reads   metrics/     eval.json, others.json, by_skill.csv, merge.json, filter/, loss/, select/
        data/grid/   examples.json and the pictures that it names
writes  data/report/index.html
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from selma.ground.files import read_json, write_text
from selma.reporting import report, table
from selma.runtime import stage
from selma.runtime.params import load_params

OUT = Path("data/report/index.html")


def main() -> None:
    params = load_params()
    page = report.render(
        Path("metrics"),
        Path("data/grid"),
        profile=params.profile,
        benchmark=params.evaluate.benchmark,
        judge=params.judge.name,
        skills=params.skills,
        experts=list(params.experts),
        settings={
            "run": {"profile": params.profile, "seed": params.seed, "skills": params.skills},
            "prompts": asdict(params.prompts),
            "filter": asdict(params.filter),
            "images": asdict(params.images),
            "expert": asdict(params.expert),
            "select": asdict(params.select),
            "merge": asdict(params.merge),
            "evaluate": asdict(params.evaluate),
            "judge": asdict(params.judge),
        },
    )
    write_text(OUT, page)
    print(table.text_table(read_json(table.EVAL)))
    print(f"\nreport: {OUT}")


if __name__ == "__main__":
    stage.run(main)
