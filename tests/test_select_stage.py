"""Stage `select`: which checkpoint is kept, on which prompts and noises, and that a stopped run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from selma.backbones import loading
from selma.ground.errors import UserError
from selma.ground.files import read_json, write_json, write_jsonl, write_text
from selma.ground.items import Item, Question, write_split
from selma.ground.pairs import image_seed
from selma.images import sampler
from selma.judging.judge import Answer
from selma.runtime.params import load_params
from selma.variants.judges import oracle
from stages import select

ROOT = Path(__file__).parents[1]
QUESTION = Question("1", "Is it bright?", ("yes", "no"), "yes", (), "object")


class Lamp:
    def answer(self, image, questions):
        return [Answer("yes" if image.getpixel((0, 0))[0] > 100 else "no", 0.5) for _ in questions]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Three checkpoints; `step` draws bright[step] of the four dev prompts as the judge expects."""
    for code in ("selma", "stages"):
        (tmp_path / code).symlink_to(ROOT / code)
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("DVC_STAGE", "select@count")
    params = load_params()
    monkeypatch.setattr(oracle, "load", lambda *_: Lamp())
    for split in ("dev", "test"):
        items = [Item(f"{split}-{i}", f"{split} prompt {i}", "count", "t", (QUESTION,)) for i in range(4)]
        write_split(Path("data/benchmarks") / params.evaluate.benchmarks[0], split, items)
    write_json(Path("models/judges") / params.judge.name / "judge.json", {"kind": "oracle"})
    for skill in ("count", "."):
        Path("data/images", skill).mkdir(parents=True, exist_ok=True)
    write_text(Path("models/backbones") / params.expert.backbone / "model_index.json", "{}")
    for step in (100, 200, 1000):
        folder = Path(f"models/checkpoints/count/step-{step:06d}")
        write_text(folder / "pytorch_lora_weights.safetensors", f"weights {step}")
        write_json(folder / "lora.json", {"steps": step})
    return World(monkeypatch)


class World:
    """What is drawn, in place of a diffusion model: `bright` prompts of each step, or those numbers; calls are kept."""

    def __init__(self, monkeypatch):
        self.bright = {100: 1, 200: 3, 1000: 2}
        self.calls = []
        monkeypatch.setattr(loading, "load_pipeline", self.load)
        monkeypatch.setattr(sampler, "draw", self.draw)

    def load(self, folder, device, dtype, lora):
        return read_json(lora / "lora.json")["steps"]

    def draw(self, step, texts, seeds, drawing, method, options):
        self.calls.append((step, texts, seeds, drawing))
        bright = self.bright[step]
        if isinstance(bright, BaseException):
            raise bright
        for i, text in enumerate(texts):
            lit = int(text.split()[-1]) in (range(bright) if isinstance(bright, int) else bright)
            yield i, Image.new("RGB", (8, 8), "white" if lit else "black")


def chosen() -> tuple[int, dict]:
    metrics = read_json(Path("metrics/select/count.json"))
    kept = read_json(Path("models/experts/count/lora.json"))["steps"]
    assert metrics["chosen"] == kept
    weights = Path("models/experts/count/pytorch_lora_weights.safetensors").read_text()
    assert weights == f"weights {kept}"
    return kept, metrics


def test_the_best_checkpoint_on_the_dev_split_is_kept(project):
    write_text(Path("models/experts/count/stale.txt"), "")
    project.bright = {100: 0, 200: 4, 1000: 1}
    select.main("count")
    step, metrics = chosen()
    assert step == 200
    assert metrics["policy"] == "best" and metrics["scores"] == {"100": 0.0, "200": 1.0, "1000": 0.25}
    assert metrics["noise"] == {"100": 0.0, "200": 0.0, "1000": 0.25}
    assert not Path("models/experts/count/stale.txt").exists()
    assert not list(Path(".work").glob("*/*"))


def test_every_checkpoint_draws_the_dev_prompts_from_the_same_noises(project):
    select.main("count")
    params = load_params()
    (_, texts, seeds, drawing), *others = project.calls
    assert [step for step, *_ in project.calls] == [100, 200, 1000]
    assert all((t, s, o) == (texts, seeds, drawing) for _, t, s, o in others)
    assert set(texts) == {f"dev prompt {i}" for i in range(4)}
    assert len(texts) == 4 * params.select.images_per_prompt
    assert seeds[0] == image_seed(params.seed, "dev-0", 0)
    assert drawing == params.evaluate.drawing


