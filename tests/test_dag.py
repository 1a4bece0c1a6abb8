"""dvc.yaml says what the code does: DVC follows no imports and sees no param that is not declared."""

from __future__ import annotations

import ast
import dataclasses
import shutil
import tempfile
from pathlib import Path

import pytest

from selma import profile
from selma.ground.schema import kind_at
from selma.runtime.dvcfile import Stage, load_stages
from selma.runtime.params import SPEED, Params, build_params
from selma.runtime.schema import load_yaml
from tests.dag import ROOT, choices, closure, covers, doors, imports, is_declared, params_read, script

CHOSEN = (  # rows that the embedded world has none of by default
    "renders: {real: {skills: [objects], images: 10, seed: 1}}",
    "draws: {again: {weights: models/experts/single, prompts: data/questions, images: 2}}",
    "picks: {one: {source: drawn/again, picker: first}}",
)


def _stages() -> dict[str, Stage]:
    """The stages of params.yaml, and those that only a real profile has (a hub's backbone, published benchmarks), or
    files of one's own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for file in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / file, root)
        shutil.copytree(ROOT / "profiles", root / "profiles")
        profile.apply("sdxl", root)
        text = (root / "params.yaml").read_text(encoding="utf-8")
        text = text.replace("  backbones: {} ", "  backbones: {mine: {path: /mine}} ")
        text = text.replace("  benchmarks: {} ", "  benchmarks: {ours: {source: hps, path: /ours}} ")
        text = text.replace("\n  judges: {}\n", "\n  judges: {theirs: {kind: pickscore, path: /theirs}}\n")
        text = text.replace("\n  loras: {} ", "\n  loras: {styled: {path: /styled}} ")
        text = text.replace(
            "policies: {}",
            "policies: {learner: {algorithm: nft, start: models/backbones/sdxl, prompts: data/questions, "
            "rewards: {solace: 1.0}, images: 1152}}",
        )
        text = text.replace(
            "mixtures: {}",
            "mixtures: {moe: {objective: moe_gates, experts: null}, one: {objective: distil, experts: null}}",
        )
        (root / "params.yaml").write_text(text, encoding="utf-8")
        build_params(load_yaml(root / "params.yaml"), "params.yaml")
        found = load_stages(root)
        text = (ROOT / "params.yaml").read_text(encoding="utf-8")
        text = text.replace("\nrate:\n  judges: []", "\nrate:\n  judges: [oracle]")
        for rows in CHOSEN:
            assert f"\n{rows.split(':')[0]}: {{}}\n" in text
            text = text.replace(f"\n{rows.split(':')[0]}: {{}}\n", f"\n{rows}\n")
        (root / "params.yaml").write_text(text, encoding="utf-8")
        build_params(load_yaml(root / "params.yaml"), "params.yaml")
        return {**found, **load_stages(root), **load_stages(ROOT)}


STAGES = _stages()
MAKERS = {out: stage for stage in STAGES.values() for out in stage.outs}
LIBRARY = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "selma").rglob("*.py"))
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "stages").glob("[!_]*.py"))
COMMANDS = {file for file in LIBRARY if file.count("/") == 1} - {"selma/__init__.py"}

each_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))


@each_stage
def test_stage_says_what_it_does(stage: Stage) -> None:
    assert stage.desc, "needs a desc"
    assert stage.cmd.startswith("python -m stages."), stage.cmd
    assert (ROOT / script(stage)).is_file(), f"{script(stage)} is not there"
    assert stage.outs or stage.metrics, "makes nothing"


def _code(stage: Stage) -> list[str]:
    return [dep for dep in stage.deps if dep.startswith(("selma/", "stages/"))]


@each_stage
def test_all_code_that_a_stage_runs_lies_under_its_deps(stage: Stage) -> None:
    """Sound: an edit of any file that the stage can run, runs it again."""
    missing = {
        file
        for file in {script(stage), *closure(script(stage))}
        if not any(covers(dep, file) for dep in stage.deps)
    }
    assert not missing, "`python -m tests.dag` prints what a stage runs"


@each_stage
def test_every_dep_holds_code_that_the_stage_runs(stage: Stage) -> None:
    """Tight: nothing is listed for nothing, or twice."""
    code, files = _code(stage), {script(stage), *closure(script(stage))}
    opened = [file for way in ("load", "path") for door in doors(files, way) for file in choices(door)]
    run = {*files, *opened, *(file for choice in opened for file in closure(choice))}
    assert not [dep for dep in code if not any(covers(dep, file) for file in run)]
    assert len(code) == len(set(code)), "a dep is listed twice"
    assert all((ROOT / dep).exists() for dep in code)


@each_stage
def test_what_a_stage_chooses_is_the_one_dep_of_its_door(stage: Stage) -> None:
    """Variants: a stage depends on the file that params.yaml names and on no other, and whatever file the door holds,
    what that file imports lies under the stage's deps, too. It may depend on an out that keeps the hash of the file.
    """
    files = {script(stage), *closure(script(stage))}
    makers = [MAKERS[dep] for dep in stage.deps if dep in MAKERS]
    for door in doors(files) | doors(files, "path"):
        hashed = [dep for one in makers if door in doors([script(one)], "path") for dep in one.deps]
        chosen = [dep for dep in (*stage.deps, *hashed) if covers(f"selma/variants/{door}", dep)]
        whole = f"selma/variants/{door}"  # of a stage that chooses several
        assert len(chosen) == 1 and chosen[0] in (*choices(door), whole), (
            f"one file of {door} is a dep, or all are"
        )
        for choice in choices(door) if door in doors(files) else ():
            missing = {
                file for file in closure(choice) if not any(covers(dep, file) for dep in stage.deps)
            } - set(choices(door))
            assert not missing, f"{choice} imports what {stage.name} does not depend on"


def test_how_a_stage_runs_is_no_dep() -> None:
    """A new setting, rule or error text runs nothing again."""
    for stage in STAGES.values():
        assert not [dep for dep in stage.deps if covers("selma/runtime", dep) or dep == "selma"]


@each_stage
def test_every_param_that_is_read_is_declared(stage: Stage) -> None:
    read = {leaf for key in params_read(script(stage)) for leaf in _leaves(key)}
    missing = {key for key in read if not is_declared(key, stage.params)} - SPEED
    assert not missing, f"{script(stage)} reads {sorted(missing)}, which dvc.yaml does not declare"


def _leaves(key: str) -> list[str]:
    """The settings that a key of params.yaml holds, where it is a section that is handed over as a whole."""
    kind = kind_at(Params, key.split("."))
    if not dataclasses.is_dataclass(kind):
        return [key]
    return [leaf for field in dataclasses.fields(kind) for leaf in _leaves(f"{key}.{field.name}")]


@each_stage
def test_what_changes_speed_alone_runs_nothing_again(stage: Stage) -> None:
    assert not [key for key in SPEED if is_declared(key, stage.params)]


def test_what_changes_speed_is_a_setting() -> None:
    assert {leaf for field in dataclasses.fields(Params) for leaf in _leaves(field.name)} >= SPEED


@each_stage
def test_every_declared_param_is_read(stage: Stage) -> None:
    read = params_read(script(stage))
    idle = {name for name in stage.params if not any(_meet(key, name) for key in read)}
    assert not idle, f"dvc.yaml declares {sorted(idle)}, which {script(stage)} does not read"


def _meet(key: str, name: str) -> bool:
    """Whether one of the two keys holds the other."""
    pairs = zip(key.split("."), name.split("."), strict=False)
    return all(part in ("*", own) for part, own in pairs)


@each_stage
def test_what_lies_under_metrics_is_gits_and_the_rest_is_cached(stage: Stage) -> None:
    made = {*stage.outs, *stage.metrics, *stage.plots}
    assert {path for path in made if path.startswith("metrics/")} == stage.uncached
    assert all(path.startswith("metrics/") for path in stage.metrics + stage.plots)


def test_dvcs_tables_show_the_headline_alone() -> None:
    """Every number of every stage would be hundreds of columns in `dvc exp show` and `dvc metrics show`."""
    assert [path for stage in STAGES.values() for path in stage.metrics] == ["metrics/headline.json"]


def test_data_deps_are_made_by_a_stage_or_in_git() -> None:
    outs = {out for stage in STAGES.values() for out in (*stage.outs, *stage.metrics, *stage.plots)}
    for stage in STAGES.values():
        for dep in stage.deps:
            made = any(_within(dep, out) or _within(out, dep) for out in outs)
            own = stage.name.startswith("own_") and dep == f"/{stage.name.partition('@')[2]}"
            kept = (ROOT / dep).is_file() or dep == "metrics/human"  # which a command writes to
            assert made or own or kept or dep.startswith("selma/"), f"{stage.name}: nothing makes {dep}"


def test_no_two_stages_write_the_same_out() -> None:
    outs = [out for stage in STAGES.values() for out in (*stage.outs, *stage.metrics, *stage.plots)]
    assert len(outs) == len(set(outs))


def test_base_and_experts_do_not_depend_on_the_merge() -> None:
    """A merge ablation redraws the merged model alone."""
    after: set[str] = {"merge@merged"}
    for stage in STAGES.values():  # the file's order is the DAG's
        made = {out for name in after for out in STAGES[name].outs}
        if any(_within(dep, out) for dep in stage.deps for out in made):
            after.add(stage.name)
    drawn = {name for name in after if name.startswith(("model@", "sample@", "answer@"))}
    assert "sample@merged-shapes" in drawn
    assert {name.partition("@")[2].partition("-")[0] for name in drawn} == {"merged"}


def _within(path: str, folder: str) -> bool:
    return Path(folder) in (Path(path), *Path(path).parents)


@pytest.mark.parametrize("file", SCRIPTS)
def test_stage_scripts_are_short_and_in_the_dag(file: str) -> None:
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) < 100
    assert file in {script(stage) for stage in STAGES.values()}, "no stage of dvc.yaml runs it"


# Rooms from the bottom up; a room imports from those before it and from itself.
FLOORS = (
    ("ground",),
    ("runtime",),
    ("executing",),
    ("net",),
    ("backbones",),
    ("lora",),
    ("prompts", "experts", "images", "published", "picking", "foreign"),
    ("merging", "policies"),
    ("shapes/world",),
    ("judging",),
    ("shapes/reading",),
    ("shapes/pretraining",),
    ("variants",),
    ("scoring",),
    ("rewards",),
    ("studies", "rating", "planning"),
    ("reporting",),
    ("publishing",),
)

DVC = {"selma/dvc.py", "selma/executing/graph.py", "selma/planning/changed.py"}  # who imports it


def _room(file: str) -> str | None:
    """The room of a file of selma, `shapes/world` or `ground`; None for a command or a package's own file."""
    parts = Path(file).parts[1:-1]
    if not parts:
        return None
    return "/".join(parts) if parts[0] == "shapes" else parts[0]


