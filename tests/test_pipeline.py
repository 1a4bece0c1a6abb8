"""The whole pipeline in a temporary clone, on a few prompts and steps, used as a DVC user uses it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.clones import ROOT, SKILLS, Clone, chosen, copy_tree, small

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A commit of this tree with small settings, after one `dvc repro`."""
    clone = small(tmp_path_factory.mktemp("clone"))
    clone.run("dvc", "repro")
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "a run")
    clone.run("git", "tag", "serial")
    return clone


def test_repro_makes_metrics_a_report_and_a_grid(clone):
    metrics = clone.metrics()
    assert list(metrics["models"]) == ["base", *SKILLS, "single", "merged", "learned"]
    assert list(metrics["gains"]) == ["merged over base", "merged over single"]
    gain, models = metrics["gains"]["merged over base"], metrics["models"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert gain["mean"] == pytest.approx(models["merged"]["mean"] - models["base"]["mean"], abs=1e-3)
    page = (clone.folder / "data/report/index.html").read_text()
    assert "data:image/png;base64" in page and 'src="http' not in page
    assert (clone.folder / "data/grid/before_after.png").stat().st_size > 1000


def test_a_policy_is_trained_examined_and_shown(clone):
    found = json.loads((clone.folder / "metrics/policy/learned.json").read_text())
    assert (found["algorithm"], found["images"], list(found["scores"])) == ("nft", 8, ["0", "1", "2"])
    card = json.loads((clone.folder / "models/experts/learned/lora.json").read_text())
    assert card["rounds"] == found["chosen"] and card["images"] == 4 * found["chosen"]
    assert {"mean", "low", "high"} <= clone.metrics()["models"]["learned"].keys()
    assert "learned" in clone.run("python", "-m", "selma.table")
    page = (clone.folder / "data/report/index.html").read_text()
    section = page.split("<h2>Models that learned from a judge</h2>")[1].split("</section>")[0]
    for shown in ("<td>nft</td>", "<td>oracle</td>", "<td>clip</td><td>looks on</td>", "<svg"):
        assert shown in section
    clone.run("python", "-m", "selma.export", "learned", "--format", "kohya")
    exported = (clone.folder / "exports/shapes-learned-kohya/README.md").read_text()
    assert "No training images were used" in exported
    assert "nothing to remove" in clone.run("python", "-m", "selma.prune")
    shutil.rmtree(clone.folder / "exports")


def test_images_open_as_an_imagefolder(clone, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = clone.folder / "data/images/count"
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path)
    )
    assert loaded.num_rows == 8 and loaded[0]["image"].size == (64, 64) and loaded[0]["text"]


def test_a_second_repro_finds_nothing_changed(clone):
    started = time.monotonic()
    assert "up to date" in clone.run("dvc", "repro")
    assert time.monotonic() - started < 30  # a hang, not a speed: README and bench speak of speed


def test_what_changes_no_out_runs_nothing_again(clone):
    """A new setting, rule or error text, and a choice that no row names yet."""
    changed = {
        "selma/runtime/params.py": "\n# a new setting\n",
        "selma/runtime/checks.py": "\n# a new rule, in other words\n",
        "selma/runtime/tracking.py": "\n# more shown in MLflow\n",
    }
    for name, text in changed.items():
        path = clone.folder / name
        path.write_text(path.read_text() + text)
    doors = ("operators", "benchmarks", "objectives", "guidance", "providers", "algorithms", "judges")
    for door in doors:
        if door == "judges":  # of which a policy may name several, so it depends on all
            assert "up to date" in clone.run("dvc", "status")
        choices = sorted((clone.folder / "selma/variants" / door).glob("[!_]*.py"))
        (choices[0].parent / "brand_new.py").write_bytes(choices[0].read_bytes())
    stale = re.findall(r"^(\S+):$", clone.run("dvc", "status"), re.M)
    assert stale == ["policy@learned"]
    clone.run("git", "checkout", "--quiet", ".")
    clone.run("git", "clean", "--quiet", "--force", "selma")


