"""Let a model improve itself online: it draws, judges reward, an algorithm learns; the best checkpoint is kept.

    python -m stages.policy nft

reads   policies.<name>.start           the backbone's folder, or an expert's
        policies.<name>.prompts         prompts with their questions: data/questions, or a benchmark's dev split
        data/benchmarks/                the leading one's dev split chooses the checkpoint; no prompt is near any split
        models/judges/                  those that reward, and those that only look on
writes  models/checkpoints/<name>/      step-000000/, ... each a LoRA folder, numbered by rounds
        models/experts/<name>/          the chosen one: the last within the dev score's noise of the best
        metrics/policy/<name>.csv       round, images, reward, diversity, loss, distance, dev scores
        metrics/policy/<name>.json      chosen round, dev scores and their noise, images, why it stopped early

docs/self-improvement.md explains the algorithms. A killed run goes on behind its last whole round.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma.backbones.loading import load_pipeline
from selma.experts.checkpoints import checkpoints
from selma.ground.errors import UserError
from selma.ground.files import write_csv, write_json
from selma.ground.items import exam_prompts
from selma.policies.prompts import apart, unlike
from selma.policies.rounds import columns, improve
from selma.policies.starting import start
from selma.prompts.training import training_items
from selma.rewards.examined import Examiner
from selma.rewards.judged import open_judges
from selma.rewards.weighted import Rewarder
from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, EXPERTS
from selma.scoring.dev import choose


def main(name: str) -> None:
    params = load_params()
    if name not in params.policies:
        raise UserError(f"policies: no policy {name!r} in params.yaml; allowed: {', '.join(params.policies)}")
    row, policy, seed = params.policies[name], params.policy, params.seed
    backbone = Path(BACKBONES) / params.expert.backbone
    device, dtype, batch = params.runtime.device, params.runtime.dtype, params.judge.batch
    benchmarks = [Path("data/benchmarks") / benchmark for benchmark in params.evaluate.benchmarks]
    found = unlike(training_items(Path(row.prompts), params.skills), exam_prompts(benchmarks))
    items, dev = apart(found, benchmarks[0])
    judges = open_judges(row.rewards, [*items, *dev], device, dtype, batch)
    watching = judges + open_judges(row.held_out, dev, device, dtype, batch)

    pipe = load_pipeline(backbone, device, dtype)
    learner, card = start(pipe, row, f"policies.{name}", items, backbone, policy, seed)
    with work.folder(stage.name()) as folder:
        out, chosen = folder / "checkpoints", folder / "chosen"
        with work.called({out: f"models/checkpoints/{name}"}):
            found = improve(
                learner,
                items,
                Rewarder(judges, row.rewards, learner, seed),
                Examiner(
                    pipe, dev, watching, row.rewards, params.evaluate.drawing, policy.images_per_prompt, seed
                ),
                policy,
                images=row.images,
                seed=seed,
                folder=out,
                state=folder / "state.safetensors",
                provenance=card | {"name": name},
                progress=lambda rounds: stage.progress(rounds, len(rounds), f"policy {name}", "rounds"),
                on_row=tracking.log_row,
            )
        sound = found.candidates(list(checkpoints(out)))
        dev = {number: scores for number, scores in found.dev.items() if number in sound}
        best, noises = choose(dev) if dev else (max(sound), {})
        shutil.rmtree(chosen, ignore_errors=True)
        shutil.copytree(checkpoints(out)[best], chosen)
        write_csv(folder / "curve.csv", found.rows, columns(found.rows))
        metrics = {"algorithm": row.algorithm, "prompts": len(items), "updates": learner.updates}
        metrics |= found.metrics(best, noises)
        write_json(folder / "metrics.json", metrics)
        work.publish_all(
            {
                folder / "curve.csv": Path("metrics/policy") / f"{name}.csv",
                folder / "metrics.json": Path("metrics/policy") / f"{name}.json",
                out: Path("models/checkpoints") / name,
                chosen: Path(EXPERTS) / name,
            }
        )


if __name__ == "__main__":
    stage.run(main)
