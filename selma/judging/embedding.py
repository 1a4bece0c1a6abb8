"""Sentence embeddings by plain transformers, as all-mpnet-base-v2 defines them: the mean over tokens, unit norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from selma.ground.errors import UserError


class SentenceEmbedder:
    """A sentence-embedding model from a local folder (config, tokenizer, model.safetensors)."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Load the model; raises UserError, naming the folder, if it is missing or incomplete."""
        from transformers import AutoModel, AutoTokenizer

        from selma.judging.opening import load_model, load_part

        folder = self._folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: has no {name}; a sentence-embedding model's folder is needed")
        self._tokenizer = load_part(AutoTokenizer, folder)
        self._model = load_model(
            AutoModel, folder, device, "float32", unused="pooler."
        )  # the mean is taken here

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of n texts, float32 [n, d], each of length 1; long texts are truncated by the tokenizer."""
        batch = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        batch = batch.to(self._model.device)
        tokens = self._model(**batch).last_hidden_state.float()  # [n, length, d]
        mask = batch["attention_mask"].unsqueeze(-1).float()  # padding does not count
        mean = (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        found = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        if not np.isfinite(found).all():
            raise UserError(f"{self._folder}: this sentence-embedding model gives values that are not finite")
        return found
