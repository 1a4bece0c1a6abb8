"""Files are whole or not there; ids and seeds are what they were in every earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from selma.ground.errors import UserError
from selma.ground.files import (
    atomic,
    folder_digest,
    read_json,
    read_jsonl,
    write_csv,
    write_json,
    write_jsonl,
)
from selma.ground.pairs import (
    Pair,
    image_seed,
    prompt_id,
    read_image,
    read_pairs,
    read_training,
    write_image,
)


def test_ids_and_seeds_are_pinned() -> None:
    """Written down once: a change of either would orphan every image that was ever drawn."""
    assert prompt_id("count", "two red circles") == "count-bb1a3e95d07d"
    assert image_seed(42, "count-bb1a3e95d07d", 0) == 1738458959


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.text(max_size=20), st.integers(0, 100))
def test_seeds_fit_torch_and_numpy(run_seed: int, id: str, k: int) -> None:
    seed = image_seed(run_seed, id, k)
    assert 0 <= seed < 2**31
    assert seed == image_seed(run_seed, id, k)


def test_seeds_differ_by_each_of_their_parts() -> None:
    seeds = {image_seed(s, f"id{i}", k) for s in range(10) for i in range(10) for k in range(10)}
    assert len(seeds) == 1000


# what JSON escapes, what splits lines for Python and not for JSON, and what takes several bytes
text = st.text(alphabet='a"\\\n\r\t\x00\x0b\x85\u2028é😀', max_size=8)
rows = st.lists(
    st.dictionaries(text, text | st.integers() | st.none() | st.booleans(), max_size=3), max_size=4
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=rows)
def test_jsonl_comes_back_as_written(rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Text with any line separator of Unicode in it too."""
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows


