"""Merge the experts into one LoRA (SELMA, section 3.4).

    python -m stages.merge

reads   models/experts/<name>/   for every name in merge.experts
writes  models/merged/           pytorch_lora_weights.safetensors (diffusers format) and lora.json
        metrics/merge.json       operator, rank, cosine of every two experts' updates, norms
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from selma.ground.files import write_json
from selma.lora.files import load_lora, save_lora
from selma.merging.algebra import cosine, norm
from selma.merging.merge import merge
from selma.runtime import stage, work
from selma.runtime.params import load_params


def main() -> None:
    params = load_params()
    experts = {name: load_lora(Path("models/experts") / name) for name in params.merge.experts}
    merged = merge(params.merge.operator, experts)
    norms = {name: norm(expert) for name, expert in {**experts, "merged": merged}.items()}
    cosines = {f"{a}|{b}": cosine(experts[a], experts[b]) for a, b in combinations(experts, 2)}

    with work.folder(stage.name()) as folder:
        save_lora(folder / "merged", merged.state(), merged.provenance)
        write_json(
            Path("metrics/merge.json"),
            {
                "operator": params.merge.operator,
                "experts": list(experts),
                "rank": merged.rank,
                "cosine": {pair: round(value, 4) for pair, value in cosines.items()},
                "norm": {name: round(value, 4) for name, value in norms.items()},
            },
        )
        work.publish(folder / "merged", Path("models/merged"))


if __name__ == "__main__":
    stage.run(main)
