"""One commit of a hub repository, or a folder on this disk, as a set of files.

The hub is accessed through its own client: HF_ENDPOINT, HF_TOKEN and a login are honoured, and never written anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError


@dataclass(frozen=True)
class Repository:
    """One commit of a hub repository, or a folder: its files, their sha256 where known, and its licence."""

    name: str
    files: tuple[str, ...]
    hashes: Mapping[str, str]
    commit: str | None
    licence: str | None
    fetch: Callable[[str], Path]  # the file of that name, on this disk
    shared: bool = True  # whether a backbone folder may hard-link the files: never a user's own


def open_hub(id: str, revision: str, folder: Path) -> Repository:
    """A commit of a hub repository; its files are downloaded under `folder`, where a killed download resumes.

    Raises UserError, in one line, where the hub cannot be reached, does not have the commit or requires a login.
    """
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = huggingface_hub.HfApi()
    info = _ask(id, revision, lambda: api.model_info(id, revision=revision, files_metadata=True))

    def fetch(file: str) -> Path:
        return Path(
            _ask(id, revision, lambda: api.hf_hub_download(id, file, revision=info.sha, local_dir=folder))
        )

    siblings = info.siblings or []
    return Repository(
        name=f"{id}@{revision[:12]}",
        files=tuple(file.rfilename for file in siblings),
        hashes={file.rfilename: file.lfs.sha256 for file in siblings if file.lfs},
        commit=info.sha,
        licence=_licence(info),
        fetch=fetch,
    )


def open_folder(path: Path) -> Repository:
    """A folder of the same layout on this disk; raises UserError if it is not a folder."""
    if not path.is_dir():
        raise UserError(f"backbone path {path}: folder not found; a pipeline in diffusers' layout is needed")
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return Repository(str(path), tuple(files), {}, None, None, lambda file: path / file, shared=False)


def _licence(info: Any) -> str | None:
    """The licence that a model card declares; its name where it is a custom one (`other`)."""
    card = info.card_data or {}
    declared = card.get("license")
    if declared == "other":
        declared = card.get("license_name") or declared
    tagged = (tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:"))
    return declared or next(tagged, None)


def _ask(id: str, revision: str, call: Callable[[], Any]) -> Any:
    """The answer of the hub's client; its errors, which run over many lines, become one UserError."""
    import huggingface_hub
    from huggingface_hub import errors

    host = huggingface_hub.constants.ENDPOINT
    try:
        return call()
    except errors.GatedRepoError:
        why = f"its owner requires a login: accept the terms at {host}/{id}, then set HF_TOKEN or run `hf auth login`"
    except errors.RepositoryNotFoundError:
        why = f"{host} does not have this repository, or it is private (set HF_TOKEN or run `hf auth login`)"
    except errors.RevisionNotFoundError:
        why = f"{host} does not have this commit; {host}/{id}/commits/main lists its commits"
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        why = f"{host} cannot be reached, or HF_HUB_OFFLINE is set; `dvc pull` downloads it from a remote that has it"
    except errors.HfHubHTTPError as error:
        why = (
            f"{host} answered {error.response.status_code}; run this again later, what was downloaded is kept"
        )
    except errors.HFValidationError:
        why = "is not a repository id; it must be owner/name"
    except (ConnectionError, errors.HTTPError, json.JSONDecodeError) as error:
        why = f"the connection to {host} failed ({type(error).__name__}); run this again, what was downloaded is kept"
    raise UserError(f"{id}@{revision[:12]}: {why}")
