"""Stages spool, the recorder hands over: what MLflow shows, and that no failure of it reaches a stage."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from selma.runtime import recorder, tracking

ROOT = Path(__file__).parents[1]
DVC = """
stages:
  load:
    cmd: python -m stages.load
    outs: [data/in]
  merge:
    cmd: python -m stages.merge
    params: [seed, merge]
    deps: [data/in]
    metrics: [metrics/merge.json: {cache: false}]
"""
PARAMS = "profile: toy\nseed: 7\nmerge: {operator: factor_mean, rate: 1e-4}\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two stages, and a third that is no more, where stages spool and nobody records yet."""
    monkeypatch.chdir(tmp_path)
    for name in ("SELMA_TRACKING", "DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "_start_recorder", lambda: None)
    (tmp_path / "dvc.yaml").write_text(DVC)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.lock").write_text(
        "stages:\n  load:\n    outs:\n    - {path: data/in, md5: 0123abcd}\n"
        "  gone:\n    outs:\n    - {path: data/in, md5: deadbeef}\n"
    )
    (tmp_path / "metrics").mkdir()
    return tmp_path


def run_merge(root: Path, operator: str = "factor_mean") -> None:
    with tracking.stage_run("merge"):
        tracking.log_metric("loss", 0.5, step=1)
        tracking.log_metric("loss", 0.25, step=2)
        (root / "grid.png").write_bytes(b"picture")
        tracking.log_image(root / "grid.png", "grid.png")
        (root / "metrics" / "merge.json").write_text(json.dumps({"cosine": {"a@b": 0.125}, "name": operator}))


def events(root: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(tracking.spools(root).glob("*.jsonl")) for line in open(path)]


