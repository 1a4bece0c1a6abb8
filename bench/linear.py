"""PyTorch's linear layer beside the same one as a convolution (selma/backbones/cpu.py), on one core of this CPU.

    python -m bench.linear [--repeats N]

Shapes are those of the embedded UNet's attention: texts, and pixels of 4 x 4. Exits 1 when the results differ by more
than rounding.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from tabulate import tabulate
from torch.nn import functional

from bench._arguments import at_least
from bench._machine import seconds
from selma.backbones.cpu import linear
from selma.runtime import command
from selma.runtime.devices import device_name

SHAPES = (
    (50, 77, 128, 128),
    (50, 16, 128, 128),
    (50, 16, 128, 1024),
    (50, 16, 512, 128),
)  # n, tokens, in, out


def main() -> int:
    parser = command.Parser(prog="python -m bench.linear", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=at_least(1), default=50, help="of which the fastest counts (default: 50)"
    )
    return command.run(lambda: measure(parser.parse_args().repeats))


@torch.inference_mode()
def measure(repeats: int) -> None:
    torch.set_num_threads(1)
    rows = []
    for n, tokens, wide, out in SHAPES:
        x, weight, bias = torch.randn(n, tokens, wide), torch.randn(out, wide), torch.randn(out)
        torch.testing.assert_close(
            linear(x, weight, bias), functional.linear(x, weight, bias), rtol=1e-4, atol=1e-3
        )
        flops = 2 * n * tokens * wide * out
        ways = [partial(way, x, weight, bias) for way in (functional.linear, linear)]
        rates = [flops / min(seconds(way, "cpu") for _ in range(repeats)) / 1e9 for way in ways]
        rows.append([f"{n} x {tokens} x {wide} to {out}", *rates, rates[1] / rates[0]])
    print(device_name("cpu"))
    print(tabulate(rows, ["", "PyTorch, GFLOP/s", "ours", "ratio"], floatfmt=(".0f", ".0f", ".0f", ".1f")))


if __name__ == "__main__":
    sys.exit(main())
