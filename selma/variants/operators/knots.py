"""KnOTS: TIES in the basis that the experts share (Stoica et al., ICLR 2025, arXiv 2410.19735, section 4).

    U S [V_1 .. V_T]^T = SVD of [dW_1 .. dW_T], side by side along the input axis
    dW = U * TIES(S V_1^T, .., S V_T^T), with TIES's trimming, election and mean (ties.py)

Aligned so, the experts' entries mean the same. Signs are elected by the sum alone: those of singular vectors are
arbitrary, and a draw of votes, which goes to +, would depend on them. The concatenation has no more than the sum R of
the ranks, so QR of the factors leaves an R x R core to decompose, and the result is exact at rank R: no dense update,
no truncation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from selma.lora.files import LoraWeights
from selma.merging.layers import Factors, flat, from_layers
from selma.merging.sparse import elected_mean, trim

OPTIONS = {
    "density": {"default": 0.3, "gt": 0, "le": 1},  # the released code's
    "scale": {"default": 1.0},  # the released code tunes it on validation data; .6 is typical there
}


def merge(experts: Mapping[str, LoraWeights], *, density: float, scale: float) -> LoraWeights:
    """TIES on the experts' parts of the joint right singular vectors, and back."""

    def layer(module: str) -> Factors:
        basis, parts = shared_basis([flat(expert, module) for expert in experts.values()])
        return scale * elected_mean(torch.stack([trim(part, density) for part in parts]), "total"), basis

    return from_layers(experts, layer)


def shared_basis(pairs: list[Factors]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """U [out, r] and every expert's S V_t^T [r, n] of the SVD of [B_1 A_1 .. B_T A_T]; r <= sum of ranks."""
    left, core = torch.linalg.qr(torch.cat([b for _, b in pairs], dim=1).double())
    rights, blocks, start = [], [], 0
    for a, b in pairs:
        right, triangle = torch.linalg.qr(a.double().T)  # A = triangle^T right^T
        rights.append(right)
        blocks.append(core[:, start : start + b.shape[1]] @ triangle.T)
        start += b.shape[1]
    u, s, v = torch.linalg.svd(torch.cat(blocks, dim=1), full_matrices=False)
    split = (s[:, None] * v).split([block.shape[1] for block in blocks], dim=1)
    return left @ u, [part @ right.T for part, right in zip(split, rights, strict=True)]
