"""Many images at once: the same answers as one by one, images encoded once, nothing asked twice."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.ground.items import Item, Question
from selma.judging.groups import SORTED, groups, parts
from selma.judging.judge import load_judge, load_scorer
from selma.judging.kept import Kept
from selma.judging.many import ask_all, rate_all
from selma.judging.prefix import _common
from selma.judging.vqa import Said, VqaJudge
from selma.net import asking
from selma.net.flight import AHEAD, Flight
from selma.runtime.places import JUDGE_CARD, JUDGES
from tests.judge_models import MAKERS, bert_tokenizer, clip_config, clip_tokenizer
from tests.llm_server import error, reply, serve

FIELDS = ("item", "k", "question")
TEXTS = (
    "Is it red ?",
    "Is there a circle ?",
    "Is there a circle , or a blue circle , or two ?",
    "Is it blue ?",
)


def question(number: int) -> Question:
    return Question(str(number), TEXTS[number], ("yes", "no"), "yes", (), "any")


def shots(*counts: int) -> list[tuple[Item, int, Image.Image]]:
    """An image for each item, all different, with so many questions."""
    return [
        (
            Item(f"item-{i}", "a prompt", "s", "t", tuple(question((i + j) % 4) for j in range(count))),
            0,
            Image.radial_gradient("L").rotate(30 * i).resize((20, 12 + 3 * i)).convert("RGB"),
        )
        for i, count in enumerate(counts)
    ]


SHOTS = shots(3, 1, 4, 2, 4, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("judges")
    made = {name: make(root / name.replace(" ", "-")) for name, make in MAKERS.items()}
    for name, folder in made.items():
        write_json(folder / JUDGE_CARD, {"kind": name.split()[0]})
    return made


def load(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VqaJudge:
    monkeypatch.chdir(tmp_path)
    JUDGES.mkdir(parents=True, exist_ok=True)
    (JUDGES / "mine").unlink(missing_ok=True)
    (JUDGES / "mine").symlink_to(folder)
    return load_judge("mine", "cpu")


def worded(judge: VqaJudge) -> list[tuple[Image.Image, list[str]]]:
    return [(image, [judge._prompt(q) for q in item.questions]) for item, _, image in SHOTS]


# Local models ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 5, 100])
@pytest.mark.parametrize("kind", MAKERS)
def test_words_and_probabilities_are_those_of_one_image_and_question_at_a_time(
    kind, batch, folders, tmp_path, monkeypatch
):
    judge = load(folders[kind], tmp_path, monkeypatch)
    said = {key: words for came in judge._model.replies(worded(judge), batch) for key, words in came.items()}
    assert len(said) == sum(len(item.questions) for item, _, _ in SHOTS)
    alone = load(folders[kind], tmp_path, monkeypatch)  # one question a call: nothing to share or to pad
    for i, (image, texts) in enumerate(worded(judge)):
        for j, text in enumerate(texts):
            (came,) = alone._model.replies([(image, [text])], 1)
            assert said[i, j].text == came[0, 0].text
            assert said[i, j].yes == pytest.approx(came[0, 0].yes, abs=1e-5)
            assert said[i, j].no == pytest.approx(came[0, 0].no, abs=1e-5)
    assert len({words.yes for words in said.values()}) > 8, "images and questions make no difference"
    if kind.startswith("chat_vlm"):
        assert judge._model._shares is True


@pytest.mark.parametrize("kind", MAKERS)
def test_an_image_is_encoded_once_for_all_its_questions(kind, folders, tmp_path, monkeypatch):
    judge = load(folders[kind], tmp_path, monkeypatch)
    model = judge._model._model
    list(ask_all(judge, SHOTS))  # a chat model's first group is read both ways
    tower = model.base_model.vision_tower if kind.startswith("chat_vlm") else model.vision_model
    encoded: list[int] = []
    tower.register_forward_hook(lambda module, inputs, output: encoded.append(len(output.last_hidden_state)))
    for shot in SHOTS:
        list(ask_all(judge, each_question(shot)[:1]))
    once = sum(encoded)  # of images in tiles, more than one each
    assert once == len(SHOTS) if "tiles" not in kind else once > 2 * len(SHOTS)
    encoded.clear()
    rows = [row for rows in ask_all(judge, SHOTS) for row in rows]
    assert sum(encoded) == once and len(rows) == 15


def test_a_chat_models_prompts_share_the_image_and_read_it_once(folders, tmp_path, monkeypatch):
    judge = load(folders["chat_vlm"], tmp_path, monkeypatch)
    list(ask_all(judge, SHOTS))
    assert judge._model._shares is True
    read: list[int] = []
    language = judge._model._model.base_model.language_model
    language.register_forward_pre_hook(
        lambda module, inputs, named: read.append(named["inputs_embeds"].numel() // 8), with_kwargs=True
    )
    list(ask_all(judge, SHOTS[:1] * 3))
    shared = sum(read)
    judge._model._shares = False
    read.clear()
    list(ask_all(judge, SHOTS[:1] * 3))
    # 3 images of 4 tokens with 3 questions each: six times four tokens are not read again, and what is padded aside
    assert sum(read) - shared >= 6 * 4


def image_last(model, processor) -> None:
    processor.chat_template = processor.chat_template.replace("<image> ", "").replace(
        "{% if add_gen", "<image>{% if add_gen"
    )


def window(model, processor) -> None:
    model.config.text_config.layer_types = ["sliding_attention"]
    model.config.text_config.sliding_window = 4


def mixed_up(model, processor) -> None:
    """Stands for a model whose prefix depends on what follows."""
    own = model.base_model.forward

    def forward(*args, **named):
        output = own(*args, **named)
        if named.get("pixel_values") is not None and named["input_ids"].shape[0] == len(SHOTS[:3]):
            for layer in output.past_key_values.layers:
                layer.values = layer.values * 1.5
        return output

    model.base_model.forward = forward


@pytest.mark.parametrize("odd", [image_last, window, mixed_up])
def test_a_chat_model_that_cannot_share_reads_every_prompt_whole(odd, folders, tmp_path, monkeypatch):
    judge = load(folders["chat_vlm"], tmp_path, monkeypatch)
    odd(judge._model._model, judge._model._processor)
    rows = [row for rows in ask_all(judge, SHOTS[:3]) for row in rows]
    assert judge._model._shares is False
    alone = [
        row
        for shot in SHOTS[:3]
        for one in each_question(shot)
        for rows in ask_all(judge, [one])
        for row in rows
    ]
    assert [row["answer"] for row in rows] == [row["answer"] for row in alone]
    assert [row["p_yes"] for row in rows] == pytest.approx([row["p_yes"] for row in alone], abs=2e-4)


def each_question(shot):
    item, k, image = shot
    return [(replace(item, questions=(one,)), k, image) for one in item.questions]


def test_a_prefix_leaves_every_prompt_a_token_and_ends_where_they_differ():
    assert _common([[1, 2, 3, 4], [1, 2, 5]]) == 2
    assert _common([[1, 2, 3], [1, 2, 3]]) == 2
    assert _common([[1, 2], [1, 2, 3]]) == 1


# Scorers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4, 50])
@pytest.mark.parametrize("kind", ["pickscore", "hpsv21", "image_reward", "blip_vqa"])
def test_scores_are_those_of_one_image_at_a_time(kind, batch, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(JUDGES / "mine" / JUDGE_CARD, {"kind": kind})
    if kind == "image_reward":
        from safetensors.torch import save_model
        from transformers import BlipConfig

        from selma.published.reward import Reward
        from tests.test_scorers import TINY_BLIP

        config = BlipConfig(**TINY_BLIP)
        config.save_pretrained(JUDGES / "mine")
        save_model(varied(Reward(config)), JUDGES / "mine" / "model.safetensors")
        bert_tokenizer().save_pretrained(JUDGES / "mine" / "tokenizer")
    elif kind == "blip_vqa":
        (JUDGES / "mine" / JUDGE_CARD).unlink()
        (JUDGES / "mine").rmdir()
        (JUDGES / "mine").symlink_to(folders[kind])
    else:
        from transformers import CLIPModel

        varied(CLIPModel(clip_config())).save_pretrained(JUDGES / "mine")
        clip_tokenizer().save_pretrained(JUDGES / "mine" / "tokenizer")
    scorer = load_scorer("mine", "cpu")
    prompts = ("a red circle", "two", "a red circle", "a blue circle , and two red ones", "a red circle", "")
    asked = [(image, prompt) for (_, _, image), prompt in zip(SHOTS, prompts, strict=True)]
    found = {i: score for came in rate_all(scorer, asked, batch) for i, score in came.items()}
    alone = [scorer.score(image, prompt) for image, prompt in asked]
    assert [found[i] for i in range(len(asked))] == pytest.approx(alone, rel=1e-5, abs=1e-4)
    assert len({round(score, 4) for score in alone}) > 3


def varied(model: torch.nn.Module) -> torch.nn.Module:
    """With weights large enough that images and prompts make a difference."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