@pytest.mark.parametrize(
    ("text", "says"),
    [('{"a": 1}\n{"a":\n', "line 2: is not valid JSON"), ("[1]\n", "line 1: is not a JSON object")],
)
def test_a_broken_line_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(UserError, match=says):
        read_jsonl(tmp_path / "x.jsonl")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_json, read_jsonl, read_image, folder_digest):
        with pytest.raises(UserError, match=r"gone\.json"):
            read(tmp_path / "gone.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(ValueError):
        write_json(path, {"nan": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(path.parent.iterdir()) == [path]


def test_csv_has_exactly_the_named_fields(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"step": 1, "loss": 0.5}], ["step", "loss"])
    assert (tmp_path / "a.csv").read_bytes() == b"step,loss\n1,0.5\n"
    with pytest.raises(ValueError):
        write_csv(tmp_path / "a.csv", [{"step": 1, "los": 0.5}], ["step", "loss"])


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_picture_comes_back_pixel_for_pixel(tmp_path: Path, suffix: str) -> None:
    image = Image.effect_noise((16, 16), 80).convert("RGB")
    write_image(tmp_path / f"a.{suffix}", image)
    assert read_image(tmp_path / f"a.{suffix}").tobytes() == image.tobytes()


def test_a_picture_too_large_for_webp_is_named_and_not_begun(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.webp: 16384 x 1 pixels; WebP allows 16383"):
        write_image(tmp_path / "a.webp", Image.new("RGB", (16384, 1)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_image_is_named(share: float, suffix: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    write_image(whole, Image.effect_noise((64, 64), 80).convert("RGB"))
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=rf"cut\.{suffix}: is not a complete image"):
        read_image(cut)


def exif(turned: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = turned
    return found


def test_a_persons_own_picture_is_read_as_a_viewer_shows_it(tmp_path: Path) -> None:
    """Corner pixels: red at the top left, blue at the bottom right of what is shown."""
    shown = Image.new("RGB", (16, 8), "red")
    shown.paste("blue", (8, 0, 16, 8))
    shown.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif(6))
    grey = Image.new("I;16", (2, 1))
    grey.putpixel((0, 0), 65535)
    grey.putpixel((1, 0), 257 * 100)
    grey.save(tmp_path / "grey.png")
    clear = Image.new("RGBA", (2, 1), (255, 0, 255, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    clear.save(tmp_path / "clear.png")
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([255, 0, 255, 10, 20, 30])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "palette.png", transparency=0)
    Image.new("LA", (1, 1), (0, 128)).save(tmp_path / "half.png")
    Image.new("1", (1, 1), 1).save(tmp_path / "bit.png")
    Image.new("CMYK", (1, 1)).save(tmp_path / "print.tif")

    turned = read_image(tmp_path / "turned.png")
    assert turned.size == (16, 8) and turned.tobytes() == shown.tobytes()
    assert list(read_image(tmp_path / "grey.png").tobytes()) == [255] * 3 + [100] * 3
    for name in ("clear", "palette"):
        assert list(read_image(tmp_path / f"{name}.png").tobytes()) == [255] * 3 + [10, 20, 30]
    assert read_image(tmp_path / "half.png").getpixel((0, 0)) == (127, 127, 127)
    assert read_image(tmp_path / "bit.png").tobytes() == read_image(tmp_path / "print.tif").tobytes()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(data=st.data())
def test_a_spoilt_picture_is_read_or_named(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes turned around in a picture with EXIF and transparency."""
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "whole.png").exists():
        Image.new("P", (9, 9)).save(folder / "whole.png", transparency=0, exif=exif(6))
        Image.effect_noise((9, 9), 80).convert("RGB").save(folder / "whole.jpg", exif=exif(5))
    suffix = data.draw(st.sampled_from(["png", "jpg"]))
    spoilt = bytearray((folder / f"whole.{suffix}").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, min(len(spoilt) - 1, 300)))] = data.draw(st.integers(0, 255))
    (folder / "spoilt").write_bytes(spoilt)
    try:
        assert read_image(folder / "spoilt").mode == "RGB"
    except UserError as error:
        assert str(error).startswith(f"{folder / 'spoilt'}: is not a complete image")


def test_a_folder_of_generated_samples_loads_with_its_prompts(tmp_path: Path) -> None:
    """By the call of docs/real-runs.md; alone, `datasets` takes "-test-" for a split that has no prompts."""
    from datasets import load_dataset

    imagefolder(tmp_path / "samples/shapes", "count-test", 2)
    files = {"test": f"{tmp_path}/samples/shapes/**"}
    found = load_dataset("imagefolder", data_files=files, cache_dir=str(tmp_path / "cache"))["test"]
    assert [row["text"] for row in found] == ["text 0", "text 1"]


def test_a_folders_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    first = folder_digest(tmp_path / "a")
    (tmp_path / "a" / ".tmp-1-x").write_text("left by a killed writer")
    assert folder_digest(tmp_path / "a") == first
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    renamed = folder_digest(tmp_path / "a")
    (tmp_path / "a" / "y").write_text("2")
    assert len({first, renamed, folder_digest(tmp_path / "a")}) == 3


def imagefolder(folder: Path, skill: str, count: int) -> Path:
    rows = []
    for number in range(count):
        id = f"{skill}-{number}"
        write_image(folder / f"{id}.png", Image.new("RGB", (4, 4)))
        rows.append({"file_name": f"{id}.png", "text": f"text {number}", "id": id, "seed": number})
    write_jsonl(folder / "metadata.jsonl", rows)
    return folder


def test_pairs_of_a_folder_and_of_named_subfolders(tmp_path: Path) -> None:
    for skill in ("count", "tags", "stranger"):
        imagefolder(tmp_path / skill, skill, 2)
    one = read_pairs(tmp_path / "count")
    assert one[1] == Pair(tmp_path / "count" / "count-1.png", "text 1", "count-1", 1)
    write_json(tmp_path / "skills.json", ["tags", "count"])
    both = read_training(tmp_path)
    assert [pair.id for pair in both] == ["tags-0", "tags-1", "count-0", "count-1"]
    assert [pair.id for pair in read_training(tmp_path, ["count"])] == ["count-0", "count-1"]
    assert read_training(tmp_path, ["count", "tags"]) == both
    with pytest.raises(UserError, match=r"skills\.json: does not name stranger; it names tags, count"):
        read_training(tmp_path, ["count", "stranger"])
    with pytest.raises(UserError, match=r"count: holds no skills\.json, so none of its images are a skill's"):
        read_training(tmp_path / "count", ["count"])


@pytest.mark.parametrize("table", [False, True])
def test_a_persons_own_imagefolder_is_trained_on(tmp_path: Path, table: bool) -> None:
    """What `datasets` opens: file_name and text, in metadata.jsonl or .csv; further columns are passed over."""
    rows = [
        {"file_name": f"a/{n} x.png", "text": f'a "big", red thing {n}', "licence": "mine"} for n in range(2)
    ]
    for row in rows:
        write_image(tmp_path / row["file_name"], Image.new("RGB", (4, 4)))
    if table:
        write_csv(tmp_path / "metadata.csv", rows, list(rows[0]))
    else:
        write_jsonl(tmp_path / "metadata.jsonl", rows)
    found = read_training(tmp_path)
    assert [(pair.file, pair.text, pair.id) for pair in found] == [
        (tmp_path / row["file_name"], row["text"], row["file_name"]) for row in rows
    ]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "notes.txt",
            "x",
            "holds no metadata.jsonl (or metadata.csv), which names each image's file_name and text",
        ),
        ("metadata.csv", "file,text\nx.png,a\n", "metadata.csv: has no column file_name"),
        ("metadata.csv", "file_name,text\nx.png,\n", "metadata.csv, line 2: text is ''"),
        ("metadata.csv", "file_name,text\n../x.png,a\n", "it must be a path inside its folder"),
        (
            "metadata.csv",
            "file_name,text\nx.png,a\nx.png,b\n",
            "metadata.csv, line 3: file_name 'x.png' is in line 2 already",
        ),
        ("metadata.csv", 'file_name,text\nx.png,"a\nb"\n"y.png","c\nd"\n', "metadata.csv, line 4, names it"),
        ("metadata.jsonl", '{"file_name": "x.png"}', "missing key text"),
        (
            "metadata.jsonl",
            '{"file_name": "y.png", "text": "a"}',
            "y.png: image not found; ",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_one_line(
    name: str, text: str, says: str, tmp_path: Path
) -> None:
    write_image(tmp_path / "x.png", Image.new("RGB", (4, 4)))
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_training(tmp_path)
    assert says in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_pairs_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path / "count", "count", 2)
    (folder / "count-1.png").unlink()
    with pytest.raises(UserError, match=r"count-1\.png: image not found"):
        read_pairs(folder)
    (folder / "metadata.jsonl").write_text('{"file_name": "count-0.png", "text": 3}\n')
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 1: text is 3; it must be a valid string"):
        read_pairs(folder)
    row = json.dumps({"file_name": "count-0.png", "text": "t", "id": "count-0", "seed": 1})
    (folder / "metadata.jsonl").write_text(f"{row}\n{row}\n")
    with pytest.raises(UserError, match=r"line 2: file_name 'count-0\.png' is in line 1 already"):
        read_pairs(folder)
    (folder / "metadata.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no images"):
        read_pairs(folder)
