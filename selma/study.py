"""The README's claim, measured with care: several training seeds, and the curve over guidance.

    python -m selma.study            resumable; `make study` runs it

Each seed is a DVC experiment of its own (`study-<seed>-<digest>`: its own prompts, images, experts and noises; the same
exam), in which the single LoRA gets as many steps as all experts together. The curve draws the backbone and the
committed merged LoRA at several guidance scales, on both splits: settings are chosen on dev, claims made on test.

reads   the committed pipeline; models/backbones/, models/merged/, data/benchmarks/
writes  metrics/study/seeds.json      gains by seed and over all seeds, with 95% intervals
        metrics/study/guidance.csv    split, guidance, base, merged, gain, low, high
"""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import folder_digest, read_json, write_csv, write_json
from selma.ground.items import SPLITS, load_split
from selma.judging.judge import load_judge
from selma.runtime import stage
from selma.runtime.params import Params, load_params
from selma.scoring import exam
from selma.scoring.bootstrap import bootstrap_gain
from selma.scoring.scores import item_scores

SEEDS = (42, 43, 44)
FOLDER = Path("metrics/study")
COMPARED = {"gain": ("base", "merged"), "gain_over_single": ("all", "merged")}
PLACES = 4


def main() -> None:
    params = load_params()
    rows = guidance_curve(params, Path(".work/study"))
    write_csv(FOLDER / "guidance.csv", rows, ["split", "guidance", "base", "merged", "gain", "low", "high"])
    scores = {seed: seed_scores(seed, params) for seed in SEEDS}
    write_json(
        FOLDER / "seeds.json", pool(scores, params.evaluate.bootstrap, seed=params.seed, models=params.models)
    )
    print(f"wrote {FOLDER}/guidance.csv and {FOLDER}/seeds.json")


def guidance_curve(params: Params, kept: Path) -> list[dict]:
    """Scores of base and merged at every guidance scale; what an earlier call drew is read from `kept`."""
    from selma.backbones.loading import load_pipeline  # torch: only where something is drawn

    folder = Path("models/backbones") / params.expert.backbone
    merged = Path(params.models["merged"].weights)
    settings = f"{params.seed} {params.evaluate} {params.judge} {params.runtime}"
    inputs = [folder_digest(path) for path in (folder, merged, Path("data/benchmarks"))]
    version = _digest(settings, *inputs)
    runtime, evaluate = params.runtime, params.evaluate
    judge = load_judge(params.judge.name, runtime.device, runtime.dtype)
    rows = []
    for split in SPLITS:
        items = load_split(Path("data/benchmarks") / evaluate.benchmark, split)
        for guidance in exam.scales(evaluate.guidance):
            by_model = {}
            for name, lora in (("base", None), ("merged", merged)):
                path = kept / version / f"{split}-{guidance:g}-{name}.json"
                if not path.exists():
                    print(f"{split}, guidance {guidance:g}, {name}", file=sys.stderr)
                    pipe = load_pipeline(folder, runtime.device, runtime.dtype, lora=lora)
                    scored = exam.draw_scores(
                        pipe,
                        judge,
                        items,
                        images=1,
                        seed=params.seed,
                        guidance=guidance,
                        steps=evaluate.steps,
                        scheduler=evaluate.scheduler,
                        batch=evaluate.batch,
                        size=evaluate.resolution,
                    )
                    write_json(path, item_scores(scored))
                by_model[name] = read_json(path)
            rows.append({"split": split, "guidance": guidance, **_compare(by_model, evaluate.bootstrap)})
    return rows


def _compare(by_model: Mapping[str, Mapping[str, float]], resamples: int) -> dict[str, float]:
    base, merged = by_model["base"], by_model["merged"]
    gain, low, high = bootstrap_gain(
        list(base.values()), [merged[item] for item in base], resamples=resamples, seed=0
    )
    mean = {name: sum(scores.values()) / len(scores) for name, scores in by_model.items()}
    return {
        key: round(value, PLACES) for key, value in {**mean, "gain": gain, "low": low, "high": high}.items()
    }


def seed_scores(seed: int, params: Params) -> dict[str, dict[str, float]]:
    """Scores by model and item of one training seed: its DVC experiment's metrics/items.csv, run if need be."""
    # The name says what was run: other params, another lock file or other code make another experiment.
    pipeline = [Path(file).read_text(encoding="utf-8") for file in ("params.yaml", "dvc.yaml", "dvc.lock")]
    name = f"study-{seed}-{_digest(*pipeline)}"
    steps = params.expert.steps * len(params.merge.experts)
    if _reference(name) is None:
        command = ["dvc", "exp", "run", "--temp", "--name", name]
        _run([*command, "-S", f"seed={seed}", "-S", f"++experts.all.steps={steps}"])
    text = _output(["git", "show", f"{_reference(name)}:metrics/items.csv"])
    found: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        for model in row.keys() - {"item", "skill"}:
            found.setdefault(model, {})[row["item"]] = float(row[model])
    return found


def pool(
    scores: Mapping[int, Mapping[str, Mapping[str, float]]],
    resamples: int,
    *,
    seed: int,
    models: Sequence[str],
) -> dict:
    """Means and gains of every seed, and over all seeds: an item's score is then its mean over seeds."""

    def summary(by_model: Mapping[str, Mapping[str, float]]) -> dict:
        result: dict = {
            "mean": {m: round(sum(s.values()) / len(s), PLACES) for m in models if (s := by_model.get(m))}
        }
        for key, (reference, other) in COMPARED.items():
            if reference in by_model and other in by_model:
                items = list(by_model[reference])
                a, b = ([by_model[m][item] for item in items] for m in (reference, other))
                estimate = bootstrap_gain(a, b, resamples=resamples, seed=seed)
                result[key] = dict(
                    zip(("mean", "low", "high"), (round(x, PLACES) for x in estimate), strict=True)
                )
        return result

    first = next(iter(scores.values()))
    mean = {
        model: {item: sum(s[model][item] for s in scores.values()) / len(scores) for item in first[model]}
        for model in first
    }
    return {"all": summary(mean), "seed": {str(s): summary(by_model) for s, by_model in scores.items()}}


def _reference(name: str) -> str | None:
    """The git reference of a DVC experiment of this name, the newest one; None if there is none."""
    names = _output(["git", "for-each-ref", "--format=%(refname)", "--sort=-committerdate", "refs/exps"])
    return next((ref for ref in names.split() if ref.endswith(f"/{name}")), None)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:10]


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _run(command: list[str]) -> None:
    print(" ".join(command), file=sys.stderr)
    if subprocess.run(command).returncode:
        raise UserError(
            f"study: `{' '.join(command)}` failed; mend what it says above and run the study again"
        )


if __name__ == "__main__":
    stage.run(main)
