"""A policy's state in one file, so that a run that is killed goes on with the round that it was in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from selma.ground.files import atomic
from selma.policies.learner import Learner

COPIES = ("start", "old", "average")


def save_state(file: Path, learner: Learner, record: dict[str, Any]) -> None:
    """Write the adapter, its copies, the optimizer and `record` (plain data), as one file or not at all."""
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in learner.parameters.items():
        tensors[f"new/{name}"] = parameter.detach()
        tensors |= {f"{kind}/{name}": learner.copies[kind][name] for kind in COPIES}
        tensors |= {f"adam.{key}/{name}": value for key, value in learner.optimizer.state[parameter].items()}
    tensors = {key: value.cpu().contiguous() for key, value in tensors.items()}
    with atomic(file) as temporary:
        save_file(
            tensors, temporary, metadata={"record": json.dumps(record), "updates": str(learner.updates)}
        )


def load_state(file: Path, learner: Learner) -> dict[str, Any] | None:
    """Put a saved state back, and return its record; None if there is no state yet."""
    from safetensors import safe_open

    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as opened, torch.no_grad():
        keys = list(opened.keys())
        for name, parameter in learner.parameters.items():
            parameter.copy_(opened.get_tensor(f"new/{name}"))
            for kind in COPIES:
                learner.copies[kind][name].copy_(opened.get_tensor(f"{kind}/{name}"))
            # AdamW's own names (step, exp_avg, exp_avg_sq); the fused one wants all of them on the device
            own = [key for key in keys if key.startswith("adam.") and key.partition("/")[2] == name]
            if own:
                learner.optimizer.state[parameter] = {
                    key.partition("/")[0].removeprefix("adam."): opened.get_tensor(key).to(parameter.device)
                    for key in own
                }
        learner.updates = int(opened.metadata()["updates"])
        return json.loads(opened.metadata()["record"])
