"""Our judges beside one image and one question at a time: the same answers, and how much sooner?

    python -m bench.judge [--images N] [--questions M] [--batch B]

The chat VLM (LLaVA) and the CLIP (PickScore) are transformers' classes with random weights, small, but large enough
that computing takes the time; beside them stand these classes called once for each question or image. The server is on
this machine and takes LATENCY over every answer. What is needed once a process (imports, the oracle's templates, the
chat model's trial of a shared prefix) is not counted. Exits 1 when answers differ.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from PIL import Image
from tabulate import tabulate

from bench._arguments import at_least
from selma.ground.files import write_json
from selma.ground.items import Item, Question
from selma.judging.generation import Reader
from selma.judging.many import Row, ask_all, rate_all
from selma.judging.pixels import cut_square
from selma.runtime import command
from selma.runtime.devices import device_name
from selma.runtime.places import JUDGE_CARD
from selma.shapes.reading.oracle import Oracle
from selma.shapes.world.language import STYLES, describe
from selma.shapes.world.questions import make_questions
from selma.shapes.world.render import draw_scene
from selma.shapes.world.scene import sample_scene
from selma.shapes.world.writer import KINDS
from selma.variants.judges import chat_vlm, endpoint, pickscore
from tests.judge_models import CHAT, ID, clip_tokenizer, tokenizer
from tests.llm_server import Answer, reply, serve

LATENCY = 0.05  # seconds
NEAR = 1e-3  # how far apart the same probabilities and scores may be: batches round in another order

Shot = tuple[Item, int, Image.Image]
Found = dict[Any, tuple[str | None, float]]  # words, and the probability or score
Measured = Callable[[Sequence[Shot]], Found]


def main() -> None:
    parser = command.Parser(prog="python -m bench.judge", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=at_least(1), default=16, help="how many (default: 16)")
    parser.add_argument("--questions", type=at_least(1), default=6, help="about each image (default: 6)")
    parser.add_argument(
        "--batch", type=at_least(1), default=8, help="questions at once (default: 8, as judge.batch)"
    )
    parser.add_argument("--width", type=at_least(128), default=384, help="of the models (default: 384)")
    given = parser.parse_args()
    shots = make_shots(given.images, given.questions)
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in (("chat VLM", chat), ("CLIP", clip), ("server", server), ("oracle", oracle)):
            ours, peer = measure(given.batch, given.width, Path(folder) / name)
            ours(shots[:1]), peer(shots[:1])
            (found, seconds), (others, peer_seconds) = timed(ours, shots), timed(peer, shots)
            same = alike(found, others)
            rate, peer_rate = len(found) / seconds, len(others) / peer_seconds
            rows.append(
                [name, len(found), rate, peer_rate, rate / peer_rate, "the same" if same else "DIFFER"]
            )
    headers = ["judge", "answers", "ours, 1/s", "one by one, 1/s", "ratio", "answers"]
    print(
        f"{given.images} images, {given.questions} questions each, batch {given.batch}, {device_name('cpu')}"
    )
    print(tabulate(rows, headers, floatfmt=("", "", ".1f", ".1f", ".1f", "")))
    sys.exit(any(row[-1] != "the same" for row in rows))


def make_shots(images: int, questions: int) -> list[Shot]:
    """Scenes of the shapes world, each with as many questions about this or another scene."""
    rng = Random(0)
    scenes = [sample_scene(rng, rng.choice(KINDS[STYLES[i % len(STYLES)]])) for i in range(images)]
    facts = [describe(rng, scene, STYLES[i % len(STYLES)]) for i, scene in enumerate(scenes)]
    pool = [question for _, found in facts for question in make_questions(found)]
    shots = []
    for i, scene in enumerate(scenes):
        asked = tuple(replace(rng.choice(pool), id=str(j), parents=()) for j in range(questions))
        shots.append((Item(f"item-{i}", facts[i][0], "s", "shapes", asked), 0, draw_scene(rng, scene)))
    return shots


def timed(measure: Measured, shots: Sequence[Shot]) -> tuple[Found, float]:
    """What was found, and the seconds it took."""
    start = time.perf_counter()
    found = measure(shots)
    return found, time.perf_counter() - start


def alike(found: Found, others: Found) -> bool:
    """The same words, the same numbers up to NEAR (of large scores, relative)."""
    return found.keys() == others.keys() and all(
        found[key][0] == words and math.isclose(found[key][1], number, rel_tol=NEAR, abs_tol=NEAR)
        for key, (words, number) in others.items()
    )


def chat(batch: int, width: int, folder: Path) -> tuple[Measured, Measured]:
    """LLaVA with 256 tokens an image; one by one by `generate`, a question and its image a call."""
    make_llava(folder, width)
    judge = chat_vlm.load(folder, {}, "cpu", "float32")
    model, processor = judge._model._model, judge._model._processor
    reader = Reader(processor.tokenizer, folder)

    @torch.inference_mode()
    def ask(image: Image.Image, question: Question) -> tuple[str, float]:
        inputs = processor(
            images=image, text=f"<image> {chat_vlm.instruct(question)} Answer :", return_tensors="pt"
        )
        output = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=16,
            return_dict_in_generate=True,
            output_logits=True,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        answer = judge._settle(question, reader.read(output)[0])
        return answer.answer, answer.p_yes

    return lambda shots: by_key(ask_all(judge, shots, batch)), lambda shots: one_by_one(shots, ask)


def clip(batch: int, width: int, folder: Path) -> tuple[Measured, Measured]:
    """PickScore; one by one by CLIPModel's own forward, an image and its prompt a call."""
    from transformers import CLIPConfig, CLIPModel

    tower = towers(width)
    text = tower | {"vocab_size": 514, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        projection_dim=width,
        text_config=text | {"max_position_embeddings": 77, "projection_dim": width},
        vision_config=tower | {"image_size": 224, "patch_size": 16, "projection_dim": width},
    )
    varied(CLIPModel(config)).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    scorer = pickscore.load(folder, {}, "cpu", "float32")
    model, own = scorer._model, scorer._tokenizer

    def ours(shots: Sequence[Shot]) -> Found:
        scores = rate_all(scorer, ((image, item.prompt) for item, _, image in shots), batch)
        return {i: (None, score) for came in scores for i, score in came.items()}

    @torch.inference_mode()
    def score(image: Image.Image, prompt: str) -> float:
        tokens = own(prompt, truncation=True, max_length=77, return_tensors="pt")
        output = model(input_ids=tokens["input_ids"], pixel_values=cut_square(image, 224)[None])
        return output.logits_per_image.item()

    def peer(shots: Sequence[Shot]) -> Found:
        return {i: (None, score(image, item.prompt)) for i, (item, _, image) in enumerate(shots)}

    return ours, peer


