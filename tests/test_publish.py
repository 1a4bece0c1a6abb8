"""Publishing: what --dry-run writes is what arrives on the hub, byte for byte; a real server stands in for the hub."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard_data import EvalResult
from PIL import Image

from selma import publish
from selma.ground.files import read_json, sha256_file, write_json, write_jsonl
from selma.ground.pairs import image_seed, write_image
from selma.publishing import gallery, licences
from tests.hub_server import Hub, Repo, serve
from tests.test_export import make_run, run  # noqa: F401 - fixtures
from tests.test_hub import use

TOKEN = "hf_thesecretthatnobodymaysee"
TO = "somebody/selma-lora"
MERGED = Path("exports/shapes-merged-hub")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that takes one token, which is in the environment."""
    with serve() as server:
        server.uploads.token = TOKEN
        use(monkeypatch, server.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def drawn(run: Path) -> Path:  # noqa: F811
    """The finished run, with what it drew for the benchmark and for two skills."""
    folder = run / "data/samples/merged/shapes"
    rows = []
    for number in range(9):
        for k in range(2):
            name = f"count-test-{number}-{k}.webp"
            write_image(folder / name, Image.new("RGB", (8, 8), (20 * number, k, 0)))
            about = {"id": f"count-test-{number}", "seed": 1, "k": k}
            rows.append({"file_name": name, "text": f"prompt: {number}, 'and' more", **about})
    write_jsonl(folder / "metadata.jsonl", rows)
    for skill in ("objects", "count"):
        images(run, skill, 3)
    return run


def images(root: Path, skill: str, count: int, seed: int = 42, size: int = 64) -> None:
    folder, rows = root / "data/images" / skill, []
    for number in range(count):
        id = f"{skill}-{number}"
        write_image(folder / f"{id}.webp", Image.new("RGB", (size, size), (number, 0, 0)))
        own = {"id": id, "seed": image_seed(seed, id, 0)}
        rows.append({"file_name": f"{id}.webp", "text": f"text of {id}", **own})
    write_jsonl(folder / "metadata.jsonl", rows)


def call(*arguments: str) -> int:
    """The exit code of the command."""
    before, sys.argv = sys.argv, ["publish", *arguments]
    try:
        publish.main()
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        sys.argv = before
    return 0


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line of a command that ends with exit code 2."""
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert TOKEN not in error
    return error


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def arrived(hub: Hub, repo: str) -> dict[str, bytes]:
    return {name: content for name, content in hub.repos[repo].files.items() if name != ".gitattributes"}


def writes(hub: Hub) -> list[str]:
    return [path for method, path, _ in hub.asked if method in ("POST", "PUT")]


def test_what_arrives_is_what_the_dry_run_wrote(drawn, hub, capsys) -> None:
    assert call("merged", "--to", TO, "--dry-run") == 0
    told = capsys.readouterr().out
    before = contents(MERGED)
    assert not hub.asked and "nothing was sent" in told
    for name, content in before.items():
        assert f"{len(content):,}  {name}" in told
    assert call("merged", "--to", TO) == 0
    assert arrived(hub, TO) == before == contents(MERGED)
    assert not hub.repos[TO].private and len(hub.uploads.commits) == 1
    assert f"{hub.endpoint}/{TO}: {len(before)} files sent" in capsys.readouterr().out
    names = {"README.md", "export.json", "pytorch_lora_weights.safetensors"}
    assert {name for name in before if "/" not in name} == names
    assert read_json(MERGED / "export.json")["files"] == {
        name: sha256_file(MERGED / name) for name in before if name != "export.json"
    }


def test_a_second_run_sends_nothing(drawn, hub, capsys) -> None:
    assert call("merged", "--to", TO) == 0
    hub.asked.clear()
    capsys.readouterr()
    assert call("merged", "--to", TO) == 0
    assert not writes(hub) and "nothing was sent" in capsys.readouterr().out


def test_what_changed_is_sent_and_what_is_gone_is_removed(drawn, hub) -> None:
    assert call("merged", "--to", TO) == 0
    hub.repos[TO].files["LICENSE"] = b"added on the hub"
    (gone,) = [name for name in arrived(hub, TO) if name.endswith("-0.webp")][:1]
    rows = [row for row in (drawn / "data/samples/merged/shapes/metadata.jsonl").read_text().splitlines()]
    kept = [row for row in rows if gone.rpartition("/")[2] not in row]
    (drawn / "data/samples/merged/shapes/metadata.jsonl").write_text("\n".join(kept))
    assert call("merged", "--to", TO) == 0
    touched = hub.uploads.commits[1]
    assert f"-{gone}" in touched and "README.md" in touched and "export.json" in touched
    assert not [name for name in touched if name.endswith(".safetensors")]
    assert arrived(hub, TO) == contents(MERGED) | {"LICENSE": b"added on the hub"}


@pytest.mark.parametrize("private", [True, False])
def test_a_private_repository_is_made_private(private, drawn, hub, capsys) -> None:
    assert call("merged", "--to", TO, *(["--private"] if private else [])) == 0
    assert hub.repos[TO].private is private
    capsys.readouterr()
    if not private:
        hub.asked.clear()
        assert "is public" in refused(capsys, "merged", "--to", TO, "--private")
        assert not writes(hub)


def test_what_others_wrote_is_not_touched(drawn, hub, capsys) -> None:
    hub.repos[TO] = Repo("1" * 40, {"model.safetensors": b"theirs"})
    assert "holds 'model.safetensors', which this command did not write" in refused(capsys, "--to", TO)
    assert not writes(hub) and hub.repos[TO].files == {"model.safetensors": b"theirs"}


def test_another_lora_does_not_take_its_place(drawn, hub, capsys) -> None:
    assert call("merged", "--to", TO) == 0
    before = dict(hub.repos[TO].files)
    capsys.readouterr()
    said = refused(capsys, "count", "--to", TO)
    assert "holds merged of profile shapes, and this is count of profile shapes" in said
    assert hub.repos[TO].files == before


@pytest.mark.parametrize(
    ("start", "status", "said"),
    [
        ("GET /api/models", 401, "does not accept the token; set HF_TOKEN or run `hf auth login`"),
        ("POST /api/repos/create", 401, "does not accept the token"),
        ("POST /api/repos/create", 403, "does not let the token write there"),
        ("POST /api/repos/create", 409, "exists or was changed meanwhile (status 409); run this again"),
        ("POST /api/repos/create", 404, "does not have it"),
        ("POST /api/validate-yaml", 400, "does not accept the front matter of README.md"),
        ("POST /api/models/somebody/selma-lora/preupload", 403, "does not let the token write"),
        ("POST /somebody/selma-lora.git", 403, "does not let the token write"),
        ("PUT /lfs", 403, "does not let the token write"),
        ("POST /api/models/somebody/selma-lora/commit", 409, "was changed meanwhile"),
        ("POST /api/models/somebody/selma-lora/commit", 412, "was changed meanwhile"),
        ("POST /api/models/somebody/selma-lora/commit", 418, "answered 418"),
    ],
)
def test_what_a_hub_refuses_is_one_line(start, status, said, drawn, hub, capsys) -> None:
    hub.uploads.refuse[start] = status
    error = refused(capsys, "merged", "--to", TO)
    assert said in error and TO in error
    assert not hub.uploads.commits and (TO not in hub.repos or not arrived(hub, TO))
    del hub.uploads.refuse[start]
    assert call("merged", "--to", TO) == 0, "the next try does it all"
    assert arrived(hub, TO) == contents(MERGED)


def test_a_token_that_is_wrong_is_one_line(drawn, hub, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_anothertoken")
    error = refused(capsys, "merged", "--to", TO)
    assert "does not accept the token" in error and "hf_another" not in error


def test_without_a_token_nothing_begins(drawn, hub, monkeypatch, capsys) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(drawn / "no-token"))
    assert "no token for http://127.0.0.1" in refused(capsys, "merged", "--to", TO)
    assert not hub.asked and not (drawn / "exports").exists()
    assert call("merged", "--dry-run") == 0, "which needs none"


def test_a_hub_that_cannot_be_reached_is_one_line(drawn, hub, monkeypatch, capsys) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")
    assert "the connection to http://127.0.0.1" in refused(capsys, "merged", "--to", TO)


def test_the_token_is_written_nowhere(drawn, hub) -> None:
    """In a process of its own, with HF_ENDPOINT as a user sets it, and a hub that repeats the token it was sent."""
    hub.uploads.refuse["POST /api/repos/create"] = 418
    own = {
        "HF_TOKEN": TOKEN,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(drawn / "hf"),
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-m", "selma.publish", "merged", "--to", TO]
    path = {"PYTHONPATH": str(Path(publish.__file__).parents[1])}
    runs = []
    for _ in range(2):
        runs.append(
            subprocess.run(
                command, cwd=drawn, env={**os.environ, **own, **path}, capture_output=True, text=True
            )
        )
        hub.uploads.refuse.clear()
    assert [done.returncode for done in runs] == [2, 0], runs
    assert arrived(hub, TO) == contents(drawn / MERGED)
    assert not [done for done in runs if TOKEN in done.stdout + done.stderr]
    assert not [path for path in drawn.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert f"Bearer {TOKEN}" in hub.tokens


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["merged"], "--to OWNER/REPO is needed"),
        (["merged", "--to", "selma-lora"], "--to: 'selma-lora' is not OWNER/REPO"),
        (["merged", "--to", TO, "--files"], "--files is for --dry-run"),
        (["merged", "--to", "a/b/c", "--dry-run"], "--to: 'a/b/c' is not OWNER/REPO"),
        (["merged", "--to", "https://huggingface.co/a/b"], "is not OWNER/REPO"),
        (["merged", "--to", "a/-b"], "is not OWNER/REPO"),
        (["merged", "--dry-run", "--trained-on", "images"], "--trained-on: 'images' is not OWNER/REPO"),
        (["merged", "count", "--dry-run"], "merged count: one LoRA goes into a repository"),
        (["colour", "--dry-run"], "colour: unknown LoRA; allowed: merged, objects"),
        (["colour", "--dataset", "--dry-run"], "colour: unknown skill; allowed: objects"),
        (["count", "count", "--dataset", "--dry-run"], "count: is named twice"),
        (["tags", "--dataset", "--dry-run"], "data/images/tags"),
        (["count", "--dataset", "--format", "kohya", "--dry-run"], "--format is for a LoRA"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_sent(arguments, said, drawn, hub, capsys) -> None:
    assert said in refused(capsys, *arguments)
    assert not hub.asked
    assert not [path for path in drawn.glob("exports/*")]


def test_a_dataset_arrives_with_its_images_and_columns(drawn, hub, tmp_path_factory, capsys) -> None:
    from datasets import load_dataset

    to, folder = "somebody/selma-images", Path("exports/shapes-images-hub")
    assert call("objects", "count", "--dataset", "--to", to, "--dry-run") == 0
    before = contents(folder)
    assert call("objects", "count", "--dataset", "--to", to) == 0
    assert arrived(hub, f"datasets/{to}") == before
    assert f"{hub.endpoint}/datasets/{to}" in capsys.readouterr().out
    assert before["count/count-1.webp"] == Path("data/images/count/count-1.webp").read_bytes()

    cache = str(tmp_path_factory.mktemp("cache"))
    for name, skills in (("all", ("count", "objects")), ("count", ("count",)), (None, ("count", "objects"))):
        found = load_dataset(str(folder.resolve()), name, split="train", cache_dir=cache)
        assert found.column_names == ["image", "text", "id", "seed"]
        assert sorted(found["id"]) == [f"{skill}-{number}" for skill in skills for number in range(3)]
        assert found[0]["text"] == f"text of {found[0]['id']}" and found[0]["image"].size == (64, 64)


def test_a_folder_of_many_files_is_one_line_unless_asked_for(drawn, capsys) -> None:
    images(drawn, "count", 20)
    size = sum(path.stat().st_size for path in (drawn / "data/images/count").glob("*.webp"))
    assert call("count", "objects", "--dataset", "--dry-run") == 0
    told = capsys.readouterr().out
    size += Path("exports/shapes-images-hub/count/metadata.jsonl").stat().st_size
    assert f"{size:,}  count/  21 files\n" in told and "count-7.webp" not in told
    assert "  objects/objects-2.webp\n" in told and "  README.md\n" in told
    sum_of_all = told.splitlines()[-2]
    assert call("count", "objects", "--dataset", "--dry-run", "--files") == 0
    told = capsys.readouterr().out
    assert "  count/count-7.webp\n" in told and "21 files" not in told and told.splitlines()[-2] == sum_of_all


def test_the_dataset_card_says_how_the_images_were_made(drawn) -> None:
    dropped = {"similar": 1204, "exam": 0}
    write_json(drawn / "metrics/filter/count.json", {"candidates": 5000, "kept": 3, "dropped": dropped})
    source = {"id": "some/base", "commit": "4" * 40, "revision": "4" * 40, "licence": "openrail++"}
    write_json(drawn / "models/backbones/shapes/source.json", source)
    assert call("objects", "count", "--dataset", "--dry-run") == 0
    card = DatasetCard.load("exports/shapes-images-hub/README.md")
    assert card.data.license == "openrail++" and card.data.task_categories == ["text-to-image"]
    sizes = [info["splits"][0]["num_examples"] for info in card.data.dataset_info]
    assert sizes == [6, 3, 3]
    for fact in (
        f"| drawn by | [some/base](https://huggingface.co/some/base), revision `{'4' * 40}` |",
        "| sampler | ddim, 12 steps, guidance 3 (classifier-free), 64 px |",
        "| seeds | run seed 42;",
        "| prompts | written by llm.provider `shapes`; 500 candidates a skill, 20 at a time",
        "exceeds 0.8; at most 200 a skill are kept",
        "| `count` | 3 | 5,000 | 1,204 similar |",
        "| `objects` | 3 | unknown | unknown |",
    ):
        assert fact in card.text, fact


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda root: images(root, "count", 3, seed=7),
            "with another seed than params.yaml's; run `dvc repro`",
        ),
        (lambda root: images(root, "count", 3, size=32), "32 x 32 pixels, params.yaml says 64"),
        (
            lambda root: (root / "data/images/count/README.md").write_text(
                "| sampler | ddim, 50 steps, guidance 3 (cfg), 64 px |\n"
            ),
            "was drawn with ddim, 50 steps, guidance 3 (cfg), 64 px, params.yaml says ddim, 12 steps, guidance 3",
        ),
        (lambda root: (root / "data/images/count/count-1.webp").unlink(), "count-1.webp: image not found"),
    ],
)
def test_images_that_are_not_what_the_card_would_say_are_refused(
    change: Callable, said, drawn, capsys
) -> None:
    change(drawn)
    assert said in refused(capsys, "count", "--dataset", "--dry-run")
    assert not [path for path in drawn.glob("exports/*")]


def test_the_model_card_is_what_the_hub_reads(drawn) -> None:
    gains = read_json(drawn / "metrics/eval.json")["gains"]
    further = {"models": {"merged": {"mean": 0.5, "low": 0.4, "high": 0.6}}, "gains": gains}
    write_json(drawn / "metrics/benchmarks.json", {"dsg": further})
    preferred = {"models": {"merged": {"mean": -0.2, "low": -0.3, "high": -0.1}}, "gains": {}}
    write_json(drawn / "metrics/preferences.json", {"hps": {"pickscore": preferred}})
    assert call("merged", "--to", TO, "--trained-on", "somebody/images", "--dry-run") == 0
    card = ModelCard.load(MERGED / "README.md", ignore_metadata_errors=False)
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "diffusers",
        "text-to-image",
        "apache-2.0",
    )
    assert {"text-to-image", "lora", "diffusers", "template:sd-lora", "stable-diffusion"} <= set(data.tags)
    assert data.datasets == ["somebody/images"] and "datasets/somebody/images)" in card.text
    assert f'load_lora_weights("{TO}"' in card.text and "<Gallery />" in card.text
    assert not hasattr(data, "instance_prompt"), "no word triggers it"
    found = {(one.dataset_type, one.metric_type): one for one in data.eval_results}
    assert all(isinstance(one, EvalResult) and one.task_type == "text-to-image" for one in found.values())
    values = {key: (one.metric_value, one.metric_args["interval_95"]) for key, one in found.items()}
    assert values == {
        ("shapes", "faithfulness"): (0.417, [0.417 - 0.02, 0.417 + 0.02]),
        ("shapes", "faithfulness_gain"): (0.0383, [0.0186, 0.0579]),
        ("dsg", "faithfulness"): (0.5, [0.4, 0.6]),
        ("dsg", "faithfulness_gain"): (0.0383, [0.0186, 0.0579]),
        ("hps", "preference"): (-0.2, [-0.3, -0.1]),
    }
    assert found["shapes", "faithfulness"].dataset_args["guidance"] == 1.35
    assert found["hps", "preference"].metric_args["judge"] == "pickscore"


def test_the_gallery_is_of_real_samples_with_their_prompts(drawn) -> None:
    assert call("merged", "--dry-run") == 0
    widget = ModelCard.load(MERGED / "README.md").data.widget
    assert len(widget) == len({one["text"] for one in widget}) == gallery.COUNT
    for one in widget:
        url = one["output"]["url"]
        drawn_for = one["text"].removeprefix("prompt: ").partition(",")[0]
        assert url == f"samples/count-test-{drawn_for}-0.webp"
        source = Path("data/samples/merged/shapes") / url.rpartition("/")[2]
        assert (MERGED / url).read_bytes() == source.read_bytes()


def test_a_large_sample_is_reduced_and_said_to_be(drawn) -> None:
    for file in (drawn / "data/samples/merged/shapes").glob("*.webp"):
        write_image(file, Image.new("RGB", (1024, 768), (9, 9, 9)))
    assert call("merged", "--dry-run") == 0
    sizes = {Image.open(file).size for file in (MERGED / "samples").iterdir()}
    assert sizes == {(512, 384)} and "reduced to 512 pixels" in (MERGED / "README.md").read_text()


def test_a_run_without_samples_has_no_gallery_and_says_so(run, capsys) -> None:  # noqa: F811
    assert call("merged", "--dry-run") == 0
    assert "no sample images" in capsys.readouterr().out
    card = ModelCard.load(MERGED / "README.md")
    assert not hasattr(card.data, "widget") and "<Gallery />" not in card.text


def test_a_folder_of_ones_own_is_not_overwritten(drawn, capsys) -> None:
    for arguments in (("merged",), ("count", "--dataset")):
        out = drawn / f"own-{len(arguments)}"
        assert call(*arguments, "--dry-run", "--out", str(out)) == 0
        (out / "samples" if out.name == "own-1" else out / "count").joinpath("mine.png").write_bytes(b"mine")
        capsys.readouterr()
        assert "mine.png, which no export wrote" in refused(
            capsys, *arguments, "--dry-run", "--out", str(out)
        )


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("openrail++", {"license": "openrail++"}),
        ("Fair AI (v1.0)", {"license": "other", "license_name": "fair-ai-v1.0"}),
        (None, {"license": "other", "license_name": "not-stated"}),
    ],
)
def test_a_licence_that_the_hub_does_not_know_has_a_name(licence, expected) -> None:
    assert licences.front_matter(licence) == expected
    linked = licences.front_matter(licence, "some/base")
    assert linked.get("license_link", "https://huggingface.co/some/base").endswith("some/base")
    assert ("license_link" in linked) == ("license_name" in expected)


def test_an_interrupted_publication_is_one_line(drawn, hub, monkeypatch, capsys) -> None:
    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", interrupt)
    assert call("merged", "--to", TO) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_no_path_of_this_machine_leaves_it(drawn, hub) -> None:
    own = str(drawn / "pictures/cats")
    text = (drawn / "params.yaml").read_text()
    (drawn / "params.yaml").write_text(
        text.replace("count: {data: data/images/count,", f"count: {{data: {own},")
    )
    card = read_json(drawn / "models/experts/count/lora.json")
    write_json(drawn / "models/experts/count/lora.json", {**card, "data": own})
    for name in ("count", "merged"):
        assert call(name, "--to", f"somebody/{name}") == 0
        sent = arrived(hub, f"somebody/{name}")
        assert not [file for file, content in sent.items() if str(drawn).encode() in content]
    assert read_json(Path("exports/shapes-count-hub/export.json"))["lora"]["data"] == "cats"


def test_a_mark_that_is_broken_is_not_ours(drawn, hub, capsys) -> None:
    hub.repos[TO] = Repo("1" * 40, {"export.json": b"{"})
    assert "holds 'export.json', which this command did not write" in refused(capsys, "merged", "--to", TO)
