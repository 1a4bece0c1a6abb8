"""Merge operators: seconds and peak memory of merging and saving LoRA experts of a published size.

    python -m bench.merge                                     five SDXL experts of rank 128, every operator
    python -m bench.merge --every 37 --operators ties svd     each 37th layer alone: seconds times 37 are all layers'

Experts are random numbers on every layer of the UNet's attention (to_q, to_k, to_v, to_out.0), saved in float16 as the
sdxl profile saves its checkpoints. Each operator runs in a process of its own: it loads the experts, merges and saves.
Calibration statistics are random, too, of the real size, and what draws or runs a backbone is left out: `searched`
scores each candidate by its length.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from tabulate import tabulate

from bench._arguments import at_least
from bench._machine import SIZES, quiet, seconds
from selma.ground.errors import UserError
from selma.lora.files import load_lora, save_lora
from selma.merging.algebra import norm
from selma.merging.merge import merge
from selma.runtime import command, variants
from selma.runtime.devices import device_name

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
FEW = {"searched": {"evaluations": 3}}


def main() -> int:
    parser = command.Parser(prog="python -m bench.merge", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="sdxl-1024", help="default: sdxl-1024")
    parser.add_argument("--rank", type=at_least(1), default=128)
    parser.add_argument("--experts", type=at_least(1), default=5)
    parser.add_argument(
        "--every", type=at_least(1), default=1, help="each n-th layer alone (default: 1, all)"
    )
    parser.add_argument("--operators", nargs="+", choices=variants.names("operators"), metavar="NAME")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # a folder of experts: one process's work
    given = parser.parse_args()
    return command.run(lambda: alone(given) if given.one else measure(given))


def measure(given: argparse.Namespace) -> None:
    shapes = layers(given.size)
    chosen = dict(list(shapes.items())[:: given.every])
    share = sum(out * n for out, n in chosen.values()) / sum(out * n for out, n in shapes.values())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.experts):
            state, generator = {}, torch.Generator().manual_seed(number)
            for module, (out, n) in chosen.items():
                state[f"{module}.lora_A.weight"] = torch.randn(given.rank, n, generator=generator) / n**0.5
                state[f"{module}.lora_B.weight"] = torch.randn(out, given.rank, generator=generator) * 0.01
            card = {"rank": given.rank, "alpha": float(given.rank), "targets": TARGETS, "backbone": "random"}
            save_lora(Path(folder) / f"expert{number}", state, card, torch.float16)
        del state
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
        for operator in given.operators or variants.names("operators"):
            done = subprocess.run(
                [sys.executable, "-m", "bench.merge", "--one", folder, "--operators", operator],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise UserError(f"{operator}: {done.stderr.strip().splitlines()[-1]}")
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append([operator, found["rank"], found["merge"], found["save"], found["peak"]])
    print(
        f"{given.size}, {len(chosen)} of {len(shapes)} layers ({share:.0%} of the weights), {given.experts} experts of "
        f"rank {given.rank} ({size / 1e9:.2f} GB in float16), on {device_name('cpu')}"
    )
    header = ["operator", "rank", "merge, s", "save, s", "peak, GB"]
    print(tabulate(rows, header, floatfmt=("", "", ".1f", ".1f", ".2f")))


def layers(size: str) -> dict[str, tuple[int, int]]:
    """(out, in) of the UNet's attention layers, by name."""
    from diffusers import UNet2DConditionModel

    quiet()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES[size][0])
    return {
        name: tuple(layer.weight.shape)
        for name, layer in unet.named_modules()
        if f".{name}".endswith(tuple(f".{target}" for target in TARGETS))
    }


def alone(given: argparse.Namespace) -> None:
    """One operator's work, in this process; prints its figures as JSON."""
    (operator,) = given.operators
    experts = {path.name: load_lora(path) for path in sorted(given.one.glob("expert*"))}
    result = []

    def work() -> None:
        options = FEW.get(operator, {})
        result.append(merge("m", operator, experts, options, tokens=tokens(experts), score=norm))

    took = seconds(work, "cpu")
    (merged,) = result
    with tempfile.TemporaryDirectory() as folder:
        saved = seconds(lambda: save_lora(Path(folder), merged.state(), merged.provenance), "cpu")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"rank": merged.rank, "merge": took, "save": saved, "peak": peak}))


def tokens(experts: Mapping) -> object:
    """Random statistics of the size of real ones: to_q, to_k and to_v of a block read the same, all texts are one."""
    shapes = {module: a.shape[1] for module, (a, _) in next(iter(experts.values())).factors.items()}
    widest = max(shapes.values())

    def read(expert: str, *, pairs: int, seed: int, rows: Mapping | None = None) -> dict[str, torch.Tensor]:
        generator, shared, found = torch.Generator().manual_seed(seed), {}, {}
        for module, n in shapes.items():
            block, _, target = module.rpartition(".attn")[0], None, module.rpartition(".attn")[2]
            text = target.startswith("2") and target.endswith(("to_k", "to_v"))
            key = "text" if text and n == widest else f"{block}.{target[0]}.{target.endswith('to_out.0')}"
            x = torch.randn(64, n, generator=generator)
            if rows is not None:
                z = x @ rows[module].T
                found[module] = z.T @ z / len(z)
                continue
            if key not in shared:
                shared[key] = x.T @ x / len(x) + 0.1 * torch.eye(n)
            found[module] = shared[key]
        return found

    return read


if __name__ == "__main__":
    sys.exit(main())
