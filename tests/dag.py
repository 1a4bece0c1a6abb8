"""What the code says about the DAG, read by AST: the files a stage runs, the doors it opens, the params it reads.

python -m tests.dag        for each stage in dvc.yaml: the files of selma/ that it can run, and the params it reads
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from selma.runtime.dvcfile import Stage, load_stages

ROOT = Path(__file__).parents[1]
# How a stage runs; DVC watches the values that it reads, so no edit of it changes an out unseen, and none is a dep.
RUNTIME = "selma/runtime/"
VARIANTS = "selma/variants/"


def script(stage: Stage) -> str:
    """The script that a stage's command runs: `python -m stages.images count` -> stages/images.py."""
    words = stage.cmd.split()
    return words[2].replace(".", "/") + ".py" if words[:2] == ["python", "-m"] else ""


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


@cache
def imports(file: str) -> frozenset[str]:
    """Files of selma that `file` imports itself, inside functions too; for types alone is no import."""
    tree = _tree(file)
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for part in node.body
        for child in ast.walk(part)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write selma.…"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset({path for name in names for path in _files(name)} - {file})


def _files(name: str) -> set[str]:
    """The files that importing module `name` runs, packages' own code included; none if it is not of selma.

    selma/__init__.py is left out: it says how Ctrl-C ends a command, and does nothing in a stage.
    """
    parts = name.split(".")
    if parts[0] != "selma":
        return set()
    found = set()
    for end in range(2, len(parts) + 1):
        path = Path(*parts[:end])
        if (ROOT / path / "__init__.py").is_file():
            if _has_code((path / "__init__.py").as_posix()):
                found.add((path / "__init__.py").as_posix())
        elif (ROOT / path).with_suffix(".py").is_file():
            found.add(path.with_suffix(".py").as_posix())
    return found


@cache
def _has_code(file: str) -> bool:
    body = _tree(file).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


@cache
def closure(file: str) -> frozenset[str]:
    """Files of selma that running `file` can run by its imports and theirs, `file` and runtime apart."""
    found: set[str] = set()
    todo = [file]
    while todo:
        new = imports(todo.pop()) - found
        found |= new
        todo += new
    return frozenset(name for name in found - {file} if not name.startswith(RUNTIME))


def doors(files: Iterable[str], opened_by: str = "load") -> set[str]:
    """The doors of selma/variants at which `files` load what params.yaml names: variants.load("guidance", ...).

    With `opened_by` "path": those at which they read its file, to keep its hash in an out.
    """
    return {door for file in files for door in _doors(file, opened_by)}


@cache
def _doors(file: str, opened_by: str) -> frozenset[str]:
    return frozenset(
        node.args[0].value
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == f"variants.{opened_by}"
        and isinstance(node.args[0], ast.Constant)
    )


def choices(door: str) -> list[str]:
    """The files of a door."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / VARIANTS / door).glob("[!_]*.py"))


def covers(dep: str, file: str) -> bool:
    """Whether a dep is the file or a folder that holds it."""
    return file == dep or file.startswith(f"{dep}/")


@cache
def params_read(file: str) -> set[str]:
    """Dotted keys that `file` reads of `params`; an index by name gives `*`: params.experts[name].data.

    Asking whether a name is there (`name in params.experts`) reads nothing that could change an out, nor
    does an error's message.
    """
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Subscript)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            inner |= {id(child) for child in ast.walk(node)}
        elif isinstance(node, ast.Compare) and all(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            inner |= {id(comparator) for comparator in node.comparators}
    keys = (_key(node) for node in ast.walk(tree) if id(node) not in inner)
    return {key for key in keys if key}


def is_declared(key: str, declared: tuple[str, ...]) -> bool:
    """Whether a declared param is `key` or holds it; `*` in the key stands for the stage's own name."""
    parts = key.split(".")
    return any(
        len(own) <= len(parts) and all(part in ("*", mine) for part, mine in zip(parts, own, strict=False))
        for own in (name.split(".") for name in declared)
    )


def _key(node: ast.AST) -> str:
    """`section.key` for an expression params.section.key; '' for any other."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        parts.append(node.attr if isinstance(node, ast.Attribute) else "*")
        node = node.value
    return ".".join(reversed(parts)) if isinstance(node, ast.Name) and node.id == "params" else ""


def main() -> None:
    for name, stage in {stage.name.partition("@")[0]: stage for stage in load_stages(ROOT).values()}.items():
        file = script(stage)
        files = closure(file)
        print(f"{name}:  # {file}")
        for part in sorted(files):
            print(
                f"      - {part}{'' if any(covers(dep, part) for dep in stage.deps) else '   # under no dep'}"
            )
        for door in sorted(doors({file, *files})):
            print(f"      - {VARIANTS}{door}/: {', '.join(Path(path).stem for path in choices(door))}")
        print(f"      # params read: {', '.join(sorted(params_read(file)))}")


if __name__ == "__main__":
    main()
