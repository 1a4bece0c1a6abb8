"""Backbones from the hub: only what is loaded, pinned, checked, and resumed; a real server stands in for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import load, save

from selma.ground.errors import UserError
from selma.ground.files import read_json, sha256_file
from selma.net import hub
from selma.net.pipelines import fetch_pipeline
from stages import backbone, own_backbone
from tests.hub_server import Hub, Repo, serve

COMMIT, VAE_COMMIT = "a1" * 20, "b2" * 20
ID, VAE_ID = "somebody/tiny-sdxl", "somebody/tiny-vae"
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def half(content: bytes) -> bytes:
    return save({name: tensor.astype(np.float16) for name, tensor in load(content).items()}, {"format": "pt"})


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What HF_ENDPOINT would have done when the client was imported."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server(tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a pipeline as people publish one: several sets of weights, and parts that nobody loads here."""
    published = files(tiny_sdxl)
    index = json.loads(published["model_index.json"])
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    published["model_index.json"] = json.dumps(index).encode()
    weights = [name for name in published if name.endswith(".safetensors")]
    for name in weights:
        published[name.replace(".safetensors", ".fp16.safetensors")] = half(published[name])
        published[name.replace(".safetensors", ".bin")] = b"pickle"
    published |= {name: b"x" for name in ("README.md", "all_in_one.safetensors", "unet/model.onnx")}
    published["safety_checker/model.safetensors"] = b"never asked for"
    vae = {
        name.removeprefix("vae/"): content for name, content in published.items() if name.startswith("vae/")
    }
    other = load(vae["diffusion_pytorch_model.safetensors"])
    vae["diffusion_pytorch_model.safetensors"] = save(
        {key: value + 1 for key, value in other.items()}, {"format": "pt"}
    )
    del vae["diffusion_pytorch_model.fp16.safetensors"]
    with serve() as hub_server:
        hub_server.repos[ID] = Repo(COMMIT, published, {"license": "openrail++"})
        hub_server.repos[VAE_ID] = Repo(VAE_COMMIT, vae, {"license": "other", "license_name": "fair"})
        use(monkeypatch, hub_server.endpoint)
        yield hub_server


@pytest.fixture
def run(make_project, monkeypatch: pytest.MonkeyPatch):
    """Run the stage for an entry of `backbones`, or of `own.backbones`, in a project of its own; the folder it made."""

    def run(entry: dict[str, object], name: str = "project") -> Path:
        own = "id" not in entry and "source" not in entry
        root = make_project(name, {"own.backbones" if own else "backbones": {"tiny": entry}})
        monkeypatch.chdir(root)
        stage = own_backbone if own else backbone
        monkeypatch.setenv("DVC_STAGE", f"{stage.__name__.rpartition('.')[2]}@tiny")
        stage.main("tiny")
        return root / "models/backbones/tiny"

    return run


def test_what_is_loaded_comes_with_its_origin_and_nothing_else(server, run):
    out = run(
        {
            "source": "hub",
            "id": ID,
            "revision": COMMIT,
            "variant": "fp16",
            "vae": {"id": VAE_ID, "revision": VAE_COMMIT},
        }
    )
    came = files(out)
    weights = {f"{part}/model.safetensors" for part in ("text_encoder", "text_encoder_2")} | {UNET, VAE}
    assert {name for name in came if name.endswith((".safetensors", ".bin", ".onnx"))} == weights
    assert came[UNET] == half(server.repos[ID].files[UNET])  # the variant's, under the plain name
    assert came[VAE] == server.repos[VAE_ID].files["diffusion_pytorch_model.safetensors"]
    asked = server.got()
    assert len(asked) == len(set(asked)) == len(came) - 1  # every file once; source.json is ours
    assert not [
        name for name in asked if name.endswith(".bin") or "safety" in name or name in ("README.md", UNET)
    ]

    source = read_json(out / "source.json")
    assert {
        key: source[key] for key in ("source", "id", "revision", "commit", "licence", "variant", "vae")
    } == {
        "source": "hub",
        "id": ID,
        "revision": COMMIT,
        "commit": COMMIT,
        "licence": "openrail++",
        "variant": "fp16",
        "vae": {"id": VAE_ID, "commit": VAE_COMMIT, "licence": "fair"},
    }
    assert source["files"] == {
        name: sha256_file(out / name) for name in sorted(came) if name != "source.json"
    }

    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(
        out, local_files_only=True
    )  # whole without our loader, too
    assert float(pipe.vae.post_quant_conv.bias[0].detach()) == pytest.approx(
        float(load(came[VAE])["post_quant_conv.bias"][0])
    )


