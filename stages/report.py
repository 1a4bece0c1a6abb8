"""Write the self-contained HTML report and print the short table.

    python -m stages.report

reads   metrics/     eval.json, benchmarks.json, preferences.json, by_skill.csv, by_category.csv, merge/, filter/,
                     loss/, select/, policy/
        data/grid/   examples.json and the images that it names
writes  data/report/index.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selma.ground.files import write_text
from selma.reporting import report, table
from selma.reporting.metrics import read_summary
from selma.runtime import stage, work
from selma.runtime.params import Expert, load_params, results

OUT = Path("data/report")


def main() -> None:
    params = load_params()
    learned = {name: asdict(policy) for name, policy in params.policies.items()}
    mixed = {name: asdict(mixture) for name, mixture in params.mixtures.items()}
    page = report.render(
        Path("metrics"),
        Path("data/grid"),
        profile=params.profile,
        skills=params.skills,
        experts=[*params.experts, *mixed],
        merges=list(params.merges),
        learned=learned,
        settings={
            "run": {"profile": params.profile, "seed": params.seed, "skills": params.skills},
            "experts": {name: given(expert) for name, expert in params.experts.items()},
            **({"rate": asdict(params.rate)} if params.rate.judges else {}),
            **_rows(renders=params.renders, draws=params.draws, picks=params.picks),
            "merges": {name: asdict(merge) for name, merge in params.merges.items()},
            **({"mixtures": mixed} if mixed else {}),
            **({"policies": learned, "policy": results(params.policy, "policy")} if learned else {}),
            "prompts": asdict(params.prompts),
            "filter": asdict(params.filter),
            "images": results(params.images, "images"),
            "expert": results(params.expert, "expert"),
            "select": asdict(params.select),
            "evaluate": results(params.evaluate, "evaluate") | {"compare": params.compare},
            "judge": results(params.judge, "judge"),
        },
    )
    with work.folder(stage.name()) as folder:
        write_text(folder / "report" / "index.html", page)
        work.publish(folder / "report", OUT)
    print(table.text_table(read_summary()))
    print(f"\nreport: {OUT / 'index.html'}")


def _rows(**sections: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of rows, those that have some."""
    return {
        section: {name: asdict(row) for name, row in rows.items()}
        for section, rows in sections.items()
        if rows
    }


def given(expert: Expert) -> dict[str, Any]:
    """What a row of `experts` sets itself."""
    return {key: value for key, value in asdict(expert).items() if value is not None}


if __name__ == "__main__":
    stage.run(main)
