"""Work folders: found again by the same run, by no other; outs are moved into place whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selma.ground.errors import UserError
from selma.runtime import work

ROOT = Path(__file__).parents[1]
DVC = """
stages:
  images:
    foreach: ${skills}
    do:
      cmd: python -m stages.images ${item}
      deps: [code.py, "in/${item}", "${images.backbone}.bin"]
      params: [seed, images.steps]
      outs: ["out/${item}"]
  expert:
    foreach: ${experts}
    do:
      cmd: python -m stages.expert ${key}
      deps: [code.py, "${item.data}"]
      params: ["experts.${key}"]
      outs: ["models/${key}"]
"""
PARAMS = """
seed: 1
skills: [count, tags]
experts: {count: {data: in/count}, all: {data: in}}
images: {backbone: shapes, steps: 5, batch: 2}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").write_text(DVC)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "shapes.bin").write_text("weights")
    for skill in ("count", "tags"):
        (tmp_path / "in" / skill).mkdir(parents=True)
        (tmp_path / "in" / skill / "a").write_text(skill)
    return tmp_path


def test_work_of_a_failed_run_is_found_again_and_gone_after_success(repository: Path) -> None:
    with pytest.raises(RuntimeError), work.folder("images@count") as folder:
        (folder / "half").write_text("done so far")
        raise RuntimeError
    with work.folder("images@count") as again:
        assert again == folder
        assert (again / "half").read_text() == "done so far"
    assert not (repository / ".work" / "images@count").exists()


@pytest.mark.parametrize(
    ("file", "text", "same"),
    [
        ("code.py", "2", False),
        ("in/count/b", "new", False),
        ("in/tags/a", "other skill's input", True),
        ("in/count/.gitignore", "DVC writes it when it has an out", True),
        ("params.yaml", PARAMS.replace("seed: 1", "seed: 2"), False),
        ("params.yaml", PARAMS.replace("steps: 5", "steps: 6"), False),
        ("params.yaml", PARAMS.replace("batch: 2", "batch: 9"), True),  # not declared
    ],
)
def test_the_key_is_that_of_the_declared_inputs(repository: Path, file: str, text: str, same: bool) -> None:
    key = work.stage_key("images@count")
    (repository / file).write_text(text)
    assert (work.stage_key("images@count") == key) is same


def test_the_key_follows_templates_of_a_mapping(repository: Path) -> None:
    one, every = work.stage_key("expert@count"), work.stage_key("expert@all")
    (repository / "in" / "tags" / "a").write_text("changed")
    assert work.stage_key("expert@count") == one
    assert work.stage_key("expert@all") != every


def test_success_removes_work_under_old_keys(repository: Path) -> None:
    with pytest.raises(RuntimeError), work.folder("images@count") as old:
        raise RuntimeError
    (repository / "code.py").write_text("2")
    with work.folder("images@count") as new:
        assert new != old and old.is_dir()
    assert not old.exists()


def test_a_stage_or_dependency_that_is_not_there_is_named(repository: Path) -> None:
    with pytest.raises(UserError, match="unknown stage images@animals; allowed: images@count"):
        work.stage_key("images@animals")
    (repository / "shapes.bin").unlink()
    with (
        pytest.raises(UserError, match=r"shapes\.bin: file or folder not found"),
        work.folder("images@count"),
    ):
        pass
    (repository / "params.yaml").write_text(PARAMS.replace("backbone: shapes, ", ""))
    with pytest.raises(UserError, match=r"key images\.backbone is missing"):
        work.stage_key("images@count")