def test_a_folder_serves_too_and_is_left_alone(tiny_backbone, run):
    before = files(tiny_backbone)
    out = run({"path": str(tiny_backbone)})
    (out / UNET).write_bytes(b"changed later")
    assert files(tiny_backbone) == before
    source = read_json(out / "source.json")
    assert (source["source"], source["id"], source["licence"]) == ("local", None, None)
    assert set(source["files"]) == {name for name in files(out) if name != "source.json"}


KILLED = """
import sys
from pathlib import Path
from selma.net import hub
from selma.net.pipelines import fetch_pipeline
id, revision, folder = sys.argv[1:]
fetch_pipeline(hub.open_hub(id, revision, Path(folder) / "download"), Path(folder) / "out")
"""


def test_a_killed_download_goes_on(server, tmp_path):
    server.half = UNET
    environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, ID, COMMIT, tmp_path], cwd=Path(__file__).parents[1], env=environment
    )
    assert server.reached_half.wait(120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.go_on.set()
    assert not (tmp_path / "out" / UNET).exists()
    before = server.got()
    server.asked.clear()
    fetch_pipeline(hub.open_hub(ID, COMMIT, tmp_path / "download"), tmp_path / "out")
    assert (tmp_path / "out" / UNET).read_bytes() == server.repos[ID].files[UNET]
    assert set(server.got()).isdisjoint(set(before) - {UNET})  # what had come is not asked for again


def broken(server: Hub, how: str) -> dict[str, object]:
    """An entry of `backbones` that cannot be brought, for the reason that is named."""
    entry = {"source": "hub", "id": ID, "revision": COMMIT}
    repo = server.repos[ID]
    if how == "pickled":
        repo.files = {name: content for name, content in repo.files.items() if ".safetensors" not in name}
    elif how == "half":
        repo.files[UNET] = repo.files[UNET][: len(repo.files[UNET]) // 2]
    elif how == "lies":
        server.lies.add(UNET)
    elif how == "gated":
        repo.error = (403, "GatedRepo")
    elif how == "down":
        repo.error = (503, "")
    elif how == "index":
        del repo.files["model_index.json"]
    elif how == "kind":
        index = json.loads(repo.files["model_index.json"]) | {"_class_name": "FluxPipeline"}
        repo.files["model_index.json"] = json.dumps(index).encode()
    return entry | {"commit": {"revision": "c3" * 20}, "nobody": {"id": "nobody/nothing"}}.get(how, {})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("pickled", "only pickled weights, which are never loaded"),
        ("half", "not a complete safetensors file"),
        ("lies", "its sha256 does not match the hub's"),
        ("gated", "accept the terms at"),
        ("down", "answered 503"),
        ("index", "no pipeline in diffusers' layout"),
        ("kind", "FluxPipeline"),
        ("commit", "does not have this commit"),
        ("nobody", "does not have this repository"),
    ],
)
def test_what_cannot_be_brought_is_one_line_and_leaves_nothing(server, run, how, says, tmp_path):
    with pytest.raises(UserError) as caught:
        run(broken(server, how))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "project/models/backbones/tiny").exists()


def test_without_a_network_it_is_one_line(server, run, monkeypatch):
    entry = {"source": "hub", "id": ID, "revision": COMMIT}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be reached, or HF_HUB_OFFLINE is set"):
        run(entry, "offline")
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9") as caught:
        run(entry, "nobody-listens")
    assert len(str(caught.value).splitlines()) == 1


