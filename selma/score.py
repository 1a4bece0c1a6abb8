"""Score saved answers without any model, so that scores can be checked against other people's answers.

    python -m selma.score dsg ANSWERS.csv [--annotations dsg-1k-anns.csv] [--t2i-model sd2dot1]
    python -m selma.score tifa RESULT.json [--annotations tifa_v1.0_question_answers.json]
    python -m selma.score tifa data/answers/merged/tifa.jsonl
    python -m selma.score hps SCORES.csv

ANSWERS   CSV {item_id, question_id, answer}, or this pipeline's data/answers/<model>/<benchmark>.jsonl; for TIFA the
          official scorer's output, too
SCORES    CSV {item_id, score}, or this pipeline's data/preferences/<judge>/<model>/<benchmark>.jsonl

Prints JSON (selma/scoring/paper_tables.py says what each figure is). Exit code 2: bad input, with one line on stderr.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.items import load_split
from selma.judging import choices
from selma.runtime import command
from selma.scoring import paper_tables as tables
from selma.scoring.saved import Saved, read_answers, read_scores
from selma.variants.benchmarks import dsg, tifa

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m selma.score", description=__doc__.splitlines()[0])
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="{dsg,tifa,hps}")

    one = _add(benchmarks, "dsg", _dsg, "DSG-1K, yes/no answers", "annotations.csv")
    one.add_argument(
        "--t2i-model", metavar="NAME", help="the text-to-image model to score, if the file holds several"
    )
    one.add_argument(
        "--exact", action="store_true", help='count only the literal "yes", as the official scorer does'
    )

    one = _add(benchmarks, "tifa", _tifa, "TIFA v1.0, multiple choice", "questions.json")
    one.add_argument(
        "--t2i-model", metavar="NAME", help="the text-to-image model to score, if the file holds several"
    )
    one.add_argument(
        "--embedder",
        type=Path,
        metavar="FOLDER",
        help="all-mpnet-base-v2: maps an answer that is not a choice to the nearest one",
    )

    one = _add(benchmarks, "hps", _hps, "HPS v2's prompts, preference scores", "test.jsonl")
    one.add_argument("--judge", metavar="NAME", help="the judge whose scores to read, if there are several")
    return parser


def _add(
    benchmarks: Any, name: str, score: Any, description: str, annotations: str
) -> argparse.ArgumentParser:
    parser = benchmarks.add_parser(name, help=description, description=description)
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
