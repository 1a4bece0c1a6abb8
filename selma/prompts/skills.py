"""Skills: what the LLM is asked to write prompts for (SELMA, section 3.1).

A skill is a file `<folder>/<skill>.yaml` with a description, rules, a word limit and three seed prompts. To
teach another one, write its file and list it in params.yaml.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from selma.ground.errors import UserError
from selma.ground.schema import Count, build, once, section
from selma.runtime.schema import ROW, ROW_WORDS, load_yaml

SEEDS = 3  # seed prompts a skill starts from (paper: 3)


@dataclass(frozen=True)
class Skill:
    """What to ask the LLM for: `max_words` is the limit per prompt, `seeds` start the pool of examples."""

    name: str
    description: str
    rules: tuple[str, ...]
    max_words: int
    seeds: tuple[str, ...]


def load_skill(folder: Path | str, name: str) -> Skill:
    """The skill in `folder/<name>.yaml`.

    Raises UserError, naming the file, for an unknown skill (listing the known ones), two files of one name,
    an unknown or missing key, a wrong type, an empty text, other than three seeds, or a seed above the limit.
    """
    folder = Path(folder)
    if not re.fullmatch(ROW, name):
        raise UserError(f"skill {name!r}: it must be {ROW_WORDS}")
    # Not by opening <name>.yaml: a disk that ignores case would open Count.yaml for "count".
    files = sorted(p for p in folder.glob("*") if p.suffix in (".yaml", ".yml"))
    found = [path for path in files if path.stem.casefold() == name.casefold()]
    if len(found) > 1:
        raise UserError(f"skill {name}: {' and '.join(p.name for p in found)} in {folder} have the same name")
    path = folder / f"{name}.yaml"
    if found != [path]:
        known = ", ".join(p.stem for p in files if p.suffix == ".yaml") or "none"
        raise UserError(f"skill {name} is unknown: {path} does not exist; known skills: {known}")
    file = build(_File, load_yaml(path), where=str(path))
    return Skill(name, file.description.strip(), file.rules, file.max_words, _seeds(path, file))


def _says_something(value: str) -> str:
    if len(value.strip().splitlines()) != 1 or not any(char.isalnum() for char in value):
        raise ValueError("it must be one line of text")
    if any(unicodedata.category(char) == "Cc" and not char.isspace() for char in value):
        raise ValueError("it must be one line of text, without control characters")
    return value


_Text = Annotated[str, AfterValidator(_says_something)]
_Texts = Annotated[tuple[_Text, ...], Field(min_length=1), once]


@section
class _File:
    """The keys of a skill file; the name is the file's own."""

    description: _Text
    rules: _Texts
    max_words: Count
    seeds: _Texts


def _seeds(path: Path, file: _File) -> tuple[str, ...]:
    if len(file.seeds) != SEEDS:
        raise UserError(f"{path}: seeds holds {len(file.seeds)} prompts; it must hold exactly {SEEDS}")
    for seed in file.seeds:
        if (words := len(seed.split())) > file.max_words:
            raise UserError(
                f"{path}: seed {seed[:60]!r} has {words} words; max_words allows {file.max_words}"
            )
    return file.seeds
