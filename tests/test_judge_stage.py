"""Stage `judge`: pinned files from a real server that stands in for the hub, pickles made safe, params checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import huggingface_hub
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file

from selma.ground.errors import UserError
from selma.ground.files import read_json
from selma.ground.items import Question
from selma.judging.judge import load_judge, load_scorer
from selma.published.convert import read_pickle
from selma.runtime.params import load_params
from selma.runtime.places import JUDGE_CARD, JUDGES
from stages import judge, own_judge
from tests.hub_server import Hub, Repo, serve
from tests.judge_models import clip_config, clip_tokenizer, make_blip_vqa

ROOT = Path(__file__).parents[1]
COMMIT, WORDS_COMMIT = "c3" * 20, "d4" * 20
ID, WORDS_ID = "somebody/tiny-clip", "somebody/words"
OUT = JUDGES / "mine"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> dict[str, bytes]:
    """A published CLIP: configuration, safetensors, the pickle of the same, tokenizer."""
    from transformers import CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    model = CLIPModel(clip_config())
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    clip_tokenizer().save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def server(clip, monkeypatch) -> Iterator[Hub]:
    with serve() as hub_server:
        words = {name: content for name, content in clip.items() if "token" in name}
        rest = {name: content for name, content in clip.items() if name not in words}
        hub_server.repos[ID] = Repo(COMMIT, {**rest, "README.md": b"never asked for"}, {})
        hub_server.repos[WORDS_ID] = Repo(WORDS_COMMIT, words, {})
        # What HF_ENDPOINT would have done when the client was imported.
        constants, template = huggingface_hub.constants, "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub_server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub_server.endpoint + template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub_server


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for code in ("selma", "stages"):
        (tmp_path / code).symlink_to(ROOT / code)
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("DVC_STAGE", "judge@mine")
    return tmp_path


def entry(server: Hub, *names: str, kind: str = "clipscore", **wrong: str | None) -> dict:
    """An entry of `judges` for files of the hub, each with its own sha256 unless `wrong` says another."""
    pinned = {name: sha256(server.repos[ID].files[name]).hexdigest() for name in names}
    words = {name: sha256(content).hexdigest() for name, content in server.repos[WORDS_ID].files.items()}
    return {
        "kind": kind,
        "weights": {"repo": ID, "revision": COMMIT, "files": pinned | wrong},
        "tokenizer": {"repo": WORDS_ID, "revision": WORDS_COMMIT, "files": words},
    }


def name_judge(source: dict) -> None:
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["judges"]["mine"] = source
    yaml.dump(params, Path("params.yaml"))


def bring(source: dict) -> Path:
    name_judge(source)
    judge.main("mine")
    return OUT


def test_pinned_files_come_with_their_origin_and_nothing_else(server, project, clip):
    source = entry(server, "config.json", "model.safetensors")
    out = bring(source)
    card = read_json(out / JUDGE_CARD)
    assert card == {"kind": "clipscore", "weights": source["weights"], "tokenizer": source["tokenizer"]}
    came = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    words = {f"tokenizer/{name}" for name in server.repos[WORDS_ID].files}
    assert came == {"judge.json", "config.json", "model.safetensors", *words}
    assert (out / "model.safetensors").read_bytes() == clip["model.safetensors"]
    assert "README.md" not in server.got()
    assert not list(project.glob(".work/*/*"))
    assert load_scorer("mine", "cpu").score(Image.new("RGB", (9, 9), "red"), "a red square") >= 0


def test_a_published_pickle_becomes_safetensors_with_the_same_tensors(server, project, clip, tmp_path):
    out = bring(entry(server, "config.json", "pytorch_model.bin"))
    assert not list(out.glob("*.bin"))
    (tmp_path / "own.safetensors").write_bytes(clip["model.safetensors"])
    ours, own = load_file(out / "model.safetensors"), load_file(tmp_path / "own.safetensors")
    assert ours.keys() == own.keys() and all(torch.equal(ours[name], own[name]) for name in own)
    assert load_scorer("mine", "cpu").score(Image.new("RGB", (9, 9), "red"), "a red square") >= 0


def test_another_sha256_is_named_and_leaves_nothing(server, project):
    right = sha256(server.repos[ID].files["config.json"]).hexdigest()
    with pytest.raises(
        UserError, match=rf"config\.json has the sha256 {right}, params\.yaml says {'0' * 64}"
    ):
        bring(entry(server, "model.safetensors", **{"config.json": "0" * 64}))
    assert not OUT.exists()


def test_a_file_that_nobody_pinned_says_what_to_pin(server, project, capsys):
    right = sha256(server.repos[ID].files["config.json"]).hexdigest()
    out = bring(entry(server, "model.safetensors", **{"config.json": None}))
    assert f"config.json has not been checked; to pin it: config.json: {right}" in capsys.readouterr().err
    assert read_json(out / JUDGE_CARD)["weights"]["files"]["config.json"] == right


def test_files_and_commits_that_the_hub_does_not_have_are_named(server, project):
    with pytest.raises(UserError, match=r"somebody/tiny-clip@c3c3.*does not contain missing\.json"):
        bring(entry(server, "config.json", **{"missing.json": None}))
    elsewhere = entry(server, "config.json")
    elsewhere["weights"]["revision"] = "e5" * 20
    with pytest.raises(UserError, match="somebody/tiny-clip@e5e5"):
        bring(elsewhere)
    assert not OUT.exists()


def test_judges_without_files_leave_their_card(project, monkeypatch):
    endpoint = {"model": "tiny", "base_url": "http://localhost:8000/v1", "key_env": "MY_KEY"}
    monkeypatch.setenv("MY_KEY", "sk-never-written-anywhere")
    out = bring({"kind": "endpoint", "endpoint": endpoint})
    assert read_json(out / JUDGE_CARD) == {"kind": "endpoint", "endpoint": endpoint}
    monkeypatch.setenv("DVC_STAGE", "judge@oracle")
    judge.main("oracle")
    assert read_json(JUDGES / "oracle" / JUDGE_CARD) == {"kind": "oracle"}
    with pytest.raises(UserError, match=r"no judge 'owl' in params\.yaml; allowed: .*oracle"):
        judge.main("owl")


# Pickles ----------------------------------------------------------------------------------------


class Code:
    """What an attacker pickles."""

    def __reduce__(self):
        return (os.system, ("touch it-ran",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"weight": torch.zeros(2), "more": Code()}, "holds more than tensors, so reading it could run code"),
        ([torch.zeros(2)], "is not a weights file"),
        ({"epoch": 3}, "is not a weights file"),
    ],
)
def test_a_pickle_of_anything_but_tensors_is_refused_in_one_line(tmp_path, monkeypatch, content, says):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "bad.pt")
    with pytest.raises(UserError, match=f"^bad.pt: {says}") as caught:
        read_pickle(Path("bad.pt"))
    assert "\n" not in str(caught.value) and not Path("it-ran").exists()


def test_a_truncated_pickle_is_named_and_tensors_are_found_under_a_wrapper(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, file)
    assert list(read_pickle(file)) == ["a"]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"weights\.pt: is not a complete weights file"):
        read_pickle(file)


def test_a_pickle_with_code_from_the_hub_leaves_no_judge(server, project):
    torch.save({"weight": Code()}, project / "bad.bin")
    server.repos[ID].files["pytorch_model.bin"] = (project / "bad.bin").read_bytes()
    with pytest.raises(UserError, match=r"pytorch_model\.bin: holds more than tensors"):
        bring(entry(server, "config.json", "pytorch_model.bin"))
    assert not OUT.exists() and not Path("it-ran").exists()


# A folder of one's own --------------------------------------------------------------------------


def own(monkeypatch, path: Path, kind: str = "clip") -> Path:
    """Run the stage for a row of `own.judges`, in the current project."""
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["own"]["judges"]["mine"] = {"kind": kind, "path": str(path)}
    yaml.dump(params, Path("params.yaml"))
    monkeypatch.setenv("DVC_STAGE", "own_judge@mine")
    own_judge.main("mine")
    return OUT


@pytest.fixture
def files(clip, tmp_path) -> Path:
    """A CLIP's folder as a user may have it: both kinds of weights, and what is not loaded."""
    path = tmp_path / "disk/my-clip"
    (path / "logs").mkdir(parents=True)
    extra = {
        "README.md": b"-",
        "modeling.py": b"raise SystemExit",
        "model.fp16.safetensors": b"-",
        "logs/a.json": b"-",
    }
    for name, content in (clip | extra).items():
        (path / name).write_bytes(content)
    return path