def test_a_token_is_sent_and_written_nowhere(server, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    out = run({"source": "hub", "id": ID, "revision": COMMIT})
    assert server.tokens == {"Bearer hf_secretsecret"}
    assert not [name for name, content in files(out.parents[2]).items() if b"hf_secretsecret" in content]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {"source": "hub", "id": ID, "revision": "main"},
            "git ls-remote https://huggingface.co/OWNER/NAME HEAD",
        ),
        ({"source": "hub", "id": ID}, "backbones.tiny.revision is missing"),
        (
            {"source": "hub", "id": ID, "revision": COMMIT, "vae": {"id": VAE_ID, "revision": "v1"}},
            "git ls-remote",
        ),
        (
            {"source": "local", "path": "/models/mine"},
            "backbones.tiny: a folder of your own belongs in `own.backbones`, where DVC sees its edits: "
            "tiny: {path: /models/mine}",
        ),
        ({"source": "local"}, "belongs in `own.backbones`"),
        (
            {"path": "x", "revision": COMMIT},
            "unknown key own.backbones.tiny.revision; it must be one of: path",
        ),
        ({"path": "~/mine"}, "own.backbones.tiny.path is '~/mine'; it must be a path on this disk"),
        ({"path": "/nowhere/at/all"}, "folder not found"),
        ({"source": "ftp"}, "it must be one of: hub, local"),
    ],
)
def test_an_entry_that_cannot_be_is_one_line(run, entry, says):
    with pytest.raises(UserError) as caught:
        run(entry)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# What a hub says, and where it is asked from -----------------------------------------------------

DEEP = b"[" * 3000 + b"]" * 3000


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"null",
        b"[]",
        b"<html>log in",
        b'{"id": ' + DEEP + b"}",
        b'{"id": ' + b"9" * 5000 + b"}",
        {"siblings": None},
        {"siblings": 7},
        {"siblings": [None]},
        {"siblings": [{}]},
        {"siblings": [{"rfilename": None}]},
        {"siblings": [{"rfilename": "../../outside.safetensors"}]},
        {"siblings": [{"rfilename": "/etc/passwd"}]},
        {"siblings": [{"rfilename": "a\\..\\b"}]},
        {"siblings": [{"rfilename": "model_index.json", "lfs": "x"}]},
        {"siblings": [{"rfilename": "model_index.json", "lfs": {"sha256": 7}}]},
        {"sha": None},
        {"sha": "c3" * 20},
        {"cardData": ["x"]},
        {"createdAt": "never"},
    ],
)
def test_a_description_of_another_shape_is_one_line(server, run, said):
    server.repos[ID].said = said
    with pytest.raises(UserError) as caught:
        run({"source": "hub", "id": ID, "revision": COMMIT})
    assert f"{ID}@{COMMIT[:12]}: " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("card", "tags", "licence"),
    [
        ({"license": ["mit", "apache-2.0"]}, [], "mit, apache-2.0"),
        ({"license": 7}, ["license:mit"], "mit"),
        ({"license": "other", "license_name": {"a": 1}}, [None, 3], None),
        (None, None, None),
    ],
)
def test_a_licence_of_another_shape_is_no_obstacle(server, tmp_path, card, tags, licence):
    server.repos[ID].said = {"cardData": card, "tags": tags}
    assert hub.open_hub(ID, COMMIT, tmp_path).licence == licence


@pytest.mark.parametrize(
    "index",
    [
        b"[]",
        b'{"_class_name": ["x"]}',
        b'{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", 7]}',
        b'{"_class_name": "StableDiffusionPipeline", "unet": [["a"], {"b": 1}]}',
        b'{"_class_name": "StableDiffusionPipeline", "../unet": ["diffusers", "UNet2DConditionModel"]}',
    ],
)
def test_an_index_of_another_shape_is_one_line(server, run, index):
    server.repos[ID].files["model_index.json"] = index
    with pytest.raises(UserError) as caught:
        run({"source": "hub", "id": ID, "revision": COMMIT})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "socks5://me:secret@host:1"), ("http_proxy", "secret:[")],
)
def test_an_odd_proxy_is_one_line_and_no_matter_on_loopback(
    server, run, tmp_path, monkeypatch, variable, value
):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert hub.open_hub(ID, COMMIT, tmp_path).commit == COMMIT
    use(monkeypatch, "http://hub.invalid")
    with pytest.raises(UserError, match=f"environment variable {variable} ") as caught:
        hub.open_hub(ID, COMMIT, tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("http://me:secret@hub.invalid", "its name does not resolve"),
        ("http://[::1", "HF_ENDPOINT must be an address"),
        ("hub", "HF_ENDPOINT must be an address"),
        ("ftp://me:secret@host", "HF_ENDPOINT must be an address"),
    ],
)
def test_an_odd_endpoint_is_one_line_at_once(tmp_path, monkeypatch, endpoint, says):
    use(monkeypatch, endpoint)
    with pytest.raises(UserError, match=says) as caught:
        hub.open_hub(ID, COMMIT, tmp_path)
    assert "secret" not in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("token", ["hf_secret\nsecret", "hf_secret\xe4", "hf secret"])
