"""Putting a folder on the hub, in one commit: what is there is not sent again, what others wrote is not touched.

The hub is asked through its own client. The token is HF_TOKEN's or the hub's own login; it is in no message, and what
a hub says is not printed, as it may repeat what it was sent.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2

from selma.ground.errors import UserError
from selma.ground.files import read_json, sha256_file
from selma.net import hub, web
from selma.net.web import shown
from selma.publishing.folder import MARK, files_of, marked

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT = 120.0  # seconds for each step of a request: to connect, to send a piece, to wait for one
LOGIN = "set HF_TOKEN or run `hf auth login`"
HUBS_OWN = frozenset({".gitattributes"})  # what a hub puts into a repository itself
SAME = ("name", "profile")  # what makes two marks those of the same thing

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What a folder differs in from a repository: files to send, and files of an earlier publication to remove.

    `commit` is the repository's, None where it is not there yet.
    """

    repo: str
    kind: str  # model or dataset
    folder: Path
    commit: str | None
    send: tuple[str, ...]
    remove: tuple[str, ...]

    @property
    def url(self) -> str:
        """The repository's page."""
        import huggingface_hub

        place = "datasets/" if self.kind == "dataset" else ""
        return f"{shown(huggingface_hub.constants.ENDPOINT).rstrip('/')}/{place}{self.repo}"


def check_name(repo: str, option: str) -> str:
    """The name of a repository; raises UserError unless it is OWNER/REPO as the hub allows."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        if repo.count("/") == 1:
            return repo
    except HFValidationError:
        pass
    raise UserError(
        f"{option}: {repo[:200]!r} is not OWNER/REPO; allowed in each: letters, digits and - _ . between them, "
        "up to 96 characters"
    )


def check_login() -> None:
    """Raise UserError where no token is set, or the environment names no hub."""
    hub._prepare()  # not public: every stage depends on selma/net, and would run again for a name
    import huggingface_hub

    if huggingface_hub.constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it")
    if not huggingface_hub.get_token():
        raise UserError(f"no token for {shown(huggingface_hub.constants.ENDPOINT)}: {LOGIN}")


def plan(folder: Path, repo: str, kind: str, *, private: bool = False) -> Plan:
    """Compare a folder with a repository; sends nothing.

    Raises UserError for a repository that holds what this command did not write or another thing that it wrote, that is
    public though `private` is asked for, and for a hub that cannot be reached or refuses the token.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    files = files_of(folder)
    with _api() as api:

        def describe() -> Any:
            try:
                return api.repo_info(repo, repo_type=kind, files_metadata=True, timeout=TIMEOUT)
            except RepositoryNotFoundError as error:
                if error.response.status_code == 401:
                    raise
                return None

        info = _ask(repo, describe)
        if info is None:
            return Plan(repo, kind, folder, None, tuple(files), ())
        there = {file.rfilename: file for file in info.siblings or () if file.rfilename not in HUBS_OWN}
        old = _mark(api, repo, kind, info.sha) if MARK in there else None
        _check_ours(repo, folder, old, sorted(there))
        if private and not info.private:
            raise UserError(f"{repo}: exists and is public; make it private in its settings first")
    send = tuple(name for name in files if name not in there or not _is_same(folder / name, there[name]))
    remove = tuple(name for name in there if name in marked(old) and name not in files)
    return Plan(repo, kind, folder, info.sha, send, remove)


