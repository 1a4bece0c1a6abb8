"""Write the self-contained HTML report and print the short table.

    python -m stages.report

reads   metrics/     eval.json, benchmarks.json, preferences.json, by_skill.csv, by_category.csv, merge/, filter/,
                     loss/, select/, policy/, prompts/, questions/, human/
        data/grid/examples/   examples.json and the images that it names
        data/benchmarks/, data/answers/, data/samples/   the leading benchmark's prompts, answers and pictures
        data/images/         the training images of each skill
writes  data/report/index.html
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from selma.ground.files import write_text
from selma.reporting import report, table
from selma.reporting.detail import read
from selma.reporting.metrics import read_summary
from selma.reporting.settings import given, rows
from selma.reporting.spent import by_cost, spent
from selma.reporting.versions import what_ran
from selma.runtime import stage, work
from selma.runtime.params import load_params, results

DATA, METRICS, OUT = Path("data"), Path("metrics"), Path("data/report")


def main() -> None:
    params = load_params()
    summary = read_summary()
    detail = read(
        DATA,
        summary["benchmark"],
        list(params.models),
        params.compare,
        params.skills,
        resamples=params.evaluate.bootstrap,
        seed=params.seed,
    )
    card = DATA / "samples" / params.compare[0][1] / summary["benchmark"] / "README.md"
    llm = params.llm.provider, params.llm.model
    made_by = dict.fromkeys((params.expert.backbone, params.images.backbone))
    page = report.render(
        METRICS,
        DATA / "grid/examples",
        profile=params.profile,
        skills=params.skills,
        experts=[*params.experts, *params.mixtures],
        merges=list(params.merges),
        learned={name: asdict(policy) for name, policy in params.policies.items()},
        settings={
            "run": {"profile": params.profile, "seed": params.seed, "skills": params.skills},
            "experts": {name: given(expert) for name, expert in params.experts.items()},
            **({"rate": asdict(params.rate)} if params.rate.judges else {}),
            **rows(renders=params.renders, draws=params.draws, picks=params.picks, merges=params.merges),
            **rows(mixtures=params.mixtures, policies=params.policies),
            **({"policy": results(params.policy, "policy")} if params.policies else {}),
            "prompts": asdict(params.prompts),
            "filter": asdict(params.filter),
            "images": results(params.images, "images"),
            "expert": results(params.expert, "expert"),
            "select": asdict(params.select),
            "evaluate": results(params.evaluate, "evaluate") | {"compare": params.compare},
            "judge": {"name": params.judge.name, "kind": params.judge.kind},
        },
        detail=detail,
        ran=[
            *what_ran(llm, params.judge, made_by, params.seed, card),
            *spent(METRICS, params, detail),
        ],
        cost=by_cost(METRICS, params, summary["models"], detail),
    )
    with work.folder(stage.name()) as folder:
        write_text(folder / "report" / "index.html", page)
        work.publish(folder / "report", OUT)
    print(table.text_table(summary))
    print(f"\nreport: {OUT / 'index.html'}")


if __name__ == "__main__":
    stage.run(main)
