"""Mixtures: gates over experts, and one LoRA that experts teach."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from selma import export, prune
from selma.backbones.bank import add_bank, weighted
from selma.backbones.loading import fingerprint, load_pipeline
from selma.backbones.schedulers import training_schedule
from selma.experts import examples, loop, noisy
from selma.ground.errors import UserError
from selma.ground.files import read_json, write_json
from selma.ground.mixtures import read_mixture
from selma.lora.adapter import add_lora, lora_parameters
from selma.lora.files import LoraWeights, load_lora, save_lora
from selma.lora.mixing import load_experts, stacked
from selma.runtime import tracking
from selma.runtime.params import Training, load_params
from selma.variants.objectives import distil, moe_gates
from selma.variants.operators.delta_mean import merge
from stages import mixture, model, select_mixture
from tests.test_expert_stage import add_images
from tests.test_objectives import draw_one
from tests.test_trainer import SETTINGS, TEXTS, checkpoints, kill_at, pictures  # noqa: F401 - the killed process's

BACKBONES = ["tiny_backbone", "tiny_backbone_epsilon", "tiny_sdxl"]
LINEAR = ("to_q", "to_k", "to_v", "to_out.0")
FAST = replace(SETTINGS, targets=LINEAR, steps=8, checkpoint_every=4)


def experts_of(
    backbone: Path, ranks: tuple[int, ...] = (2, 3, 4), targets: tuple[str, ...] = LINEAR
) -> dict[str, LoraWeights]:
    """Experts of several ranks and scalings that change something, with values that float16 holds."""
    found = {}
    for number, rank in enumerate(ranks):
        unet = load_pipeline(backbone).unet
        add_lora(unet, rank, 4.0, list(targets), seed=number)
        random, factors = torch.Generator().manual_seed(number), {}
        for name, parameter in lora_parameters(unet).items():
            value = torch.randn(parameter.shape, generator=random) * 0.2
            layer, _, part = name.removesuffix(".default.weight").rpartition(".")
            factors.setdefault(layer, {})[part] = value.half().float()
        pairs = {layer: (own["lora_A"], own["lora_B"]) for layer, own in factors.items()}
        card = {"rank": rank, "alpha": 4.0, "targets": list(targets), "backbone": fingerprint(backbone)}
        found[f"e{number}"] = LoraWeights(pairs, 4.0 / rank, card)
    return found


def predictions(unet: torch.nn.Module, batch: noisy.Batch) -> torch.Tensor:
    with torch.no_grad():
        return noisy.predict(unet, batch)


def batch_on(pipe: object, n: int = 6) -> noisy.Batch:
    encoded = examples.encode(pipe, pictures(), TEXTS)
    return noisy.draw_batch(training_schedule(pipe), encoded, replace(FAST, batch=n), seed=5, step=0)


def opened(backbone: Path, lora: LoraWeights, folder: Path) -> torch.nn.Module:
    card = {**lora.provenance, "targets": list(LINEAR), "backbone": fingerprint(backbone)}
    save_lora(folder, lora.state(), card)
    return load_pipeline(backbone, lora=folder).unet


def trained(
    objective: ModuleType,
    backbone: Path,
    folder: Path,
    settings: Training = FAST,
    experts: dict[str, LoraWeights] | None = None,
    **options: object,
) -> list:
    """Train a mixture of three experts, each with two of the pictures; also run in the process that is killed below."""
    pipe = load_pipeline(backbone)
    experts = experts or experts_of(backbone)
    encoded = examples.encode(pipe, pictures(), TEXTS)
    teacher = torch.eye(len(experts)).repeat_interleave(len(TEXTS) // len(experts), dim=0)
    save = objective.prepare(pipe.unet, experts, settings, 0)
    return loop.train(
        objective,
        pipe.unet,
        training_schedule(pipe),
        replace(encoded, teacher=teacher),
        settings,
        seed=0,
        folder=folder / "out",
        state=folder / "state.safetensors",
        provenance={"name": "mixed", "backbone": fingerprint(backbone)},
        save=save,
        **options,
    )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gates_at_zero_are_the_mean_of_the_updates(backbone, request, tmp_path):
    """Layer by layer in double precision, and the whole UNet against the merge operator."""
    folder = request.getfixturevalue(backbone)
    experts, pipe = experts_of(folder), load_pipeline(folder)
    moe_gates.prepare(pipe.unet, experts, replace(FAST, save_dtype="float32"), 0)
    mean = merge(experts)
    base = load_pipeline(folder).unet
    random = torch.Generator().manual_seed(0)
    for name in mean.factors:
        layer, before = pipe.unet.get_submodule(name), base.get_submodule(name)
        x = torch.randn(2, 5, layer.in_features, generator=random)
        expected = before(x).double() + x.double() @ mean.delta(name).double().T
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-6, atol=3e-6)
    batch = batch_on(pipe)
    merged = predictions(opened(folder, mean, tmp_path / "mean"), batch)
    found = predictions(pipe.unet, batch)
    assert (merged - predictions(base, batch)).abs().max() > 1e-2
    torch.testing.assert_close(
        found, merged, rtol=1e-4, atol=5e-5
    )  # layers' rounding adds up, as processors have it


@pytest.mark.parametrize("backbone", BACKBONES)
def test_trained_gates_are_kept_and_opened_as_they_were(backbone, request, tmp_path):
    folder = request.getfixturevalue(backbone)
    pipe, experts = load_pipeline(folder), experts_of(folder)
    save = moe_gates.prepare(pipe.unet, experts, FAST, 0)
    names = list(lora_parameters(pipe.unet))
    assert names and all(name.endswith(".gate") for name in names), "only the gates learn"
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items() if "gate" not in name}
    batch, zero = batch_on(pipe), predictions(pipe.unet, batch_on(pipe))
    loss = moe_gates.batch_loss(pipe.unet, batch)
    for parameter, slope in zip(
        lora_parameters(pipe.unet).values(),
        torch.autograd.grad(loss, list(lora_parameters(pipe.unet).values())),
        strict=True,
    ):
        parameter.data -= 3 * slope / slope.norm().clamp(min=1e-12)
    learned = predictions(pipe.unet, batch)
    assert moe_gates.batch_loss(pipe.unet, batch) < loss
    assert (learned - zero).abs().max() > 1e-3
    assert all(torch.equal(pipe.unet.state_dict()[name], value) for name, value in before.items())
    for name in ("one", "two"):
        save(tmp_path / name, {"name": "mixed", "backbone": fingerprint(folder)}, torch.float16)
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == ["experts.safetensors", "gates.safetensors", "mixture.json"]
    assert all(
        (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files
    )
    again = load_pipeline(folder, lora=tmp_path / "one")
    torch.testing.assert_close(predictions(again.unet, batch), learned, rtol=1e-6, atol=1e-6)
    assert np.isfinite(np.asarray(draw_one(again))).all()
    half = load_pipeline(folder, dtype="bfloat16", lora=tmp_path / "one")
    # bfloat16 moves the bare tiny SDXL by 7 %, and gates that were pushed this far by more
    assert (predictions(half.unet, batch) - learned).norm() < 0.3 * learned.norm()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_given_weights_choose_an_expert_for_each_example(backbone, request, tmp_path):
    """Convolutions, too: what distillation is taught by."""
    folder, targets = request.getfixturevalue(backbone), ("to_q", "to_v", "proj_in", "conv1")
    experts, pipe = experts_of(folder, targets=targets), load_pipeline(folder)
    loras = list(experts.values())
    batch = batch_on(pipe, 3)
    base = predictions(pipe.unet, batch)
    add_bank(
        pipe.unet,
        stacked(experts, torch.float32),
        [lora.rank for lora in loras],
        [lora.scaling for lora in loras],
    )
    assert torch.equal(predictions(pipe.unet, batch), base), "without weights the base model"
    with weighted(torch.eye(3)[[2, 0, 1]]):
        found = predictions(pipe.unet, batch)
    for row, name in enumerate(("e2", "e0", "e1")):
        save_lora(tmp_path / name, experts[name].state(), experts[name].provenance)
        alone = predictions(load_pipeline(folder, lora=tmp_path / name).unet, batch)
        torch.testing.assert_close(found[row], alone[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", [moe_gates, distil])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_mixture_trains_and_its_last_checkpoint_draws(objective, backbone, request, tmp_path):
    folder = request.getfixturevalue(backbone)
    curve = trained(objective, folder, tmp_path)
    assert len(curve) == 8 and all(np.isfinite(loss) for _, loss in curve)
    pipe = load_pipeline(folder, lora=tmp_path / "out/step-000008")
    batch = batch_on(pipe)
    assert (predictions(pipe.unet, batch) - predictions(load_pipeline(folder).unet, batch)).abs().max() > 1e-4
    assert np.isfinite(np.asarray(draw_one(pipe))).all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(backbone, request):
    folder = request.getfixturevalue(backbone)
    (expert,) = experts_of(folder, ranks=(2,)).values()
    pipe, settings = load_pipeline(folder), replace(FAST, rank=2)
    distil.prepare(pipe.unet, {"e0": expert}, settings, 0)
    batch = distil.Taught(**vars(batch_on(pipe)), teacher=torch.ones(6, 1))
    before = distil.batch_loss(pipe.unet, batch)
    with torch.no_grad():
        for name, parameter in lora_parameters(pipe.unet).items():
            parameter.copy_(expert.state()[name.replace(".default.", ".")])
    assert before > 1e-3 and distil.batch_loss(pipe.unet, batch) < 1e-9


def test_a_student_of_one_expert_becomes_it(tiny_backbone, tmp_path):
    expert = experts_of(tiny_backbone, ranks=(2,), targets=("to_v",))
    settings = replace(
        FAST,
        targets=("to_v",),
        steps=100,
        checkpoint_every=100,
        batch=8,
        caption_dropout=0.0,
        rank=8,
        alpha=8.0,
    )
    losses = [loss for _, loss in trained(distil, tiny_backbone, tmp_path, settings, expert)]
    assert np.mean(losses[-5:]) < 0.1 * np.mean(losses[:3])
    assert load_lora(tmp_path / "out/step-000100").provenance["experts"] == ["e0"]


@pytest.mark.parametrize("name", ["moe_gates", "distil"])
def test_a_killed_mixture_goes_on_and_ends_with_the_same_bytes(name, tiny_backbone, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    objective = {"moe_gates": moe_gates, "distil": distil}[name]
    curve = trained(objective, tiny_backbone, whole)
    script = (
        "import sys; from pathlib import Path; from tests.test_mixtures import *;"
        f"trained({name}, Path(sys.argv[1]), Path(sys.argv[2]), on_loss=kill_at(6))"
    )
    root = Path(__file__).parents[1]
    dead = subprocess.run([sys.executable, "-c", script, tiny_backbone, killed], cwd=root)
    assert dead.returncode == -signal.SIGKILL
    seen = []
    again = trained(objective, tiny_backbone, killed, on_loss=lambda step, loss: seen.append(step))
    assert seen == [5, 6, 7, 8]  # not from the start
    assert again == curve and checkpoints(killed) == checkpoints(whole)


def test_a_batch_of_distillation_in_parts_trains_the_same(tiny_sdxl, tmp_path):
    settings = replace(FAST, steps=4, learning_rate=1e-3)
    whole = trained(distil, tiny_sdxl, tmp_path / "whole", settings)
    split = trained(distil, tiny_sdxl, tmp_path / "parts", replace(settings, accumulate=3))
    np.testing.assert_allclose([loss for _, loss in whole], [loss for _, loss in split], rtol=1e-4)


def test_checkpoints_share_the_experts_factors(tiny_backbone, tmp_path):
    trained(moe_gates, tiny_backbone, tmp_path)
    files = [tmp_path / f"out/step-00000{step}/experts.safetensors" for step in (4, 8)]
    assert files[0].samefile(files[1])
    gates = [load_file(file.with_name("gates.safetensors")) for file in files]
    assert any(not torch.equal(gates[0][key], gates[1][key]) for key in gates[0])


# Folders that cannot be ----------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_backbone: Path, tmp_path: Path) -> Path:
    """A sound mixture of the tiny backbone."""
    trained(moe_gates, tiny_backbone, tmp_path, replace(FAST, steps=1, checkpoint_every=1))
    return tmp_path / "out/step-000001"


def rewrite(file: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def first(tensors: dict) -> str:
    return sorted(tensors)[0]


def edit_card(folder: Path, **changes: object) -> None:
    write_json(folder / "mixture.json", {**read_json(folder / "mixture.json"), **changes})


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no gates": (lambda at: (at / "gates.safetensors").unlink(), r"gates\.safetensors: file not found"),
    "no card": (lambda at: (at / "mixture.json").unlink(), r"mixture\.json: file not found"),
    "half a file": (
        lambda at: (at / "experts.safetensors").write_bytes((at / "experts.safetensors").read_bytes()[:99]),
        r"experts\.safetensors: this mixture cannot be read",
    ),
    "a card that is none": (lambda at: (at / "mixture.json").write_text("[]"), r"mixture\.json"),
    "a card without experts": (lambda at: edit_card(at, experts=[]), r"mixture\.json: .*experts"),
    "a rank too few": (lambda at: edit_card(at, ranks=[2, 3]), r"names 3 experts, 2 ranks and 3 scalings"),
    "ranks of others": (lambda at: edit_card(at, ranks=[2, 3, 5]), "3 experts of ranks that sum up to 10"),
    "a scaling that is none": (lambda at: edit_card(at, scalings=[1.0, 0.0, 1.0]), "scalings"),
    "another backbone's": (lambda at: edit_card(at, backbone="0" * 64), "this mixture was trained on a different"),
    "a foreign tensor": (
        lambda at: rewrite(at / "gates.safetensors", lambda found: found.update(bias=torch.ones(1))),
        r"gates\.safetensors: holds bias; allowed: <layer>\.gate",
    ),
    "gates that are not finite": (
        lambda at: rewrite(at / "gates.safetensors", lambda found: found[first(found)].fill_(torch.nan)),
        "must hold finite numbers",
    ),
    "gates of other layers": (
        lambda at: rewrite(at / "gates.safetensors", lambda found: found.pop(first(found))),
        "must hold the same layers",
    ),
    "a gate of another shape": (
        lambda at: rewrite(
            at / "gates.safetensors", lambda found: found.update({first(found): torch.zeros(2, 3)})
        ),
        "has down, up and gate of the shapes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_mixture_is_one_line(case, folder, tiny_backbone):
    change, says = BROKEN[case]
    for file in folder.iterdir():  # no link to another checkpoint's file
        file.write_bytes(file.read_bytes())
    change(folder)
    with pytest.raises(UserError, match=says) as error:
        load_pipeline(tiny_backbone, lora=folder)
    assert "\n" not in str(error.value)


def test_a_mixture_of_another_architecture_is_one_line(folder, tiny_sdxl):
    edit_card(folder, backbone=fingerprint(tiny_sdxl))
    with pytest.raises(UserError, match="this backbone has no such layer"):
        load_pipeline(tiny_sdxl, lora=folder)


def test_a_mixture_is_no_lora(folder):
    with pytest.raises(UserError, match="is a mixture of experts with gates, which is no LoRA"):
        load_lora(folder)


def test_experts_of_two_backbones_are_one_line(tiny_backbone, tiny_backbone_epsilon, tmp_path):
    for name, backbone in (("one", tiny_backbone), ("two", tiny_backbone_epsilon)):
        lora = experts_of(backbone)["e0"]
        save_lora(tmp_path / name, lora.state(), lora.provenance)
    folders = {name: tmp_path / name for name in ("one", "two")}
    with pytest.raises(UserError, match=r"two: was trained on a backbone of another fingerprint \(") as error:
        load_experts(folders, fingerprint(tiny_backbone))
    assert fingerprint(tiny_backbone_epsilon)[:12] in str(error.value)


def test_experts_of_other_layers_and_gated_convolutions_are_one_line(tiny_backbone, tmp_path):
    for name, targets in (("one", LINEAR), ("two", ("to_q",))):
        lora = experts_of(tiny_backbone, targets=targets)["e0"]
        save_lora(tmp_path / name, lora.state(), lora.provenance)
    folders = {name: tmp_path / name for name in ("one", "two")}
    with pytest.raises(UserError, match=r"two: adapts other layers than .*one; all must be the same"):
        load_experts(folders, fingerprint(tiny_backbone))
    experts = experts_of(tiny_backbone, targets=("to_q", "conv1"))
    with pytest.raises(UserError, match="conv1 is a convolution; gates weigh"):
        moe_gates.prepare(load_pipeline(tiny_backbone).unet, experts, FAST, 0)


# The stages --------------------------------------------------------------------------------------

SKILLS = ["count", "tags"]
MIXTURES = {
    "moe": {"objective": "moe_gates", "experts": None},
    "student": {"objective": "distil", "experts": None},
}
STAGE = {
    "skills": SKILLS,
    "experts": {skill: {"data": f"data/images/{skill}", "objective": "denoising"} for skill in SKILLS},
    "mixtures": MIXTURES,
    "models": {
        "base": {"weights": "models/backbones/shapes", "guidance": "cfg"},
        "moe": {"weights": "models/mixtures/moe", "guidance": "cfg"},
    },
    "compare": [["moe", "base"]],
    "expert.steps": 4,
    "expert.checkpoint_every": 2,
    "expert.batch": 2,
    "expert.rank": 2,
    "expert.alpha": 4.0,
    "select.policy": "last",
}  # fmt: skip


@pytest.fixture
def project(make_project, monkeypatch) -> Path:
    """A project with two experts whose images are there."""
    root = make_project("project", deepcopy(STAGE))
    shutil.copy(Path(__file__).parents[1] / "CITATION.cff", root)
    monkeypatch.chdir(root)
    monkeypatch.setattr(tracking, "log_metric", lambda metric, value, step: None)
    backbone = root / "models/backbones/shapes"
    for skill, lora in zip(SKILLS, experts_of(backbone, ranks=(2, 2)).values(), strict=True):
        add_images(root, skill)
        save_lora(
            root / "models/experts" / skill, lora.state(), {**lora.provenance, "name": skill, "images": 6}
        )
    benchmark = root / "data/benchmarks/shapes"
    benchmark.mkdir(parents=True)
    return root


def run(monkeypatch: pytest.MonkeyPatch, stage: ModuleType, name: str) -> None:
    monkeypatch.setenv("DVC_STAGE", f"{stage.__name__.removeprefix('stages.')}@{name}")
    stage.main(name)


def test_the_stages_make_models_that_are_drawn_like_any_other(project, monkeypatch):
    for name in MIXTURES:
        run(monkeypatch, mixture, name)
        run(monkeypatch, select_mixture, name)
        assert read_json(project / f"metrics/select/{name}.json")["chosen"] == 4
        assert (project / f"metrics/loss/{name}.csv").is_file()
    gated, student = read_mixture(Path("models/mixtures/moe")), load_lora(Path("models/mixtures/student"))
    said = read_json(Path("models/mixtures/moe/mixture.json"))
    assert (said["experts"], said["images"], said["steps"]) == (SKILLS, 12, 4)
    assert (said["objective"], said["options"]) == ("moe_gates", {"learning_rate": 1e-5})
    assert 0 < max(float(gate.abs().max()) for gate in gated.gates.values()) < 1e-4  # four steps of 1e-5
    assert (student.rank, student.provenance["experts"]) == (2, SKILLS)
    run(monkeypatch, model, "moe")
    pipe = load_pipeline(Path("models/backbones/shapes"), lora=Path("models/rows/moe/lora"))
    assert np.isfinite(np.asarray(draw_one(pipe))).all()
    card = (export.export("student", "diffusers") / "README.md").read_text()
    assert (
        "# SELMA distilled LoRA: student" in card
        and "One LoRA that 2 skill-specific LoRA experts taught" in card
    )
    assert "| distilled | from count, tags:" in card and "| images | 12, drawn by" in card
    with pytest.raises(UserError, match="is a mixture of experts with gates"):
        export.export("moe", "kohya")


def test_what_cannot_be_mixed_is_said_before_anything_is_loaded(project, monkeypatch):
    card = project / "models/experts/tags/lora.json"
    card.write_text(json.dumps({**read_json(card), "backbone": "0" * 64}))
    monkeypatch.setattr(mixture, "load_pipeline", None)
    with pytest.raises(
        UserError, match="models/experts/tags: was trained on a backbone of another fingerprint"
    ):
        run(monkeypatch, mixture, "moe")
    shutil.rmtree("models/experts/tags")
    with pytest.raises(UserError, match="models/experts/tags"):
        run(monkeypatch, mixture, "student")
    with pytest.raises(
        UserError, match=r"mixtures: no mixture 'nobody' in params\.yaml; allowed: moe, student"
    ):
        run(monkeypatch, mixture, "nobody")


def test_a_mixture_without_a_row_is_removed(project):
    for name in ("moe", "old"):
        (project / "models/mixtures" / name).mkdir(parents=True)
    assert [path.name for path in prune.strangers(project) if path.parent.name == "mixtures"] == ["old"]


MOE = MIXTURES["moe"]
LEARNER = {
    "algorithm": "nft",
    "start": "models/mixtures/moe",
    "prompts": "data/questions",
    "rewards": {"oracle": 1.0},
    "images": 5760,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mixtures": {"moe": {**MOE, "objective": "dpo"}}}, r"mixtures\.moe\.objective is 'dpo'; .*: distil, moe_g"),
        ({"mixtures": {"moe": {**MOE, "options": {"beta": 1}}}}, r"mixtures\.moe\.options: .*beta"),
        ({"mixtures": {"moe": {**MOE, "options": {"learning_rate": 0}}}}, r"mixtures\.moe\.options: learning_rate"),
        ({"mixtures": {"moe": {**MOE, "experts": ["cats"]}}}, r"mixtures\.moe\.experts holds cats"),
        ({"expert.warmup": 1, "mixtures": {"moe": {**MOE, "steps": 1}}}, r"less than the 1 steps of mixture moe"),
        ({"mixtures": {"count": MOE}}, r"mixtures\.count: `experts` has a row of that name"),
        ({"skills": [*SKILLS, "cats"]}, r"no expert is called cats"),
        ({"experts.tags.data": "/my/own"}, r"mixtures\.moe\.experts holds tags, whose data is /my/own"),
        ({"experts.tags.objective": "moe_gates"}, r"experts\.tags\.objective is 'moe_gates'; .*: denoising, dpo"),
        ({"expert.warmup": 3, "mixtures": {"moe": {**MOE, "steps": 2}}}, r"expert\.warmup is 3; .* 2 steps of mixture"),
        ({"expert.min_snr": 5.0}, r"expert\.min_snr is 5, which the objective of mixture student, distil, does not"),
        ({"experts.tags.targets": ["to_q"]}, r"mixtures\.moe\.experts: tags has other targets \(to_q\) than count"),
        ({"expert.targets": ["conv1"]}, r"moe_gates, whose gates weigh linear layers alone; count has the target c"),
        ({"merges": {"m": {"operator": "ties", "experts": ["moe"]}}}, r"merges\.m\.experts holds moe"),
        ({"policies": {"p": LEARNER}}, r"policies\.p\.start is models/mixtures/moe"),
        ({"models.moe.weights": "models/mixtures/none"}, r"models\.moe\.weights is models/mixtures/none"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_is_one_line_when_params_are_read(make_project, change, says):
    root = make_project("project", deepcopy({**STAGE, **change}))
    with pytest.raises(UserError, match=says) as error:
        load_params(root / "params.yaml")
    assert "\n" not in str(error.value)
