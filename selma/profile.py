"""Overlay a profile on params.yaml, keeping its comments, key order and number formats.

    python -m selma.profile sd2              params.yaml now holds profiles/sd2.yaml's values
    python -m selma.profile shapes           and now, byte for byte, the default's again
    python -m selma.profile sd2 --dry-run    only says what would change

A profile names only what it changes, in params.yaml's own structure. Sections (`images`, `expert`, ...) and rows
(`experts`, `merges`, `models`) are overlaid key by key, and a row that is not there is added; of `backbones`,
`benchmarks`, `judges`, `own.judges`, `draws` and `picks` the rows that some profile names are replaced. So a row that
you add stays in every profile. A value that you changed and that the profile names is set to the profile's, and a line
says so. What the profile before changed is first set to the default's, and rows that it added go, so that switching
from one profile to another leaves nothing of the first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import write_text
from selma.runtime import command
from selma.runtime.checks import warn
from selma.runtime.facts import flatten
from selma.runtime.overlay import ORIGINS, overlay, read_profile, values, without_rows
from selma.runtime.params import build_params
from selma.runtime.schema import load_yaml, parse_yaml

DEFAULT = "shapes"


def apply(name: str, root: Path, dry: bool = False) -> tuple[int, list[str]]:
    """Overlay root/profiles/<name>.yaml on root/params.yaml; nothing is changed if it raises UserError, or if `dry`.

    Returns how many values change, and a line for each value of the user's own that does not stay.
    """
    files = {path.stem: path for path in sorted((root / "profiles").glob("*.yaml"))}
    if name not in files:
        raise UserError(f"unknown profile {name}; allowed: {', '.join(files) or 'none'}")
    params = root / "params.yaml"
    before = load_yaml(params)
    text = params.read_text(encoding="utf-8")
    theirs = {section: set(_named(files, section)) for section in ORIGINS}
    current = before.get("profile") if isinstance(before, Mapping) else None
    current = current if isinstance(current, str) else None
    after = _with_profile(text, name, current, files, theirs)
    where = f"profiles/{name}.yaml on params.yaml"
    warn(build_params(parse_yaml(after, where), where))
    if not dry:
        write_text(params, after)
    own = _with_profile(text, current, current, files, theirs)
    if name != current and DEFAULT in files:  # a row of yours with the name of one that the profile adds
        own = without_rows(own, files[name], files[DEFAULT])
    own = parse_yaml(own, where)
    changed = _changes(before, parse_yaml(after, where))
    lost = _changes(before, own).keys() & changed.keys()
    return len(changed), [f"{key}: {changed[key][0]} becomes {changed[key][1]}" for key in sorted(lost)]


def _with_profile(
    text: str, name: Any, current: Any, files: Mapping[str, Path], theirs: Mapping[str, set[str]]
) -> str:
    """A params text with the named profile and nothing of the current one; one that does not exist is passed over."""
    if DEFAULT in files:
        only: Mapping[str, Any] | None = None  # all, where nobody knows what was changed
        if current in files and (name, current) != (DEFAULT, DEFAULT):
            only = {} if current == DEFAULT else values(read_profile(files[current]))
        for profile in {name, current} & files.keys() - {DEFAULT}:
            text = without_rows(text, files[profile], files[DEFAULT])
        text = overlay(text, files[DEFAULT], theirs, only)
    if name in files and name != DEFAULT:
        text = overlay(text, files[name], theirs)
    return text


def _named(files: Mapping[str, Path], section: str) -> Iterator[str]:
    """The rows of a section that some profile names."""
    for path in files.values():
        contents = load_yaml(path)
        rows: Any = contents
        for part in section.split("."):
            rows = rows.get(part) if isinstance(rows, Mapping) else None
        yield from rows if isinstance(rows, Mapping) else ()


def _changes(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both; a value that is not there is "nothing"."""
    old, new = flatten(before), flatten(after)
    pairs = {key: (old.get(key, "nothing"), new.get(key, "nothing")) for key in {**old, **new}}
    return {
        key: pair
        for key, pair in pairs.items()
        if pair[0] != pair[1] and pair not in (({}, "nothing"), ("nothing", {}))
    }


def main(arguments: list[str] | None = None) -> int:
    """Overlay the named profile; exit code 2 with one line if that fails."""
    parser = command.Parser(prog="python -m selma.profile", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a file of profiles/, without .yaml")
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")
    given = parser.parse_args(arguments)
    return command.run(lambda: _main(given.name, given.dry_run))


def _main(name: str, dry: bool) -> None:
    changed, lost = apply(name, Path.cwd(), dry)
    for line in lost:
        print(f"yours {'would not stay' if dry else 'did not stay'}: {line}")
    if dry:
        print(f"profile {name} would change {changed} values of params.yaml")
    else:
        print(f"params.yaml now holds profile {name}: {changed} values changed; `dvc params diff` shows them")


if __name__ == "__main__":
    sys.exit(main())
