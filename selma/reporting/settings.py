"""What params.yaml says of a run, as the page shows it: section by section, defaults of rows left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from selma.runtime.params import Expert, Params, results


def shown(params: Params) -> dict[str, Mapping[str, Any]]:
    """The sections that a reader of results needs; what only changes speed is not among them."""
    learned = {name: asdict(policy) for name, policy in params.policies.items()}
    mixed = {name: asdict(mixture) for name, mixture in params.mixtures.items()}
    return {
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
    }


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