def test_what_is_loaded_of_an_own_folder_is_copied_and_nothing_else(project, clip, files, monkeypatch):
    out = own(monkeypatch, files)
    loaded = {name: content for name, content in clip.items() if name != "pytorch_model.bin"}
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.name != JUDGE_CARD} == loaded
    hashes = {name: sha256(content).hexdigest() for name, content in loaded.items()}
    assert read_json(out / JUDGE_CARD) == {"kind": "clip", "files": hashes}, "nothing of this machine"
    assert not any(os.path.samefile(out / name, files / name) for name in loaded), (
        "a user's file is never linked"
    )
    assert not list(project.glob(".work/*/*"))
    score = load_scorer("mine", "cpu").score(Image.new("RGB", (9, 9), "red"), "a red square")
    assert -1 <= score <= 1
    files.rename(files.with_name("elsewhere"))
    before = (out / JUDGE_CARD).read_bytes()
    assert (own(monkeypatch, files.with_name("elsewhere")) / JUDGE_CARD).read_bytes() == before


@pytest.mark.parametrize("kind", ["clipscore", "pickscore"])
def test_an_own_judges_tokenizer_may_lie_in_a_folder_of_its_own(project, files, monkeypatch, kind):
    (files / "tokenizer").mkdir()
    for file in files.glob("*token*.json"):
        file.rename(files / "tokenizer" / file.name)
    out = own(monkeypatch, files, kind)
    assert (out / "tokenizer/tokenizer.json").is_file() and not (out / "matcher").exists()


