"""Score saved answers without any model, so that scores can be checked against other people's answers.

    python -m selma.score dsg ANSWERS.csv [--annotations dsg-1k-anns.csv] [--t2i-model sd2dot1]
    python -m selma.score tifa RESULT.json [--annotations tifa_v1.0_question_answers.json]
    python -m selma.score tifa data/answers/merged/tifa.jsonl
    python -m selma.score hps SCORES.csv
    python -m selma.score dpg ANSWERS [--annotations dpg_bench.csv]
    python -m selma.score geneval RESULTS.jsonl
    python -m selma.score geneval2 SCORES.json --annotations geneval2_data.jsonl
    python -m selma.score compbench vqa_result.json [--images 10]

ANSWERS   CSV {item_id, question_id, answer}, or this pipeline's data/answers/<model>/<benchmark>.jsonl; or the official
          scorer's output: TIFA's result, DPG-Bench's ..._detail.txt, GenEval's results by detector, GenEval 2's
          score lists, T2I-CompBench++'s vqa_result.json
SCORES    CSV {item_id, score}, or this pipeline's data/preferences/<judge>/<model>/<benchmark>.jsonl

Prints JSON; selma/scoring/figures.py says what a figure is. Exit code 2: bad input, with one line on stderr.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.items import load_items, load_split
from selma.judging import choices
from selma.runtime import command
from selma.scoring import compbench, dpg, geneval, geneval2
from selma.scoring import paper_tables as tables
from selma.scoring.saved import Saved, read_answers, read_scores
from selma.scoring.soft_tifa import soft_tifa_table
from selma.variants.benchmarks import dpg as dpg_benchmark
from selma.variants.benchmarks import dsg, tifa
from selma.variants.benchmarks import geneval as geneval_benchmark
from selma.variants.benchmarks import geneval2 as geneval2_benchmark

FOLDER = Path("data/benchmarks")
MOST = 1_000_000  # resamples: minutes


def main() -> None:
    arguments = _parser().parse_args()
    if code := command.run(lambda: _main(arguments)):
        sys.exit(code)


def _main(arguments: argparse.Namespace) -> None:
    if not 2 <= arguments.resamples <= MOST:
        raise UserError(f"--resamples: {arguments.resamples}; allowed: 2 to {MOST}")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed: {arguments.seed}; allowed: 0 to {2**32 - 1}")
    print(json.dumps(arguments.score(arguments), indent=2, ensure_ascii=False, allow_nan=False))


def _parser() -> command.Parser:
    parser = command.Parser(prog="python -m selma.score", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(
        dest="benchmark", required=True, metavar="{dsg,tifa,hps,dpg,geneval,geneval2,compbench}"
    )

    one = _add(commands, "dsg", _dsg, "DSG-1K, yes/no answers", "annotations.csv")
    one.add_argument(
        "--t2i-model", metavar="NAME", help="the text-to-image model to score, if the file holds several"
    )
    one.add_argument(
        "--exact", action="store_true", help='count only the literal "yes", as the official scorer does'
    )

    one = _add(commands, "tifa", _tifa, "TIFA v1.0, multiple choice", "questions.json")
    one.add_argument(
        "--t2i-model", metavar="NAME", help="the text-to-image model to score, if the file holds several"
    )
    one.add_argument(
        "--embedder",
        type=Path,
        metavar="FOLDER",
        help="all-mpnet-base-v2: maps an answer that is not a choice to the nearest one",
    )

    one = _add(commands, "hps", _hps, "HPS v2's prompts, preference scores", "test.jsonl")
    one.add_argument("--judge", metavar="NAME", help="the judge whose scores to read, if there are several")

    one = _add(commands, "dpg", _dpg, "DPG-Bench, yes/no answers", "annotations.csv")
    one.add_argument(
        "--exact", action="store_true", help="follow the official script to the letter, slips included"
    )

    _add(commands, "geneval", _geneval, "GenEval, saved detections or answers", "metadata.jsonl")
    _add(commands, "geneval2", _geneval2, "GenEval 2, Soft-TIFA", "data.jsonl")

    one = _add(commands, "compbench", _compbench, "T2I-CompBench++", "test.jsonl")
    one.add_argument(
        "--images",
        type=int,
        default=1,
        metavar="N",
        help="images of a prompt in vqa_result.json (default: 1)",
    )
    return parser


def _add(commands: Any, name: str, score: Any, description: str, annotations: str) -> command.Parser:
    parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(score=score)
    parser.add_argument("answers", type=Path, metavar="SCORES" if name == "hps" else "ANSWERS")
    default = FOLDER / name / annotations
    parser.add_argument("--annotations", type=Path, metavar="FILE", help=f"default: {default}")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="bootstrap seed (default: 0)")
    return parser


def _dsg(arguments: argparse.Namespace) -> dict[str, Any]:
    answers = read_answers(arguments.answers, model=arguments.t2i_model, questions_by="dsg")
    annotations = dsg.read_annotations(_annotations(arguments, "annotations.csv"))
    figure = tables.percent(arguments.resamples, arguments.seed)
    return tables.dsg_table(annotations, answers, figure, where=arguments.answers, exact=arguments.exact)


def _tifa(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.answers.suffix == ".json":
        if arguments.t2i_model is not None:
            raise UserError(f"{arguments.answers}: an official result is about one model; nothing to pick")
        items, answers = _official_tifa(arguments)
    else:
        answers = read_answers(arguments.answers, model=arguments.t2i_model)
        items = tifa.read_questions(_annotations(arguments, "questions.json"))
    choose = choices.match
    if arguments.embedder is not None:
        from selma.judging.embedding import SentenceEmbedder  # torch: only here

        choose = choices.chooser(SentenceEmbedder(arguments.embedder))
    figure = tables.percent(arguments.resamples, arguments.seed)
    return tables.tifa_table(items, answers, figure, where=arguments.answers, choose=choose)


def _official_tifa(arguments: argparse.Namespace) -> tuple[list[Any], list[Saved]]:
    """An official result holds its questions; annotations, if given, must hold the same and no further prompt."""
    items, given = tifa.read_result(arguments.answers)
    if arguments.annotations is not None:
        answered = {item.id for item in items}
        for item in tifa.read_questions(arguments.annotations):
            if item.id not in answered:
                raise UserError(f"{arguments.answers}: has no answers to item {item.id!r}; TIFA needs all")
    return items, [Saved(item, 0, question, answer, 0) for (item, question), answer in given.items()]


def _hps(arguments: argparse.Namespace) -> dict[str, Any]:
    scores = read_scores(arguments.answers, judge=arguments.judge)
    items = load_split(_annotations(arguments, "test.jsonl").parent, "test")
    figure = tables.plain(arguments.resamples, arguments.seed)
    return tables.style_table(items, scores, figure, where=arguments.answers)


def _dpg(arguments: argparse.Namespace) -> dict[str, Any]:
    annotations = dpg_benchmark.read_annotations(_annotations(arguments, "annotations.csv"))
    if arguments.answers.suffix == ".txt":
        answers = dpg.read_detail(arguments.answers, annotations)
    else:
        answers = read_answers(arguments.answers)
    figure = tables.percent(arguments.resamples, arguments.seed)
    return dpg.dpg_table(annotations, answers, figure, where=arguments.answers, exact=arguments.exact)


def _geneval(arguments: argparse.Namespace) -> dict[str, Any]:
    if official := geneval.is_official(arguments.answers):
        images = geneval.read_detections(arguments.answers)
    else:
        items = geneval_benchmark.read({"metadata": _annotations(arguments, "metadata.jsonl")})
        images = geneval.judged(items, read_answers(arguments.answers), arguments.answers)
    figure = tables.percent(arguments.resamples, arguments.seed)
    table = geneval.geneval_table(images, figure, resamples=arguments.resamples, seed=arguments.seed)
    return {"scorer": "detector" if official else "VQA judge, not the official detector", **table}


def _geneval2(arguments: argparse.Namespace) -> dict[str, Any]:
    prompts = geneval2_benchmark.read_data(_annotations(arguments, "data.jsonl"))
    figure = tables.percent(arguments.resamples, arguments.seed)
    sums = geneval2.read_sums(arguments.answers, prompts)
    return {name: soft_tifa_table(prompts, masses, figure) for name, masses in sums.items()}


def _compbench(arguments: argparse.Namespace) -> dict[str, Any]:
    figure = tables.plain(arguments.resamples, arguments.seed)
    if arguments.answers.suffix == ".jsonl":
        items = load_items(_annotations(arguments, "test.jsonl"))
        return compbench.judged_table(items, arguments.answers, figure)
    if not 1 <= arguments.images <= MOST:
        raise UserError(f"--images: {arguments.images}; allowed: 1 to {MOST}")
    scores = compbench.read_official(arguments.answers)
    return compbench.official_table(scores, figure, images=arguments.images, where=arguments.answers)


def _annotations(arguments: argparse.Namespace, name: str) -> Path:
    """The benchmark's own file: the one given, or the one that the benchmark stage downloaded."""
    if arguments.annotations is not None:
        return arguments.annotations
    path = FOLDER / arguments.benchmark / name
    if not path.is_file():
        raise UserError(
            f"{path} is missing: download it with `python -m stages.benchmark {arguments.benchmark}`, "
            f"or name the file with --annotations"
        )
    return path


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is not an error
    main()
