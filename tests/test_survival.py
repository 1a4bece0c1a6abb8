"""What a kill, a full disk or a file system does to a stage: it goes on, and ends in an undisturbed run's bytes.

Every stage runs here as DVC runs it, with its outs deleted before. A few operations on the disk are drawn by chance,
others with another SELMA_SURVIVAL_SEED; `SELMA_SURVIVAL=every pytest tests/test_survival.py` tries every one (hours).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selma.ground.files import folder_digest
from selma.runtime.dvcfile import Stage, load_stages
from tests.clones import SKILLS, Clone, chosen, small

pytestmark = pytest.mark.e2e
FAULTS = Path(__file__).with_name("faults")
SEED = os.environ.get("SELMA_SURVIVAL_SEED", "0")
EVERY = os.environ.get("SELMA_SURVIVAL") == "every"
KILLED = -signal.SIGKILL
SKILL = SKILLS[1]
REFUSED = {"full": "no space left", "readonly": "read-only file system"}  # and what the stage says of it
STAGES = [
    "benchmark@shapes",
    "judge@oracle",
    "own_judge@clip",
    f"prompts@{SKILL}",
    f"filter@{SKILL}",
    f"questions@{SKILL}",
    f"images@{SKILL}",
    f"rate@oracle-{SKILL}",
    "render@real",
    "draw@again",
    "pick@once",
    "pool",
    f"expert@{SKILL}",
    "expert@preferred",
    f"select@{SKILL}",
    "policy@learned",
    "mixture@gates",
    "select_mixture@gates",
    "merge@merged",
    "model@merged",
    "sample@merged-shapes",
    "answer@merged-shapes",
    "prefer@clip-merged-shapes",
    "evaluate",
    "report",
]


class Project:
    """A finished run whose stages are run again, one at a time, under faults."""

    def __init__(self, clone: Clone) -> None:
        self.clone, self.folder = clone, clone.folder
        self.stages: dict[str, Stage] = load_stages(clone.folder)
        self.digests: dict[str, dict[str, str]] = {}

    def outs(self, name: str) -> list[str]:
        stage = self.stages[name]
        return [*stage.outs, *stage.metrics, *stage.plots]

    def start(self, name: str, fault: str = "", **environment: str) -> subprocess.Popen[str]:
        """The stage's command as DVC starts it, its outs deleted."""
        for out in self.outs(name):
            path = self.folder / out
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return subprocess.Popen(
            [sys.executable, *self.stages[name].cmd.split()[1:]],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(FAULTS),
                "SELMA_FAULTS": "on",
                "SELMA_FAULT": fault,
                "SELMA_TRACKING": "off",
                "SELMA_WARM": "on",
                "DVC_STAGE": name,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, name: str, fault: str = "") -> tuple[int, str]:
        """Exit code and words of the stage's command."""
        process = self.start(name, fault)
        said = process.communicate()[0]
        return process.returncode, said

    def operations(self, name: str) -> int:
        """How many operations on the disk an undisturbed run of a stage has; it makes what the first one made."""
        self.afresh(name)
        count = self.folder / ".work" / "count"
        code, said = self.run(name, f"count {count}")
        assert code == 0, said
        assert self.made(name) == self.digests[name], "it does not make the same twice"
        number = int(count.read_text())
        count.unlink()
        return number

    def made(self, name: str) -> dict[str, str]:
        return {out: folder_digest(self.folder / out) for out in self.outs(name)}

    def afresh(self, name: str) -> None:
        """Forget what earlier runs of a stage have left."""
        for place in (name, "finished"):  # all that is kept: removing another stage's are operations, too
            shutil.rmtree(self.folder / ".work" / place, ignore_errors=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A run with a stage of every kind."""
    clone = small(tmp_path_factory.mktemp("survival"))
    chosen(clone)
    params = clone.params()
    experts = {name: row for name, row in params["experts"].items() if name not in ("single", "round2")}
    models = {name: params["models"][name] for name in ("base", "merged")}
    clone.change(
        experts=experts,
        models=models,
        compare=[["merged", "base"]],
        picks={name: row for name, row in params["picks"].items() if name != "twice"},
        renders={"real": {"skills": [SKILL], "images": 6, "seed": 1}},
        preferences=["clip"],
    )
    clone.run("python", "-m", "selma.parallel", "--workers", "2", "--no-repro", *STAGES)
    project = Project(clone)
    project.digests = {name: project.made(name) for name in STAGES}
    # The first one leaves records that the next find: without it, it would have more operations than when run again.
    project.afresh("pool")
    code, said = project.run("pool")
    assert code == 0 and "done already" not in said, said
    yield project


def test_every_kind_of_stage_is_here() -> None:
    """But those that download, which test_hub.py and test_download.py kill, and those that pretrain for hours."""
    kinds = {name.partition("@")[0] for name in STAGES}
    known = {path.stem for path in Path("stages").glob("[!_]*.py")}
    assert known - kinds == {
        "backbone",
        "own_backbone",
        "own_benchmark",
        "own_lora",
        "pretrain",
        "pretrain_xl",
        "pretrain_mm",
    }


@pytest.mark.parametrize("name", STAGES)
def test_killed_again_and_again_a_stage_ends_in_the_same_bytes(project: Project, name: str) -> None:
    """Killed before or after an operation drawn by chance, then on a disk that is full or read-only; it goes on."""
    chance = random.Random(f"{SEED} {name}")
    operations = project.operations(name)
    project.afresh(name)
    number = chance.choice([operations, chance.randint(1, operations)])  # the last one as often as all others
    code, said = project.run(name, f"{chance.choice(('kill', 'after'))} {number}")
    assert code == KILLED, said
    refused = chance.choice(list(REFUSED))
    code, said = project.run(name, f"{refused} {chance.randint(1, 6)}")
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    if code:  # 0: what was left to do had fewer operations
        assert (
            code == 2 and len(lines) == 1 and REFUSED[refused] in lines[0].lower() and "Traceback" not in said
        ), said
    code, said = project.run(name)
    assert code == 0, said
    assert project.made(name) == project.digests[name]


@pytest.mark.parametrize(
    ("name", "window"),
    [
        (f"images@{SKILL}", "metadata.jsonl"),  # after the last image
        ("sample@merged-shapes", "metadata.jsonl"),
        (f"expert@{SKILL}", "examples.safetensors"),  # before what is encoded is in place
        (f"expert@{SKILL}", "step-000002"),  # while a checkpoint is written
        (f"expert@{SKILL}", "models/checkpoints"),  # before the outs are renamed into place
        (f"expert@{SKILL}", ".work/finished"),  # after that, before dvc.lock
        ("evaluate", "metrics/eval.json"),  # between one out and the next
    ],
)
def test_killed_inside_a_window_a_stage_goes_on(project: Project, name: str, window: str) -> None:
    project.afresh(name)
    code, said = project.run(name, f"at {window}")
    assert code == KILLED, said
    code, said = project.run(name)
    assert code == 0 and project.made(name) == project.digests[name], said


@pytest.mark.skipif(not EVERY, reason="SELMA_SURVIVAL=every: hours")
@pytest.mark.parametrize("fault", ["kill", "after", *REFUSED])
@pytest.mark.parametrize("name", STAGES)
def test_whichever_operation_fails_the_stage_goes_on(project: Project, name: str, fault: str) -> None:
    for number in range(1, project.operations(name) + 1):
        project.afresh(name)
        code, said = project.run(name, f"{fault} {number}")
        # What tidies up at the end fails without a word on a full disk.
        assert code in ((2, 0) if fault in REFUSED else (KILLED,)), (number, said)
        code, said = project.run(name)
        assert code == 0, (number, said)
        assert project.made(name) == project.digests[name], number


# DVC itself -----------------------------------------------------------------------------------------


def dvc(project: Project, *words: str) -> subprocess.Popen[str]:
    """A DVC command in the project, in a session of its own."""
    environment = {**os.environ, "SELMA_TRACKING": "off", "SELMA_WARM": "on", "DVC_NO_ANALYTICS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "selma.dvc", *words],
        cwd=project.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def running(project: Project, module: str) -> list[int]:
    """Processes of a stage in the project's folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            if module.encode() in words and os.readlink(place / "cwd") == str(project.folder):
                found.append(int(place.name))
        except OSError:  # it has just ended, or is another user's
            continue
    return found


def wait_for(condition, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.01)


NAME = f"expert@{SKILL}"
FORCED = ("repro", "--force", "--single-item", NAME)  # --force: not from DVC's cache of runs


def begun(project: Project, module: str = "stages.expert") -> None:
    """Wait until the stage is at work."""
    wait_for(
        lambda: running(project, module) and list(project.folder.glob(f".work/{NAME}/*/examples.safetensors"))
    )


def test_a_killed_repro_leaves_no_child_and_no_lock(project: Project) -> None:
    project.afresh(NAME)
    process = dvc(project, *FORCED)
    begun(project)
    process.kill()
    process.communicate()
    wait_for(lambda: not running(project, "stages.expert"))
    again = dvc(project, *FORCED)
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert project.made(NAME) == project.digests[NAME]


def test_a_repro_that_is_killed_before_it_wrote_the_lock_makes_nothing_again(project: Project) -> None:
    """The window between a stage's end and dvc.lock, in which DVC hashes what hours have made."""
    project.afresh(NAME)
    assert project.run(NAME)[0] == 0  # as DVC runs it; then DVC is gone
    other = dvc(project, "repro", "--force", "--single-item", f"filter@{SKILL}")  # another stage in between
    assert other.wait() == 0
    process = dvc(project, *FORCED)
    said = process.communicate()[0]
    assert process.returncode == 0 and "done already" in said, said
    assert project.made(NAME) == project.digests[NAME]


def test_two_repros_at_once_refuse_in_words_and_the_first_goes_on(project: Project) -> None:
    project.afresh(NAME)
    first = dvc(project, *FORCED)
    begun(project)
    stopped = running(project, "stages.expert")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    second = dvc(project, *FORCED)
    said = second.communicate()[0]
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert second.returncode != 0 and "is busy, it is being blocked by" in said and "Traceback" not in said
    said = first.communicate()[0]
    assert first.returncode == 0, said
    assert project.made(NAME) == project.digests[NAME]


def test_ctrl_c_is_one_line_and_the_stage_goes_on(project: Project) -> None:
    project.afresh(NAME)
    process = dvc(project, *FORCED)
    begun(project)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130 and said.count("interrupted") == 1 and "Traceback" not in said, said
    assert dvc(project, *FORCED).wait() == 0
    assert project.made(NAME) == project.digests[NAME]


# Disks and file systems -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"images@{SKILL}", NAME, "sample@merged-shapes"])
def test_without_file_locks_two_processes_end_in_the_same_bytes(project: Project, name: str) -> None:
    """On file systems whose flock does nothing."""
    project.afresh(name)
    first, second = project.start(name, "noflock"), project.start(name, "noflock")
    said = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert project.made(name) == project.digests[name]


@pytest.mark.parametrize("name", [NAME, "sample@merged-shapes"])
@pytest.mark.parametrize("damage", ["cut off", "empty", "longer", "flipped"])
def test_files_of_the_work_that_a_disk_has_damaged_are_made_again(
    project: Project, name: str, damage: str
) -> None:
    operations = project.operations(name)
    project.afresh(name)
    assert project.run(name, f"kill {operations // 2}")[0] == KILLED
    (work,) = (path for path in (project.folder / ".work" / name).iterdir() if path.is_dir())
    files = [path for path in work.rglob("*") if path.suffix in (".safetensors", ".webp")]
    assert files
    for path in files:
        content = path.read_bytes()
        with open(path, "r+b") as file:  # in place, as a disk does it
            if damage == "flipped":
                file.seek(-9, os.SEEK_END)
                file.write(bytes(255 - byte for byte in content[-9:]))
            else:
                file.write(content + b"?")
                file.truncate({"cut off": len(content) - 7, "empty": 0, "longer": len(content) + 1}[damage])
    code, said = project.run(name)
    assert code == 0 and "was damaged, and is made again" in said, said
    assert project.made(name) == project.digests[name]


def test_a_cut_off_training_image_is_named_in_one_line(project: Project) -> None:
    image = next((project.folder / f"data/images/{SKILL}").glob("*.webp"))
    content = image.read_bytes()
    image.unlink()  # DVC's cache may have the same file
    image.write_bytes(content[:-20])
    try:
        project.afresh(NAME)
        code, said = project.run(NAME)
    finally:
        image.write_bytes(content)
    assert code == 2 and image.name in said and said.count("error:") == 1 and "Traceback" not in said, said


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_really_full(project: Project, tmp_path: Path) -> None:
    """Not a fault that Python raises: a file system of half a megabyte, on which libraries write, too."""
    project.afresh(NAME)
    place = project.folder / ".work" / NAME
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        code, said = project.run(NAME)
        assert code == 2 and said.count("error:") == 1 and "no space left" in said, said
        subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
        code, said = project.run(NAME)
        assert project.made(NAME) == project.digests[NAME], said
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_work_leaves_nothing_but_records(project: Project) -> None:
    """After all of the above: what is kept until DVC has it, and what says how it was."""
    for name in (*STAGES[3:9], NAME):
        assert project.run(name)[0] == 0
    left = {path.name for path in (project.folder / ".work").iterdir()}
    assert left <= {
        "dvc.lock",
        "finished",
        "times",
        "params",
        "warm",
        "tracking",
        "parallel",
        "selma.parallel.lock",
    }