def test_what_mlflow_shows(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages of one pipeline, a failed one, a killed one, and one of an experiment."""
    run_merge(repository)
    run_merge(repository)
    with pytest.raises(ZeroDivisionError), tracking.stage_run("merge"):
        _ = 1 / 0
    kill = "import os, signal; from selma.runtime import tracking\ntracking._start_recorder = lambda: None\n"
    kill += (
        "with tracking.stage_run('merge'):\n tracking.log_metric('loss', 1.0, 0)\n os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", kill], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    monkeypatch.setenv("DVC_EXP_NAME", "tall-ship")
    run_merge(repository)

    store = recorder.record(repository, linger=0)
    runs = {run.info.run_id: run for run in store.client.search_runs([store.experiment])}
    parents = {run.info.run_name: run for run in runs.values() if "dvc.exp" in run.data.tags}
    children = [run for run in runs.values() if "dvc.stage" in run.data.tags]
    assert len(parents) == 2 and "tall-ship" in parents
    assert sorted(run.info.status for run in children) == [
        "FAILED",
        "FINISHED",
        "FINISHED",
        "FINISHED",
        "KILLED",
    ]
    assert all(run.data.tags["mlflow.parentRunId"] in runs for run in children)

    of_exp = parents["tall-ship"].info.run_id
    child = next(run for run in children if run.data.tags["mlflow.parentRunId"] == of_exp)
    assert child.info.run_name == "merge"
    assert child.data.params == {"seed": "7", "merge.operator": "factor_mean", "merge.rate": "0.0001"}
    assert child.data.metrics == {"loss": 0.25, "cosine.a_b": 0.125}
    assert parents["tall-ship"].data.metrics == {"merge/cosine.a_b": 0.125}
    assert child.data.tags["profile"] == "toy" and child.data.tags["md5.data/in"] == "0123abcd"
    curve = store.client.get_metric_history(child.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.5), (2, 0.25)]
    assert (repository / "mlflow.db").is_file()
    pictures = [path.read_bytes() for path in (repository / "mlartifacts").rglob("grid.png")]
    assert pictures == [b"picture"] * 3
    assert not list(tracking.spools(repository).glob("*.jsonl")), "spools that were handed over are gone"


RUNS = """
profile: toy
seed: 7
compare: [[merged, base]]
models: {base: {weights: models/backbones/toy}, merged: {weights: models/merges/merged}}
merges: {merged: {operator: OPERATOR, experts: null}}
merge: {operator: OPERATOR, rate: 1e-4}
expert: {backbone: toy}
"""


def test_executions_are_found_by_their_params_and_sorted_by_their_gain(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = repository / "models/backbones/toy/source.json"
    source.parent.mkdir(parents=True)
    source.write_text('{"id": "owner/toy", "commit": "0123456789abcdef"}')
    gains = {"first": ("factor_mean", 0.01), "second": ("factor_mean", 0.03), "third": ("delta_mean", 0.02)}
    for name, (operator, gain) in gains.items():
        monkeypatch.setenv("DVC_EXP_NAME", name)
        (repository / "params.yaml").write_text(RUNS.replace("OPERATOR", operator))
        run_merge(repository)
        with tracking.stage_run("load"):
            tracking.log_results({"gain": {"mean": gain, "low": gain - 0.1, "high": gain + 0.1}})
            tracking.log_image(repository / "grid.png", "before_after")
    store = recorder.record(repository, linger=0)

    def found(where: str) -> list[str]:
        runs = store.client.search_runs([store.experiment], where, order_by=["metrics.gain DESC"])
        return [run.info.run_name for run in runs if "dvc.exp" in run.data.tags]

    assert found("params.`merge.operator` = 'factor_mean'") == ["second", "first"]
    assert found("params.`merges.merged.operator` = 'delta_mean'") == ["third"]
    (run,) = store.client.search_runs([store.experiment], "tags.`dvc.exp` = 'second'")
    assert run.data.metrics["gain"] == 0.03 and run.data.metrics["gain.low"] == pytest.approx(-0.07)
    assert run.data.params["seed"] == "7" and run.data.params["leading"] == "merged over base"
    assert run.data.tags["model"] == "owner/toy@0123456789ab"
    assert [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs] == [
        ("data/in", "0123abcd")
    ]
    assert len(list((repository / "mlartifacts").rglob("before_after.png"))) == 3


POLICY = """
seed: 7
compare: [[learned, base]]
models: {base: {weights: models/backbones/toy}, learned: {weights: models/experts/learned}}
merges: {}
merge: {}
policies: {learned: {algorithm: nft, rewards: {oracle: 1.0}}}
"""


def test_a_policys_curve_is_a_chart_by_round_and_its_algorithm_a_param(repository: Path) -> None:
    (repository / "params.yaml").write_text(POLICY)
    with tracking.stage_run("merge"):
        tracking.log_row({"round": 0, "images": 0, "dev_clip": 0.25})
        tracking.log_row({"round": 1, "images": 8, "reward": 0.5})
        tracking.log_row({"round": 2, "images": 16, "reward": 0.75, "dev_clip": 0.375})
        found = {"scores": {"0": 0.25, "2": 0.375}, "chosen": 2, "stopped": None, "algorithm": "nft"}
        (repository / "metrics" / "merge.json").write_text(json.dumps(found))
    store = recorder.record(repository, linger=0)
    runs = store.client.search_runs([store.experiment])
    parent = next(run for run in runs if "dvc.exp" in run.data.tags)
    child = next(run for run in runs if "dvc.stage" in run.data.tags)
    assert parent.data.params["leading"] == "learned over base"
    assert parent.data.params["policy.algorithm"] == "nft"
    assert parent.data.params["policies.learned.rewards.oracle"] == "1.0"
    assert parent.data.metrics == {"merge/scores.0": 0.25, "merge/scores.2": 0.375, "merge/chosen": 2}
    curves = {
        name: [
            (point.step, point.value) for point in store.client.get_metric_history(child.info.run_id, name)
        ]
        for name in ("images", "reward", "dev_clip")
    }
    assert curves == {
        "images": [(0, 0), (1, 8), (2, 16)],
        "reward": [(1, 0.5), (2, 0.75)],
        "dev_clip": [(0, 0.25), (2, 0.375)],
    }


def test_what_a_pipeline_writes_as_it_runs_is_no_uncommitted_change(repository: Path) -> None:
    def dirty() -> str:
        run_merge(repository)
        return [event for event in events(repository) if event["event"] == "start"][-1]["tags"]["git.dirty"]

    for command in ("init -q", "add -A", "-c user.name=t -c user.email=t@example.org commit -qm run"):
        subprocess.run(["git", *command.split()], cwd=repository, check=True)
    (repository / "dvc.lock").write_text("stages: {}\n")
    (repository / "metrics" / "merge.json").write_text("{}")
    assert dirty() == "no"
    (repository / "dvc.yaml").write_text(DVC + "# changed\n")
    assert dirty() == "yes"


@pytest.mark.parametrize("name", ["100% a?b#c", "a&b=c;d ä 日本"])
def test_the_store_lies_in_the_repository_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / name
    (root / "metrics").mkdir(parents=True)
    (root / "dvc.yaml").write_text(DVC)
    (root / "params.yaml").write_text(PARAMS)
    for variable in ("SELMA_TRACKING", "DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(root)
    monkeypatch.setattr(tracking, "_start_recorder", lambda: None)
    run_merge(root)
    subprocess.run(
        [sys.executable, "-m", "selma.runtime.recorder"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert (root / "mlflow.db").is_file() and len(
        list(root.rglob("grid.png"))
    ) == 2  # its own, and the artifact
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_run_that_is_off_writes_nothing(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELMA_TRACKING", "off")
    run_merge(repository)
    assert not (repository / ".work").exists()


def test_logging_outside_a_run_does_nothing(repository: Path) -> None:
    tracking.log_metric("loss", math.nan)
    tracking.log_image(repository / "gone.png", "gone.png")
    assert not (repository / ".work").exists()


def test_secrets_are_never_written(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    (repository / "params.yaml").write_text(PARAMS.replace("factor_mean", "at-sk-very-secret-url"))
    run_merge(repository)
    text = "".join(path.read_text() for path in tracking.spools(repository).glob("*.jsonl"))
    assert "at-***-url" in text and "sk-very-secret" not in text
    assert tracking.redact("http://me:pass@host/x") == "http://***@host/x"


def test_a_failure_warns_once_and_the_stage_goes_on(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / ".work").write_text("a file where the folder should be")
    done = []
    with tracking.stage_run("merge"):
        tracking.log_metric("loss", 1.0, 1)
        done.append(1)
    error = capsys.readouterr().err
    assert done and error.startswith("warning: MLflow tracking: ") and error.count("\n") == 1


def test_a_broken_metrics_file_is_a_warning(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking.stage_run("merge"):
        (repository / "metrics" / "merge.json").write_text("{")
    assert "warning: MLflow tracking: JSONDecodeError" in capsys.readouterr().err


def test_what_the_recorder_could_not_do_is_said_once(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(root: Path) -> None:
        raise OSError("no server at http://me:pass@host")

    monkeypatch.setattr(recorder, "Store", broken)
    monkeypatch.setattr(
        recorder, "os", SimpleNamespace(nice=lambda by: 0, environ=os.environ, chdir=os.chdir)
    )
    run_merge(repository)
    assert recorder.main(["--linger"]) == 0
    assert len(events(repository)) > 3, "the spool waits for the next recorder"
    capsys.readouterr()
    run_merge(repository)
    error = capsys.readouterr().err
    assert "no server at http://***@host" in error and "pass@" not in error
    run_merge(repository)
    assert capsys.readouterr().err == ""


def test_junk_in_a_spool_blocks_neither_its_own_events_nor_others(repository: Path) -> None:
    run_merge(repository)
    (spool,) = tracking.spools(repository).glob("*.jsonl")
    first, *others = spool.read_bytes().splitlines()
    junk = [
        b"{",
        b"\xff\x00",
        b"[" * 5000,
        b"3",
        b"null",
        b'{"event": "gone"}',
        b'{"event": ["metric"]}',
        b'{"event": "metric", "name": 1, "value": "x", "time": 0, "step": 0}',
        b'{"event": "metric", "name": "loss", "value": 1, "time": 0, "step": ' + b"9" * 400 + b"}",
        b'{"event": "image", "file": "../../params.yaml"}',
        b'{"event": "end", "status": "ODD", "time": 1}',
    ]
    spool.write_bytes(b"\n".join([junk[0], first, *junk, *others, b""]))
    (spool.parent / "0-0.jsonl").write_bytes(
        b"\n".join([*junk, b""])
    )  # nothing but junk, and before all others
    store = recorder.record(repository, linger=0)
    (child,) = store.client.search_runs([store.experiment], "tags.`dvc.stage` = 'merge'")
    assert child.data.metrics == {"loss": 0.25, "cosine.a_b": 0.125} and child.info.status == "FINISHED"
    assert not list(spool.parent.glob("*.jsonl"))


@pytest.mark.parametrize(
    "make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "link"]
)
def test_a_spool_that_cannot_be_read_blocks_no_other(repository: Path, make: Any) -> None:
    run_merge(repository)
    bad = tracking.spools(repository) / "0-1.jsonl"  # before all others
    make(bad)
    store = recorder.record(repository, linger=0)
    assert len(store.client.search_runs([store.experiment], "tags.`dvc.stage` = 'merge'")) == 1
    assert not list(bad.parent.glob("*.jsonl")) and os.path.lexists(bad.with_suffix(".refused"))


def test_a_spool_that_mlflow_refuses_is_set_aside_and_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_merge(repository)
    (bad,) = tracking.spools(repository).glob("*.jsonl")
    run_merge(repository)
    advance = recorder.Stage.advance

    def refuse(self: recorder.Stage) -> bool:
        if self.path == bad:
            raise ValueError("odd\nvalue")
        return advance(self)

    monkeypatch.setattr(recorder.Stage, "advance", refuse)
    store = recorder.record(repository, linger=0)
    assert len(store.client.search_runs([store.experiment], "tags.`dvc.stage` = 'merge'")) == 1
    assert not list(bad.parent.glob("*.jsonl")) and bad.with_suffix(".refused").is_file()
    capsys.readouterr()
    run_merge(repository)
    assert f"MLflow tracking: {bad.name} was set aside: odd; the stage" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["ftp:/x", "http://[::1", "\udcff:", "odd://me:word@host"])
def test_no_address_of_a_store_fails_a_stage(
    repository: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(
        recorder, "os", SimpleNamespace(nice=lambda by: 0, environ=os.environ, chdir=os.chdir)
    )
    run_merge(repository)
    assert recorder.main(["--linger"]) == 0
    assert len(events(repository)) > 3, "the spool waits for a better address"
    run_merge(repository)


def test_a_machine_without_git_tracks_too(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    run_merge(repository)
    assert [event["event"] for event in events(repository)][-1] == "end"


def test_stages_of_one_pipeline_share_a_run_and_other_params_make_another(repository: Path) -> None:
    run_merge(repository)
    run_merge(repository)
    (repository / "params.yaml").write_text(PARAMS.replace("seed: 7", "seed: 8"))
    run_merge(repository)
    first, second, third = (event["run"] for event in events(repository) if event["event"] == "start")
    assert first == second != third


def test_a_stage_does_not_import_mlflow(repository: Path) -> None:
    code = "import sys; from selma.runtime import tracking; from selma.runtime import stage\n"
    code += "tracking._start_recorder = lambda: None\n"
    code += "with tracking.stage_run('merge'): pass\nprint('mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert [event["event"] for event in events(repository)] == ["start", "end"]


@pytest.mark.parametrize(("setting", "says"), [("off", False), ("", True)])
def test_the_address_of_the_store_is_said_where_tracking_is_on(
    setting: str, says: bool, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "selma.runtime.recorder"],
        cwd=tmp_path,
        env=os.environ | {"SELMA_TRACKING": setting, "PYTHONPATH": str(ROOT), "DVC_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("mlflow ui" in done.stdout) == says
