"""A project with two models' images, and `python -m selma.rate` in it as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
from PIL import Image

from selma.ground.files import write_jsonl
from selma.ground.items import Item, Question, write_split
from selma.ground.pairs import write_image

ROOT = Path(__file__).parents[1]
MODELS = ("merged", "base")
YES = ("yes", "no")


def items(skills: Sequence[str]) -> list[Item]:
    """A prompt with one question for each of the skills."""
    question = Question("1", "Is there a circle?", YES, "yes", (), "object")
    return [
        Item(f"{skill}-{i:03}", f"a circle, number {i}", skill, "x", (question,))
        for i, skill in enumerate(skills)
    ]


def make(root: Path, found: Sequence[Item], size: int = 64) -> Path:
    """Data as stages write it: the benchmark, and samples in which `merged` draws red and `base` blue."""
    for name in ("params.yaml", "dvc.yaml"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    write_split(root / "data/benchmarks/shapes", "test", found)
    for model, hue in zip(MODELS, ((200, 0), (0, 200)), strict=True):
        folder, rows = root / "data/samples" / model / "shapes", []
        for i, item in enumerate(found):
            for k in range(2):
                name = f"{item.id}-{k}.webp"
                write_image(folder / name, Image.new("RGB", (size, size), (hue[0], i % 256, hue[1])))
                rows.append({"file_name": name, "text": item.prompt, "id": item.id, "seed": 1, "k": k})
        write_jsonl(folder / "metadata.jsonl", rows)
    return root


@dataclass
class Server:
    """A running page: its address, the links that it printed, and its process."""

    process: subprocess.Popen
    links: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def address(self) -> str:
        return re.match(r"http://[^/]+", self.links[0])[0]

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """The exit code, and all that it wrote to the terminal."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=30)
        return self.process.returncode, self.said + rest


@contextmanager
def serving(root: Path, *options: str, models: Sequence[str] = MODELS) -> Iterator[Server]:
    """The page of a project on a free port, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "selma.rate", *models, "--port", "0", *options],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process)
    try:
        for line in process.stdout:
            server.said += line
            if line.startswith("open "):
                server.links.append(line.split()[1])
            if line.startswith("Ctrl-C"):
                break
        assert server.links, server.said
        yield server
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Rater:
    """A rater who speaks HTTP as a browser does."""

    def __init__(self, server: Server, name: str, link: str | None = None) -> None:
        self.address = server.address
        self.client = httpx.Client(base_url=self.address, headers={"Origin": self.address}, trust_env=False)
        if link:
            self.client.get(link, follow_redirects=True).raise_for_status()
        self.path = f"/rate/{name}"

    def page(self) -> str:
        return self.client.get(self.path).raise_for_status().text

    def pair(self) -> str:
        return re.search(r'name="pair" value="(\w+)"', self.page())[1]

    def pictures(self) -> list[str]:
        return re.findall(r'<img src="([^"]+)"', self.page())

    def prompt(self) -> str:
        return re.search(r'class="prompt">([^<]+)<', self.page())[1]

    def send(self, **form: str) -> httpx.Response:
        return self.client.post(self.path, data=form)

    def vote(self, choice: str) -> None:
        assert self.send(pair=self.pair(), vote=choice).status_code == 303

    def side_of(self, model: str) -> str:
        """Which side shows a model's image; the test knows its colour, the page does not say."""
        left = self.client.get(self.pictures()[0]).content
        return "left" if (colour(left)[0] > 100) == (model == "merged") else "right"


def colour(image: bytes) -> tuple[int, int, int]:
    from io import BytesIO

    return Image.open(BytesIO(image)).convert("RGB").getpixel((5, 5))
