"""Pretrains the multimodal embedded backbone, of Janus's class: one language model that draws images and answers.

The parts are those of Janus (arXiv 2410.13848): images are drawn as tokens of a VQ autoencoder (tokens.py), read by a
vision tower, and both meet in one language model. First the autoencoder learns, then the tower, then all but these two
at once, on captions with their images' tokens and on images with questions and captions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.janus.modeling_janus import JanusVQVAE

from selma.backbones.packing import apart, positions
from selma.shapes.pretraining import seeing, tokens
from selma.shapes.pretraining.asked import Asked, ask
from selma.shapes.pretraining.autoencoder import to_pixels
from selma.shapes.pretraining.corpus import Corpus, make_corpus
from selma.shapes.pretraining.dialogue import Dialogue, make_tokenizer
from selma.shapes.pretraining.janus import make_model
from selma.shapes.pretraining.optimise import optimise
from selma.shapes.pretraining.pretrain import CorpusSpec, Log

DRAWN, READ, ASKED = 48, 24, 8  # of a step: captions, images that are asked about, questions of each
_EMPTY_CAPTIONS = 0.1  # share of captions left empty, for classifier-free guidance
# Weights of the answers' and the descriptions' loss beside the image tokens'.
_ANSWERS, _DESCRIPTIONS = 0.5, 0.25


@dataclass(frozen=True, kw_only=True)
class MultimodalRecipe:
    """What the backbone is made by: the corpora that it draws and that it reads, and each part's steps.

    `questions` are asked about each image; `token_steps` train the autoencoder, `vision_steps` the vision tower alone,
    `steps` all but these two.
    """

    seed: int
    rare: float
    drawn: CorpusSpec
    read: CorpusSpec
    questions: int
    token_steps: int
    vision_steps: int
    steps: int

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """A recipe from plain values, as params.yaml has them."""
        return cls(**{**plain, "drawn": CorpusSpec(**plain["drawn"]), "read": CorpusSpec(**plain["read"])})


def pretrain_multimodal(
    recipe: MultimodalRecipe, folder: Path, log: Log, compiled: bool = False
) -> tuple[JanusForConditionalGeneration, PreTrainedTokenizerFast]:
    """The pretrained model, float32, and its tokenizer.

    State is kept under `folder`, so that a killed run, started again with the same recipe, resumes. `compiled` needs a
    C++ compiler, and makes a step 1.7 times as fast; the weights differ by rounding.
    """
    seed = recipe.seed
    drawn, read = (
        make_corpus(seed + number, rare=recipe.rare, **asdict(spec))
        for number, spec in enumerate((recipe.drawn, recipe.read))
    )
    asked = ask(read, seed, recipe.questions)
    tokenizer = make_tokenizer(text for texts in (*drawn.captions, *asked.texts) for text in texts)
    torch.manual_seed(seed)
    model = make_model(tokenizer)
    vq = model.model.vqmodel
    tokens.pretrain_tokens(
        vq,
        read.images,
        steps=recipe.token_steps,
        seed=seed,
        folder=folder / "tokens",
        log=lambda step, loss: log("tokens", step, loss),
    )
    vq.requires_grad_(False)
    decoded = tokens.decode(vq, tokens.encode(vq, read.images))
    tower = model.model.vision_model
    seeing.pretrain_vision(
        tower,
        (read.images, decoded),
        asked.pictures,
        steps=recipe.vision_steps,
        seed=seed,
        folder=folder / "vision",
        log=lambda step, loss: log("vision", step, loss),
    )
    tower.requires_grad_(False)  # what it sees would drift while the language model does not look yet
    examples = Examples.of(drawn, read, decoded, asked, vq, Dialogue(tokenizer))
    if compiled:
        for layer in model.model.language_model.layers:
            layer.compile(dynamic=False)
    optimise(
        {"model": model},
        lambda generator, step: examples.loss(model, generator),
        steps=recipe.steps,
        learning_rate=1.5e-3,
        seed=seed,
        folder=folder / "model",
        log=lambda step, loss: log("model", step, loss),
    )
    return model.eval(), tokenizer


@dataclass(frozen=True)
class Examples:
    """What a step draws from, all on the CPU. Texts stay padded: of one shape, steps compile, and cost hardly more.

    prompts     int16 [n, captions each, longest], padded on the left: a caption, up to the image's first token
    codes       int16 [n, 64], the image tokens that belong to them
    images      uint8 [m, 64, 64, 3], images that are asked about, and `decoded`, the same by their tokens
    questions   int16 [m, questions each, longest], padded on the left: a question, up to the answer
    answers     int16 [m, questions each], the answer's token
    described   int16 [m, captions each, longest], padded on the left: the request for a description, and a caption
    """

    dialogue: Dialogue
    prompts: torch.Tensor
    codes: torch.Tensor
    images: torch.Tensor
    decoded: torch.Tensor
    questions: torch.Tensor
    answers: torch.Tensor
    described: torch.Tensor

    @classmethod
    def of(
        cls,
        drawn: Corpus,
        read: Corpus,
        decoded: np.ndarray,
        asked: Asked,
        vq: JanusVQVAE,
        dialogue: Dialogue,
    ) -> Self:
        """The examples of two corpora; each image that is drawn is encoded once."""
        return cls(
            dialogue,
            dialogue.prompts(drawn.captions),
            tokens.encode(vq, drawn.images),
            torch.from_numpy(read.images),
            torch.from_numpy(decoded),
            dialogue.questions(asked.texts),
            dialogue.answers(asked.answers),
            dialogue.descriptions(read.captions),
        )

    def loss(self, model: JanusForConditionalGeneration, generator: torch.Generator) -> torch.Tensor:
        """Mean cross entropy of image tokens, plus those of answers and of descriptions, weighed."""
        return self._drawing(model, generator) + self._reading(model, generator)

    def _drawing(self, model: JanusForConditionalGeneration, generator: torch.Generator) -> torch.Tensor:
        row = torch.randint(len(self.codes), (DRAWN,), generator=generator)
        which = torch.randint(self.prompts.shape[1], (DRAWN,), generator=generator)
        ids = self.prompts[row, which].long()
        mask = ids != self.dialogue.pad
        empty = torch.rand(DRAWN, generator=generator) < _EMPTY_CAPTIONS
        ids = torch.where(empty[:, None], self.dialogue.without_words(ids), ids)
        codes = self.codes[row].long()
        with torch.autocast("cpu", torch.bfloat16):
            shown = model.prepare_embeddings_for_image_generation(codes[:, :-1])
            states = model.model.language_model(
                inputs_embeds=torch.cat([model.get_input_embeddings()(ids), shown], 1),
                attention_mask=torch.cat([mask, torch.ones_like(codes[:, 1:], dtype=torch.bool)], 1),
                use_cache=False,
            ).last_hidden_state
            logits = model.model.generation_head(states[:, -codes.shape[1] :])
        return functional.cross_entropy(logits.float().flatten(0, 1), codes.flatten())

    def _reading(self, model: JanusForConditionalGeneration, generator: torch.Generator) -> torch.Tensor:
        row = torch.randint(len(self.images), (READ,), generator=generator)
        kind = (torch.rand(READ, generator=generator) < 0.5)[:, None, None, None]
        pixels = to_pixels(torch.where(kind, self.images[row], self.decoded[row]))
        which = torch.rand(READ, self.questions.shape[1], generator=generator).argsort(1)[:, :ASKED]
        asked = self.questions[row[:, None], which].long()
        one = torch.randint(self.described.shape[1], (READ,), generator=generator)
        described = self.described[row, one].long()
        with torch.autocast("cpu", torch.bfloat16):
            told, words = looked(model, self.dialogue, pixels, [asked, described[:, None]])
            answers = model.lm_head(told[:, :, -1])
            said = self.dialogue.said(described)[:, 1:]  # the caption's own tokens alone are learned
            texts = model.lm_head(words[:, 0, :-1][said])
        truth = self.answers[row[:, None], which].long()
        return _ANSWERS * functional.cross_entropy(
            answers.float().flatten(0, 1), truth.flatten()
        ) + _DESCRIPTIONS * functional.cross_entropy(texts.float(), described[:, 1:][said])


def looked(
    model: JanusForConditionalGeneration,
    dialogue: Dialogue,
    pixels: torch.Tensor,
    texts: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """The language model's states of texts after an image: of each of `texts` [n, texts, longest, width].

    pixels [n, 3, 64, 64] in [-1, 1]; texts: ids [n, texts, longest], padded on the left. All texts stand side by side
    after their image, and none sees another: each is read as if it stood there alone.
    """
    n, embed = len(pixels), model.get_input_embeddings()
    before, after = (embed(torch.tensor(part)).expand(n, -1, -1) for part in dialogue.around_image)
    features = model.model.get_image_features(pixels, return_dict=True).pooler_output
    prefix = torch.cat([before, features.to(before.dtype), after], 1)
    ids = torch.cat([some.flatten(1) for some in texts], 1)
    valid = ids != dialogue.pad
    length, lengths = prefix.shape[1], [some.shape[2] for some in texts for _ in range(some.shape[1])]
    states = model.model.language_model(
        inputs_embeds=torch.cat([prefix, embed(ids)], 1),
        attention_mask=apart(length, lengths, valid, torch.bfloat16),
        position_ids=positions(length, lengths, valid),
        use_cache=False,
    ).last_hidden_state
    parts = states[:, length:].split([some[0].numel() for some in texts], 1)
    return [part.view(*some.shape, -1) for part, some in zip(parts, texts, strict=True)]
