"""What the code says about the DAG, read by AST: the modules a stage imports and the params it reads.

python -m tests.dag        the library deps each stage in dvc.yaml must list, ready to paste
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from selma.ground.dvcfile import Stage, load_stages

ROOT = Path(__file__).parents[1]
# Telling MLflow changes no out, so a change of it must not run stages again.
UNTRACKED = {"selma.tracking", "selma.recorder"}
# Nearly every stage runs all of it, so it is one dep. With a dep a file, DVC takes a tenth longer to see that
# nothing changed.
GROUND = "selma/ground"


def script(stage: Stage) -> str:
    """The script that a stage's command runs: `python -m stages.images count` -> stages/images.py."""
    words = stage.cmd.split()
    return words[2].replace(".", "/") + ".py" if words[:2] == ["python", "-m"] else ""


@cache
def imports(file: str) -> frozenset[str]:
    """Files of selma that `file` imports itself, inside functions too; for types alone is no import."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
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
    files = {path for name in names if name not in UNTRACKED for path in _files(name)}
    return frozenset(files - {file})


def _files(name: str) -> set[str]:
    """The files that importing module `name` runs, packages' own code included; none if it is not of selma."""
    parts = name.split(".")
    if parts[0] != "selma":
        return set()
    found = set()
    for end in range(1, len(parts) + 1):
        path = Path(*parts[:end])
        if (ROOT / path / "__init__.py").is_file():
            if _has_code(path / "__init__.py"):
                found.add((path / "__init__.py").as_posix())
        elif (ROOT / path).with_suffix(".py").is_file():
            found.add(path.with_suffix(".py").as_posix())
    return found


@cache
def _has_code(file: Path) -> bool:
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def closure(file: str) -> set[str]:
    """Files of selma that running `file` can run: its imports, and theirs."""
    found: set[str] = set()
    todo = [file]
    while todo:
        new = imports(todo.pop()) - found
        found |= new
        todo += new
    return found - {file}


def code_deps(file: str) -> set[str]:
    """What a stage that runs `file` must depend on: the script, the ground floor as a whole, the rest by file."""
    files = {file, *closure(file)}
    above = {path for path in files if not path.startswith(f"{GROUND}/")}
    return above | ({GROUND} if above != files else set())


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
    seen = set()
    for stage in load_stages(ROOT).values():
        file = script(stage)
        name = stage.name.partition("@")[0]
        if name in seen:
            continue
        seen.add(name)
        if not (ROOT / file).is_file():
            print(f"{name}:  # {file or stage.cmd}: no such script yet")
            continue
        print(f"{name}:  # {file}")
        for dep in sorted(code_deps(file)):
            print(f"      - {dep}")
        print(f"      # params read: {', '.join(sorted(params_read(file)))}")


if __name__ == "__main__":
    main()
