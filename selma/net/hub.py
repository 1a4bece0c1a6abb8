"""One commit of a hub repository, or a folder on this disk, as a set of files.

The hub is accessed through its own client: HF_ENDPOINT, HF_TOKEN and a login are honoured, and never written anywhere.
What a hub says is not trusted: names of files stay inside their folder, and anything of another shape is one line.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx2

from selma.ground.errors import UserError, first_line
from selma.net import web
from selma.net.web import shown
from selma.runtime.origins import SINGLE_FILE

TIMEOUT = 120.0  # seconds that the hub may take for an answer, and for this many bytes of a file:
SLOWEST = 2**16


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
    _prepare()
    import huggingface_hub

    api = huggingface_hub.HfApi()

    def describe() -> Repository:
        info = api.model_info(id, revision=revision, files_metadata=True, timeout=TIMEOUT)
        siblings = info.siblings or []
        return Repository(
            name=f"{id}@{revision[:12]}",
            files=tuple(file.rfilename for file in siblings),
            hashes={file.rfilename: file.lfs.sha256 for file in siblings if file.lfs},
            commit=info.sha,
            licence=_licence(info),
            fetch=fetch,
        )

    def fetch(file: str) -> Path:
        got = _ask(id, revision, lambda: api.hf_hub_download(id, file, revision=revision, local_dir=folder))
        return Path(got)

    repository = _ask(id, revision, describe)
    if str(repository.commit).lower() != revision.lower():
        raise UserError(
            f"{repository.name}: the hub answers with another commit, {str(repository.commit)[:40]!r}"
        )
    for file in repository.files:
        if not _is_inside(file):
            raise UserError(
                f"{repository.name}: the hub lists a file {str(file)[:80]!r}, which is not in a repository"
            )
    return repository


def open_folder(path: Path) -> Repository:
    """A folder of the same layout on this disk, the hub's own cache included.

    Raises UserError if it is not a folder, and for a link to a file that lies elsewhere.
    """
    try:
        if path.is_file():
            raise UserError(f"backbone path {path}: {SINGLE_FILE}")
        if not path.is_dir():
            raise UserError(
                f"backbone path {path}: folder not found; a pipeline in diffusers' layout is needed"
            )
        files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        home = path.resolve()
        for parent in home.parents:
            if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
                home = parent.parent  # models--OWNER--NAME, whose snapshots are links to its blobs
        outside = [file for file in files if not (path / file).resolve().is_relative_to(home)]
    except (OSError, RuntimeError) as error:  # no permission; links in a circle
        raise UserError(f"backbone path {path}: cannot be read ({first_line(error)})") from None
    if outside:
        raise UserError(
            f"backbone path {path}: {outside[0]} is a link to a file outside of it; put the file itself there"
        )
    return Repository(str(path), tuple(files), {}, None, None, lambda file: path / file, shared=False)


def _is_inside(file: object) -> bool:
    """Whether a listed file is a path within the repository."""
    if not isinstance(file, str) or not file or "\\" in file or not file.isprintable():
        return False
    return not file.startswith("/") and ".." not in PurePosixPath(file).parts


def _prepare() -> None:
    """Make the hub's client keep quiet and go our ways; raises UserError for an environment it cannot work with."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import _http, disable_progress_bars
    except ValueError as error:  # it reads its timeouts when it is imported
        raise UserError(f"an environment variable HF_HUB_... is not a number ({first_line(error)})") from None
    disable_progress_bars()
    huggingface_hub.logging.set_verbosity_error()  # its warnings show whole addresses, which are signed
    try:
        endpoint = httpx2.URL(huggingface_hub.constants.ENDPOINT)
        sound = endpoint.scheme in ("http", "https") and bool(endpoint.host) and not endpoint.query
    except (httpx2.InvalidURL, ValueError):
        sound = False
    if not sound:
        raise UserError("environment variable HF_ENDPOINT must be an address such as https://huggingface.co")
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if not re.fullmatch(r"[!-~]*", os.environ.get(variable, "").strip()):
            raise UserError(
                f"environment variable {variable} does not hold a valid token: printable ASCII without spaces"
            )
    huggingface_hub.set_client_factory(
        lambda: httpx2.Client(
            transport=web.Web(),
            trust_env=False,
            follow_redirects=True,
            event_hooks={"request": [_http.hf_request_event_hook]},  # HF_HUB_OFFLINE
        )
    )


def _licence(info: Any) -> str | None:
    """The licence that a model card declares; its name where it is a custom one (`other`)."""
    card = info.card_data or {}
    declared = card.get("license")
    if declared == "other":
        declared = card.get("license_name") or declared
    if isinstance(declared, list):
        declared = ", ".join(name for name in declared if isinstance(name, str))
    tags = [tag for tag in info.tags or [] if isinstance(tag, str)]
    tagged = (tag.removeprefix("license:") for tag in tags if tag.startswith("license:"))
    return declared if declared and isinstance(declared, str) else next(tagged, None)


def _ask(id: str, revision: str, call: Callable[[], Any]) -> Any:
    """The answer of the hub's client; its errors, which run over many lines, become one UserError."""
    import huggingface_hub
    from huggingface_hub import errors

    host = shown(huggingface_hub.constants.ENDPOINT)
    try:
        with web.within(TIMEOUT, per=SLOWEST):
            return call()
    except UserError:
        raise
    except errors.GatedRepoError:
        why = f"its owner requires a login: accept the terms at {host}/{id}, then set HF_TOKEN or run `hf auth login`"
    except errors.RepositoryNotFoundError:
        why = f"{host} does not have this repository, or it is private (set HF_TOKEN or run `hf auth login`)"
    except errors.RevisionNotFoundError:
        why = f"{host} does not have this commit; {host}/{id}/commits/main lists its commits"
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        if isinstance(under := error.__cause__ or error.__context__, UserError):
            raise under from None
        why = f"{host} cannot be reached, or HF_HUB_OFFLINE is set; `dvc pull` downloads it from a remote that has it"
    except errors.HfHubHTTPError as error:
        why = (
            f"{host} answered {error.response.status_code}; run this again later, what was downloaded is kept"
        )
    except errors.HFValidationError:
        why = "is not a repository id; it must be owner/name"
    except (ConnectionError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        said = web.problem(error) if isinstance(error, httpx2.RequestError) else type(error).__name__
        why = f"the connection to {host} failed ({said}); run this again, what was downloaded is kept"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        if error.errno is not None:
            raise UserError(f"{error.filename}: cannot be written ({error.strerror})") from None
        why = f"what {host} sent is not complete; run this again"
    except Exception as error:  # JSON of another shape meets its client's own code
        why = f"{host} answered what the hub's client does not understand ({type(error).__name__})"
    raise UserError(f"{id}@{revision[:12]}: {why}")
