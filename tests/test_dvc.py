"""`python -m selma.dvc`: DVC's own command line, without its warnings about frozen stages and its second lines."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from selma import dvc
from selma.ground.errors import UserError
from selma.planning import keys
from selma.planning.changed import State
from selma.planning.keys import check_keys
from selma.planning.own import check_own
from selma.runtime.dvcfile import load_stages
from selma.runtime.params import load_params
from selma.runtime.schema import load_yaml, overridden
from tests.clones import copy_tree

ROOT = Path(__file__).parents[1]
PIPELINE = """
stages:
  before: {cmd: echo 1 > before.txt, outs: [before.txt], frozen: true}
  after: {cmd: cp before.txt after.txt, deps: [before.txt], outs: [after.txt]}
  failing: {cmd: exit 3, deps: [after.txt]}
  refusing: {cmd: "echo what is wrong >&2; exit 2"}
  stopped: {cmd: "echo stopped >&2; exit 130"}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frozen")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run(["dvc", "init", "--quiet"], cwd=root, check=True)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "before.txt").write_text("1\n")
    subprocess.run(["dvc", "commit", "--force", "--quiet", "before"], cwd=root, check=True)
    return root


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*words], cwd=root, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("words", [("repro", "after"), ("status",)])
def test_frozen_stages_are_no_news_and_all_else_is_dvcs(repository: Path, words: tuple[str, ...]) -> None:
    theirs = run(repository, "dvc", *words)
    ours = run(repository, sys.executable, "-m", "selma.dvc", *words)
    assert "is frozen" in theirs.stderr and "frozen" not in ours.stderr + ours.stdout
    assert ours.returncode == theirs.returncode == 0
    assert (repository / "after.txt").read_text() == "1\n"


def test_a_failing_stage_is_dvcs_error_and_exit_code(repository: Path) -> None:
    theirs = run(repository, "dvc", "repro")
    ours = run(repository, sys.executable, "-m", "selma.dvc", "repro")
    assert ours.returncode == theirs.returncode == 255
    assert "failed to reproduce 'failing'" in ours.stderr


@pytest.mark.parametrize(
    ("stage", "code", "said"), [("refusing", 2, "what is wrong"), ("stopped", 130, "stopped")]
)
def test_what_a_stage_has_said_in_one_line_stays_one_line_and_keeps_its_exit_code(
    repository: Path, stage: str, code: int, said: str
) -> None:
    theirs = run(repository, "dvc", "repro", stage)
    assert theirs.returncode == 255 and "failed to reproduce" in theirs.stderr
    ours = run(repository, sys.executable, "-m", "selma.dvc", "repro", stage)
    assert (ours.returncode, ours.stderr.strip()) == (code, said)


def test_ctrl_c_in_a_stage_is_one_line_and_exit_code_130(tmp_path: Path) -> None:
    """As a terminal sends it: to DVC and to the stage at once."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "sleeping.py").write_text(
        "from selma.runtime import command\nimport sys, time\n"
        "def work():\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "sys.exit(command.run(work))\n"
    )
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  sleeping: {{cmd: {sys.executable} sleeping.py}}\n")
    running = subprocess.Popen(
        [sys.executable, "-m", "selma.dvc", "repro"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while "begun" not in (line := running.stdout.readline()):
        assert line, running.stderr.read()
    os.killpg(running.pid, signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130 and len(said.strip().splitlines()) == 1, said


def test_a_wrong_setting_is_said_before_dvc_deletes_what_a_stage_made(tmp_path: Path) -> None:
    """DVC removes the outs of a stage that will run; the stage would then only say that it cannot."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    text = (ROOT / "params.yaml").read_text().replace("{clip: {kind: clip, path: models/clip/shapes}}", "{}")
    (tmp_path / "params.yaml").write_text(text)
    stage = "{cmd: echo 1 > made.json, params: [expert.rank], metrics: [made.json: {cache: false}]}"
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  made: {stage}\n")
    assert run(tmp_path, sys.executable, "-m", "selma.dvc", "repro").returncode == 0
    (tmp_path / "params.yaml").write_text(text.replace("\n  rank: 8\n", "\n  rank: 0\n", 1))
    done = run(tmp_path, sys.executable, "-m", "selma.dvc", "repro")
    assert done.returncode == 2 and "expert.rank is 0" in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "made.json").is_file()


