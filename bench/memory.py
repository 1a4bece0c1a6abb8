"""What drawing and training take of a card: seconds and memory, at a profile's settings and beside others.

    python -m bench.memory sd2 --device cuda       random weights of the published sizes, settings of profiles/sd2.yaml
    python -m bench.memory sdxl --device cuda
    python -m bench.memory tiny                    a look at the table; on a CPU PyTorch keeps no account of memory

Drawing: one batch with guidance, DDIM. Training: steps of one expert of the profile's rank and batch, which goes
through the UNet in `accumulate` parts, with and without the activations kept; hours are those of the profile's steps.
GiB are of tensors, at most: base model, adapter, optimizer, activations. What the allocator reserves beyond them and
the driver's own come on top.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from tabulate import tabulate

from bench._arguments import at_least
from bench._machine import memory_peak, quiet, random_backbone, seconds
from bench.train import make_images, ours_on
from selma.backbones.loading import load_pipeline
from selma.ground.errors import UserError
from selma.images.folder import draw_folder
from selma.runtime import command
from selma.runtime.devices import device_name, pick_device
from selma.runtime.params import Drawing
from selma.runtime.schema import load_yaml

SIZES = {"tiny": "tiny", "sd2": "sd2-512", "sdxl": "sdxl-1024"}
TINY = {
    "images": {"drawing": {"steps": 2, "guidance": 3.0, "batch": 2}},
    "expert": {"rank": 4, "batch": 4, "accumulate": 2, "steps": 100},
}
HEADINGS = ["", "batch", "parts", "activations", "s", "GiB", "hours"]


def main() -> int:
    parser = command.Parser(prog="python -m bench.memory", description=__doc__.splitlines()[0])
    parser.add_argument("profile", choices=SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument(
        "--draw", type=at_least(1), nargs="*", default=[], metavar="BATCH", help="further batches to draw"
    )
    parser.add_argument(
        "--parts", type=at_least(1), nargs="*", default=[], metavar="N", help="further values of accumulate"
    )
    parser.add_argument(
        "--steps", type=at_least(1), default=3, help="training steps of each row (default: 3)"
    )
    return command.run(lambda: measure(parser.parse_args()))


def measure(given: argparse.Namespace) -> None:
    given.device = pick_device(given.device)
    quiet()
    said = TINY if given.profile == "tiny" else load_yaml(Path("profiles") / f"{given.profile}.yaml")
    print(
        f"{given.profile}, {given.dtype}, rank {said['expert']['rank']}, on {device_name(given.device)}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        backbone = random_backbone(SIZES[given.profile], root / "backbone", given.device, given.dtype)
        rows = drawing_rows(backbone, root, said["images"]["drawing"], given)
        rows += training_rows(backbone, root, said["expert"], given)
    print(tabulate(rows, HEADINGS, floatfmt=("", "", "", "", ".3f", ".1f", ".1f")))


def drawing_rows(backbone: Path, root: Path, said: dict, given: argparse.Namespace) -> list[list]:
    """A row of the seconds an image for each batch; the profile's comes first."""
    pipe, rows = load_pipeline(backbone, given.device, given.dtype), []
    for batch in dict.fromkeys((said["batch"], *given.draw)):
        drawing = Drawing("ddim", said["steps"], said["guidance"], batch)
        wanted = [
            {"file_name": f"{i}.webp", "text": "a red circle", "id": str(i), "seed": i} for i in range(batch)
        ]
        what = f"an image, {said['steps']} steps"
        try:
            # Kernels are chosen at first sight of a shape.
            draw_folder(pipe, wanted, root / f"warm-{batch}", replace(drawing, steps=2))
            memory_peak(given.device)
            took = seconds(lambda: draw_folder(pipe, wanted, root / f"{batch}", drawing), given.device)  # noqa: B023
        except UserError as error:
            rows.append([what, batch, None, None, str(error)])
            continue
        rows.append([what, batch, None, None, took / batch, memory_peak(given.device)])
    return rows


def training_rows(backbone: Path, root: Path, said: dict, given: argparse.Namespace) -> list[list]:
    """A row of the seconds a step for each number of parts, with activations kept and computed again."""
    data = make_images(root / "images", said["batch"], load_pipeline(backbone))
    asked = argparse.Namespace(**{**vars(given), "rank": said["rank"], "batch": said["batch"]})
    own = bool(said.get("gradient_checkpointing"))
    rows = []
    for parts, again in dict.fromkeys(
        (parts, again) for parts in (said.get("accumulate", 1), *given.parts) for again in (own, not own)
    ):
        row = ["a step", said["batch"], parts, "again" if again else "kept"]
        try:
            with ours_on(backbone, data, asked, parts, again) as (step, _):
                step()
                memory_peak(given.device)
                took = median(seconds(step, given.device) for _ in range(given.steps))
            rows.append([*row, took, memory_peak(given.device), took * said["steps"] / 3600])
            del step  # it holds the model, and the next row needs the memory
        except torch.OutOfMemoryError:
            rows.append([*row, "out of memory"])
        gc.collect()
        if given.device.startswith("cuda"):
            torch.cuda.empty_cache()
    return rows


if __name__ == "__main__":
    sys.exit(main())
