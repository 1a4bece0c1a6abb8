"""A clone of this repository in which commands run as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


class Clone:
    """A clone of this working tree, in which commands run as a user types them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, code: int = 0) -> str:
        """stdout and stderr of a command whose exit code must be `code`."""
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "SELMA_TRACKING": "off",
        }
        for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "PYTHONPATH"):
            environment.pop(name, None)
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, f"{' '.join(command)} gave {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def change(self, **values: object) -> None:
        """Set params: change(filter={"keep": 6}); an empty section takes the place of what is there."""
        path, yaml = self.folder / "params.yaml", YAML()
        yaml.width = 10**6  # a wrapped address in braces is no YAML for every reader
        params = yaml.load(path)
        for section, value in values.items():
            if isinstance(value, dict) and value and section not in ("experts", "models"):
                params[section].update(value)
            else:
                params[section] = value
        yaml.dump(params, path)

    def params(self) -> dict:
        return YAML(typ="safe").load(self.folder / "params.yaml")

    def metrics(self) -> dict:
        return json.loads((self.folder / "metrics/eval.json").read_text())


def copy_tree(target: Path) -> None:
    """This working tree's files as git has them, uncommitted changes included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