# Groups ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 6), st.data())
def test_groups_hold_every_image_once_in_order_and_are_cut_alike_after_a_stop(counts, batch, data):
    asked = [(i, [0] * count) for i, count in enumerate(counts)]
    cut = list(groups(asked, batch))
    assert [pair for group in cut for pair in group] == asked
    for group in cut:
        assert len(group) <= batch
        assert sum(len(texts) for _, texts in group[:-1]) < SORTED * batch
    done = data.draw(st.integers(0, len(cut)))
    left = asked[sum(len(group) for group in cut[:done]) :]
    assert list(groups(left, batch)) == cut[done:]


@given(st.lists(st.integers(1, 5), max_size=40), st.integers(1, 6), st.booleans())
def test_parts_hold_every_index_once_and_near_lengths_together(lengths, batch, equal):
    cut = list(parts(lengths, batch, equal=equal))
    assert sorted(i for part in cut for i in part) == list(range(len(lengths)))
    assert all(1 <= len(part) <= batch for part in cut)
    flat = [lengths[i] for part in cut for i in part]
    assert flat == sorted(flat)
    if equal:
        assert all(len({lengths[i] for i in part}) == 1 for part in cut)


# On disk -----------------------------------------------------------------------------------------


@given(st.integers(0, 400), st.data())
def test_a_file_that_ends_anywhere_holds_whole_groups_and_goes_on(tmp_path_factory, end, data):
    path = tmp_path_factory.mktemp("kept") / "kept.jsonl"
    rows = [[{"item": f"é{i}", "k": j, "score": 0.5} for j in range(1 + i % 3)] for i in range(6)]
    whole = Kept(path, ("item", "k"))
    assert list(whole.keep(rows)) == [row for group in rows for row in group]
    content = path.read_bytes()
    path.write_bytes(content[:end])
    again = Kept(path, ("item", "k"))
    there = [all((row["item"], row["k"]) in again for row in group) for group in rows]
    assert there == sorted(there, reverse=True)
    assert [any((row["item"], row["k"]) in again for row in group) for group in rows] == there
    left = rows[sum(there) :]
    assert list(again.keep(left)) == [row for group in left for row in group]
    last = Kept(path, ("item", "k"))
    assert all(last[row["item"], row["k"]] == row for group in rows for row in group)


