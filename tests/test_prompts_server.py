"""Stage `prompts` with a server's LLM: the full set or a clear error, nothing paid for twice, no key anywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from selma.ground.errors import UserError
from selma.ground.files import read_json, read_jsonl
from selma.net import asking
from selma.runtime import recorder, stage, tracking
from stages import prompts as prompts_stage
from tests.llm_server import Answer, Server, error, examples, prompts, reply, serve

ROOT = Path(__file__).parents[1]
KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of code and skills whose params want 60 candidates of a server."""
    for name in ("selma", "stages", "data/skills"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    change(tmp_path, "prompts", candidates=60, per_request=8, round=3, skills="data/skills/photo")
    change(tmp_path, "filter", keep=20)
    change(tmp_path, "llm", provider="openai", model="tiny", key_env="TEST_KEY", timeout=5, retries=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "prompts@count")
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(asking, "BACKOFF", 0.01)
    return tmp_path


def change(repo: Path, section: str, **values: object) -> None:
    yaml = YAML()
    params = yaml.load(repo / "params.yaml")
    assert set(values) <= set(params[section])
    params[section].update(values)
    yaml.dump(params, repo / "params.yaml")


def run(repo: Path, server: Server, **settings: object) -> dict[str, bytes]:
    """The stage's outs and metrics by name."""
    change(repo, "llm", base_url=server.url, **settings)
    prompts_stage.main("count")
    files = [*sorted((repo / "data/prompts/count").iterdir()), repo / "metrics/prompts/count.json"]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture
def server() -> Iterator[Server]:
    """One server whose behaviour a test changes: its address is part of what a reply is found again by."""
    with serve() as server:
        yield server


# The full set or a clear error -------------------------------------------------------------------


def test_the_outs(repo: Path, server: Server) -> None:
    run(repo, server, input_price=0.5, output_price=2)
    rows = read_jsonl(repo / "data/prompts/count/prompts.jsonl")
    raw = read_jsonl(repo / "data/prompts/count/raw.jsonl")
    n = len(raw)
    assert len({row["text"] for row in rows}) == 60
    assert len(server.seen) == n and n % 3 == 0
    for row in rows:
        assert row["text"] in raw[row["request"]]["reply"]
    sent = {one["body"]["messages"][0]["content"] for one in server.seen}
    assert {row["request"] for row in raw} == sent
    assert all(row["model"] == "tiny-0613" and row["id"] and row["usage"] for row in raw)
    assert all(len(examples(one["body"])) == 3 for one in server.seen)
    assert read_json(repo / "metrics/prompts/count.json") == {
        "requests": n,
        "empty": 0,
        "prompt_tokens": 200 * n,
        "completion_tokens": 100 * n,
        "estimated_cost": round(n * (200 * 0.5 + 100 * 2) / 1e6, 6),
        "candidates": 60,
    }


FAULTS: dict[str, Answer] = {
    "429": error(429, headers={"Retry-After": "0.02"}),
    "500": error(500),
    "hang": Answer({}, delay=4.0),
    "half a body": Answer({"choices": [{"message": {"content": "4. a cat" * 99}}]}, half=True),
    "invalid JSON": Answer(b'{"choices": [{"message"'),
    "no choice": Answer({"choices": []}),
}


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_faults_of_the_wire_change_no_byte(repo: Path, server: Server, api: str) -> None:
    """Every request fails at first, by one fault after another; against a run without any."""
    whole = run(repo, server, api=api, timeout=2)
    shutil.rmtree(repo / ".llm")
    good, tried, lock = len(server.seen), [], threading.Lock()
    assert good > len(FAULTS)

    def behave(number: int, body: dict[str, Any]) -> Answer:
        with lock:
            again = body in tried
            tried.append(body)
            return reply(body) if again else list(FAULTS.values())[len(tried) % len(FAULTS)]

    server.behave = behave
    assert run(repo, server) == whole
    assert len(server.seen) == 3 * good
    assert set(server.answered[:good]) == set(server.answered[good:])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_an_error(repo: Path, server: Server, fault: str) -> None:
    server.behave = lambda number, body: reply(body) if number < 6 else FAULTS[fault]
    with pytest.raises(UserError, match="Replies so far are kept"):
        run(repo, server, timeout=2 if fault == "hang" else 5, retries=1)
    assert not (repo / "data/prompts").exists() and not (repo / "metrics").exists()
    assert len(read_jsonl(repo / ".llm/count.jsonl")) == 6


def misnumbered(body: dict[str, Any]) -> Answer:
    items = prompts(body)
    return reply(body, "\n".join(f"{9 - number}) {item}" for number, item in enumerate(items)))


def gap(body: dict[str, Any]) -> Answer:
    items = prompts(body)
    return reply(
        body, "Here:\n\n" + "\n\n".join(f"{3 * number}. {item}" for number, item in enumerate(items))
    )


def duplicates(body: dict[str, Any]) -> Answer:
    return reply(body, json.dumps({"prompts": prompts(body)[:4] * 2 + examples(body)}))


def truncated(body: dict[str, Any]) -> Answer:
    text = json.dumps({"prompts": [*prompts(body), "CUT off here"]})
    return reply(body, text[:-9], finish_reason="length")


def truncated_list(body: dict[str, Any]) -> Answer:
    return reply(
        body, "\n".join(f"{4 + n}. {item}" for n, item in enumerate([*prompts(body), "CUT o"])), "length"
    )


def empty(body: dict[str, Any]) -> Answer:
    return reply(body, "") if body["seed"] % 3 else reply(body)


def refusal(body: dict[str, Any]) -> Answer:
    return reply(body, None) if body["seed"] % 3 else reply(body, "", refusal="I can't help with that.")


def broken(body: dict[str, Any]) -> Answer:
    return reply(body, json.dumps({"prompts": prompts(body)}).replace('"]}', ""))


@pytest.mark.parametrize(
    "habit", [misnumbered, gap, duplicates, truncated, truncated_list, empty, refusal, broken]
)
def test_habits_of_models_end_in_the_full_set(
    repo: Path, server: Server, habit: Callable[[dict[str, Any]], Answer]
) -> None:
    server.behave = lambda number, body: habit(body)
    run(repo, server)
    rows = read_jsonl(repo / "data/prompts/count/prompts.jsonl")
    raw = read_jsonl(repo / "data/prompts/count/raw.jsonl")
    written = {text for one in server.seen for text in prompts(one["body"])}
    assert len({row["text"] for row in rows}) == 60
    assert {row["text"] for row in rows} <= written
    metrics = read_json(repo / "metrics/prompts/count.json")
    without = sum(row["reply"] in ("", "I can't help with that.") for row in raw)
    assert metrics["empty"] == without and (without > 0) == (habit in (empty, refusal))
    if habit in (misnumbered, gap):  # not one item is lost
        last = max(row["request"] for row in rows)
        whole = {text for row in raw[:last] for text in written if text in row["reply"]}
        assert whole <= {row["text"] for row in rows}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("I'm sorry, I can't help.", "last reply ended by 'stop' and begins: .*I'm sorry, I can't help"),
        ("", "begins: ''"),
    ],
)
def test_nothing_but_refusals_is_an_error_that_shows_one(repo, server, content: str, says: str) -> None:
    server.behave = lambda number, body: reply(body, content)
    with pytest.raises(UserError, match=f"produced nothing new after 0 prompts.*{says}"):
        run(repo, server)
    assert len(server.seen) == 15  # five rounds, not for ever
    assert not (repo / "data/prompts").exists()