def test_a_vqa_judge_of_ones_own_answers(project, tmp_path, monkeypatch):
    folder = make_blip_vqa(tmp_path / "disk/blip")
    own(monkeypatch, folder, "blip_vqa")
    question = Question("1", "Is it red ?", ("yes", "no"), "yes", (), "color")
    assert load_judge("mine", "cpu").answer(Image.new("RGB", (9, 9)), [question])[0].answer in ("yes", "no")


def _file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("-")


def _without(pattern: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.unlink()

    return change


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (shutil.rmtree, "clip", "my-clip: file or folder not found"),
        (_file_instead, "clip", "my-clip: is not a folder; the folder of a judge's files is needed"),
        (_without("*token*"), "clip", "my-clip: holds no tokenizer; one of tokenizer.json, vocab.json"),
        (_without("*token*"), "hpsv2", "my-clip: holds no tokenizer"),
        (
            _without("*.safetensors"),
            "clip",
            "my-clip: holds only pickled weights, which are never loaded; model.s",
        ),
        (_without("*model*"), "clip", "my-clip: holds no weights; model.safetensors is needed"),
        (_without("config.json"), "clip", "my-clip: this judge cannot be opened"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"-"),
            "clip",
            "my-clip: this judge cannot",
        ),
        (lambda folder: None, "image_reward", "my-clip/tokenizer: this judge cannot be opened"),
        (lambda folder: None, "blip_vqa", "my-clip: "),
    ],
)
def test_a_folder_that_is_no_judge_is_one_line_and_leaves_nothing(
    project, files, monkeypatch, change, kind, says
):
    change(files)
    with pytest.raises(UserError) as caught:
        own(monkeypatch, files, kind)
    said = str(caught.value)
    assert says in said and ".work" not in said and "\n" not in said
    assert not OUT.exists()


def test_an_own_judge_that_params_do_not_name_is_one_line(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "own_judge@owl")
    with pytest.raises(UserError, match=r"own\.judges: no judge 'owl' in params\.yaml; allowed: clip"):
        own_judge.main("owl")


def test_pinned_files_without_a_tokenizer_are_one_line(server, project):
    """transformers makes an empty tokenizer then, without a word."""
    source = entry(server, "config.json", "model.safetensors")
    del source["tokenizer"]
    with pytest.raises(UserError, match=r"^judges\.mine: holds no tokenizer"):
        bring(source)
    assert not OUT.exists()


# Params -----------------------------------------------------------------------------------------

