"""SSR-Merge: least squares within the experts' own row space (ICML 2026, arXiv 2606.10617).

With A = [A_1; ..; A_T] and B = [B_1 .. B_T] (each with its scaling), and G_t = E_t[z z^T] of z = A x, x being what the
layer reads when expert t sees its own images: dW = B R A, R = Q (sum_t G_t)^-1, where the rows of Q that are expert t's
are those of G_t. It minimises sum_t E_t |B (R z - P_t z)|^2, P_t z being the part of z that is expert t's: RegMean
(regmean.py) with statistics of rank size only, R x R a layer for the sum R of the ranks. Equal statistics give
delta_mean.

Each G_t gets `ridge` times the mean diagonal on its own (the paper: 1e-4, absolute). Solved in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from selma.ground.errors import UserError
from selma.lora.files import LoraWeights
from selma.merging.layers import Factors, from_layers, modules, stacked

if TYPE_CHECKING:
    from selma.merging.calibration import Tokens

NEEDS = ("tokens",)
# pairs: of each expert's images and captions, at most (the paper takes one prompt); seed: which, and their noise.
OPTIONS = {
    "pairs": {"default": 64, "ge": 1},
    "seed": {"default": 0, "ge": 0},
    "ridge": {"default": 1e-4, "ge": 0},
}


def merge(
    experts: Mapping[str, LoraWeights], *, tokens: Tokens, pairs: int, seed: int, ridge: float
) -> LoraWeights:
    """The mix of the experts' directions that answers as each expert does on that expert's tokens."""
    rows = {module: stacked(experts, module)[0] for module in modules(experts)}
    total: dict[str, torch.Tensor] = {}
    own: dict[str, list[torch.Tensor]] = {module: [] for module in rows}
    start = 0
    for name, expert in experts.items():
        moments = tokens(name, pairs=pairs, seed=seed, rows=rows)
        for module, moment in moments.items():
            own[module].append(moment[start : start + expert.rank].clone())  # a view would keep all of it
            total[module] = total[module] + moment if module in total else moment
        start += expert.rank
        del moments, moment
    del rows

    def layer(module: str) -> Factors:
        a, b = stacked(experts, module)
        g, q = total.pop(module).double(), torch.cat(own.pop(module)).double()
        small = ridge * float(g.diagonal().mean()) / len(experts)
        unit = torch.eye(len(g), dtype=g.dtype)
        mix, failed = torch.linalg.solve_ex(g + small * len(experts) * unit, q + small * unit, left=False)
        if failed:
            raise UserError("merges: ssr's statistics have no inverse; raise options.ridge or options.pairs")
        return a, b.double() @ mix

    return from_layers(experts, layer)