# Nothing twice -----------------------------------------------------------------------------------


def test_more_candidates_ask_for_what_is_missing_only(repo: Path, server: Server, capsys) -> None:
    change(repo, "prompts", candidates=30)
    first = run(repo, server)
    asked = len(server.seen)
    with open(repo / ".llm/count.jsonl", "ab") as file:
        file.write(b'{"key": "0123", "ind')  # a run that was killed while it wrote
    capsys.readouterr()
    change(repo, "prompts", candidates=60)
    resumed = run(repo, server)
    assert resumed["prompts.jsonl"].startswith(
        first["prompts.jsonl"][: first["prompts.jsonl"].rindex(b'{"id"')]
    )
    assert len(set(server.answered)) == len(server.seen) > asked
    assert f"{asked} of {len(server.seen)} replies were reused" in capsys.readouterr().out
    shutil.rmtree(repo / ".llm")
    assert run(repo, server) == resumed  # as a run that never stopped


def test_another_temperature_is_another_reply(repo: Path, server: Server) -> None:
    first = run(repo, server)
    asked = len(server.seen)
    assert run(repo, server, temperature=0.5) != first
    again = len(server.seen)
    assert again > asked
    assert run(repo, server, temperature=1.0) == first
    assert len(server.seen) == again


def test_a_run_at_its_limit_keeps_what_it_has(repo: Path, server: Server) -> None:
    with pytest.raises(UserError, match="max_requests is 4 and more are needed; raise it"):
        run(repo, server, max_requests=4)
    assert len(read_jsonl(repo / ".llm/count.jsonl")) == len(server.seen) == 4
    with pytest.raises(UserError, match="max_requests is 4"):
        run(repo, server)
    assert len(server.seen) == 4
    run(repo, server, max_requests=50)
    assert len(set(server.answered)) == len(server.seen)