def carry_out(plan: Plan, message: str, *, private: bool = False) -> None:
    """Make the repository if it is not there, and send what differs in one commit.

    Raises UserError, in one line, where the hub refuses or cannot be reached; the repository is then as it was, or new
    and empty.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if not plan.send and not plan.remove:
        return
    with _api() as api:
        if plan.commit is None:
            made = {"repo_type": plan.kind, "private": True if private else None}
            _ask(plan.repo, lambda: api.create_repo(plan.repo, **made))
        operations = [
            *(CommitOperationAdd(name, plan.folder / name) for name in plan.send),
            *(CommitOperationDelete(name) for name in plan.remove),
        ]
        sent = {"repo_type": plan.kind, "operations": operations, "commit_message": message}
        with warnings.catch_warnings(action="ignore"):  # of the hub about the card, in its own words
            _ask(plan.repo, lambda: api.create_commit(plan.repo, parent_commit=plan.commit, **sent))


@contextmanager
def _api() -> Iterator[HfApi]:
    """The hub's client, on this repository's own connections alone."""
    hub._prepare()
    import huggingface_hub
    from huggingface_hub.utils import _http

    huggingface_hub.set_client_factory(
        lambda: httpx2.Client(
            transport=web.Web(),
            trust_env=False,
            follow_redirects=True,
            timeout=TIMEOUT,
            event_hooks={"request": [_http.hf_request_event_hook]},
        )
    )
    # hf_xet has connections of its own, which know neither our proxies and certificates nor our bounds.
    constants, before = huggingface_hub.constants, huggingface_hub.constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield huggingface_hub.HfApi()
    finally:
        constants.HF_HUB_DISABLE_XET = before


def _mark(api: HfApi, repo: str, kind: str, commit: str) -> Any:
    """The contents of the repository's export.json."""
    with tempfile.TemporaryDirectory() as folder:
        got = _ask(
            repo,
            lambda: api.hf_hub_download(repo, MARK, repo_type=kind, revision=commit, local_dir=folder),
        )
        try:
            return read_json(Path(got))
        except UserError:
            return None


def _check_ours(repo: str, folder: Path, old: Any, there: list[str]) -> None:
    """Raise UserError unless the repository is empty or holds the same thing, published before."""
    if not there:
        return
    if not marked(old):
        raise UserError(
            f"{repo}: exists and holds {there[0][:80]!r}, which this command did not write; choose another name"
        )
    new = read_json(folder / MARK)
    said = [" of profile ".join(str(mark.get(key))[:80] for key in SAME) for mark in (old, new)]
    if said[0] != said[1]:
        raise UserError(f"{repo}: exists and holds {said[0]}, and this is {said[1]}; choose another name")


def _is_same(file: Path, remote: Any) -> bool:
    """Whether a file is the hub's: by the sha256 of a large one, else by git's hash."""
    from huggingface_hub.utils.sha import git_hash

    if remote.lfs:
        return remote.lfs.sha256 == sha256_file(file)
    return remote.size == file.stat().st_size and remote.blob_id == git_hash(file.read_bytes())


def _ask(repo: str, call: Callable[[], T]) -> T:
    """The answer of the hub's client; its errors, which run over many lines, become one UserError."""
    import huggingface_hub
    from huggingface_hub import errors

    host = shown(huggingface_hub.constants.ENDPOINT)
    try:
        return call()
    except UserError:
        raise
    except Exception as error:
        found = _cause(error)
    if isinstance(found, UserError):
        raise found from None
    if isinstance(found, errors.HfHubHTTPError):
        why = _refusal(found.response.status_code, host)
    elif isinstance(found, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it"
    elif isinstance(found, errors.LocalEntryNotFoundError):
        why = f"the connection to {host} failed; run this again"
    elif isinstance(found, ConnectionError | httpx2.HTTPError | httpx2.InvalidURL):
        said = web.problem(found) if isinstance(found, httpx2.RequestError) else type(found).__name__
        why = f"the connection to {host} failed ({said}); run this again"
    elif isinstance(found, OSError) and found.errno is not None:
        raise UserError(f"{found.filename}: cannot be read ({found.strerror})") from None
    elif isinstance(found, ValueError) and "Invalid metadata in README.md" in str(found):
        why = f"{host} does not accept the front matter of README.md"
    else:
        why = f"{host} answered what the hub's client does not understand ({type(found).__name__})"
    raise UserError(f"{repo}: {why}") from None


def _cause(error: BaseException) -> BaseException:
    """The error that the hub's client wraps in a RuntimeError while it uploads."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _refusal(status: int, host: str) -> str:
    if status == 401:
        return f"{host} does not accept the token; {LOGIN}"
    if status == 403:
        return (
            f"{host} does not let the token write there; it needs the role `write`, and OWNER must be yours"
        )
    if status == 404:
        return f"{host} does not have it, or the token may not see it"
    if status in (409, 412):
        return f"{host} says that it exists or was changed meanwhile (status {status}); run this again"
    return f"{host} answered {status}; run this again later"