def test_prompts_held_out_by_the_filter_are_scored_by_vqascore(project, monkeypatch):
    class Likely(Lamp):
        def score(self, image, prompt):
            assert "held out" in prompt
            return 0.75 if image.getpixel((0, 0))[0] > 100 else 0.25

    for skill in ("tags", "count"):  # of which each expert is examined on its own
        rows = [{"id": f"{skill}-{i}", "text": f"{skill} held out {i}"} for i in range(2)]
        write_jsonl(Path("data/images") / skill / "held_out.jsonl", rows)
    with pytest.raises(UserError, match="gives no VQAScore"):
        select.main("count")
    monkeypatch.setattr(oracle, "load", lambda *_: Likely())
    project.bright = {100: 0, 200: 2, 1000: 1}  # of the two prompts
    project.calls.clear()
    select.main("count")
    assert chosen()[1]["scores"] == {"100": 0.25, "200": 0.75, "1000": 0.5}
    _, texts, seeds, _ = project.calls[0]
    assert texts == [f"count held out {i}" for i in range(2)]
    assert seeds[0] == image_seed(load_params().seed, "count-0", 0)

    write_json(Path("data/images/skills.json"), ["tags", "count"])  # an expert of both is examined on both
    shutil.copytree("models/checkpoints/count", "models/checkpoints/single")
    monkeypatch.setenv("DVC_STAGE", "select@single")
    project.calls.clear()
    select.main("single")
    assert project.calls[0][1] == [f"{skill} held out {i}" for skill in ("tags", "count") for i in range(2)]

    params = (
        Path("params.yaml")
        .read_text()
        .replace("  single: {data: data/images, ", "  single: {data: data/images, skills: [count], ")
    )
    Path("params.yaml").write_text(params)  # of one of the two, on that one
    project.calls.clear()
    select.main("single")
    assert project.calls[0][1] == [f"count held out {i}" for i in range(2)]


def test_an_expert_that_nothing_can_be_chosen_by_is_named(project):
    (Path("data/benchmarks/shapes") / "dev.jsonl").unlink()
    with pytest.raises(UserError) as error:
        select.main("count")
    assert str(error.value) == (
        "data/images/count: holds no held_out.jsonl to choose a checkpoint by, and data/benchmarks/shapes "
        "no dev split; raise filter.dev, or set select.policy to last"
    )


def test_of_equal_checkpoints_the_later_is_kept(project):
    project.bright = {100: 1, 200: 3, 1000: 3}
    select.main("count")
    assert chosen()[0] == 1000


def test_a_better_score_within_its_noise_does_not_stop_training_early(project):
    """One prompt of 30 better, and three apart: .033 with a standard error of .058. Three better are .1 with .056."""
    folder = Path("data/benchmarks") / load_params().evaluate.benchmarks[0]
    items = [Item(f"dev-{i}", f"dev prompt {i}", "count", "t", (QUESTION,)) for i in range(30)]
    write_split(folder, "dev", items)
    project.bright = {100: 0, 200: range(21), 1000: range(2, 22)}
    select.main("count")
    step, metrics = chosen()
    assert step == 1000 and metrics["scores"]["200"] > metrics["scores"]["1000"]
    assert metrics["noise"]["1000"] == pytest.approx(0.0578, abs=1e-3) and metrics["noise"]["200"] == 0
    project.bright = {100: 0, 200: 23, 1000: 20}
    select.main("count")
    assert chosen()[0] == 200


def test_policy_last_draws_nothing(project):
    text = Path("params.yaml").read_text()
    assert "policy: best" in text
    Path("params.yaml").write_text(text.replace("policy: best", "policy: last"))
    select.main("count")
    step, metrics = chosen()
    assert (step, metrics["scores"], project.calls) == (1000, {}, [])


def test_a_stopped_run_scores_only_what_is_left(project):
    project.bright[1000] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        select.main("count")
    assert not Path("models/experts").exists() and not Path("metrics").exists()
    project.calls.clear()
    project.bright = {100: 4, 200: 4, 1000: 2}  # not asked again: the kept scores stand
    select.main("count")
    assert [step for step, *_ in project.calls] == [1000]
    assert chosen()[1]["scores"] == {"100": 0.25, "200": 0.75, "1000": 0.5}


def test_an_expert_without_checkpoints_is_named(project):
    shutil.rmtree("models/checkpoints/count")
    Path("models/checkpoints/count/step-old").mkdir(parents=True)
    with pytest.raises(UserError, match=r"models/checkpoints/count holds no checkpoints"):
        select.main("count")
