"""Download a judge's pinned files; a published pickle is converted to safetensors, once.

    python -m stages.judge hpsv2

reads   the hub repositories that judges.<name> names; HF_TOKEN or a login where their owners require one
writes  models/judges/<name>/   the files, and judge.json {kind, weights, tokenizer, matcher, endpoint}

DVC keeps it, so a judge that is withdrawn from the hub still runs. What a killed run downloaded is used again.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.net.pinned import fetch
from selma.published.folder import PARTS, check_tokenizer
from selma.runtime import stage, variants, work
from selma.runtime.params import load_params
from selma.runtime.places import JUDGE_CARD, JUDGES


def main(name: str) -> None:
    params = load_params()
    if name not in params.judges:
        raise UserError(f"judges: no judge {name!r} in params.yaml; allowed: {', '.join(params.judges)}")
    source = params.judges[name]
    with work.folder(stage.name()) as folder:
        out = folder / "judge"
        out.mkdir(exist_ok=True)
        card: dict[str, Any] = {"kind": source.kind}
        for part, place in PARTS.items():
            pinned = getattr(source, part)
            if pinned is not None:
                downloads = folder / "downloads" / part
                files = fetch(pinned.repo, pinned.revision, pinned.files, out / place, downloads)
                card[part] = {"repo": pinned.repo, "revision": pinned.revision, "files": files}
        if source.endpoint is not None:
            card["endpoint"] = asdict(source.endpoint)
        if source.weights is not None:
            from selma.published.convert import convert  # torch: an endpoint does without it

            with work.called({out: f"judges.{name}"}):
                convert(out, source.kind)
                if "tokenizer" in variants.constants("judges", source.kind)["TAKES"]:
                    check_tokenizer(out)
        write_json(out / JUDGE_CARD, card)
        work.publish(out, JUDGES / name)


if __name__ == "__main__":
    stage.run(main)