def test_a_token_that_is_none_is_one_line(server, tmp_path, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match="HF_TOKEN does not hold a valid token") as caught:
        hub.open_hub(ID, COMMIT, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_timeout_that_is_no_number_is_one_line(tmp_path):
    environment = {**os.environ, "HF_HUB_ETAG_TIMEOUT": "soon"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, ID, COMMIT, tmp_path],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith(
        "selma.ground.errors.UserError: an environment variable HF_HUB_... is not a number"
    )


def test_a_folder_for_downloads_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("x")
    repository = hub.open_hub(ID, COMMIT, tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written") as caught:
        repository.fetch("model_index.json")
    assert len(str(caught.value).splitlines()) == 1


# Folders -----------------------------------------------------------------------------------------


def test_a_link_out_of_a_local_folder_is_refused(tiny_backbone, run, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(tiny_backbone, folder)
    (folder / "unet/alias.json").symlink_to("config.json")  # inside: fine
    assert run({"path": str(folder)}, "inside")
    os.replace(folder / "unet/config.json", tmp_path / "config.json")
    (folder / "unet/config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(UserError, match="is a link to a file outside of it") as caught:
        run({"path": str(folder)}, "outside")
    assert "unet/" in str(caught.value)


def test_the_hubs_own_cache_is_a_folder_of_links(tiny_backbone, run, tmp_path):
    cache = tmp_path / "models--somebody--tiny"
    snapshot = cache / "snapshots" / COMMIT
    for number, file in enumerate(file for file in tiny_backbone.rglob("*") if file.is_file()):
        blob = cache / "blobs" / str(number)
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(tiny_backbone)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    out = run({"path": str(snapshot)})
    assert not [file for file in out.rglob("*") if file.is_symlink()]


@pytest.mark.parametrize("name", ["sd.safetensors", "sd.ckpt", "sd"])  # the first two before any stage runs
def test_a_single_file_is_one_line_that_says_how_to_convert_it(run, tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"is a single file; a folder in diffusers' layout .*from_single_file\("
    ):
        run({"path": str(file)})


def test_a_multimodal_model_comes_whole_but_for_code_and_opens(server, run, tiny_janus, tmp_path):
    from selma.backbones.loading import load_backbone

    published = {file.name: file.read_bytes() for file in tiny_janus.iterdir()}
    extra = {"modeling_evil.py": b"raise SystemExit(1)", "pytorch_model.bin": b"x", "README.md": b"x"}
    server.repos["them/janus"] = Repo(COMMIT, {**published, **extra}, {"license": "mit"})
    out = run({"source": "hub", "id": "them/janus", "revision": COMMIT})
    assert set(files(out)) == {*published, "source.json"}
    assert read_json(out / "source.json")["licence"] == "mit"
    assert load_backbone(out).image_tokens == 16
    own = run({"path": str(tiny_janus)}, "own")
    assert {name: files(own)[name] for name in published} == published


def test_a_model_of_another_type_is_one_line(server, run):
    server.repos["them/llama"] = Repo(COMMIT, {"config.json": b'{"model_type": "llama"}'}, {})
    with pytest.raises(
        UserError, match=r"its config.json is of a 'llama'; allowed: a pipeline in diffusers' layout"
    ):
        run({"source": "hub", "id": "them/llama", "revision": COMMIT})