def test_a_new_row_is_one_more_stage_of_each_kind(clone):
    """The chosen operator's file is a dep of its merge alone; base, experts and the other merge are not drawn again."""
    clone.change(
        merges={"delta": {"operator": "delta_mean", "experts": None}},
        models={**clone.params()["models"], "delta": {"weights": "models/merges/delta", "guidance": "cfg"}},
        compare=[["merged", "base"], ["delta", "merged"]],
    )
    tracked = ("env", "-u", "SELMA_TRACKING", "-u", "MLFLOW_TRACKING_URI")
    printed = clone.run(*tracked, "dvc", "repro")
    ran = {line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")}
    assert ran == {
        "merge@delta",
        "model@delta",
        "sample@delta-shapes",
        "answer@delta-shapes",
        "evaluate",
        "report",
    }
    metrics = clone.metrics()
    assert {"mean", "low", "high"} <= metrics["models"]["delta"].keys()
    assert {"mean", "low", "high"} == metrics["gains"]["delta over merged"].keys()
    assert "delta over merged" in clone.run("python", "-m", "selma.table")

    clone.run(*tracked, "python", "-m", "selma.runtime.recorder")  # returns when MLflow has everything
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone.folder / 'mlflow.db'}")
    experiments = [found.experiment_id for found in client.search_experiments()]
    shown = next(run for run in client.search_runs(experiments) if "dvc.exp" in run.data.tags).data.metrics
    for section, name in (("models", "delta"), ("gains", "delta over merged")):
        for part in ("mean", "low", "high"):
            assert shown[f"eval/{section}.{name}.{part}"] == metrics[section][name][part]
    clone.run("git", "checkout", "--quiet", ".")
    clone.run("dvc", "checkout")


def test_an_ablation_redraws_nothing_but_the_merged_model(clone):
    printed = clone.run("dvc", "exp", "run", "--name", "delta", "-S", "merges.merged.operator=delta_mean")
    ran = {line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")}
    assert ran == {
        "merge@merged",
        "model@merged",
        "sample@merged-shapes",
        "answer@merged-shapes",
        "evaluate",
        "report",
    }
    shown = clone.run("dvc", "exp", "show", "--csv")
    assert "delta" in shown and "delta_mean" in shown
    assert "merges.merged.operator" in clone.run("dvc", "params", "diff")
    clone.run("git", "checkout", "--quiet", ".")
    clone.run("dvc", "checkout")


def kept_of_experiments(clone: Clone) -> set[str]:
    """The stages whose outs an experiment has left until it has ended."""
    owners = clone.folder.glob(".work/finished/*/owner")
    return {file.parent.name for file in owners if file.read_text().startswith("experiment")}


def test_an_experiment_that_is_killed_makes_nothing_again(clone):
    """Its copy of the repository is never found again; DVC's cache of runs has no stage with metrics in git."""
    words = ["dvc", "exp", "run", "--temp", "--name", "killed", "-S", "filter.keep=6", f"images@{SKILLS[0]}"]
    process = subprocess.Popen(
        words, cwd=clone.folder, env=clone.environment(), stdout=subprocess.PIPE, text=True
    )
    assert any(f"Running stage 'images@{SKILLS[0]}'" in line for line in process.stdout)
    process.kill()
    process.wait()
    process.stdout.close()
    assert f"filter@{SKILLS[0]}" in kept_of_experiments(clone)
    again = clone.run(*words)
    assert again.count("done already") == 1 and f"stages.images {SKILLS[0]}" in again, again
    assert "killed" in clone.run("dvc", "exp", "list", "--name-only").split()


def test_a_set_of_whole_runs_is_run_once_and_shares_what_is_unchanged(clone):
    """Two training seeds through `dvc exp run`, pooled; the second call runs nothing."""
    (clone.folder / "experiments.yaml").write_text(
        "pair: {desc: two policies, runs: {best: {select.policy: best}, last: {select.policy: last}}, pool: true}\n"
    )
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "a small set")
    printed = clone.run("python", "-m", "selma.experiments", "pair")
    ran = {line.split("'")[1] for line in printed.splitlines() if "Running stage" in line}
    assert not {name for name in ran if name.startswith(("prompts", "images", "expert"))}, (
        "the run cache has them"
    )
    assert not kept_of_experiments(clone), "DVC's cache has it"
    found = json.loads((clone.folder / "metrics/study/pair.json").read_text())
    assert list(found["runs"]) == ["best", "last"] and found["runs"]["last"]["settings"] == {
        "select.policy": "last"
    }
    pooled = found["pooled"]["gains"]["merged over base"]
    means = [run["gains"]["merged over base"]["mean"] for run in found["runs"].values()]
    assert pooled["mean"] == pytest.approx(sum(means) / 2, abs=2e-4)
    assert pooled["low"] <= pooled["mean"] <= pooled["high"]
    assert "Running stage" not in clone.run("python", "-m", "selma.experiments", "pair")
    clone.run("git", "checkout", "--quiet", ".")
    clone.run("git", "clean", "--quiet", "--force", "metrics")