def test_a_second_process_is_refused_and_a_killed_one_leaves_its_work(repository: Path) -> None:
    hold = (
        "import time; from selma.runtime import work\n"
        "with work.folder('images@count') as f:\n"
        "    (f / 'half').write_text('x'); print(f, flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    held = Path(other.stdout.readline().strip())
    try:
        with pytest.raises(UserError, match="another process"), work.folder("images@count"):
            pass
        (repository / "code.py").write_text("2")  # another key: may run, and leaves the held one alone
        with work.folder("images@count"):
            pass
        assert (held / "half").is_file()
        (repository / "code.py").write_text("1")
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    with work.folder("images@count") as folder:
        assert folder == held and (folder / "half").is_file()


def test_work_stays_in_the_repository_of_a_temporary_experiment(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("DVC_ROOT", str(home))
    with work.folder("images@count") as folder:
        assert home in folder.parents


def test_publish_moves_folders_and_files_over_what_is_there(tmp_path: Path) -> None:
    src, dst = tmp_path / "work" / "out", tmp_path / "data" / "images" / "count"
    for contents in ("first", "second"):
        src.mkdir(parents=True)
        (src / contents).write_text(contents)
        work.publish(src, dst)
        assert [path.name for path in dst.iterdir()] == [contents]
        assert list(dst.parent.iterdir()) == [dst]
        shutil.rmtree(src)
    file = tmp_path / "work" / "a.jsonl"
    for contents in ("first", "second"):
        file.write_text(contents)
        work.publish(file, tmp_path / "data" / "a.jsonl")
        assert (tmp_path / "data" / "a.jsonl").read_text() == contents


def test_publish_leaves_the_cache_that_an_out_is_linked_to(tmp_path: Path) -> None:
    cached, dst, src = tmp_path / "cached", tmp_path / "out", tmp_path / "new"
    cached.write_text("cached")
    src.write_text("new")
    dst.symlink_to(cached)
    work.publish(src, dst)
    assert (dst.read_text(), cached.read_text(), dst.is_symlink()) == ("new", "cached", False)


def test_publish_copies_where_a_rename_cannot_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """data/ on another disk: the first rename across it fails."""
    src, dst = tmp_path / "work" / "out", tmp_path / "data" / "out"
    for folder, contents in ((src, "new"), (dst, "old")):
        folder.mkdir(parents=True)
        (folder / contents).write_text(contents)

    def refuse(a: Path, b: Path, **_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    work.publish(src, dst)
    assert [path.name for path in dst.iterdir()] == ["new"]
    assert list(dst.parent.iterdir()) == [dst]


def test_failed_tries_leave_nothing_beside_an_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that ran out of space on another disk, nor one that was killed, of today or of before."""
    src, dst = tmp_path / "work" / "out", tmp_path / "data" / "count"
    src.mkdir(parents=True)
    (src / "a").write_text("new")

    def refuse(a: Path, b: Path, **_: object) -> None:
        raise OSError(28, "No space left on device")

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(os, "link", refuse)
            patch.setattr(shutil, "copy2", refuse)
            work.publish(src, dst)
        assert list(dst.parent.iterdir()) == []
    for left in (".tmp-count", ".tmp-123-count", ".old-count", ".tmp-other-count"):
        (dst.parent / left).mkdir()
    work.publish(src, dst)
    assert sorted(path.name for path in dst.parent.iterdir()) == [".tmp-other-count", "count"]


def test_a_killed_writers_file_is_never_published(tmp_path: Path) -> None:
    src = tmp_path / "work" / "out"
    (src / "deep").mkdir(parents=True)
    for name in ("a", ".tmp-77-a", "deep/.tmp-b", "deep/b"):
        (src / name).write_text(name)
    work.publish(src, tmp_path / "out")
    published = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert published == {"a", "deep", "deep/b"}


KILLED = """
import os, shutil, sys
from pathlib import Path
from selma.runtime import work

at = int(sys.argv[1])
def count(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        global at
        at -= 1
        if at == 0:
            os._exit(9)
        return real(*arguments, **options)
    setattr(os, name, call)
for name in ("replace", "link", "unlink", "mkdir", "rmdir", "rename"):
    count(name)
with work.folder("both") as folder:
    for name, text in (("m.json", "1"), ("out/a", "new"), ("out/b", "new")):
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_text(text)
            print("made", name)
    work.publish_all({folder / "m.json": Path("metrics/m.json"), folder / "out": Path("data/out")})
"""


@pytest.mark.parametrize("again", ["by hand", "by DVC"])
def test_a_stage_killed_at_any_step_of_publishing_ends_in_the_same_outs(repository: Path, again: str) -> None:
    """Killed at every call that changes the disk; DVC removes the outs before it starts a stage again."""
    (repository / "dvc.yaml").write_text(
        "stages: {both: {cmd: x, deps: [code.py], outs: [data/out], metrics: [metrics/m.json: {cache: false}]}}"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(at)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    for at in range(1, 100):
        (repository / "data/out").mkdir(parents=True)
        (repository / "data/out/old").write_text("old")
        (repository / "metrics").mkdir()
        (repository / "metrics/m.json").write_text("old")
        killed = run(at)
        if killed.returncode == 0:
            break
        assert killed.returncode == 9, killed.stderr
        if again == "by DVC":
            shutil.rmtree(repository / "data/out", ignore_errors=True)
            (repository / "metrics/m.json").unlink(missing_ok=True)
        whole = bool(list(repository.glob(".work/both/[!.]*/out/b")))
        done = run(0)
        assert ("made" in done.stdout) is not whole, "what was finished is not made again"
        assert done.returncode == 0, done.stderr
        found = {
            p.relative_to(repository).as_posix()
            for top in ("data", "metrics")
            for p in (repository / top).rglob("*")
        }
        assert found == {"data/out", "data/out/a", "data/out/b", "metrics/m.json"}, at
        assert (repository / "metrics/m.json").read_text() == "1"
        assert not (repository / ".work/both").exists()
        shutil.rmtree(repository / "data")
        shutil.rmtree(repository / "metrics")
    assert 8 < at < 99


def test_an_out_that_cannot_be_written_is_named_before_the_work_begins(repository: Path) -> None:
    (repository / "out").write_text("a file where the folder should be")
    with (
        pytest.raises(UserError, match=r"out/count: .*out is a file; it must be a folder"),
        work.folder("images@count"),
    ):
        raise AssertionError("begun")


READ_ONLY = next((place for place in ("/sys", "/proc/sys", "/usr") if not os.access(place, os.W_OK)), None)


@pytest.mark.skipif(READ_ONLY is None, reason="this user may write anywhere")
def test_a_folder_that_may_not_be_written_is_named_before_the_work_begins(repository: Path) -> None:
    (repository / "out").symlink_to(READ_ONLY)
    with pytest.raises(UserError, match="cannot be written to"), work.folder("images@count"):
        raise AssertionError("begun")


def test_keys_are_quick(repository: Path) -> None:
    start = time.perf_counter()
    for _ in range(10):
        work.stage_key("images@count")
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("name", ["a.json", "a.webp", "a.png", "a.safetensors"])
def test_a_file_that_was_cut_off_is_made_again(repository: Path, name: str, capsys) -> None:
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    def make(path: Path) -> None:
        if path.suffix == ".json":
            path.write_text('{"a": 1}\n')
        elif path.suffix == ".safetensors":
            save_file({"a": torch.arange(5.0), "b": torch.zeros(2, 3)}, path)
        else:
            Image.new("RGB", (9, 7), "red").save(path)

    for cut in (0, 3, 9):
        with pytest.raises(RuntimeError), work.folder("images@count") as folder:
            make(folder / name)
            (folder / "lines.jsonl").write_text('{"a": 1}\n{"a"')  # its reader knows a torn line
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: len(content) - cut])
            raise RuntimeError
        with pytest.raises(RuntimeError), work.folder("images@count") as folder:
            assert (folder / name).exists() is (cut == 0) and (folder / "lines.jsonl").exists()
            said = capsys.readouterr().err
            assert said.count("was damaged, and is made again") == (cut > 0)
            raise RuntimeError


def test_what_a_stage_has_made_is_kept_until_dvc_has_it(repository: Path, monkeypatch) -> None:
    from selma.runtime import finished
    from selma.runtime.dvcfile import load_stage

    def run(skill: str) -> None:
        with work.folder(f"images@{skill}") as folder:
            (folder / "out").mkdir()
            (folder / "out" / "a").write_text(skill)
            work.publish(folder / "out", Path("out") / skill)

    def take(skill: str) -> bool:
        shutil.rmtree(Path("out") / skill)  # as DVC does before it runs a stage
        outs = load_stage(Path.cwd(), f"images@{skill}").made
        return finished.kept(f"images@{skill}") and finished.take(
            f"images@{skill}", work.stage_key(f"images@{skill}"), outs
        )

    run("count")
    assert not take("count"), "run by hand"
    monkeypatch.setenv("DVC_STAGE", "images@count")
    monkeypatch.setenv("SELMA_STARTER", "dvc 1")
    run("count")
    assert take("count") and (repository / "out/count/a").read_text() == "count"
    (repository / "out/count/a").unlink()
    (repository / "out/count/a").write_text("by hand")
    run("count")
    (repository / "out/count/a").write_text("changed in place")  # what is kept is the same file
    assert not take("count")
    run("count")
    next(repository.glob(".work/finished/images@count/*/0/a")).unlink()
    assert not take("count"), "half of it is gone"
    run("count")
    shutil.rmtree(next(repository.glob(".work/finished/images@count/*/0")))
    assert not take("count"), "more than half"
    run("count")
    (repository / "code.py").write_text("2")
    assert not take("count"), "other code"
    (repository / "code.py").write_text("1")
    run("count")
    finished.forget()  # the next stage of the same `dvc repro`
    assert not finished.kept("images@count")
    monkeypatch.setenv("SELMA_STARTER", "dvc 2")
    run("count")
    monkeypatch.setenv("SELMA_STARTER", "dvc 3")
    finished.forget()
    assert finished.kept("images@count"), (
        "another `dvc repro`, which may have been killed before it wrote dvc.lock"
    )
    lock = "stages:\n  images@count:\n    outs:\n    - path: out/count\n      md5: {}\n"
    (repository / "dvc.lock").write_text(lock.format(1))
    run("count")
    monkeypatch.setenv("SELMA_STARTER", "dvc 4")
    (repository / "dvc.lock").write_text(
        lock.format(1) + lock.format(2).split("\n", 1)[1].replace("images", "draw")
    )
    finished.forget()
    assert finished.kept("images@count"), "another stage was written down, not this one"
    (repository / "dvc.lock").write_text(lock.format(2))
    finished.forget()
    assert not finished.kept("images@count"), "this one was"


def test_what_an_experiment_has_made_is_kept_until_it_has_ended(
    repository: Path, tmp_path: Path, monkeypatch
) -> None:
    """DVC runs it in a copy of the repository, with a dvc.lock that is lost if it is killed."""
    from selma.runtime import finished

    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    monkeypatch.setenv("DVC_ROOT", str(repository))
    monkeypatch.setenv("DVC_STAGE", "images@count")
    monkeypatch.setenv("SELMA_STARTER", f"dvc {os.getpid()}")
    monkeypatch.chdir(copy)
    with work.folder("images@count") as folder:
        (folder / "out").mkdir()
        work.publish(folder / "out", Path("out/count"))
    finished.forget()  # the next stage of the same experiment
    assert finished.kept("images@count")
    monkeypatch.chdir(repository)
    finished.forget()
    assert finished.kept("images@count"), "the experiment is at work"
    owner = repository / ".work/finished/images@count/owner"
    owner.write_text(owner.read_text().replace(str(os.getpid()), str(2**31)))
    finished.forget()
    assert not finished.kept("images@count"), "it is not, and something else runs"
