"""Stage `prompts` against a real OpenAI-compatible server, `transformers serve`, with a tiny language model.

The model is made here, not trained: each token's successor is drawn from a table (one-hot embeddings, attention
and MLP of zeros, the table's logarithms as the head), so that it writes numbered lists with random numbers.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from selma.ground.files import read_json, read_jsonl
from stages import prompts as prompts_stage

ROOT = Path(__file__).parents[1]
COLUMNS = (
    ("one", "two", "three"),
    ("red", "green", "blue", "yellow", "purple", "orange"),
    ("kites", "cups", "boats", "chairs", "foxes", "pears"),
    ("outdoors", "indoors", "overhead", "underwater"),
)
STOP = 0.1  # chance that a list ends after an item


def make_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    numbers = tuple(f"{number}." for number in range(4, 24))
    words = ["<unk>", "<eos>", "<start>", "\n", *numbers, *(word for column in COLUMNS for word in column)]
    ids = {word: id for id, word in enumerate(words)}
    table = torch.full((len(words), len(words)), -30.0)  # next token, token

    def follow(first: tuple[str, ...], then: tuple[str, ...], chance: float = 1.0) -> None:
        for a in first:
            for b in then:
                table[ids[b], ids[a]] = math.log(chance / len(then))

    columns = (("<start>", "\n"), numbers, *COLUMNS)
    for first, then in pairwise(columns):
        follow(first, then)
    follow(COLUMNS[-1], ("\n",), 1 - STOP)
    follow(COLUMNS[-1], ("<eos>",), STOP)

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=len(words),
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=4096,
            bos_token_id=None,
            eos_token_id=ids["<eos>"],
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight.copy_(torch.eye(len(words)))
        model.lm_head.weight.copy_(table / math.sqrt(len(words)))  # the last norm scales one-hot by this root
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=0, eos_token_id=ids["<eos>"], pad_token_id=ids["<eos>"]
    )
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}<start>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<eos>",
        additional_special_tokens=["<start>"],
        clean_up_tokenization_spaces=False,
        chat_template=template,
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm") / "tiny"
    make_model(folder)
    return folder


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    """Address of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with open(model.parent / "log", "w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        )
    try:
        while True:
            assert process.poll() is None, (model.parent / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_stage_collects_whole_prompts(
    api: str, url: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole ones only, though replies are misnumbered and many cut off; and the server takes the seed."""
    for name in ("selma", "stages", "data/skills"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["llm"].update(provider="openai", base_url=url, model=str(model), api=api)
    params["llm"].update(max_tokens=64, concurrency=1)
    params["prompts"].update(candidates=40, round=3, skills="data/skills/photo")
    params["filter"].update(keep=10)
    yaml.dump(params, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "prompts@count")

    prompts_stage.main("count")
    first = (tmp_path / "data/prompts/count/prompts.jsonl").read_bytes()
    rows = read_jsonl(tmp_path / "data/prompts/count/prompts.jsonl")
    raw = read_jsonl(tmp_path / "data/prompts/count/raw.jsonl")
    whole = re.compile(" ".join(f"({'|'.join(column)})" for column in COLUMNS))
    assert len(rows) == 40
    assert all(whole.fullmatch(row["text"]) for row in rows)
    assert {row["finish_reason"] for row in raw} == {"stop", "length"}
    metrics = read_json(tmp_path / "metrics/prompts/count.json")
    assert metrics["completion_tokens"] == sum(row["usage"]["completion_tokens"] for row in raw) > 0

    shutil.rmtree(tmp_path / ".llm")
    prompts_stage.main("count")
    assert (tmp_path / "data/prompts/count/prompts.jsonl").read_bytes() == first
