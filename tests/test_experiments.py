"""Sets of whole runs: what is accepted, what DVC is told, what is not run twice, and how runs are pooled."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from selma import experiments, profile
from selma.ground.errors import UserError
from selma.ground.files import read_json
from selma.runtime import experiment, schema, sets, tracking
from selma.runtime.params import load_params

ROOT = Path(__file__).parents[1]


class Dvc:
    """In place of dvc and git: keeps the commands, and has an experiment for each that ran."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.gain = 0.0

    def run(self, command: list[str]) -> Dvc:
        self.commands.append(command)
        return self

    returncode = 0

    def output(self, command: list[str]) -> str:
        if "for-each-ref" in command:
            return "\n".join(f"refs/exps/aa/bb/{self.name(command)}" for command in self.commands)
        if command[-1].endswith("eval.json"):
            found = {"mean": 0.5, "low": 0.4, "high": 0.6}
            keys = {
                "benchmark": "shapes",
                "judge": "oracle",
                "drawing": {},
                "n_prompts": 2,
                "images_per_prompt": 1,
            }
            return json.dumps({**keys, "models": {"base": found}, "gains": {"merged over base": found}})
        return "item,skill,base,merged,single\na,s,0.5,0.75,0.75\nb,s,0.25,0.25,0.5\n"

    @staticmethod
    def name(command: list[str]) -> str:
        return command[command.index("--name") + 1]


