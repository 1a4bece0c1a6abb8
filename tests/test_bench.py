"""What lies in bench/ runs, at toy size: a measurement that cannot start is worth nothing."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import filter as filtering
from bench import scale
from bench._captions import captions
from selma.backbones.loading import load_pipeline
from selma.executing.walk import Walk
from selma.runtime.dvcfile import Stage, needs

ROOT = Path(__file__).parents[1]
TOY = {
    "filter": ["60"],
    "linear": ["--repeats", "1"],
    "judge": ["--images", "3", "--questions", "3", "--width", "128"],
    "filter --text": ["60", "--text", "captions"],
    "filter --growth": ["--growth", "50", "100", "--text", "captions"],
    "merge": ["--size", "tiny", "--rank", "3", "--experts", "2", "--every", "3"],
    "sample": ["--size", "tiny", "--images", "6", "--alone", "2", "--batch", "3", "--steps", "2"],
    "train": ["--size", "tiny", "--batch", "4", "--images", "12", "--steps", "2"],
    "memory": ["tiny", "--steps", "1", "--draw", "3", "--parts", "1"],
    "tokens": ["--batch", "2", "--pairs", "2", "--steps", "1"],
    "tokens --size": ["--size", "tiny", "--batch", "2", "--pairs", "2", "--steps", "1"],
    "scale": ["{new}", "--simulate", "--profile", "sd2", "--workers", "1", "8"],
}


@pytest.mark.parametrize("name", sorted({path.stem for path in (ROOT / "bench").glob("[!_]*.py")} | set(TOY)))
def test_every_measurement_runs(name: str, tmp_path: Path) -> None:
    words = [word.replace("{new}", str(tmp_path / "new")) for word in TOY[name]]
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name.split()[0]}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-1000:]


def test_growth_says_how_the_filters_time_grows(capsys: pytest.CaptureFixture[str]) -> None:
    filtering.growth([50, 200], "captions")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("      50 captions  kept") and "n^" not in first
    assert second.startswith("     200 captions  kept") and "n^" in second and second.endswith(" GB")


def test_made_up_captions_are_the_same_in_every_run_and_some_are_alike() -> None:
    made = captions(2000)
    assert made[:100] == captions(100) and len(set(made)) > 1800
    assert len({word for caption in made for word in caption.split()}) > 2000
    assert 0.7 < len(filtering.ours(made)) / len(made) < 0.95


def stage(name: str, deps: tuple[str, ...], outs: tuple[str, ...]) -> Stage:
    return Stage(name, "", f"python -m stages.{name}", deps, (), outs, (), (), frozenset())


def test_a_stage_needs_what_makes_something_above_or_below_its_deps() -> None:
    made = {"a": stage("a", (), ("data/x",)), "b": stage("b", (), ("data/xy",))}
    for deps, needed in ((("data/x",), ["a"]), (("data",), ["a", "b"]), (("data/x/y", "stages/c.py"), ["a"])):
        assert needs(made | {"c": stage("c", deps, ())})["c"] == needed


def test_on_paper_two_workers_halve_what_can_be_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two chains of equal length, of which one worker takes twice the time of two."""
    graph = scale._Paper({"a": [], "b": [], "c": ["a"]}, dict.fromkeys("abc", "python -m stages.merge x"), {})
    took = []
    monkeypatch.chdir(ROOT)
    for workers in (1, 2):
        seconds = {"a": 3.0, "b": 5.0, "c": 2.0}
        graph.seconds = seconds
        clocks = scale._Clocks(lambda unit: seconds[unit.stage])  # noqa: B023
        quiet = {"say": lambda line: None, "logs": tmp_path}
        Walk(graph, clocks, workers, clock=lambda: clocks.now, rest=clocks.rest, **quiet).run()  # noqa: B023
        took.append((clocks.now, clocks.busy))
    assert took == [(10.0, 10.0), (5.0, 10.0)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["."], ". exists; name a folder that does not"),
        (["{new}", "--profile", "sd3", "--simulate"], "sd3"),
        (["{new}", "--set", "seed"], "--set: seed; it must be KEY=VALUE"),
        (["{new}", "--set", "expert.rank=0"], "--set: expert.rank is 0; it must be"),
        (["{new}", "--set", "expert.rank=["], "--set expert.rank, line 1: is not valid YAML"),
    ],
)
def test_a_run_that_cannot_be_is_one_line_and_copies_nothing(
    options: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    new = tmp_path / "new"
    assert scale.main([option.replace("{new}", str(new)) for option in options]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not new.exists()


@pytest.mark.parametrize(
    "command",
    [
        "train --steps 0",
        "train --batch 9 --images 8",
        "train --rank -1",
        "train --device cuda:99",
        "sample --images 0",
        "tokens --batch 0",
        "tokens --backbone models/backbones/shapes",
        "memory tiny --device cuda:99",
        "sample --guidance nan",
        "tokens --guidance 1",
        "judge --questions 0",
        "filter 0",
        "filter --growth 0 10",
        "linear --repeats x",
        "merge --rank 0",
        "merge --every 0",
        "merge --operators best",
    ],
)
def test_a_measurement_that_cannot_be_is_one_line_and_exit_code_2(command: str) -> None:
    words = [sys.executable, "-m", f"bench.{command.split()[0]}", *command.split()[1:]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "error: " in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr


def test_the_operations_of_a_training_step_are_those_of_the_unet(tmp_path: Path) -> None:
    from bench import _machine, train

    given = Namespace(device="cpu", dtype="float32", batch=2, rank=2)
    backbone = _machine.random_backbone("tiny", tmp_path / "backbone")
    data = train.make_images(tmp_path / "images", 4, load_pipeline(backbone))
    example = train.Example(backbone, data, given)
    assert train.operations(example) == train.operations(example)
    texts = torch.zeros(2, 77, 16)
    with FlopCounterMode(display=False) as once, torch.no_grad():
        example.unet(torch.zeros(2, 4, 8, 8), 1, encoder_hidden_states=texts)
    assert 1.5 * once.get_total_flops() < train.operations(example) < 3 * once.get_total_flops()
