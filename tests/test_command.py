"""How a command ends: the exit code, and one line on stderr."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from selma.ground.errors import UserError
from selma.runtime import command

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(path.stem for path in (ROOT / "selma").glob("[!_]*.py"))
MEASUREMENTS = sorted(path.stem for path in (ROOT / "bench").glob("[!_]*.py"))


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


def swallowed() -> None:
    """What numpy makes of Ctrl-C while it is imported."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("cannot load module more than once per process") from None


def lost() -> None:
    """What a library makes of it that catches everything: it goes on."""
    with suppress(BaseException):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
    raise AssertionError("went on")


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        (lambda: None, 0, ""),
        (raising(UserError("x: wrong")), 2, "error: x: wrong\n"),
        (
            raising(OSError(30, "Read-only file system", "out")),
            2,
            "error: out: read-only file system\n",
        ),
        (
            raising(OSError(18, "Invalid cross-device link", "a\nb", None, "c")),
            2,
            "error: a b -> c: invalid cross-device link\n",
        ),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "interrupted\n"),
        (swallowed, 130, "interrupted\n"),
        (lost, 130, "interrupted\n"),
    ],
)
def test_exit_codes_and_the_one_line(work, code, said, capsys):
    before = signal.getsignal(signal.SIGINT)
    assert command.run(work) == code
    assert capsys.readouterr().err == said
    assert signal.getsignal(signal.SIGINT) is before


def test_a_bug_keeps_its_traceback_and_an_exit_its_code():
    with pytest.raises(ZeroDivisionError):
        command.run(lambda: 1 / 0)
    with pytest.raises(SystemExit):
        command.run(raising(SystemExit(3)))


def refused(monkeypatch, capsys, name: str, *arguments: str) -> str:
    """What `python -m name` says as it leaves with 2."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process is also pytest's
    with pytest.raises(SystemExit) as left:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    said = capsys.readouterr()
    assert left.value.code == 2 and said.out == ""
    return said.err


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.parametrize(
    "name",
    [
        *(f"selma.{name}" for name in COMMANDS if name != "dvc"),  # that is DVC's own
        *(f"bench.{name}" for name in MEASUREMENTS),
        "stages.select",
    ],
)
def test_an_unknown_option_is_one_line_that_says_how_to_call_it(name, monkeypatch, capsys):
    line = refused(monkeypatch, capsys, name, "--no-such-option")
    assert line.count("\n") == 1 and line.endswith("\n")
    assert f"usage: python -m {name}" in line


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["report"],
            "error: the following arguments are required: REV; "
            "usage: python -m selma.report [-h] [--out OUT] REV [REV ...]",
        ),
        (
            ["table", "a\nb"],
            "error: unrecognized arguments: a b; usage: python -m selma.table [-h] [--markdown | --beside]",
        ),
        (["score", "dsg", "x.csv", "--seed", "a"], "error: --seed: invalid int value: 'a'"),
        (["times", "--wall", "-4"], "error: --wall: '-4'; it must be seconds, 0 or more"),
        (["publish", "--to"], "error: --to: expected one argument"),
    ],
)
def test_arguments_that_are_missing_or_wrong_are_one_line(words, line, monkeypatch, capsys):
    assert refused(monkeypatch, capsys, f"selma.{words[0]}", *words[1:]) == f"{line}\n"


def test_every_command_and_stage_explains_itself():
    names = [f"selma.{name}" for name in COMMANDS]
    names += [f"stages.{file.stem}" for file in (ROOT / "stages").glob("[!_]*.py")]
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", name, "--help"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    }
    for name, process in started.items():
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0 and "Traceback" not in err, name
        assert f"python -m {name}" in out, name


@pytest.mark.parametrize(
    "name",
    [
        *(f"selma.{name}" for name in COMMANDS if name != "dvc"),
        "bench.filter",
        "selma.parallel",
    ],  # that is DVC's own
)
def test_ctrl_c_is_one_line_while_a_command_is_imported(name, tmp_path):
    for slow in (
        "pydantic",
        "rouge_score",
    ):  # what the command imports holds it up, as torch does for seconds
        (tmp_path / f"{slow}.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", name],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "interrupted\n"
    assert process.returncode == 130