def test_a_killed_run_asks_again_for_nothing_that_it_had(repo: Path, server: Server) -> None:
    """kill -9 while a request is in flight; the next run's outs are those of a run that was never killed."""
    change(repo, "llm", base_url=server.url, concurrency=2)
    hangs, killed = threading.Event(), threading.Event()

    def behave(number: int, body: dict[str, Any]) -> Answer:
        if number == 7:
            hangs.set()
            killed.wait(60)
            return Answer({}, delay=0.01)
        return reply(body)

    server.behave = behave
    process = subprocess.Popen([sys.executable, "-m", "stages.prompts", "count"], cwd=repo)
    assert hangs.wait(120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed.set()
    kept = {row["seed"] for row in read_jsonl(repo / ".llm/count.jsonl")}
    assert 6 <= len(kept) <= 8
    before = len(server.seen)
    server.behave = lambda number, body: reply(body)
    resumed = run(repo, server)
    assert not kept & {one["body"]["seed"] for one in server.seen[before:]}
    shutil.rmtree(repo / ".llm")
    assert run(repo, server) == resumed


def test_ctrl_c_waits_for_no_server(repo: Path, server: Server) -> None:
    change(repo, "llm", base_url=server.url, timeout=600)
    hangs, over = threading.Event(), threading.Event()

    def behave(number: int, body: dict[str, Any]) -> Answer:
        hangs.set()
        over.wait(120)
        return reply(body)

    server.behave = behave
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.prompts", "count"], cwd=repo, stderr=subprocess.PIPE, text=True
    )
    assert hangs.wait(120)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    over.set()
    assert process.returncode == 130
    assert "interrupted: run the same command again to resume" in errors


# The key -----------------------------------------------------------------------------------------


def test_the_key_is_nowhere(repo: Path, server: Server, monkeypatch, capsys) -> None:
    """Servers that say the key back, a run that fails and one that ends; then every file, MLflow's too."""
    monkeypatch.delenv("SELMA_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "_start_recorder", lambda: None)
    monkeypatch.setattr(sys, "argv", ["prompts", "count"])
    change(repo, "llm", base_url=server.url)
    server.behave = lambda number, body: error(401, f"Incorrect API key provided: {KEY}")
    with pytest.raises(SystemExit) as left:
        stage.run(prompts_stage.main)
    assert left.value.code == 2
    escaped = KEY.replace("-", "\\u002d")  # in the model's own JSON, which another one carries

    def behave(number: int, body: dict[str, Any]) -> Answer:
        said = json.dumps({"prompts": [*prompts(body), "the key KEY"]}).replace("KEY", escaped)
        return error(500, f"Bearer {KEY}") if number % 4 == 0 else reply({**body, "model": KEY}, said)

    server.behave = behave
    stage.run(prompts_stage.main)
    out, err = capsys.readouterr()
    assert "Incorrect API key provided: ***" in err and "Bearer ***" in err
    assert "the key ***" in (repo / "data/prompts/count/raw.jsonl").read_text()
    assert recorder.record(repo, linger=0) is not None

    assert KEY not in out + err
    assert any(KEY in str(one["headers"]) for one in server.seen)
    files = [path for path in repo.rglob("*") if path.is_file()]
    assert {"mlflow.db", "count.jsonl", "params.yaml", "raw.jsonl"} <= {path.name for path in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_missing_key_is_one_line(repo: Path) -> None:
    change(repo, "llm", base_url=None, key_env=None)
    clean = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    done = subprocess.run(
        [sys.executable, "-m", "stages.prompts", "count"],
        cwd=repo,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: environment variable OPENAI_API_KEY is not set")
    assert done.stderr.count("\n") == 1
