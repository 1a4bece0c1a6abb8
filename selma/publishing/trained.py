"""What a LoRA was made of, for its model card: images that experts trained on, judges that policies learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from selma.ground.adapters import CARD, Card
from selma.ground.files import read_record
from selma.ground.schema import Index, record
from selma.publishing.model_card import Data, Learned
from selma.runtime.learning import SOLACE
from selma.runtime.places import DRAWN, EXPERTS, IMAGES, PICKED, QUESTIONS, RENDERED

if TYPE_CHECKING:
    from selma.runtime.params import Params


@record
class _Rounds(TypedDict):
    """What a policy's lora.json says of the rounds that it took."""

    rounds: Index
    images: Index


def origins(names: Iterable[str], params: Params) -> list[str]:
    """The rows of `experts` and `policies` of these names, each once, behind those that it started from."""
    found: dict[str, None] = {}
    for name in names:
        chain = [name]
        while chain[-1] in params.policies:
            start = Path(params.policies[chain[-1]].start)
            if start.parent != Path(EXPERTS):
                break
            chain.append(start.name)
        found.update(dict.fromkeys(reversed(chain)))
    return list(found)


def data(experts: Iterable[str], params: Params) -> Data | None:
    """The images that these experts were trained on; None without experts.

    Raises UserError for a lora.json that cannot be read.
    """
    experts = list(experts)
    if not experts:
        return None
    cards = [Path(EXPERTS) / expert / CARD for expert in experts]
    counts = [read_record(card, Card).get("images") if card.is_file() else None for card in cards]
    skills: dict[str, None] = {}
    own: dict[str, None] = {}
    for expert in experts:
        if expert in params.own.loras:
            file = Path(params.own.loras[expert].path).name
            own[f"what `{expert}`, a LoRA of another tool ({file}), was trained on"] = None
            continue
        row = params.experts.get(expert)
        folder = Path(row.data if row else f"{IMAGES}/{expert}")
        if Path(IMAGES) in (folder, *folder.parents):
            pooled = (row and row.skills) or params.skills
            skills.update(dict.fromkeys(pooled if folder == Path(IMAGES) else [folder.name]))
        else:
            own[_made(folder, params)] = None
    return Data(
        skills=list(skills),
        own=list(own),
        each=params.images.candidates,
        images=None if None in counts else sum(counts),
        drawn_by=params.images.backbone,
        steps=params.images.drawing.steps,
        guidance=params.images.drawing.guidance,
        prompts=f"written by {author(params)}",
    )


def _made(folder: Path, params: Params) -> str:
    """How the images of a folder that is no skill's came to be, in words."""
    if folder.parent == Path(RENDERED) and folder.name in params.renders:
        return "pairs that the embedded world's renderer made, which no model drew"
    if folder.parent == Path(DRAWN) and folder.name in params.draws:
        row = params.draws[folder.name]
        return f"images that `{Path(row.weights).name}` drew of the prompts in {row.prompts}"
    if folder.parent == Path(PICKED) and folder.name in params.picks:
        row = params.picks[folder.name]
        drawn = params.draws.get(Path(row.source).name)
        by = Path(drawn.weights).name if drawn else params.images.backbone
        return f"images that `{by}` drew, chosen by `{row.picker}` from scores by {', '.join(params.rate.judges)}"
    return f"images from {folder.name}, which were brought to it"


def learned(policies: Iterable[str], params: Params) -> list[Learned]:
    """How these policies learned. Raises UserError for a lora.json that cannot be read."""
    return [_learned(name, params) for name in policies]


def _learned(name: str, params: Params) -> Learned:
    row, card = params.policies[name], Path(EXPERTS) / name / CARD
    told: Mapping[str, int] = read_record(card, _Rounds) if card.is_file() else {}
    start = Path(row.start)
    return Learned(
        name=name,
        algorithm=row.algorithm,
        start=start.name if start.parent == Path(EXPERTS) else None,
        rewards=", ".join(_reward(judge, weight) for judge, weight in row.rewards.items()),
        judged=set(row.rewards) != {SOLACE},
        prompts=_prompts(Path(row.prompts), params),
        images=told.get("images"),
        rounds=told.get("rounds"),
    )


def _reward(judge: str, weight: float) -> str:
    what = f"`{judge}`" if judge != SOLACE else f"`{judge}`, the model's own confidence"
    return what if weight == 1 else f"{weight:g} times {what}"


def _prompts(folder: Path, params: Params) -> str:
    if Path(QUESTIONS) in (folder, *folder.parents):
        skills = params.skills if folder == Path(QUESTIONS) else [folder.name]
        return f"the pipeline's filtered prompts of {', '.join(skills)}, written by {author(params)}"
    return f"the dev split of the benchmark `{folder.name}`"


def author(params: Params) -> str:
    """Who wrote the pipeline's prompts."""
    by = f"llm.provider `{params.llm.provider}`"
    return f"`{params.llm.model}` ({by})" if params.llm.model else by