def test_the_comparison_table_is_computed_once_and_a_further_row_trains_nothing(clone):
    """Two training seeds of a small set through `dvc exp run`, three rows, two points; then one row more."""
    (clone.folder / "experiments.yaml").write_text(
        "upstream:\n  desc: what rows share\n  runs: {all: {}}\n  seeds: [7, 8]\n  targets: [select, benchmark]\n"
        "  set: {evaluate.benchmarks: [shapes, exam],\n"
        "    benchmarks.exam: {source: shapes, seed: 3, dev_per_skill: 1, test_per_skill: 2}}\n"
    )
    table = (
        "{benchmark: exam, images: 1, scales: [2.0], seeds: [7, 8], base: base, selma: selma, pictures: 2, rows: {\n"
        "  base: {desc: base}, single: {desc: one, expert: single},\n"
        "  selma: {desc: merged, merge: {operator: factor_mean, experts: null}}"
    )
    (clone.folder / "ablations.yaml").write_text(table + "}}\n")
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "a small table")
    printed = clone.run("python", "-m", "selma.ablations")
    assert "Running stage 'expert@single'" in printed
    found = (clone.folder / "metrics/ablations.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in found[1:]] == [
        "base",
        "base",
        "single",
        "single",
        "selma",
        "selma",
    ]
    for name in ("ablations.md", "ablations/gains.svg", "ablations/guidance.svg", "ablations/pictures.png"):
        assert (clone.folder / "docs" / name).stat().st_size > 0

    assert "Running stage" not in clone.run("python", "-m", "selma.ablations")
    assert (clone.folder / "metrics/ablations.csv").read_text().splitlines() == found
    (clone.folder / "ablations.yaml").write_text(
        table + ", drawn: {desc: structured, guidance: structure}}}\n"
    )
    assert "Running stage" not in clone.run("python", "-m", "selma.ablations")
    more = (clone.folder / "metrics/ablations.csv").read_text().splitlines()
    assert more[: len(found)] == found and more[len(found)].startswith("drawn,examined,1.35,")
    clone.run("git", "checkout", "--quiet", ".")
    clone.run("git", "clean", "--quiet", "--force", "-d", "metrics", "docs")


def test_metrics_of_branches_are_compared(clone):
    clone.run("dvc", "exp", "branch", "delta", "delta-branch")
    assert "gain.merged over single.mean" in clone.run("dvc", "metrics", "diff", "delta-branch", "--all")


def test_the_plots_page_draws_what_the_files_hold(clone):
    """Every chart that says a column is a number has numbers there, and scores and parts are told apart."""
    clone.run("dvc", "plots", "show", "--out", "page")
    page = (clone.folder / "page/index.html").read_text()
    specs = [
        json.JSONDecoder().raw_decode(page, found.end())[0] for found in re.finditer("var spec = ", page)
    ]
    titles = {json.dumps(spec["title"]): spec for spec in specs}
    assert (
        len(specs) == len(SKILLS) + 2 + 6 and "<DVC_METRIC" not in page
    )  # losses, the policy's rewards, pretrain, pretrain_xl, pretrain_mm, skill, category, items
    for title, spec in titles.items():
        rows = spec["data"]["values"]
        assert rows, title
        for field in re.findall(r'"field": "(\w+)", "type": "quantitative"', json.dumps(spec)):
            if "policy" in title and field == "reward":  # round 0 draws nothing to reward
                assert spec["transform"] == [{"filter": "datum['reward'] !== ''"}] and rows[0][field] == ""
                rows = rows[1:]
            assert all(float(row[field]) == float(row[field]) for row in rows), (title, field)
    for column in ("skill", "category"):
        (spec,) = (spec for title, spec in titles.items() if f"by_{column}" in title)
        assert spec["encoding"]["y"]["field"] == column and spec["encoding"]["color"]["field"] == "model"
        assert {row["model"] for row in spec["data"]["values"]} == set(clone.metrics()["models"])
    parts = [spec for title, spec in titles.items() if "pretrain" in title]
    assert len(parts) == 3 and all(spec["encoding"]["column"]["field"] == "part" for spec in parts)
    shutil.rmtree(clone.folder / "page")


