"""The policy stage as a user runs it: what it writes, how it resumes, and what bad settings get."""

from __future__ import annotations

import base64
import csv
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from selma.ground.errors import UserError
from selma.ground.files import read_json, write_json
from selma.ground.items import Item, Question, write_items, write_split
from selma.lora.files import load_lora
from selma.runtime.params import build_params
from selma.runtime.schema import load_yaml
from stages import merge, policy
from tests.judge_models import make_blip_vqa
from tests.test_judge_endpoint import Server, completion

ROOT = Path(__file__).parents[1]
ROW = {
    "algorithm": "nft",
    "start": "models/backbones/shapes",
    "prompts": "data/questions",
    "rewards": {"solace": 1.0},
    "images": 24,
    "held_out": ["oracle"],
    "options": {"learning_rate": 1e-2},
}
SETTINGS = {
    "skills": ["count"],
    "experts": {"count": {"data": "data/images/count", "objective": "denoising"}},
    "merges": {},
    "models": {
        "base": {"weights": "models/backbones/shapes", "guidance": "cfg"},
        "it": {"weights": "models/experts/it", "guidance": "cfg"},
    },
    "compare": [["it", "base"]],
    "policies": {"it": ROW},
    "policy.prompts": 2,
    "policy.group": 3,
    "policy.rank": 2,
    "policy.alpha": 2.0,
    "policy.examine_every": 2,
    "policy.least_diversity": 0.0,
    "policy.drawing.steps": 3,
    "policy.drawing.resolution": 32,
    "evaluate.drawing.steps": 2,
}
KILLED = """
import os, signal
from selma.runtime import tracking
from stages import policy

def log_row(row):
    if row["round"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
tracking.log_row = log_row
os.environ["DVC_STAGE"] = "policy@it"
policy.main("it")
"""


def item(id: str, prompt: str) -> Item:
    asked = (Question("1", "Is there a circle?", ("yes", "no"), "yes", (), "object"),)
    return Item(id, prompt, "count", "filter", asked)


