"""Add a skill: its file, and its rows in params.yaml, keeping comments.

    python -m selma.skill animals --description "One or two animals doing something." --rule "Name the animal." \
        --seed "a cat asleep on a chair" --seed "two dogs in the snow" --seed "an owl at night"
    python -m selma.skill animals         if <prompts.skills>/animals.yaml already exists

writes  <prompts.skills>/<name>.yaml    description, rules, word limit, three seed prompts
        params.yaml                     <name> in `skills`, a row in `experts`, a row in `models`

Profiles overlay rows key by key, so the rows hold in every profile; the skill file is needed in each one's folder.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from selma.ground.errors import UserError
from selma.ground.files import write_text
from selma.prompts.skills import load_skill
from selma.runtime import command, yamltext
from selma.runtime.params import Params, build_params, load_params
from selma.runtime.places import EXPERTS, IMAGES
from selma.runtime.schema import ROW, ROW_WORDS, parse_yaml

PARAMS = Path("params.yaml")


def main() -> int:
    """Add the skill; exit code 2 with one line if that fails."""
    parser = command.Parser(prog="python -m selma.skill", description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--description", help="what the prompts are about; writes the skill file")
    parser.add_argument("--rule", action="append", default=[], help="a rule for the LLM; may be repeated")
    parser.add_argument("--max-words", type=int, default=30, help="word limit of a prompt (default: 30)")
    parser.add_argument("--seed", action="append", default=[], help="a seed prompt; three are needed")
    arguments = parser.parse_args()
    return command.run(lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> None:
    name, params = arguments.name, load_params(PARAMS)
    if not re.fullmatch(ROW, name) or not isinstance(YAML(typ="safe").load(name), str):
        raise UserError(f"skill {name!r}: it must be {ROW_WORDS}, with a letter")
    _check_free(name, params)
    text = with_rows(PARAMS.read_text(encoding="utf-8"), name, params)
    build_params(parse_yaml(text, str(PARAMS)), str(PARAMS))
    path = Path(params.prompts.skills) / f"{name}.yaml"
    if arguments.description:
        _write_file(path, arguments)
    try:
        load_skill(params.prompts.skills, name)
        write_text(PARAMS, text)
    except (UserError, OSError):
        if arguments.description:
            path.unlink()
        raise
    print(f"{path} and {PARAMS} now hold skill {name}; `dvc repro` trains it")
    _remind(name, path, params)


def with_rows(text: str, name: str, params: Params) -> str:
    """The text of params.yaml with a skill's three rows, each after those of the last skill."""
    root = YAML().compose(text)
    sections = {key.value: value for key, value in root.value}
    last = params.skills[-1]
    objective = next(iter(params.experts.values())).objective
    model = next(iter(params.models.values()))
    settings = f", options: {json.dumps(model.options)}" if model.options else ""  # JSON is YAML
    for section in ("experts", "models"):
        if not yamltext.is_block(sections[section]):
            raise UserError(
                f"{PARAMS}: `{section}` is written in braces; write each of its rows on a line of its own"
            )
    edits = [
        _after_item(text, sections["skills"], name),
        _after_row(
            text,
            _row(sections["experts"], last),
            f"{name}: {{data: {IMAGES}/{name}, objective: {objective}}}",
        ),
        _after_row(
            text,
            _row(sections["models"], last),
            f"{name}: {{weights: {EXPERTS}/{name}, guidance: {model.guidance}{settings}}}",
        ),
    ]
    for place, addition in sorted(edits, reverse=True):  # from the end: places stay valid
        text = text[:place] + addition + text[place:]
    return text


def _row(section: MappingNode, name: str) -> tuple[Node, Node]:
    """The row of that name, or the last one."""
    return next((row for row in section.value if row[0].value == name), section.value[-1])


def _after_item(text: str, section: SequenceNode, name: str) -> tuple[int, str]:
    """Where an item is added to a list, and its text."""
    last = section.value[-1]
    if yamltext.is_block(section):
        return yamltext.line_end(text, yamltext.end(last)), f"\n{' ' * (last.start_mark.column - 2)}- {name}"
    return last.end_mark.index, f", {name}"


def _after_row(text: str, row: tuple[Node, Node], addition: str) -> tuple[int, str]:
    """Where a row is added after another, and its text; a comment at that one's end stays with it."""
    key, value = row
    return yamltext.line_end(text, yamltext.end(value)), f"\n{' ' * key.start_mark.column}{addition}"


def _check_free(name: str, params: Params) -> None:
    for section in ("skills", "experts", "policies", "models", "mixtures", "merges"):
        if name in getattr(params, section):
            raise UserError(f"{name} is taken: `{section}` in {PARAMS} already has it; choose another name")


def _write_file(path: Path, arguments: argparse.Namespace) -> None:
    """Write the skill file that the options describe; load_skill then checks it."""
    if path.exists():
        raise UserError(f"{path} exists; leave out --description to use it, or choose another name")
    buffer = io.StringIO()
    contents = {
        "description": arguments.description,
        "rules": arguments.rule or ["Describe one scene."],
        "max_words": arguments.max_words,
        "seeds": arguments.seed,
    }
    YAML().dump(contents, buffer)
    write_text(path, buffer.getvalue())


def _remind(name: str, path: Path, params: Params) -> None:
    """What else the user may want to do."""
    for merge, row in params.merges.items():
        if row.experts is not None:
            print(f"note: merges.{merge} lists its experts; add {name} to them if it should be merged, too")
    for folder in sorted(folder for folder in path.parent.parent.glob("*") if folder.is_dir()):
        if not (folder / path.name).exists():
            print(f"note: profiles that read {folder} need {folder / path.name}, too")


if __name__ == "__main__":
    sys.exit(main())