PINNED = {"repo": "a/b", "revision": "a" * 40, "files": {"config.json": None}}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"kind": "owl"}, r"judges\.mine\.kind is 'owl'; it must be one of: blip2, blip_vqa, chat_vlm"),
        ({"kind": "hpsv21"}, r"judges\.mine\.weights is missing; a judge of kind hpsv21 needs it"),
        ({"kind": "endpoint"}, r"judges\.mine\.endpoint is missing"),
        ({"kind": "oracle", "weights": PINNED}, r"judges\.mine\.weights does not apply to .* kind oracle"),
        ({"kind": "hpsv21", "weights": PINNED, "matcher": PINNED}, r"judges\.mine\.matcher does not apply"),
        (
            {"kind": "blip2", "weights": PINNED, "tokenizer": PINNED},
            r"judges\.mine\.tokenizer does not apply",
        ),
        (
            {"kind": "hpsv21", "weights": PINNED | {"revision": "main"}},
            r"revision is 'main'; it must be a commit",
        ),
        (
            {"kind": "hpsv21", "weights": PINNED | {"files": {"../x": None}}},
            r"is '\.\./x'; it must be a path",
        ),
        (
            {"kind": "hpsv21", "weights": PINNED | {"files": {"x": "ab"}}},
            r"files\.x is 'ab'; it must be a sha256",
        ),
    ],
)
def test_what_a_judge_cannot_be_is_named(project, source, says):
    name_judge(source)
    with pytest.raises(UserError, match=says):
        load_params()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"kind": "endpoint", "path": "/x"},
            "own.judges.mine.kind is endpoint, which no folder holds; it belongs in",
        ),
        (
            {"kind": "oracle", "path": "/x"},
            "own.judges.mine.kind is oracle, which no folder holds; it belongs in",
        ),
        ({"kind": "owl", "path": "/x"}, "own.judges.mine.kind is 'owl'; it must be one of: blip2, blip_vqa"),
        (
            {"kind": "clip", "path": "/x/a.safetensors"},
            "own.judges.mine.path is a single file; the folder of",
        ),
        ({"kind": "clip", "path": "~/x"}, "own.judges.mine.path is '~/x'; it must be a path on this disk"),
        ({"kind": "clip"}, "missing key own.judges.mine.path"),
        ({"kind": "clip", "path": "/x", "weights": PINNED}, "unknown key own.judges.mine.weights"),
    ],
)
def test_what_an_own_judge_cannot_be_is_named(project, row, says):
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["own"]["judges"]["mine"] = row
    yaml.dump(params, Path("params.yaml"))
    with pytest.raises(UserError) as caught:
        load_params()
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_own_judge_is_used_as_any_other(project):
    """As `judge`, where its kind answers, and in `preferences`, by its kind's name; one name is one judge."""
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))

    def said(**values: object) -> str:
        params.update(values)
        yaml.dump(params, Path("params.yaml"))
        try:
            load_params()
        except UserError as error:
            return str(error)
        return ""

    params["own"]["judges"]["blip_vqa"] = {"kind": "blip_vqa", "path": "/blip"}
    assert not said(judge={"name": "blip_vqa", "kind": "blip_vqa"}, preferences=["clip", "blip_vqa"])
    assert "judge.kind is oracle, but own.judges.blip_vqa.kind is blip_vqa" in said(
        judge={"name": "blip_vqa", "kind": "oracle"}
    )
    assert "judge.name is clip, which answers no questions" in said(judge={"name": "clip", "kind": "clip"})
    params["judge"] = {"name": "oracle", "kind": "oracle"}
    params["own"]["judges"]["mine"] = {"kind": "clip", "path": "/clip"}
    assert "preferences holds mine, which is of kind clip" in said(preferences=["mine"])
    params["own"]["judges"]["oracle"] = params["own"]["judges"].pop("mine")
    assert "own.judges.oracle: `judges` has a row of that name; choose another" in said(preferences=[])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"judge": {"name": "owl", "kind": "oracle"}},
            r"judge\.name is owl; it must be one in `judges` or `own.judges`: clip, mine",
        ),
        (
            {"judge": {"name": "mine", "kind": "hpsv21"}},
            r"judge\.name is mine, which answers no questions",
        ),
        ({"preferences": ["owl"]}, "preferences holds owl; it must be one in `judges` or `own.judges`"),
        ({"preferences": ["oracle"]}, "preferences holds oracle, which does not score images"),
        ({"preferences": ["mine"]}, "preferences holds mine, which is of kind hpsv21; .* so call it hpsv21"),
    ],
)
def test_judges_in_use_are_held_against_their_kinds(project, values, says):
    name_judge({"kind": "hpsv21", "weights": PINNED})
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params.update(values)
    yaml.dump(params, Path("params.yaml"))
    with pytest.raises(UserError, match=says):
        load_params()
