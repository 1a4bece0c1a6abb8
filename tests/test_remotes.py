"""What DVC's own commands do with this repository's remotes, in clones as users have them."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.clones import ROOT, Clone

pytestmark = pytest.mark.e2e
MERGED = "models/merges/merged/pytorch_lora_weights.safetensors"
METADATA = "data/images/count/metadata.jsonl"


def clone_of(source: Path, folder: Path, *options: str) -> Clone:
    subprocess.run(["git", "clone", "--quiet", *options, str(source), str(folder)], check=True)
    return Clone(folder)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone of the last commit by a user whose git rewrites line ends, with the committed run pulled."""
    folder = tmp_path_factory.mktemp("fresh") / "clone"
    clone = clone_of(ROOT, folder, "--config", "core.autocrlf=true")
    clone.run("dvc", "pull", "-r", "starter")
    return clone


def objects(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_clone_pulls_the_committed_run(fresh: Clone) -> None:
    """Also where git rewrites line ends: .gitattributes keeps every byte that DVC hashed."""
    assert (fresh.folder / MERGED).is_file() and (fresh.folder / "data/answers/merged/shapes.jsonl").is_file()
    assert fresh.run("git", "status", "--porcelain") == ""
    assert "up to date" in fresh.run("dvc", "status")
    ends = [line.split()[:2] for line in fresh.run("git", "ls-files", "--eol").splitlines()]
    assert len(ends) > 1000 and all(index[2:] == work[2:] for index, work in ends), "git rewrote line ends"


def test_a_bare_push_is_refused_and_fills_no_git(fresh: Clone) -> None:
    before = objects(fresh.folder / "models/starter")
    assert "no remote specified" in fresh.run("dvc", "push", code=1)
    assert objects(fresh.folder / "models/starter") == before


def test_push_to_a_named_remote_saves_the_run_and_a_colleague_pulls_it(fresh: Clone, tmp_path: Path) -> None:
    clone = clone_of(fresh.folder, tmp_path / "clone")
    shutil.copytree(fresh.folder / ".dvc/cache", clone.folder / ".dvc/cache")
    clone.run("dvc", "remote", "add", "second", str(tmp_path / "second"))
    clone.run("dvc", "push", "-r", "second")
    saved = objects(tmp_path / "second")
    assert len(saved) > 1000

    clone.run("dvc", "remote", "add", "--default", "team", str(tmp_path / "team"))
    clone.run("dvc", "push")
    assert objects(tmp_path / "team") == saved
    clone.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "a team's remote"
    )
    other = clone_of(clone.folder, tmp_path / "other")
    other.run("dvc", "pull")
    for name in (METADATA, MERGED):
        assert (other.folder / name).read_bytes() == (fresh.folder / name).read_bytes()


def test_another_project_gets_and_imports_from_the_repositorys_url(fresh: Clone, tmp_path: Path) -> None:
    """As the README says: a relative remote means nothing at a URL, so the command names where it lies."""
    url, place = ROOT.as_uri(), f"url={ROOT / 'models/starter'}"
    project = Clone(tmp_path)
    project.run("git", "init", "--quiet")
    project.run("dvc", "init", "--quiet")
    remote = ("--remote", "web", "--remote-config", place)  # a name of one's own
    project.run("dvc", "get", url, "data/images/count", "--out", "got", *remote)
    project.run("dvc", "import", url, "models/merges/merged", "--out", "imported", *remote)
    assert objects(tmp_path / "got") == objects(fresh.folder / "data/images/count")
    assert (tmp_path / "imported" / Path(MERGED).name).read_bytes() == (fresh.folder / MERGED).read_bytes()
    shutil.rmtree(tmp_path / "imported")
    project.run("dvc", "pull", "imported.dvc")
    assert (tmp_path / "imported" / Path(MERGED).name).is_file()


def test_dvc_api_reads_over_http(fresh: Clone) -> None:
    """models/starter as any git host serves its files; here on loopback."""
    import dvc.api

    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(fresh.folder / "models/starter")
    )
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        text = dvc.api.read(
            METADATA, repo=fresh.folder.as_uri(), remote="web", remote_config={"url": address}
        )
        server.shutdown()
    assert text == (fresh.folder / METADATA).read_text()


@pytest.mark.parametrize("name", ["sd14", "sd2", "sdxl", "janus"])
def test_a_real_profile_needs_no_toy_model(fresh: Clone, tmp_path: Path, name: str) -> None:
    """In a clone that pulled nothing, `dvc repro` plans all; without --force DVC stops at what is not there yet."""
    clone = clone_of(fresh.folder, tmp_path / "clone")
    clone.run("python", "-m", "selma.profile", name)
    planned = clone.run("dvc", "repro", "--dry", "--force")
    assert f"backbone@{name}" in planned and "report" in planned and "pretrain" not in planned
    assert not list((clone.folder / "models/backbones").glob("shapes"))