@pytest.fixture
def project(make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """project("name", {...}) makes a project with prompts, an exam and one policy, and goes into it."""

    def make(name: str = "project", overrides: dict | None = None) -> Path:
        root = make_project(name, {**SETTINGS, **(overrides or {})})
        prompts = [
            item(f"count-{i}", text) for i, text in enumerate(("a cat", "two dogs", "red snow", "one exam"))
        ]
        write_items(root / "data/questions/count/prompts.jsonl", prompts)
        exam = root / "data/benchmarks/shapes"
        write_split(exam, "dev", [item("dev-1", "a green hill"), item("dev-2", "seven lamps")])
        write_split(exam, "test", [item("test-1", "one exam")])
        monkeypatch.chdir(root)
        monkeypatch.setenv("DVC_STAGE", "policy@it")
        return root

    return make


def curve(root: Path) -> list[dict[str, str]]:
    with open(root / "metrics/policy/it.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_writes_a_lora_checkpoints_and_a_curve(project: Callable[..., Path]) -> None:
    root = project()
    policy.main("it")
    found = read_json(root / "metrics/policy/it.json")
    assert found["algorithm"] == "nft" and found["images"] == 24 and found["stopped"] is None
    assert found["prompts"] == 3, "the prompt that the exam has is not learned on"
    assert found["questions"] == 24 and found["updates"] == 24 / 6 * 2 * 3
    checkpoints = sorted(path.name for path in (root / "models/checkpoints/it").iterdir())
    assert checkpoints == ["step-000000", "step-000002", "step-000004"]
    card = load_lora(root / "models/experts/it").provenance
    assert card["rounds"] == found["chosen"] == 4, "without a judge that rewards, the last one is kept"
    assert (card["algorithm"], card["start"], card["rank"]) == ("nft", "models/backbones/shapes", 2)
    rows = curve(root)
    assert [row["images"] for row in rows] == ["0", "6", "12", "18", "24"]
    assert all(row["reward"] and row["diversity"] and row["distance"] for row in rows[1:])
    assert [bool(row["dev_oracle"]) for row in rows] == [True, False, True, False, True]


def test_a_killed_stage_ends_in_the_same_bytes(project: Callable[..., Path]) -> None:
    whole = project("whole")
    policy.main("it")
    killed = project("killed")
    environment = {**os.environ, "PYTHONPATH": str(killed)}
    assert subprocess.run([sys.executable, "-c", KILLED], env=environment).returncode == -signal.SIGKILL
    assert not (killed / "models/experts/it").exists()
    policy.main("it")
    for out in ("models/experts/it", "models/checkpoints/it", "metrics/policy"):
        for path in sorted((whole / out).rglob("*.*")):
            if path.is_file():
                assert path.read_bytes() == (killed / path.relative_to(whole)).read_bytes(), path


def test_a_policy_starts_from_another_and_merges_like_an_expert(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    next_row = {**ROW, "start": "models/experts/it", "images": 6}
    merged = {"both": {"operator": "delta_mean", "experts": ["it", "next"]}}
    root = project(overrides={"policies": {"it": {**ROW, "images": 6}, "next": next_row}, "merges": merged})
    policy.main("it")
    monkeypatch.setenv("DVC_STAGE", "policy@next")
    policy.main("next")
    assert load_lora(root / "models/experts/next").provenance["start"] == "models/experts/it"
    (root / "data/images").mkdir(parents=True)
    monkeypatch.setenv("DVC_STAGE", "merge@both")
    merge.main("both")
    assert load_lora(root / "models/merges/both").provenance["experts"] == ["it", "next"]


def test_a_judge_rewards_and_chooses_the_checkpoint(project: Callable[..., Path]) -> None:
    root = project(
        overrides={"policies": {"it": {**ROW, "rewards": {"oracle": 0.5, "solace": 1.0}, "held_out": []}}}
    )
    policy.main("it")
    rows = curve(root)
    assert {"reward_oracle", "reward_solace", "dev_oracle"} <= set(rows[0])
    assert float(rows[1]["reward"]) == pytest.approx(
        0.5 * float(rows[1]["reward_oracle"]) + float(rows[1]["reward_solace"]), abs=1e-5
    )


@pytest.mark.parametrize("asked", (True, False))
def test_a_local_vqa_judge_rewards_by_questions_or_by_vqascore(
    project: Callable[..., Path], asked: bool
) -> None:
    row = {**ROW, "rewards": {"vlm": 1.0}, "held_out": [], "images": 12}
    root = project(
        overrides={"policies": {"it": row}, "own.judges": {"vlm": {"kind": "blip_vqa", "path": "/mine"}}}
    )
    make_blip_vqa(root / "models/judges/vlm")
    write_json(root / "models/judges/vlm/judge.json", {"kind": "blip_vqa"})
    if not asked:
        plain = [
            Item(f"count-{i}", text, "count", "filter", ())
            for i, text in enumerate(("a cat", "two dogs", "snow"))
        ]
        write_items(root / "data/questions/count/prompts.jsonl", plain)
    policy.main("it")
    rewards = [float(row["reward"]) for row in curve(root)[1:]]
    assert all(0 < reward < 1 for reward in rewards) and read_json(root / "metrics/policy/it.json")["scores"]


def test_a_judge_behind_a_server_rewards_by_its_probability_of_yes(project: Callable[..., Path]) -> None:
    server = Server()
    server.reply = lambda request: completion("yes", {"yes": redness(request), "no": 1 - redness(request)})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    judges = {
        "oracle": {"kind": "oracle"},
        "vlm": {"kind": "endpoint", "endpoint": {"model": "tiny", "base_url": address}},
    }
    row = {**ROW, "rewards": {"vlm": 1.0}, "held_out": [], "images": 12}
    root = project(overrides={"policies": {"it": row}, "judges": judges})
    card = {"kind": "endpoint", "endpoint": {"model": "tiny", "base_url": address, "key_env": None}}
    write_json(root / "models/judges/vlm/judge.json", card)
    policy.main("it")
    server.shutdown()
    rows = curve(root)
    assert all(0 < float(row["reward"]) < 1 for row in rows[1:])
    assert len(server.requests) == 12 + 2 * 2, (
        "every training picture once, and two dev pictures at two examinations"
    )


def redness(request: dict) -> float:
    """How red the picture in a chat request is, 0.05 to 0.95."""
    parts = request["messages"][-1]["content"]
    url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    pixels = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"), np.float32
    )
    return float(np.clip(pixels[..., 0].mean() / 255, 0.05, 0.95))


def test_without_a_dev_split_some_prompts_are_held_out(project: Callable[..., Path]) -> None:
    root = project(overrides={"select.policy": "last", "policies": {"it": {**ROW, "images": 6}}})
    (root / "data/benchmarks/shapes/dev.jsonl").unlink()
    with pytest.raises(UserError, match="at least 10 are needed"):
        policy.main("it")
    many = [item(f"count-{i}", f"{'very ' * i}old tree") for i in range(25)]
    write_items(root / "data/questions/count/prompts.jsonl", many)
    policy.main("it")
    assert read_json(root / "metrics/policy/it.json")["prompts"] == 23


def test_a_judge_that_cannot_read_the_questions_is_one_line(project: Callable[..., Path]) -> None:
    root = project(overrides={"policies": {"it": {**ROW, "rewards": {"oracle": 1.0}, "held_out": []}}})
    asked = (Question("1", "Is the mood of the scene wistful?", ("yes", "no"), "yes", (), "global"),)
    write_items(
        root / "data/questions/count/prompts.jsonl", [Item("count-1", "a sad cat", "count", "filter", asked)]
    )
    with pytest.raises(UserError, match="cannot read the question"):
        policy.main("it")
    assert not (root / ".work/policy@it").exists(), "said before anything is drawn"


def test_a_judge_of_questions_and_a_prompt_without_is_one_line(project: Callable[..., Path]) -> None:
    root = project(overrides={"policies": {"it": {**ROW, "rewards": {"oracle": 1.0}, "held_out": []}}})
    write_items(
        root / "data/questions/count/prompts.jsonl", [Item("count-1", "a sad cat", "count", "filter", ())]
    )
    with pytest.raises(UserError, match="answers questions alone, and count-1"):
        policy.main("it")


BAD = {
    "an unknown algorithm": (
        {"algorithm": "ppo"},
        {},
        "policies.it.algorithm is 'ppo'; it must be one of: awm, ddpo",
    ),
    "a setting of another algorithm": ({"options": {"eta": 1.0}}, {}, "policies.it.options"),
    "eta 0 where noise is needed": ({"algorithm": "ddpo", "options": {"eta": 0.0}}, {}, "eta"),
    "a second update by the score function": (
        {"algorithm": "ddpo", "options": {"gradient": "sf"}},
        {},
        "set updates and passes to 1",
    ),
    "a learning rate of 0": ({"options": {"learning_rate": 0.0}}, {}, "learning_rate"),
    "a group of one picture": ({}, {"policy.group": 1}, "policy.group is 1"),
    "a budget below one round": ({"images": 5}, {}, "policies.it.images is 5; one round draws 6"),
    "an unknown judge": ({"rewards": {"nobody": 1.0}}, {}, "policies.it.rewards holds nobody"),
    "no reward": ({"rewards": {}}, {}, "policies.it.rewards"),
    "a weight of 0": ({"rewards": {"oracle": 0.0}, "held_out": []}, {}, "policies.it.rewards.oracle is 0"),
    "a weight that is not finite": ({"rewards": {"oracle": float("nan")}}, {}, "policies.it.rewards.oracle"),
    "a judge on both sides": (
        {"rewards": {"oracle": 1.0}},
        {},
        "policies.it.held_out holds oracle, which rewards",
    ),
    "a start that nothing makes": (
        {"start": "models/experts/nobody"},
        {},
        "policies.it.start is models/experts/nobody",
    ),
    "a merge to start from": ({"start": "models/merges/merged"}, {}, "take an expert"),
    "itself to start from": ({"start": "models/experts/it"}, {}, "policies.it.start is models/experts/it"),
    "the exam's prompts": ({"prompts": "data/benchmarks/shapes"}, {}, "on which models are examined"),
    "prompts that nothing makes": ({"prompts": "data/filtered"}, {}, "policies.it.prompts is data/filtered"),
    "no questions for a judge of questions": (
        {"rewards": {"oracle": 1.0}, "held_out": []},
        {"questions.source": "none"},
        "judge oracle answers questions alone, and questions.source is none",
    ),
    "another sampler": ({}, {"policy.drawing.scheduler": "euler"}, "policies draw by ddim"),
    "an average that never moves": ({}, {"policy.average": 1.0}, "policy.average is 1.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_line_before_anything_runs(case: str, project: Callable[..., Path]) -> None:
    row, overrides, said = BAD[case]
    with pytest.raises(UserError) as error:
        root = project(overrides={**overrides, "policies": {"it": {**ROW, **row}}})
        build_params(load_yaml(root / "params.yaml"), "params.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_two_policies_that_start_from_each_other_are_refused(project: Callable[..., Path]) -> None:
    rows = {"it": {**ROW, "start": "models/experts/other"}, "other": {**ROW, "start": "models/experts/it"}}
    root = project(overrides={"policies": rows})
    with pytest.raises(UserError, match="in turn; begin somewhere"):
        build_params(load_yaml(root / "params.yaml"), "params.yaml")


@pytest.mark.parametrize("section", ("experts", "merges"))
def test_a_policy_needs_a_name_of_its_own(section: str, project: Callable[..., Path]) -> None:
    row = {
        "experts": {"data": "data/images/count", "objective": "denoising"},
        "merges": {"operator": "delta_mean", "experts": ["count"]},
    }
    given = {"count": SETTINGS["experts"]["count"]} if section == "experts" else {}
    root = project(overrides={section: {**given, "it": row[section]}})
    with pytest.raises(UserError, match=r"(of|has) that name"):
        build_params(load_yaml(root / "params.yaml"), "params.yaml")


def test_an_operator_that_needs_training_images_refuses_policies(project: Callable[..., Path]) -> None:
    root = project(overrides={"merges": {"m": {"operator": "ssr", "experts": ["it", "count"]}}})
    with pytest.raises(UserError, match="it is a policy, whose pictures are not kept"):
        build_params(load_yaml(root / "params.yaml"), "params.yaml")


def test_an_unknown_policy_is_one_line(project: Callable[..., Path]) -> None:
    project()
    done = subprocess.run([sys.executable, "-m", "stages.policy", "nobody"], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and done.stderr == "error: policies: no policy 'nobody' in params.yaml; allowed: it\n"
    )


def test_the_example_in_params_yaml_is_a_policy() -> None:
    """What the comment shows can be pasted."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("#   nft: {algorithm"))
    shown = YAML(typ="safe").load("\n".join(line.removeprefix("# ") for line in lines[first : first + 2]))
    values = load_yaml(ROOT / "params.yaml") | {"policies": shown}
    assert build_params(values, "params.yaml").policies["nft"].algorithm == "nft"