def test_stages_side_by_side_give_the_lock_of_a_serial_run(clone, tmp_path_factory):
    """With kills on the way: of a worker, whose unit runs again, and of the walk, which goes on where it was."""
    other = small(tmp_path_factory.mktemp("parallel"))
    words = [sys.executable, "-m", "selma.parallel", "--workers", "2", "--shards", "2", "--set", "threads=1"]
    walk = subprocess.Popen(
        words, cwd=other.folder, env=other.environment(), stdout=subprocess.PIPE, text=True
    )
    said = []
    for line in walk.stdout:
        said.append(line)
        if "images@count 1/2: begins" in line and not any("lost" in line for line in said):
            until = time.monotonic() + 10
            while not (found := started_by(walk.pid, "stages.images", "count", "1/2")):
                assert time.monotonic() < until, "it has begun"
            os.kill(found[0], signal.SIGKILL)
        if re.match(r"select@\w+: begins", line):
            walk.kill()
            break
    assert walk.wait() == -signal.SIGKILL and "images@count 1/2: lost, it runs again\n" in said
    until = time.monotonic() + 30
    while started_by(None, str(other.folder)):
        assert time.monotonic() < until, "its stages end with it"
        time.sleep(0.05)
    again = other.run("python", *words[1:])
    assert "dvc repro: it finds them done" in again and "images@count: begins" not in again
    assert again.count("done already") == again.count("Running stage")
    for file in ("dvc.lock", "metrics/eval.json", "metrics/loss/count.csv"):
        assert (other.folder / file).read_text() == clone.run("git", "show", f"serial:{file}"), file
    assert "0 stages ran" in other.run("python", "-m", "selma.parallel", "--no-repro")
    assert "up to date" in other.run("dvc", "status")


@pytest.mark.skipif(os.environ.get("SELMA_SURVIVAL") != "every", reason="SELMA_SURVIVAL=every: 20 minutes")
def test_the_default_pipeline_side_by_side_gives_the_lock_of_a_serial_run(tmp_path, monkeypatch):
    """The same at full size, as users have it; `python -m bench.scale` leaves such copies, too."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums are rounded by the number of threads
    locks = []
    for name, words in (
        (
            "parallel",
            ("python", "-m", "selma.parallel", "--workers", "2", "--shards", "2", "--set", "threads=1"),
        ),
        ("serial", ("dvc", "repro")),
    ):
        copy_tree(tmp_path / name)
        other = Clone(tmp_path / name)
        other.run("git", "init", "--quiet")
        for brought in ("backbones", "clip"):
            shutil.copytree(ROOT / "models" / brought, other.folder / "models" / brought)
        other.run(*words)
        locks.append((other.folder / "dvc.lock").read_text())
    assert locks[0] == locks[1]


def started_by(parent: int | None, *words: str) -> list[int]:
    """Processes with these words in their command or folder, of a parent."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            said = [*(place / "cmdline").read_text().split("\0"), os.readlink(place / "cwd")]
            ppid = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if set(words) <= set(said) and parent in (None, ppid) and any("stages." in word for word in said):
                found.append(int(place.name))
    return found


def test_draw_writes_base_beside_merged(clone):
    clone.run("python", "-m", "selma.draw", "two red circles on a black background", "--out", "drawn.png")
    assert (clone.folder / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_wrong_is_said_in_one_line_by_a_stage(clone):
    clone.change(expert={"rank": 0})
    lines = [
        line
        for line in clone.run("python", "-m", "stages.expert", "count", code=2).splitlines()
        if line.strip()
    ]
    assert len(lines) == 1 and "expert.rank" in lines[0] and "0" in lines[0]
    clone.run("git", "checkout", "--quiet", "params.yaml")


def test_images_are_chosen_drawn_again_preferred_and_experts_mixed(clone):
    """Two rounds of chosen images, pairs, gates over the experts: rows that `dvc repro` runs, and finds done."""
    chosen(clone)
    targets = ("select@round2", "select@preferred", "sample@gates-shapes")
    clone.run("dvc", "repro", *targets)
    drawn = [json.loads(line) for line in (clone.folder / "data/drawn/again/metadata.jsonl").open()]
    assert [row["k"] for row in drawn[:2]] == [2, 3] and len(drawn) == 2 * 2 * 8
    for name in ("once", "twice", "both"):
        found = json.loads((clone.folder / f"metrics/pick/{name}.json").read_text())
        assert 0 < found["kept"] <= found["prompts"] == 16 and found["images"] == 32
        assert set(found["scores"]) == {"oracle", "clip"}
    rated = json.loads((clone.folder / "metrics/rate/drawn/again/oracle.json").read_text())
    assert rated["images"] == 32 and rated["diversity"] > 0 and 0 <= rated["mean"] <= rated["best"] <= 1
    card = json.loads((clone.folder / "models/experts/preferred/lora.json").read_text())
    assert (card["objective"], card["options"]) == ("dpo", {"beta": 100.0})
    assert (
        len(list((clone.folder / "data/samples/gates/shapes").glob("*.webp"))) == 2 * 5 * 3
    )  # of five skills
    assert "up to date" in clone.run("dvc", "repro", *targets)
