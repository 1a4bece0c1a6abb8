"""Diffusion-DPO: learn from which of two images was preferred (Wallace et al., arXiv 2311.12908, equation 14).

    loss = -log sigmoid(-beta/2 ((L_w - L_l) - (L_w_ref - L_l_ref)))

L are mean squared errors of the prediction for the winner and the loser, with the same noise at the same time; the
reference is the model without its adapter. beta / 2 stands for the paper's beta T omega(lambda_t), as in its code.
SELMA (arXiv 2403.06952, appendix E) trains an expert for each skill by it, on pairs that CLIP's score picked.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from selma.experts import pairwise
from selma.lora.adapter import without_adapter

PAIRS = True
OPTIONS = {"beta": {"default": 5000.0, "gt": 0}}

draw_batch = pairwise.draw_pairs


def batch_loss(unet: torch.nn.Module, batch: pairwise.Pairs, *, beta: float) -> torch.Tensor:
    """The loss, a scalar: log 2 where the adapter changes nothing."""
    return -functional.logsigmoid(beta / 2 * margins(unet, batch)).mean()


def margins(unet: torch.nn.Module, batch: pairwise.Pairs) -> torch.Tensor:
    """By how much more the adapter lowers the winner's error than the loser's, [n].

    The share of margins above 0 is the implicit accuracy.
    """
    with torch.no_grad(), without_adapter():
        reference_winners, reference_losers = pairwise.errors(unet, batch)
    winners, losers = pairwise.errors(unet, batch)
    return (reference_winners - reference_losers) - (winners - losers)
