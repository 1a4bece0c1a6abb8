"""How the multimodal backbone is spoken to: a tokenizer with Janus's special tokens, and prompts and questions as ids.

draw     <bos><|User|>a red circle<|Assistant|><begin_of_image>                          then 64 image tokens
answer   <bos><|User|><begin_of_image>(64 x image)<end_of_image>Is it red?<|Assistant|>  then yes or no

An image is described as a question is answered, with a caption for the answer to `DESCRIBE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import JanusConfig, JanusProcessor, PreTrainedTokenizerFast
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
BEGIN, IMAGE, END = "<begin_of_image>", "<image_placeholder>", "<end_of_image>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
ANSWERS = ("yes", "no")
DESCRIBE = "describe the image."

CHAT = (
    "{% for message in messages %}{{ '<|User|>' if message.role == 'user' else '<|Assistant|>' }}"
    "{% for part in message.content %}{{ '<image_placeholder>' if part.type == 'image' else part.text }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"
)


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of lower-case text, trained on `texts`; unknown words fall back to bytes."""
    special = [PAD, BOS, EOS, BEGIN, IMAGE, END, USER, ASSISTANT]
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *(text for text in (*ANSWERS, DESCRIBE) for _ in range(9))], trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, special.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=512,
        extra_special_tokens={
            "image_token": IMAGE,
            "boi_token": BEGIN,
            "eoi_token": END,
            "user": USER,
            "bot": ASSISTANT,
        },
    )


def make_processor(tokenizer: PreTrainedTokenizerFast, config: JanusConfig) -> JanusProcessor:
    """What reads texts and images for the model: how it is spoken to is written into its folder by it."""
    vision = config.vision_config
    images = JanusImageProcessorPil(
        size={"height": vision.image_size, "width": vision.image_size},
        min_size=1,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return JanusProcessor(images, tokenizer, chat_template=CHAT, num_image_tokens=vision.num_image_tokens)


@dataclass(frozen=True)
class Dialogue:
    """Prompts, questions and answers as token ids."""

    tokenizer: PreTrainedTokenizerFast
    pad: int = field(init=False)
    kept: torch.Tensor = field(init=False)  # what an empty prompt keeps, as Janus's own sampling does

    def __post_init__(self) -> None:
        object.__setattr__(self, "pad", self.tokenizer.pad_token_id)
        object.__setattr__(self, "kept", torch.tensor(self._ids(BOS, BEGIN)))

    @property
    def around_image(self) -> tuple[list[int], list[int]]:
        """The ids before and after an image that is asked about."""
        return self._ids(BOS, USER, BEGIN), self._ids(END)

    def prompts(self, captions: Sequence[Sequence[str]]) -> torch.Tensor:
        """int16 [n, captions each, longest], padded on the left: all that stands before an image's first token."""
        before, after = self._ids(BOS, USER), self._ids(ASSISTANT, BEGIN)
        return self._padded([[[*before, *ids, *after] for ids in self._words(texts)] for texts in captions])

    def questions(self, texts: Sequence[Sequence[str]]) -> torch.Tensor:
        """int16 [n, questions each, longest], padded on the left: what stands between an image and the answer."""
        after = self._ids(ASSISTANT)
        return self._padded([[[*ids, *after] for ids in self._words(row)] for row in texts])

    def descriptions(self, captions: Sequence[Sequence[str]]) -> torch.Tensor:
        """int16 [n, captions each, longest], padded on the left: what stands after an image that is described."""
        before, after = [*self._words([DESCRIBE])[0], *self._ids(ASSISTANT)], self._ids(EOS)
        return self._padded([[[*before, *ids, *after] for ids in self._words(texts)] for texts in captions])

    def said(self, ids: torch.Tensor) -> torch.Tensor:
        """True for what the assistant says in ids [n, longest]: all after its name."""
        (assistant,) = self._ids(ASSISTANT)
        return ((ids == assistant).cumsum(-1) > 0) & (ids != assistant)

    def answers(self, words: Sequence[Sequence[str]]) -> torch.Tensor:
        """int16 [n, answers each]: the one token that each answer is."""
        known = dict(zip(ANSWERS, self._words(ANSWERS), strict=True))
        return torch.tensor([[known[word][0] for word in row] for row in words], dtype=torch.int16)

    def without_words(self, ids: torch.Tensor) -> torch.Tensor:
        """Prompts with every token but the first and the one that begins the image replaced by padding."""
        return torch.where(torch.isin(ids, self.kept), ids, self.pad)

    def _ids(self, *tokens: str) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(list(tokens))

    def _words(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def _padded(self, rows: Sequence[Sequence[Sequence[int]]]) -> torch.Tensor:
        longest = max(len(ids) for row in rows for ids in row)
        out = np.full((len(rows), len(rows[0]), longest), self.pad, np.int16)
        for i, row in enumerate(rows):
            for j, ids in enumerate(row):
                out[i, j, longest - len(ids) :] = ids
        return torch.from_numpy(out)
