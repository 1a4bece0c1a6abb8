"""RegMean: the least-squares merge of linear layers (Jin et al., ICLR 2023, arXiv 2212.09849, equation 2).

dW = (sum_t dW_t C_t) (sum_t C_t)^-1 minimises sum_t E_t |dW x - dW_t x|^2, where C_t = E_t[x x^T] of what the layer
reads when expert t sees its own images. As dW_t = B_t A_t, the result is exact in factors of the sum of the ranks:
A'_t = A_t C_t (sum_s C_s)^-1. Equal statistics give delta_mean.

Each C_t gets `ridge` times the experts' mean diagonal on its own: where hardly any token reaches, the merge is
delta_mean. Texts reach few directions; with no ridge dW grows far beyond the experts' own length in the others. One
expert's statistics are in memory beside their sum, n x n a layer (SDXL's attention: 1.6 GB each in float32).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from selma.ground.errors import UserError
from selma.lora.files import LoraWeights
from selma.merging.layers import Factors, flat, from_layers, modules, stacked

if TYPE_CHECKING:
    from selma.merging.calibration import Tokens

NEEDS = ("tokens",)
# pairs: of each expert's images and captions, at most; seed: which, and their noise.
OPTIONS = {
    "pairs": {"default": 64, "ge": 1},
    "seed": {"default": 0, "ge": 0},
    "ridge": {"default": 0.01, "ge": 0},
}


def merge(
    experts: Mapping[str, LoraWeights], *, tokens: Tokens, pairs: int, seed: int, ridge: float
) -> LoraWeights:
    """The update that answers as each expert does on that expert's tokens, as nearly as one update can."""
    total: dict[str, torch.Tensor] = {}
    weighed: dict[str, list[torch.Tensor]] = {module: [] for module in modules(experts)}
    for name, expert in experts.items():
        moments = tokens(name, pairs=pairs, seed=seed)
        for module in weighed:
            weighed[module].append(flat(expert, module)[0] @ moments[module])
        _accumulate(total, moments)
        del moments
    inverse = _Inverse()

    def layer(module: str) -> Factors:
        a, b = stacked(experts, module)
        both = total.pop(module)  # the last layer that shares it frees it
        small = ridge * float(both.diagonal().mean()) / len(experts)
        factor = inverse.of(both, small * len(experts))
        left = torch.cat(weighed.pop(module)).double() + small * a.double()
        return torch.cholesky_solve(left.T, factor).T, b

    return from_layers(experts, layer)


def _accumulate(total: dict[str, torch.Tensor], moments: Mapping[str, torch.Tensor]) -> None:
    """Add an expert's statistics; layers that share a tensor share their sum."""
    first: dict[int, str] = {}
    for module, moment in moments.items():
        leader = first.setdefault(id(moment), module)
        if leader != module:
            total[module] = total[leader]
        elif module in total:
            total[module] += moment
        else:
            total[module] = moment.clone()


class _Inverse:
    """The Cholesky factor of the last matrix, for layers that share one."""

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def of(self, matrix: torch.Tensor, ridge: float) -> torch.Tensor:
        """The factor of `matrix` + `ridge` I, in float64; raises UserError where there is none."""
        if self._last is None or self._last[0] is not matrix:
            exact = matrix.double()
            exact.diagonal().add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(exact)
            if failed:
                raise UserError(
                    "merges: regmean's statistics have no inverse; raise options.ridge or options.pairs"
                )
            self._last = matrix, factor
        return self._last[1]
