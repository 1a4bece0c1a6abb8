"""Sentence embeddings by plain transformers, as all-mpnet-base-v2 defines them: the mean over tokens, unit norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from selma.ground.errors import UserError


class SentenceEmbedder:
    """A sentence-embedding model from a local folder (config, tokenizer, model.safetensors)."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Load the model; raises UserError, naming the folder, if it is missing or incomplete."""
        from transformers import AutoModel, AutoTokenizer

        folder = self._folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: has no {name}; a sentence-embedding model's folder is needed")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            # Safetensors only, and none of the repository's code.
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"{folder}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None
        self._model = model.to(device).eval()

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