CSV = "prompt,question,answer\na red circle,Is there a circle?,yes\n"
OWN = [
    (
        {"own.benchmarks.mine": {"source": "csv", "path": "none.csv"}},
        "own.benchmarks.mine.path is none.csv, which is not",
    ),
    ({"own.benchmarks.mine": {"source": "csv", "path": "cut.csv"}}, "cut.csv, line 2: has 2 cells"),
    (
        {"own.benchmarks.mine": {"source": "csv", "path": "sign.csv"}, "evaluate.benchmarks": ["mine"]},
        "judge oracle: ",
    ),
    ({"own.benchmarks.mine": {"source": "hps", "path": "."}}, "must be a folder that holds one of"),
    (
        {"own.loras.mine": {"path": "/no/such.safetensors"}},
        "own.loras.mine.path is /no/such.safetensors, which is not",
    ),
    (
        {"own.judges.mine": {"kind": "clip", "path": "judges/mine"}},
        "own.judges.mine.path is judges/mine, which is not",
    ),
    ({"own.backbones.mine": {"path": "mine"}}, "own.backbones.mine.path is mine, which is not here"),
    (
        {"experts.cats": {"data": "data/own/cats", "objective": "denoising"}},
        "experts.cats.data is data/own/cats",
    ),
    (
        {"experts.cats": {"data": "/pictures/cats", "objective": "denoising"}},
        "experts.cats.data is /pictures/cats",
    ),
    ({"experts.dogs": {"data": "data/own/dogs", "objective": "denoising"}}, "metadata.csv, line 2"),
]


