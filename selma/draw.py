"""Draw one prompt with several models, side by side, from the same initial noise, and let the judge look.

    python -m selma.draw "two red circles on a black background"
    python -m selma.draw "a blue square above a green cross" --models base,merged,count --images 2 --open
    python -m selma.draw "two white squares" --models base models/shipped/nft_long      a LoRA's folder, too
    python -m selma.draw "three white squares" --grid guidance=1,1.5,2,3        a row for each guidance scale
    python -m selma.draw "three white squares" --grid seed=0,1,2,3              a row for each seed

Backbone, scheduler, steps and guidance are those of params.yaml's evaluation, and so is the judge. It answers a
prompt's questions where they are known: the prompt stands in a benchmark or among the training prompts, or the
embedded LLM reads it. `--ask` asks another LLM for them, which may cost money.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from selma.ground.adapters import read_adapter
from selma.ground.backbones import is_backbone
from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.ground.mixtures import is_mixture, read_mixture
from selma.ground.pairs import write_image
from selma.reporting.beside import Column, Shown, compose
from selma.runtime import command
from selma.runtime.origins import embedded
from selma.runtime.params import Drawing, Model, Params, load_params
from selma.runtime.places import BACKBONES, BROUGHT, JUDGES
from selma.studies.prompted import item_of, unseen

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline
    from selma.ground.items import Question
    from selma.judging.judge import Judge
    from selma.scoring.scores import QuestionScore

MOST = 100  # images of a model on one page
MOST_GUIDANCE = 1000.0  # as params.yaml allows
GRIDS = ("guidance", "seed")


@dataclass(frozen=True)
class Row:
    """A row of the page: how it is drawn, from which seed, which image of it, and its name at the left."""

    drawing: Drawing
    seed: int
    k: int
    label: str


def main() -> None:
    parser = command.Parser(prog="python -m selma.draw", description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="rows of `models` or LoRAs' folders, spaces or commas between (default: the first pair in `compare`)",
    )
    parser.add_argument("--out", type=Path, default=Path("draw.png"))
    parser.add_argument("--images", type=int, help="number of images per model (default: 4)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the initial noise, from 0 on (default: 0)"
    )
    parser.add_argument("--grid", metavar="WHAT=VALUES", help="rows: guidance=1,1.5,2 or seed=0,1,2")
    parser.add_argument(
        "--ask", action="store_true", help="ask the LLM of params.yaml for the prompt's questions"
    )
    parser.add_argument("--open", action="store_true", help="show the picture when it is drawn")
    arguments = parser.parse_args()
    if code := command.run(lambda: _main(arguments)):
        sys.exit(code)


def _main(arguments: argparse.Namespace) -> None:
    prompt, out = arguments.prompt, arguments.out
    try:
        prompt.encode()
    except UnicodeEncodeError:  # bytes of a terminal that is not set to UTF-8
        raise UserError(f"prompt: {prompt!a} is not UTF-8 text") from None
    if not prompt.strip():
        raise UserError("prompt: empty; allowed: a text to draw")
    _check_out(out)
    params = load_params()
    if not 0 <= arguments.seed < 2**31:
        raise UserError(f"--seed: {arguments.seed}; allowed: 0 to {2**31 - 1}")
    rows = _rows(params.evaluate.drawing, arguments.images, arguments.seed, arguments.grid)
    models = _models(params, arguments.models)
    for model in models.values():
        _check_weights(Path(model.weights))
    backbone = Path(BACKBONES) / params.expert.backbone
    if not backbone.is_dir():
        raise UserError(f"{backbone}: not here yet; {BROUGHT}")
    item = item_of(prompt, params, ask=arguments.ask)
    columns = _drawn(params, models, item, rows)
    write_image(out, compose(prompt, columns, [row.label for row in rows if row.label]))
    print(out)
    if arguments.open and not webbrowser.open(out.resolve().as_uri()):
        print("--open: no program to show it was found here", file=sys.stderr)


def _models(params: Params, given: Sequence[str] | None) -> dict[str, Model]:
    """The models to draw with by name: rows of `models`, and folders of LoRAs, which are drawn by plain guidance."""
    names = [name for part in given or () for name in part.split(",") if name]
    allowed = f"allowed: {', '.join(params.models)}, or the folder of a LoRA"
    if given and not names:
        raise UserError(f"--models: no name; {allowed}")
    found: dict[str, Model] = {}
    folders: set[Path] = set()
    for name in names or [*reversed(params.compare[0])]:
        if name in params.models:
            found[name] = params.models[name]
        elif (folder := Path(name).resolve()).is_dir():
            if folder in folders:
                continue
            folders.add(folder)
            short = folder.name
            found[short if short not in {*params.models, *found} else name] = Model(name, "cfg")
        else:
            raise UserError(f"--models: {name}; {allowed}")
    return found


def _check_weights(folder: Path) -> None:
    """Raise UserError for weights that are missing or corrupt, before the first model draws."""
    if not folder.is_dir():
        raise UserError(f"{folder}: not here yet; {BROUGHT}")
    if not is_backbone(folder):
        read_mixture(folder) if is_mixture(folder) else read_adapter(folder)


def _rows(drawing: Drawing, images: int | None, seed: int, grid: str | None) -> list[Row]:
    """The page's rows: images of one seed, or what --grid names."""
    if grid is None:
        images = 4 if images is None else images
        if not 1 <= images <= MOST:
            raise UserError(f"--images: {images}; allowed: 1 to {MOST}")
        return [Row(drawing, seed, k, "") for k in range(images)]
    if images is not None:
        raise UserError("--images: not with --grid, which says how many rows there are")
    what, _, values = grid.partition("=")
    if what not in GRIDS:
        raise UserError(f"--grid: {grid}; allowed: guidance=1,1.5,2 or seed=0,1,2")
    rows = []
    for text in values.split(","):
        try:
            value = float(text) if what == "guidance" else int(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= (MOST_GUIDANCE if what == "guidance" else 2**63):
            raise UserError(
                f"--grid: {text!r} is no {what}; allowed: numbers of 0 or more with commas between"
            )
        own = replace(drawing, guidance=value) if what == "guidance" else drawing
        rows.append(Row(own, seed if what == "guidance" else int(value), 0, f"{what} {value:g}"))
    if len(rows) > MOST:
        raise UserError(f"--grid: {len(rows)} rows; allowed: 1 to {MOST}")
    return rows


def _check_out(out: Path) -> None:
    """Raise UserError or OSError, before anything is drawn, where the page could not be written."""
    if out.suffix.lower() not in (".png", ".webp") or out.is_dir():
        raise UserError(f"--out: {out}; allowed: a file that ends in .png or .webp")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass


def _drawn(params: Params, models: Mapping[str, Model], item: Item, rows: Sequence[Row]) -> list[Column]:
    """A column for each model, and a line for each on stderr: what the judge says, and how long drawing took."""
    from selma.backbones.loading import open_model  # torch: not before the options are known to be right

    runtime, backbone = params.runtime, Path(BACKBONES) / params.expert.backbone
    judge = _judge(params) if item.questions else None
    columns = []
    for name, model in models.items():
        pipe = open_model(Path(model.weights), backbone, runtime.device, runtime.dtype)
        if not columns and params.expert.backbone in embedded(params.worlds):
            _warn_of(unseen(item.prompt, pipe.tokenizer))
        columns.append(_column(params, name, model, pipe, judge, item, rows))
    if judge is None:
        print(f"not judged: {_why_not(item, params)}", file=sys.stderr)
    return columns


def _why_not(item: Item, params: Params) -> str:
    if item.questions:
        return f"{JUDGES / params.judge.name} is not here yet; `dvc repro judge own_judge` makes it"
    known = "no questions about this prompt are known here"
    if params.llm.provider == "openai":
        return f"{known}; --ask has the LLM write them"
    return f"{known}, and the embedded LLM reads prompts of its own world only"


def _judge(params: Params) -> Judge | None:
    from selma.judging.judge import load_judge

    name, runtime = params.judge.name, params.runtime
    return load_judge(name, runtime.device, runtime.dtype) if (JUDGES / name).is_dir() else None


def _warn_of(words: Sequence[str]) -> None:
    if words:
        print(f"words that the embedded model never saw: {', '.join(words)}", file=sys.stderr)


def _column(
    params: Params,
    name: str,
    model: Model,
    pipe: Pipeline,
    judge: Judge | None,
    item: Item,
    rows: Sequence[Row],
) -> Column:
    from selma.scoring import exam

    started = time.monotonic()
    images = []
    for drawing, seed in dict.fromkeys((each.drawing, each.seed) for each in rows):
        ks = [each.k for each in rows if (each.drawing, each.seed) == (drawing, seed)]
        drawn = exam.draw(
            pipe, [item], drawing, images=max(ks) + 1, seed=seed, method=model.guidance, options=model.options
        )
        images += [image for _, _, image in drawn]
    count = f"{len(images)} image{'s' if len(images) > 1 else ''} in {time.monotonic() - started:.1f} s"
    if judge is None:
        print(f"{name}: {count}", file=sys.stderr)
        return Column(name, [Shown(image) for image in images])
    shots = [(item, k, image) for k, image in enumerate(images)]
    scores = exam.faithfulness(judge, [item], iter(shots), where=name, batch=params.judge.batch)
    questions = {question.id: question for question in item.questions}
    shown = []
    for k, image in enumerate(images):
        own = [score for score in scores if score.k == k]
        wrong = [_said(score, questions[score.question]) for score in own if not score.score]
        shown.append(Shown(image, len(own) - len(wrong), len(own), wrong))
    found = f"{100 * fmean(score.score for score in scores):.0f}% faithful by {params.judge.name}"
    print(f"{name}: {found}, {count}", file=sys.stderr)
    return Column(name, shown)


def _said(score: QuestionScore, question: Question) -> str:
    """What the judge answered to a question that counts as wrong; void: it depends on one that is answered wrongly."""
    answer = "void" if score.answer == question.answer else score.answer or "no answer"
    return f"{answer}: {question.text}"


if __name__ == "__main__":
    main()
