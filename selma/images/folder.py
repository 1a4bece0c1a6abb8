"""Draw a folder of images that a killed run, or several machines, finish together."""

from __future__ import annotations

import math
import os
import shutil
import socket
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.backbones.multimodal import Multimodal
from selma.ground.files import TEMPORARY, read_json, read_jsonl, write_json, write_jsonl
from selma.ground.pairs import METADATA, write_image
from selma.images import sampler
from selma.images.sampler import Advance

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.backbones.loading import Pipeline
    from selma.runtime.candidates import Diversity
    from selma.runtime.params import Drawing

# From the number of images, and of those that are there already, to a progress bar's `advance`.
TOKENS = (
    ".tokens"  # after an image's file name, while a folder is drawn: those of a multimodal backbone's image
)

Bar = Callable[[int, int], AbstractContextManager[Advance]]


def draw_folder(
    pipe: Pipeline | Multimodal,
    rows: list[dict],
    folder: Path,
    drawing: Drawing,
    *,
    method: str = "cfg",
    options: Mapping[str, Any] = {},
    diversity: Diversity | None = None,
    shard: tuple[int, int] = (1, 1),
    bar: Bar = lambda total, done: nullcontext(lambda images: None),
) -> None:
    """Draw an HF imagefolder: an image per row {file_name, text, seed, ...}, then metadata.jsonl with the rows.

    Of a multimodal backbone's images the rows hold `tokens`, too: encoding an image again may give others.

    Images that are in `folder` already are kept: an earlier, killed call's, or another shard's (`sampler.draw`). Each
    is renamed into place when whole. Compressing and writing run beside the drawing, on threads of their own. Shards
    may run at the same time, even the same one twice: each writes in a place of its own first.
    """
    staging = folder / f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}" if shard != (1, 1) else folder
    staging.mkdir(parents=True, exist_ok=True)

    multimodal = isinstance(pipe, Multimodal)

    def write(name: str, image: Image) -> None:
        files = [name]
        if multimodal:
            files.insert(0, name + TOKENS)  # where an image is, its tokens are
            write_json(staging / files[0], image.info["tokens"])
        write_image(staging / name, image)
        for file in files if staging != folder else ():
            os.replace(staging / file, folder / file)

    # A finished folder has its tokens in the rows, and the files are gone.
    finished = multimodal and (folder / METADATA).is_file()
    known = {row["file_name"]: row["tokens"] for row in read_jsonl(folder / METADATA)} if finished else {}

    def there(name: str) -> bool:
        kept = not multimodal or name in known or (folder / (name + TOKENS)).exists()
        return kept and (folder / name).exists()

    done = {i for i, row in enumerate(rows) if there(row["file_name"])}
    writers = min(8, os.cpu_count() or 1)
    waiting: deque[Future[None]] = deque()
    total, before = (len(rows), len(done)) if shard == (1, 1) else (math.ceil(len(rows) / shard[1]), 0)
    with bar(total, before) as advance, ThreadPoolExecutor(writers, "writing") as pool:
        drawn = sampler.draw(
            pipe,
            [row["text"] for row in rows],
            [row["seed"] for row in rows],
            drawing,
            method=method,
            options=options,
            diversity=diversity,
            done=done,
            shard=shard,
            advance=advance,
        )
        try:
            for i, image in drawn:
                waiting.append(pool.submit(write, rows[i]["file_name"], image))
                while len(waiting) > 8 * writers:
                    waiting.popleft().result()
        finally:
            drawn.close()
        for written in waiting:
            written.result()
    if staging != folder:
        staging.rmdir()
        return
    for left in folder.glob(f"{TEMPORARY}*"):  # by killed calls; no other one draws here now
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    if multimodal:
        files = {row["file_name"]: folder / (row["file_name"] + TOKENS) for row in rows}
        known |= {name: read_json(file) for name, file in files.items() if file.exists()}
        rows = [{**row, "tokens": known[row["file_name"]]} for row in rows]
    write_jsonl(folder / METADATA, rows)
    for file in files.values() if multimodal else ():
        file.unlink(missing_ok=True)
