"""What was measured of a LoRA, and the same as the hub's `model-index`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.ground.files import read_record
from selma.reporting.metrics import EVAL, Benchmarks, Preferences, read_summary
from selma.scoring.summary import over

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "text-to-image"


@dataclass(frozen=True)
class Measured:
    """The contents of metrics/eval.json, and of benchmarks.json and preferences.json beside it."""

    summary: Mapping[str, Any]
    benchmarks: Mapping[str, Any] = field(default_factory=dict)
    preferences: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path = EVAL) -> Measured | None:
    """What a finished run measured; None without metrics/eval.json. Raises UserError for a file of another shape."""
    if not path.is_file():
        return None
    further = {"benchmarks": Benchmarks, "preferences": Preferences}
    files = {name: path.with_name(f"{name}.json") for name in further}
    found = {name: read_record(file, further[name]) for name, file in files.items() if file.is_file()}
    return Measured(read_summary(path), **found)


def eval_results(measured: Measured, model: str | None, base: str | None) -> list[EvalResult]:
    """The scores of the row `model` and its gains over the row `base`, 0 to 1, as huggingface_hub's EvalResult.

    An empty list where it was not measured. A score without its interval says little, so both are kept together: the
    95% interval over prompts is in a metric's `args`.
    """
    summary = measured.summary
    drawing = {key: value for key, value in summary["drawing"].items() if value is not None}
    shared = {"images_per_prompt": summary["images_per_prompt"], **drawing}
    found = list(_faithful(summary["benchmark"], summary, summary["judge"], shared, model, base))
    for name, further in measured.benchmarks.items():
        found += _faithful(name, further, None, shared, model, base)
    for name, judges in measured.preferences.items():
        for judge, scores in judges.items():
            said = f"Mean score by {judge}, on its own scale"
            found += _metrics(name, scores, ("preference", said, judge), shared, model, base)
    return found


def _faithful(
    name: str,
    scores: Mapping[str, Any],
    judge: str | None,
    shared: Mapping[str, Any],
    model: str | None,
    base: str | None,
) -> Iterator[EvalResult]:
    by = f" that {judge} answers as expected" if judge else " that are answered as expected"
    said = f"Faithfulness: mean share of a prompt's questions{by}"
    return _metrics(name, scores, ("faithfulness", said, judge), shared, model, base)


def _metrics(
    name: str,
    scores: Mapping[str, Any],
    metric: tuple[str, str, str | None],
    shared: Mapping[str, Any],
    model: str | None,
    base: str | None,
) -> Iterator[EvalResult]:
    """The row's score on one benchmark, and its gain over the base where the two were compared."""
    from huggingface_hub import EvalResult

    kind, said, judge = metric
    parts = {kind: (said, scores["models"].get(model))}
    if model and base:
        parts[f"{kind}_gain"] = (f"{said}; gain over the base model", scores["gains"].get(over(model, base)))
    prompts = {"prompts": scores["n_prompts"]} if "n_prompts" in scores else {}
    for type, (text, estimate) in parts.items():
        if estimate is None:
            continue
        interval = {"interval_95": [estimate["low"], estimate["high"]]}
        yield EvalResult(
            task_type=TASK,
            task_name="Text-to-image",
            dataset_type=name,
            dataset_name=f"{name}, test prompts",
            dataset_split="test",
            dataset_args={**prompts, **shared},
            metric_type=type,
            metric_name=text,
            metric_value=estimate["mean"],
            metric_args={**interval, **({"judge": judge} if judge else {})},
        )