def test_a_local_model_that_was_stopped_ends_in_the_same_bytes(folders, tmp_path, monkeypatch):
    judge = load(folders["chat_vlm"], tmp_path, monkeypatch)
    many = shots(*[3, 1, 4, 2] * 4)
    path = tmp_path / "whole.jsonl"
    list(Kept(path, FIELDS).keep(ask_all(judge, many, 4)))
    for stop in (1, 2, 3):
        half = tmp_path / f"{stop}.jsonl"
        groups_of = ask_all(load(folders["chat_vlm"], tmp_path, monkeypatch), many, 4)
        list(Kept(half, FIELDS).keep(rows for rows, _ in zip(groups_of, range(stop), strict=False)))
        kept = Kept(half, FIELDS)
        left = [(item, k, image) for item, k, image in many if (item.id, k, item.questions[0].id) not in kept]
        assert 0 < len(left) < len(many)
        list(kept.keep(ask_all(load(folders["chat_vlm"], tmp_path, monkeypatch), left, 4)))
        lines = [line for line in half.read_bytes().split(b"\n") if line]
        assert lines == [line for line in path.read_bytes().split(b"\n") if line]


# Servers -----------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(asking, "BACKOFF", 0.01)


def served(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VqaJudge:
    monkeypatch.chdir(tmp_path)
    settings = {"model": "tiny", "base_url": url, "key_env": None}
    write_json(JUDGES / "mine" / JUDGE_CARD, {"kind": "endpoint", "endpoint": settings})
    return load_judge("mine")


def asked_text(body: dict) -> str:
    return body["messages"][0]["content"][1]["text"]


def says(number: int, body: dict):
    """Yes to red, no to all else; the longer the question, the sooner, so answers come out of order."""
    text = asked_text(body)
    return replace(reply(body, "Yes" if "red" in text else "No"), delay=0.2 / len(text) * 10)


def test_a_server_gets_so_many_requests_at_once_over_images_and_questions(quick, tmp_path, monkeypatch):
    with serve(says) as server:
        judge = served(server.url, tmp_path, monkeypatch)
        came = list(ask_all(judge, SHOTS, 5))
    assert server.most == 5 and len(server.seen) == 15
    assert all(len(rows) == 1 for rows in came), "each answer is given on as it comes"
    order = [(row["item"], row["question"]) for rows in came for row in rows]
    wanted = {
        (item.id, q.id): "yes" if "red" in q.text else "no" for item, _, _ in SHOTS for q in item.questions
    }
    assert {(row["item"], row["question"]): row["answer"] for rows in came for row in rows} == wanted
    assert order != list(wanted)


def test_one_question_at_a_time_is_one_request_at_a_time(quick, tmp_path, monkeypatch):
    with serve(says) as server:
        list(ask_all(served(server.url, tmp_path, monkeypatch), SHOTS[:2], 1))
    assert server.most == 1


def test_too_many_requests_wait_as_long_as_the_server_says(quick, tmp_path, monkeypatch):
    """Retry-After counts, where the usual wait would be a hundredth of a second."""
    refused: dict[str, float] = {}
    waits: list[float] = []

    def behave(number: int, body: dict):
        key = json.dumps(body)
        if key not in refused and number % 3 == 0:
            refused[key] = time.monotonic()
            return error(429, "slow down", {"Retry-After": "1"})
        if key in refused:
            waits.append(time.monotonic() - refused[key])
        return reply(body, "yes")

    with serve(behave) as server:
        rows = [row for rows in ask_all(served(server.url, tmp_path, monkeypatch), SHOTS, 4) for row in rows]
    assert len(rows) == 15 and len(refused) >= 3 and len(waits) == len(refused)
    assert min(waits) >= 0.99


def test_what_was_paid_is_kept_where_a_server_gives_up_and_is_not_asked_again(quick, tmp_path, monkeypatch):
    broken = threading.Event()

    def behave(number: int, body: dict):
        if number == 6:
            broken.set()
            return error(401, "no more credit")
        return replace(reply(body, "yes"), delay=0.05)

    with serve(behave) as server:
        kept = Kept(tmp_path / "kept.jsonl", FIELDS)
        with pytest.raises(UserError, match="the key was refused"):
            list(kept.keep(ask_all(served(server.url, tmp_path, monkeypatch), SHOTS, 4)))
        first = [json.dumps(one["body"], sort_keys=True) for one in server.seen]
    kept = Kept(tmp_path / "kept.jsonl", FIELDS)
    rest = [
        (
            replace(item, questions=tuple(q for q in item.questions if (item.id, k, q.id) not in kept)),
            k,
            image,
        )
        for item, k, image in SHOTS
    ]
    assert broken.is_set() and 6 <= len(first) < 15
    assert 15 - sum(len(item.questions) for item, _, _ in rest) == len(first) - 1
    with serve(says) as server:
        list(kept.keep(ask_all(served(server.url, tmp_path, monkeypatch), rest, 4)))
        second = [json.dumps(one["body"], sort_keys=True) for one in server.seen]
    assert Counter(first + second).most_common(1)[0][1] <= 2 and len(first + second) == 15 + 1
    assert all((item.id, k, q.id) in kept for item, k, _ in SHOTS for q in item.questions)


# Flight ------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(1, 5))
def test_every_task_is_done_once_and_few_are_taken_ahead(n, concurrency):
    taken, most = 0, 0

    def tasks():
        nonlocal taken
        for i in range(n):
            taken += 1
            yield i

    done: dict[int, int] = {}
    for number, result in Flight(lambda i: i * i, tasks(), concurrency):
        most = max(most, taken - len(done))
        done[number] = result
    assert done == {i: i * i for i in range(n)}
    assert most <= AHEAD * concurrency


def test_a_task_that_cannot_be_taken_ends_the_flight_after_those_under_way():
    def tasks():
        yield 1
        yield 2
        raise UserError("no image")

    came = []
    with pytest.raises(UserError, match="no image"):
        for _, result in Flight(lambda i: i, tasks(), 1):
            came.append(result)
    assert set(came) <= {1, 2}


def test_a_flight_that_is_given_up_starts_nothing_more():
    started = []
    flight = iter(Flight(started.append, range(1000), 2))
    next(flight)
    flight.close()
    assert len(started) <= 2 * AHEAD + 2


CTRL_C = """
import os, signal, sys, threading, time
from selma.net.flight import Flight

signal.signal(signal.SIGINT, signal.default_int_handler)  # as stages do: a job in the background ignores it

def hang(task):
    # This thread takes the signal, so that it wakes nobody: as one that comes just before the main thread waits.
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    time.sleep(60)

try:
    for _ in Flight(hang, [1], 1):
        pass
except KeyboardInterrupt:
    os._exit(130)
"""


def test_a_ctrl_c_that_wakes_nobody_ends_a_flight():
    assert (
        subprocess.run([sys.executable, "-c", CTRL_C], cwd=Path(__file__).parents[1], timeout=30).returncode
        == 130
    )


class Talkative:
    """A server's model that answers one question, of an earlier image than most, with words that are no choice."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def replies(self, asked, batch):
        tasks = ((i, j, text) for i, (_, texts) in enumerate(asked) for j, text in enumerate(texts))

        def answer(task):
            i, j, text = task
            self.asked.append(text)
            strange = (i, j) == (1, 0)
            time.sleep(0 if strange else 0.02)
            return (i, j), Said("perhaps" if strange else "red", 0.0, 0.0)

        for _, (place, said) in Flight(answer, tasks, batch):
            yield {place: said}


def test_words_that_fit_no_choice_lose_no_answer_that_was_asked_for(tmp_path):
    colour = Question("0", "Which colour ?", ("red", "blue"), "red", (), "any")
    asked = [
        (Item(f"item-{i}", "a prompt", "s", "t", (colour,)), 0, Image.new("RGB", (8, 8))) for i in range(60)
    ]
    model, kept = Talkative(), Kept(tmp_path / "kept.jsonl", FIELDS)
    with pytest.raises(UserError, match="perhaps"):
        for _ in kept.keep(ask_all(VqaJudge(model, lambda question: question.text), asked, 8)):
            pass
    found = Kept(tmp_path / "kept.jsonl", FIELDS)
    there = [item for item, _, _ in asked if (item.id, 0, "0") in found]
    assert len(there) == len(model.asked) - 1, "all that was asked, but the one"
    assert len(model.asked) < 60, "no more is asked after that"
