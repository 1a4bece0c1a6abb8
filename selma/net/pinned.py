"""Fetching files of a hub repository, pinned by commit and checked against their sha256."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import atomic, sha256_file
from selma.net import hub


def fetch(
    repo: str, revision: str, files: Mapping[str, str | None], folder: Path, downloads: Path
) -> dict[str, str]:
    """Put each path of `files` into `folder`; return their sha256 by path. What a stopped download fetched is kept.

    A file whose sha256 is None is accepted unchecked, with a line that says what to pin. Raises UserError for a
    file that cannot be downloaded and for one with a different sha256, which is removed.
    """
    found: dict[str, str] = {}
    repository = hub.open_hub(repo, revision, downloads)
    for path, wanted in files.items():
        if path not in repository.files:
            raise UserError(f"{repository.name}: does not contain {path}")
        file = repository.fetch(path)
        found[path] = sha256_file(file)
        if wanted is None:
            print(
                f"warning: {repository.name}: {path} has not been checked; to pin it: {path}: {found[path]}",
                file=sys.stderr,
            )
        elif found[path] != wanted:
            file.unlink()
            raise UserError(
                f"{repository.name}: {path} has the sha256 {found[path]}, params.yaml says {wanted}"
            )
        with atomic(folder / path) as temporary:
            try:
                os.link(file, temporary)  # no second copy of gigabytes
            except OSError:
                shutil.copyfile(file, temporary)
    return found