@pytest.mark.parametrize("file", LIBRARY)
def test_every_file_is_a_command_or_lies_in_a_room(file: str) -> None:
    rooms = {room for floor in FLOORS for room in floor} | {"shapes"}
    assert file == "selma/__init__.py" or _room(file) in rooms or _is_command(file)
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= 300, "two ideas in one file?"


def _is_command(file: str) -> bool:
    return file in COMMANDS and '__name__ == "__main__"' in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", [file for file in LIBRARY if file.startswith("selma/variants/")])
def test_a_variant_imports_no_other(file: str) -> None:
    """DVC watches the file of the variant that is chosen, not those that it would import."""
    assert not {name for name in imports(file) if name.startswith("selma/variants/")} - {
        "selma/variants/__init__.py"
    }


@pytest.mark.parametrize("file", LIBRARY)
def test_arrows_point_down(file: str) -> None:
    imported = imports(file)
    assert not imported & COMMANDS, "nothing imports a command"
    foreign = _foreign(file)
    assert "dvc" not in foreign or file in DVC, "DVC is asked at few places"
    assert "stages" not in foreign, "the library does not import stages"
    assert "mlflow" not in foreign or file == "selma/runtime/recorder.py", "only the recorder imports mlflow"
    if (room := _room(file)) is None or room == "shapes":
        return
    height = {name: level for level, floor in enumerate(FLOORS) for name in floor}
    for name in imported:
        other = _room(name)
        assert other == room or height[other] < height[room], (
            f"{file} imports {name}, which is not beneath it"
        )
    if not file.startswith(("selma/shapes/", "selma/variants/")):
        assert not {name for name in imported if name.startswith("selma/shapes/")}, (
            "variants alone know that world"
        )
    assert not {name for name in imported if name.startswith("selma/variants/")} or room in (
        "variants",
        "scoring",
    )


def test_no_imports_go_in_a_circle() -> None:
    for file in LIBRARY:
        todo, seen = list(imports(file)), set()
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += imports(name)
        assert file not in seen, f"{file} imports itself by way of others"


def _foreign(file: str) -> set[str]:
    """Top-level names of the packages that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("params.images.drawing.steps", {"images.drawing.steps"}),
        ("params.experts[name].data", {"experts.*.data"}),
        ("f(params.skills, params.seed + 1)", {"skills", "seed"}),
        ("name in params.experts", set()),
        ("other.images.drawing.steps", set()),
    ],
)
def test_reading_of_params_is_seen(source: str, read: set[str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(source)
    assert params_read(str(tmp_path / "script.py")) == read


def test_declared_params_cover_what_they_hold() -> None:
    assert is_declared("images.drawing.steps", ("images",))
    assert is_declared("experts.*.data", ("experts.count",))
    assert not is_declared("images", ("images.drawing.steps",))
    assert not is_declared("images.drawing.steps", ("images.step", "seed"))