@pytest.mark.parametrize(("settings", "says"), OWN, ids=[says for _, says in OWN])
def test_ones_own_files_are_looked_at_before_anything_is_deleted(
    settings: dict, says: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.csv").write_text(CSV + "a\n".replace("a", "a,b"))
    (tmp_path / "cut.csv").write_text("prompt,question,answer\na red circle,Is there a circle?\n")
    (tmp_path / "sign.csv").write_text(CSV.replace("circle?", "sign?"))
    dogs = tmp_path / "data/own/dogs"
    dogs.mkdir(parents=True)
    (dogs / "metadata.csv").write_text("file_name,text\n1.png,\n")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    params = load_yaml(ROOT / "params.yaml")
    own = {"select.policy": "last"} if "evaluate.benchmarks" in settings else {}
    with open("params.yaml", "w") as file:
        YAML().dump(overridden(params, settings | own), file)
    assert dvc.main(["repro"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1, said


def test_ones_own_files_that_are_sound_are_let_through(tmp_path: Path, monkeypatch) -> None:
    """What the pipeline makes, too: the embedded CLIP is a path of `own.judges`."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "mine.csv").write_text(CSV)
    settings = {
        "own.benchmarks.mine": {"source": "csv", "path": "mine.csv"},
        "evaluate.benchmarks": ["shapes", "mine"],
    }
    params = overridden(load_yaml(ROOT / "params.yaml"), settings)
    with open("params.yaml", "w") as file:
        YAML().dump(params, file)
    check_own(load_params())


def test_a_file_that_is_gone_is_named_before_anything_is_deleted(tmp_path: Path, monkeypatch, capsys) -> None:
    """One that git has, say; DVC would come to it after other stages, in Python's words."""
    monkeypatch.chdir(tmp_path)
    params = overridden(load_yaml(ROOT / "params.yaml"), {"own.judges": {}})
    with open("params.yaml", "w") as file:
        YAML().dump(params, file)
    (tmp_path / "dvc.yaml").write_text("stages:\n  made: {cmd: exit 1, deps: [gone.yaml], outs: [made]}\n")
    (tmp_path / "made").write_text("before")
    assert dvc.main(["repro"]) == 2
    assert (
        capsys.readouterr().err
        == "error: made needs gone.yaml, which is not here, and which no stage makes\n"
    )
    assert (tmp_path / "made").is_file()


# dvc.lock -----------------------------------------------------------------------------------------


STEPS = """
stages:
  first: {cmd: "touch first", outs: [first]}
  second: {cmd: "touch second", deps: [first], outs: [second]}
  third: {cmd: "touch third", deps: [second], outs: [third]}
"""


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Three stages that have run, not committed; .work/dvc.lock is as the third one found it."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text(STEPS)
    assert run(tmp_path, "dvc", "repro", "second").returncode == 0
    keep = "from selma.runtime import lockfile; lockfile.keep()"
    assert run(tmp_path, sys.executable, "-c", keep).returncode == 0
    assert run(tmp_path, "dvc", "repro").returncode == 0
    return tmp_path


@pytest.mark.parametrize("left", [0, 30, 200, -1, "first"])
def test_a_lock_that_was_cut_off_is_put_back(finished: Path, left: int | str) -> None:
    """Killed while it writes dvc.lock, DVC leaves nothing of it, or its beginning, perhaps to a stage's end."""
    lock = finished / "dvc.lock"
    whole = lock.read_text()
    lock.write_text(whole[: whole.index("  second:") if left == "first" else left])
    ours = run(finished, sys.executable, "-m", "selma.dvc", "repro")
    assert ours.returncode == 0 and ours.stderr.count("dvc.lock was cut off") == 1, ours.stderr
    assert ours.stdout.count("Running stage") <= 1 and "Running stage 'first'" not in ours.stdout
    assert lock.read_text() == whole
    again = run(finished, sys.executable, "-m", "selma.dvc", "status")
    assert "up to date" in again.stdout and "cut off" not in again.stderr


def test_a_lock_that_is_whole_stays(finished: Path) -> None:
    """Whole: as committed, though the copy has more stages; or with stages that the copy does not have."""
    lock = finished / "dvc.lock"
    whole = lock.read_text()
    assert "cut off" not in run(finished, sys.executable, "-m", "selma.dvc", "status").stderr
    lock.write_text(whole[: whole.index("  second:")])
    subprocess.run(["git", "add", "--all"], cwd=finished, check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, "commit", "--quiet", "-m", "one"], cwd=finished, check=True)
    assert "cut off" not in run(finished, sys.executable, "-m", "selma.dvc", "status").stderr
    assert "second" not in lock.read_text()


def test_without_a_copy_one_line_says_what_brings_the_lock_back(finished: Path) -> None:
    (finished / ".work/dvc.lock").unlink()
    (finished / "dvc.lock").write_text("")
    ours = run(finished, sys.executable, "-m", "selma.dvc", "status")
    assert (
        ours.stderr.startswith("warning: dvc.lock was cut off") and "git restore -SW dvc.lock" in ours.stderr
    )


def test_dvc_writes_its_lock_at_one_stroke(finished: Path) -> None:
    """Killed before the rename it leaves what was there."""
    before = (finished / "dvc.lock").read_text()
    killed = """
import os, signal, sys
from selma import dvc
rename = os.replace
def kill(source, target, *rest, **more):
    if str(target).endswith("dvc.lock"):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(source, target, *rest, **more)
os.replace = kill
dvc.main(["repro", "--force", "--single-item", "third"])
"""
    assert run(finished, sys.executable, "-c", killed).returncode == -signal.SIGKILL
    assert (finished / "dvc.lock").read_text() == before


def test_a_key_that_is_not_set_is_said_before_dvc_deletes_what_the_stage_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But not where what asks the server is as dvc.lock says: who pulled a finished run has no key."""
    copy_tree(tmp_path)
    for words in (("git", "init", "--quiet"), ("dvc", "init", "--quiet", "--force")):
        subprocess.run(words, cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    params = load_params()
    check_keys(params)
    asked = {"llm.provider": "openai", "llm.model": "gpt"}
    endpoint = {"judges.endpoint": {"kind": "endpoint", "endpoint": {"model": "gpt"}}}
    for changed, stage in (
        (asked, "prompts@"),
        ({**endpoint, "rate.judges": ["endpoint"]}, "rate@endpoint-"),
    ):
        YAML().dump(overridden(load_yaml(ROOT / "params.yaml"), changed), Path("params.yaml"))
        before = {path: path.read_bytes() for path in Path("metrics").rglob("*.json")}
        assert dvc.main(["repro"]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and "OPENAI_API_KEY is not set" in lines[0] and f"({stage}" in lines[0]
        assert before == {path: path.read_bytes() for path in Path("metrics").rglob("*.json")}
    YAML().dump(overridden(load_yaml(ROOT / "params.yaml"), endpoint), Path("params.yaml"))
    check_keys(load_params())  # nobody asks it
    policy = {"rewards": {"endpoint": 1.0}, "algorithm": "nft", "start": "models/backbones/shapes"}
    policy |= {"prompts": "data/questions", "held_out": ["oracle"], "images": 192}
    YAML().dump(
        overridden(load_yaml(ROOT / "params.yaml"), {**endpoint, "policies.asking": policy}),
        Path("params.yaml"),
    )
    with pytest.raises(UserError, match=r"is not set; .* \(policy@asking asks it\)"):
        check_keys(load_params())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    YAML().dump(overridden(load_yaml(ROOT / "params.yaml"), asked), Path("params.yaml"))
    check_keys(load_params())


@pytest.mark.parametrize(
    ("words", "finished", "asked"),
    [
        ("", False, True),
        ("", True, False),  # who pulled a finished run has no key
        ("--force", True, True),
        ("evaluate", False, True),
        ("prompts@count", False, True),
        ("prompts", False, True),
        ("benchmark", False, False),
        ("-s evaluate", False, False),
        ("-s prompts@count", False, True),
        ("-s --force benchmark", True, False),
    ],
)
def test_a_key_is_looked_for_where_something_runs_that_needs_it(
    words: str, finished: bool, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("A_KEY", raising=False)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    settings = {"llm.provider": "openai", "llm.model": "gpt", "llm.key_env": "A_KEY"}
    YAML().dump(overridden(load_yaml(ROOT / "params.yaml"), settings), Path("params.yaml"))
    stages = load_stages(tmp_path)
    monkeypatch.setattr(  # as DVC would say, which is test_plan.py's
        keys,
        "states",
        lambda root: {
            name: State(False, "" if finished else "its command", (), False, None) for name in stages
        },
    )
    ran: list[list[str]] = []
    monkeypatch.setattr("dvc.cli.main", lambda argv: ran.append(argv) or 0)
    monkeypatch.setattr(dvc, "lacking", lambda stages: None)  # what is not here is another test's
    assert (dvc.main(["repro", *words.split()]) == 2) is asked and bool(ran) is not asked
    assert dvc.main(["repro", "--help"]) == dvc.main(["repro", "--dry"]) == 0, "nothing runs"


def test_one_stage_runs_as_an_experiment_where_nothing_else_was_pulled(tmp_path: Path) -> None:
    """At the end DVC looks at every plot: of one that lies in a folder of its cache it wants the folder's list."""
    copy_tree(tmp_path)
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for words in (
        ("init", "--quiet"),
        ("add", "--all"),
        (*who, "commit", "--quiet", "--message", "as it is"),
    ):
        subprocess.run(("git", *words), cwd=tmp_path, check=True)
    done = run(tmp_path, "dvc", "exp", "run", "--temp", "-S", "benchmarks.shapes.seed=9", "benchmark")
    assert done.returncode == 0 and "Ran experiment" in done.stdout, done.stderr
    shown = run(tmp_path, "dvc", "plots", "show")
    assert shown.returncode == 0 and "index.html" in shown.stdout, shown.stderr