def server(batch: int, width: int, folder: Path) -> tuple[Measured, Measured]:
    """A server that answers by the question's length; one by one is one request at a time."""

    def says(number: int, body: dict[str, Any]) -> Answer:
        text = body["messages"][0]["content"][1]["text"]
        return replace(reply(body, ("Yes", "No")[len(text) % 2]), delay=LATENCY)

    def asked(shots: Sequence[Shot], many: int) -> Found:
        with serve(says) as started:
            card = {"endpoint": {"model": "tiny", "base_url": started.url, "key_env": None}}
            return by_key(ask_all(endpoint.load(folder, card, "cpu", "float32"), shots, many))

    return lambda shots: asked(shots, batch), lambda shots: asked(shots, 1)


def oracle(batch: int, width: int, folder: Path) -> tuple[Measured, Measured]:
    """The shapes world's own judge; one by one reads the picture again for each question."""
    judge = Oracle()

    def ask(image: Image.Image, question: Question) -> tuple[str, float]:
        (answer,) = judge.answer(image, [question])
        return answer.answer, answer.p_yes

    return lambda shots: by_key(ask_all(judge, shots, batch)), lambda shots: one_by_one(shots, ask)


def by_key(came: Any) -> Found:
    rows: list[Row] = [row for rows in came for row in rows]
    return {(row["item"], row["question"]): (row["answer"], row["p_yes"]) for row in rows}


def one_by_one(shots: Sequence[Shot], ask: Callable[[Image.Image, Question], tuple[str, float]]) -> Found:
    return {(item.id, q.id): ask(image, q) for item, _, image in shots for q in item.questions}


# Models ------------------------------------------------------------------------------------------


def towers(width: int) -> dict[str, int]:
    heads = max(2, width // 64)
    return {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 6,
        "num_attention_heads": heads,
    }


def make_llava(folder: Path, width: int) -> None:
    """LLaVA of that width; an image of 224 pixels is 256 tokens."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    text = towers(width) | {"vocab_size": len(ID), "max_position_embeddings": 512}
    special = {"pad_token_id": ID["[PAD]"], "eos_token_id": ID["[SEP]"], "bos_token_id": ID["[BOS]"]}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**towers(width), image_size=224, patch_size=14, projection_dim=width),
        text_config=LlamaConfig(**text, **special, num_key_value_heads=text["num_attention_heads"]),
        image_token_index=ID["<image>"],
        vision_feature_layer=-1,
    )
    varied(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    words = tokenizer()
    words.model_max_length = 512
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}),
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    write_json(folder / JUDGE_CARD, {"kind": "chat_vlm"})


def varied(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that keep the size of what goes through them, so that images and questions make a difference."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5)
    return model


if __name__ == "__main__":
    main()