@pytest.fixture
def dvc(tmp_path, monkeypatch) -> Dvc:
    for file in ("params.yaml", "dvc.yaml", "dvc.lock", "experiments.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    fake = Dvc()
    monkeypatch.setattr(experiment.subprocess, "run", fake.run)
    for module in (experiment, experiments):
        monkeypatch.setattr(module, "output", fake.output)
    return fake


def scores(*gains: float) -> dict[str, dict[str, float]]:
    base = {f"item-{i}": 0.2 + 0.01 * i for i in range(len(gains))}
    merged = {item: score + gain for (item, score), gain in zip(base.items(), gains, strict=True)}
    return {"base": base, "merged": merged, "single": dict(base)}


def test_a_pooled_gain_is_the_mean_over_runs_and_prompts():
    params = load_params(ROOT / "params.yaml")
    pooled = experiments.pool({"1": scores(*[0.1] * 20), "2": scores(*[0.1] * 20)}, params)
    assert pooled["gains"]["merged over base"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    assert pooled["models"]["base"]["mean"] == pytest.approx(0.295)
    assert list(pooled["models"]) == ["base", "single", "merged"]


def test_runs_that_disagree_widen_the_interval_although_no_prompt_does():
    """Over prompts alone, two runs of 0.1 and 0.3 on every prompt would have an interval of no width."""
    params = load_params(ROOT / "params.yaml")
    gain = experiments.pool({"1": scores(*[0.1] * 20), "2": scores(*[0.3] * 20)}, params)["gains"][
        "merged over base"
    ]
    assert (
        gain["mean"] == pytest.approx(0.2) and gain["low"] < -1 and gain["high"] > 1
    )  # t with one degree of freedom


def test_a_set_is_run_once_and_written_down(dvc, capsys):
    assert experiments.main(["seeds"]) == 0
    seeds = [str(seed) for seed in range(42, 48)]
    assert [Dvc.name(command).rpartition("-")[0] for command in dvc.commands] == [
        f"seeds-{seed}" for seed in seeds
    ]
    found = read_json(Path("metrics/study/seeds.json"))
    assert list(found["runs"]) == seeds
    assert found["runs"]["43"]["settings"] == {"experts.single.steps": 1500, "seed": 43}
    assert found["pooled"]["gains"]["merged over base"]["mean"] == 0.125
    assert found["pooled"]["gains"]["merged over single"]["mean"] == -0.125
    printed = capsys.readouterr().out
    assert "pooled" in printed and "metrics/study/seeds.json" in printed

    ran = len(dvc.commands)
    assert experiments.main(["seeds"]) == 0
    assert len(dvc.commands) == ran, "what is there is not run again"


def test_a_set_that_is_stopped_leaves_what_is_finished(dvc, monkeypatch):
    def stop_at_the_second(command):
        if dvc.commands:
            raise KeyboardInterrupt
        return dvc.run(command)

    monkeypatch.setattr(experiment.subprocess, "run", stop_at_the_second)
    assert experiments.main(["seeds"]) == 130
    found = read_json(Path("metrics/study/seeds.json"))
    assert list(found["runs"]) == ["42"] and found["unfinished"] == ["43", "44", "45", "46", "47"]
    monkeypatch.setattr(experiment.subprocess, "run", dvc.run)
    assert experiments.main(["seeds"]) == 0
    assert read_json(Path("metrics/study/seeds.json"))["unfinished"] == [] and len(dvc.commands) == 6


def test_runs_made_elsewhere_are_read_and_checked(dvc, tmp_path, capsys):
    """A cluster's folders: one per run, with the params.yaml that made it."""
    for seed in range(42, 48):
        folder = tmp_path / "runs" / str(seed)
        (folder / "metrics").mkdir(parents=True)
        settings = {"seed": seed, "experts.single.steps": 1500}
        with open(folder / "params.yaml", "w") as file:
            YAML().dump(schema.overridden(schema.load_yaml(Path("params.yaml")), settings), file)
        for name in ("eval.json", "items.csv"):
            (folder / "metrics" / name).write_text(dvc.output([name]))
    assert experiments.main(["seeds", "--from", "runs"]) == 0
    found = read_json(Path("metrics/study/seeds.json"))
    assert list(found["runs"]) == [str(seed) for seed in range(42, 48)] and not dvc.commands
    assert found["pooled"]["gains"]["merged over base"]["mean"] == 0.125

    params = tmp_path / "runs/44/params.yaml"
    params.write_text(params.read_text().replace("seed: 44", "seed: 4"))
    capsys.readouterr()
    assert experiments.main(["seeds", "--from", "runs"]) == 2
    assert "runs/44/params.yaml: seed is 4; this run needs 44" in capsys.readouterr().err
    assert experiments.main(["seeds", "--from"]) == 2


def test_other_params_make_other_experiments_and_keep_the_old_ones_names(dvc):
    experiments.main(["filter_off"])
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("  keep: 200 ", "  keep: 100 "), encoding="utf-8")
    experiments.main(["filter_off"])
    first, second = map(Dvc.name, dvc.commands)
    assert (
        first != second and first.rpartition("-")[0] == second.rpartition("-")[0] == "filter_off-unfiltered"
    )


@pytest.mark.parametrize("name", list(YAML(typ="safe").load(ROOT / "experiments.yaml")))
def test_every_run_sets_params_that_dvc_takes_and_the_loader_allows(dvc, tmp_path, name):
    from dvc.utils.hydra import apply_overrides

    assert experiments.main([name]) == 0
    one = sets.load_sets()[name]
    for command, own in zip(dvc.commands, one.runs.values(), strict=True):
        settings = [word for option, word in pairwise(command) if option == "--set-param"]
        changed = tmp_path / "changed.yaml"
        shutil.copy(ROOT / "params.yaml", changed)
        apply_overrides(changed, settings)
        params = load_params(changed)
        for key, value in tracking.flatten({**one.set, **own}).items():
            found = params
            for part in key.split("."):
                found = found[part] if isinstance(found, dict) else getattr(found, part)
            assert found == (tuple(value) if isinstance(value, list) else value), key
        assert command[len(command) - len(one.targets) :] == list(one.targets)


def test_a_set_may_add_a_policy_its_model_and_a_merge_of_it(dvc, tmp_path):
    from dvc.utils.hydra import apply_overrides

    Path("experiments.yaml").write_text(
        "learn:\n  desc: x\n  targets: [policy]\n  runs: {nft: {policies.learned.algorithm: nft},"
        " awm: {policies.learned.algorithm: awm}}\n  set:\n"
        "    policies.learned: {start: models/backbones/shapes, prompts: data/questions, images: 576,\n"
        "      algorithm: nft, rewards: {oracle: 1.0, clip: 0.5}, options: {learning_rate: 0.001}}\n"
        "    merges.mixed: {operator: delta_mean, experts: [count, learned]}\n"
        "    models.learned: {weights: models/experts/learned, guidance: cfg}\n"
    )
    assert experiments.main(["learn"]) == 0
    for command, algorithm in zip(dvc.commands, ("nft", "awm"), strict=True):
        changed = tmp_path / "changed.yaml"
        shutil.copy(ROOT / "params.yaml", changed)
        apply_overrides(changed, [word for option, word in pairwise(command) if option == "--set-param"])
        params = load_params(changed)
        assert params.policies["learned"].algorithm == algorithm
        assert params.policies["learned"].rewards == {"oracle": 1.0, "clip": 0.5}
        assert params.models["learned"].weights == "models/experts/learned"
        assert command[-1] == "policy"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {desc: x, runs: {r: {expert.rnak: 3}}}", "experiments.yaml, a, run r: unknown key expert.rnak"),
        ("a: {desc: x, runs: {r: {expert.rank: 0}}}", "experiments.yaml, a, run r: expert.rank is 0"),
        ("a: {desc: x, runs: {r: {experts.singel.steps: 3}}}", "missing key experts.singel.data"),
        ("a: {desc: x, runs: {}}", "experiments.yaml, a: runs is {}; it must have at least 1 item"),
        ("a: {desc: x, run: {}}", "experiments.yaml, a: unknown key run; did you mean runs?"),
        ("a: {desc: x, runs: {'a b': {}}}", "a key of runs is 'a b'; it must be a name"),
        (
            "a: {desc: x, runs: {r: {seed.foo: 1}}}",
            "experiments.yaml, a, run r: seed.foo: seed is not a mapping",
        ),
        ("'../a': {desc: x, runs: {r: {seed: 1}}}", "experiments.yaml: set '../a'; it must be a name"),
        ("[]", "experiments.yaml: must be a mapping of sets"),
        (
            "a: {desc: x, runs: {r: {merges: {}}}}",
            "experiments.yaml, a, run r: merges is {}; a set's values are",
        ),
        ("a: {desc: x, runs: {r: {llm.model: 'x${y}'}}}", "run r: llm.model is 'x${y}'; a set's values are"),
        (
            "a: {desc: x, seeds: [1, 1], runs: {r: {}}}",
            "experiments.yaml, a: seeds is [1, 1]; it must not name one twice",
        ),
        ("a: {desc: x, seeds: [-1], runs: {r: {}}}", "experiments.yaml, a: seeds[0] is -1"),
        (
            "a: {desc: x, seeds: [1], runs: {r: {seed: 2}}}",
            "a, run r: sets seed, and so does seeds; leave one",
        ),
        (
            "a: {desc: x, targets: [selct], runs: {r: {}}}",
            "run r: targets holds selct; it must be one of: pretrain,",
        ),
        (
            "a: {desc: x, targets: [select@three], runs: {r: {}}}",
            "experiments.yaml, a, run r: targets holds select@three; it must be one of: select@objects, select@para",
        ),
        (
            "a: {desc: x, targets: [select@objects], runs: {r: {}}, pool: true}",
            "experiments.yaml, a: pool needs scores, but targets (select@objects) do not reach evaluate",
        ),
        (
            "a: {desc: x, runs: {r: {experts.three: {data: data/images, objective: denoising, skills: [cuont]}}}}",
            "a, run r: experts.three.skills holds cuont; it must be one in `skills`",
        ),
        (
            "a: {desc: x, pool: true, runs: {r: {}, s: {compare: [[merged, base]]}}}",
            "experiments.yaml, a, run s: pooled runs need the same names in models",
        ),
    ],
)
def test_a_set_that_cannot_run_is_one_line_before_anything_does(dvc, capsys, text, says):
    Path("experiments.yaml").write_text(text)
    assert experiments.main(["a"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and says in line
    assert not dvc.commands


@pytest.mark.parametrize(
    "settings",
    [
        {"llm.model": "Zürich, größer"},
        {"llm": {"model": "ü", "temperature": 0.5}},
        {"experts": {"single": {"steps": 7}}},  # a mapping adds to what is there, here and for DVC
        {"skills": ["é", "b c"], "llm.key_env": None, "filter.rouge_l": 1e-5},
        {"compare": [["merged", "base"]]},
    ],
)
def test_dvc_reads_a_setting_as_it_is_written(tmp_path, settings):
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    before = schema.load_yaml(path)
    apply_overrides(path, experiment.overrides(settings))
    assert schema.load_yaml(path) == schema.overridden(before, tracking.flatten(settings))


def test_runs_of_different_pairs_are_listed_side_by_side():
    gain = {"mean": 0.01, "low": 0.0, "high": 0.02}
    report = {"runs": {"r": {"gains": {"a over b": gain}}, "s": {"gains": {"c over b": gain}}}}
    header, _, first, second = experiments.table(report).splitlines()
    assert header.split() == ["run", "a", "over", "b", "c", "over", "b"]
    assert first.count("+1.00") == second.count("+1.00") == 1


@pytest.mark.parametrize("name", ["sd14", "sd2", "sdxl"])
def test_seeds_can_be_run_on_every_profile(dvc, name):
    """A set that does not fit a profile does not keep the others from running."""
    shutil.copytree(ROOT / "profiles", "profiles")
    profile.apply(name, Path.cwd())
    assert experiments.main([]) == 0
    assert experiments.main(["seeds"]) == 0


RUNS = """
a:
  desc: x
  set: {experts: {three: {data: data/images, objective: denoising, skills: [objects, count], steps: 900}}}
  runs: {r: {}, s: {expert.flip: true}}
  seeds: [7, 8]
  targets: [select@three, benchmark]
"""


def test_seeds_multiply_the_runs_and_targets_are_all_that_runs(dvc, capsys):
    Path("experiments.yaml").write_text(RUNS)
    assert experiments.main(["a"]) == 0
    names = [Dvc.name(command) for command in dvc.commands]
    assert [name.rpartition("-")[0] for name in names] == ["a-r-7", "a-r-8", "a-s-7", "a-s-8"]
    settings = [word for option, word in pairwise(dvc.commands[-1]) if option == "--set-param"]
    assert settings == [
        '++experts.three.data="data/images"',
        '++experts.three.objective="denoising"',
        '++experts.three.skills=["objects", "count"]',
        "++experts.three.steps=900",
        "++expert.flip=true",
        "++seed=8",
    ]
    assert all(command[-2:] == ["select@three", "benchmark"] for command in dvc.commands)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:4] == names and "there is no report" in printed.out
    assert printed.err.count("dvc exp run --temp --name a-") == 4
    assert not Path("metrics").exists(), "metrics/eval.json is not of these runs"
    assert experiments.main(["a"]) == 0
    assert len(dvc.commands) == 4, "what is there is not run again"


def test_runs_without_scores_cannot_be_read_from_elsewhere(dvc, capsys):
    Path("experiments.yaml").write_text(RUNS)
    assert experiments.main(["a", "--from", "runs"]) == 2
    line = capsys.readouterr().err
    assert "a: its targets (select@three, benchmark) do not reach evaluate" in line and line.count("\n") == 1


def test_targets_that_reach_evaluate_are_reported_and_pooled(dvc):
    Path("experiments.yaml").write_text(
        "a: {desc: x, targets: [evaluate], runs: {r: {}}, seeds: [1, 2], pool: true}"
    )
    assert experiments.main(["a"]) == 0
    found = read_json(Path("metrics/study/a.json"))
    assert list(found["runs"]) == ["r-1", "r-2"] and "pooled" in found
    assert all(command[-1] == "evaluate" for command in dvc.commands)


def test_one_run_is_made_once_and_its_reference_returned(dvc):
    """What other commands call: other targets are another experiment."""
    reference = experiment.run_one("a", "r-7", {"seed": 7}, ["select@count"])
    assert reference == f"refs/exps/aa/bb/{Dvc.name(dvc.commands[0])}"
    assert (
        experiment.run_one("a", "r-7", {"seed": 7}, ["select@count"]) == reference and len(dvc.commands) == 1
    )
    assert experiment.run_one("a", "r-7", {"seed": 7}) != reference


def test_an_unknown_set_gets_the_list(dvc, capsys):
    assert experiments.main(["seed"]) == 2
    assert "unknown set seed; allowed: seeds, guidance" in capsys.readouterr().err
    assert experiments.main([]) == 0
    assert "seeds" in capsys.readouterr().out


def test_a_run_that_fails_is_named(dvc, monkeypatch):
    class Failed:
        returncode = 1

    monkeypatch.setattr(experiment.subprocess, "run", lambda command: Failed())
    with pytest.raises(UserError, match="seeds, run 42: `dvc exp run` failed"):
        experiments.run_set("seeds", sets.load_sets()["seeds"], load_params())
