"""Pruning takes what params.yaml no longer names, and nothing else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from selma import prune

ROOT = Path(__file__).parents[1]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in (
        "data/images/count",
        "data/images/gone",
        "data/skills/shapes",
        "models/starter/files",
        "models/merges/merged",
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    (tmp_path / "data" / "images" / ".gitignore").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prune"])
    return tmp_path


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_preferences_are_pruned_by_judge_and_by_model(repository: Path) -> None:
    for scored in ("gone/merged", "pickscore/merged", "pickscore/gone"):
        (repository / "data/preferences" / scored).mkdir(parents=True)
    (repository / "data/preferences/.gitignore").touch()
    (repository / "data/preferences/merged.jsonl").touch()
    settings = (repository / "params.yaml").read_text()
    (repository / "params.yaml").write_text(
        settings.replace("preferences: []", "preferences: [pickscore]").replace(
            "judges:\n",
            "judges:\n  pickscore: {kind: pickscore, weights: {repo: a/b, revision: %s, files: {c.json: null}}}\n"
            % ("a" * 40),
        )
    )
    assert prune.main() == 0
    folder = repository / "data/preferences"
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*")} == {
        ".gitignore",
        "pickscore",
        "pickscore/merged",
    }
    (repository / "params.yaml").write_text(settings)
    assert prune.main() == 0
    assert [path.name for path in folder.iterdir()] == [".gitignore"]


def test_only_what_has_no_name_is_removed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(repository)
    assert prune.main() == 0
    assert before - files(repository) == {"data/images/gone/file"}
    assert capsys.readouterr().out == "removed data/images/gone\n"
    assert prune.main() == 0
    assert capsys.readouterr().out.startswith("nothing to remove")


def test_what_a_policy_made_stays_until_its_row_is_gone(repository: Path) -> None:
    row = "{algorithm: nft, start: models/backbones/shapes, prompts: data/questions, rewards: {oracle: 1}, images: 192}"
    made = {f"models/{folder}/learned/file" for folder in ("experts", "checkpoints")}
    for file in made:
        (repository / file).parent.mkdir(parents=True)
        (repository / file).touch()
    settings = (repository / "params.yaml").read_text()
    (repository / "params.yaml").write_text(settings.replace("policies: {}", f"policies:\n  learned: {row}"))
    assert prune.main() == 0 and made <= files(repository)
    (repository / "params.yaml").write_text(settings)
    assert prune.main() == 0 and not made & files(repository)


def test_your_own_files_among_the_outs_are_not_removed(repository: Path) -> None:
    yours = (
        "models/backbones/mine-v3/unet/config.json",
        "data/benchmarks/raw/questions.json",
    )
    for file in (*yours, "models/backbones/gone/file"):
        (repository / file).parent.mkdir(parents=True)
        (repository / file).touch()
    params = (repository / "params.yaml").read_text()
    params = params.replace("  backbones: {} ", "  backbones: {mine: {path: models/backbones/mine-v3}} ", 1)
    params = params.replace(
        "  benchmarks: {} ", "  benchmarks: {ours: {source: tifa, path: data/benchmarks/raw/questions.json}} "
    )
    (repository / "params.yaml").write_text(params)
    assert prune.main() == 0
    assert set(yours) <= files(repository) and "models/backbones/gone/file" not in files(repository)


@pytest.mark.parametrize("argument", ["--dry-run", "count"])
def test_an_argument_removes_nothing(
    argument: str, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prune", argument])
    before = files(repository)
    assert prune.main() == 2 and files(repository) == before
    assert capsys.readouterr().err == "error: usage: python -m selma.prune\n"


def test_the_last_row_of_a_kind_leaves_nothing_behind(repository: Path) -> None:
    """No stage writes these folders then, but params.yaml names nothing in them."""
    for left in ("drawn/again", "rendered/real", "picked/best", "ratings/images"):
        file = repository / "data" / left / "file"
        file.parent.mkdir(parents=True)
        file.touch()
    assert prune.main() == 0
    assert not [name for name in files(repository) if name.startswith(("data/drawn", "data/rendered"))]
    assert not [name for name in files(repository) if name.startswith(("data/picked", "data/ratings"))]
