"""Profiles overlay params.yaml and can be undone to the byte."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from selma import profile
from selma.ground.errors import UserError
from selma.runtime import overlay
from selma.runtime.params import build_params, load_params
from selma.runtime.schema import load_yaml
from selma.shapes.world.render import CANVAS

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
REAL = [name for name in NAMES if name != "shapes"]
DIFFUSION = [name for name in REAL if name != "janus"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    return tmp_path


def text(root: Path) -> str:
    return (root / "params.yaml").read_text(encoding="utf-8")


def test_the_committed_params_are_the_default_profile(copy: Path) -> None:
    """If this fails, profiles/shapes.yaml and params.yaml differ in a value: make them agree."""
    before = text(copy)
    profile.apply("shapes", copy)
    assert text(copy) == before


def test_the_embedded_profile_draws_at_the_size_its_backbone_was_pretrained_for() -> None:
    params = load_params(ROOT / "params.yaml")
    sizes = {params.images.drawing.resolution, params.expert.resolution, params.evaluate.drawing.resolution}
    assert sizes == {CANVAS}


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_is_undone_to_the_byte(name: str, copy: Path) -> None:
    before = (copy / "params.yaml").read_bytes()
    profile.apply(name, copy)
    assert load_params(copy / "params.yaml").profile == name
    if name != "shapes":
        assert (copy / "params.yaml").read_bytes() != before
    profile.apply("shapes", copy)
    assert (copy / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
def test_the_default_holds_whatever_a_profile_changes(name: str) -> None:
    """But rows that it adds: those go when it does."""

    def source(profile_name: str) -> str:
        return (ROOT / "profiles" / f"{profile_name}.yaml").read_text(encoding="utf-8")

    there = load_yaml(ROOT / "params.yaml")
    whole = overlay.whole_rows(source(name)).items()
    added = tuple(f"{section}.{row}." for section, rows in whole for row in rows if row not in there[section])
    keys = {key for key in overlay.values(source(name)) if not key.startswith(added)}
    assert keys <= set(overlay.values(source("shapes")))


@pytest.mark.parametrize("name", NAMES)
def test_comments_and_order_stay(name: str, copy: Path) -> None:
    def comments() -> list[str]:
        outside = text(copy).split("\n# What is run over")[1].split("\n# Stages")
        return [line.partition("#")[2] for line in outside[1].splitlines() if "#" in line]

    before = comments()
    profile.apply(name, copy)
    assert comments() == before and len(before) > 10


def _documented() -> dict:
    """The rows of docs/real-runs.md for a model that learns from a judge."""
    page = (ROOT / "docs/real-runs.md").read_text(encoding="utf-8")
    section = page.split("## A model that learns from a judge")[1]
    return YAML(typ="safe").load(section.split("```yaml\n")[1].split("```")[0])


@pytest.mark.parametrize("source", ["llm", "none"])
@pytest.mark.parametrize("name", DIFFUSION)
def test_the_documented_policy_fits_every_real_profile(name: str, source: str, copy: Path) -> None:
    """Of a diffusion backbone: algorithms learn from its noise."""
    profile.apply(name, copy)
    plain, rows = deepcopy(load_yaml(copy / "params.yaml")), _documented()
    rows["policies"]["nft"]["start"] = rows["policies"]["nft"]["start"].replace("sdxl", name)
    rows["questions"]["source"] = source
    for section, values in rows.items():
        plain[section] = values if section == "compare" else {**plain[section], **values}
    params = build_params(plain, "params.yaml")
    one, row = params.policy, params.policies["nft"]
    assert (one.prompts, one.group, row.images // (one.prompts * one.group)) == (48, 24, 50), (
        "as the page says"
    )
    assert params.llm.max_requests >= params.filter.keep and params.compare[-1] == ("nft", "base")


def test_going_from_one_profile_to_another_leaves_nothing_of_the_first(copy: Path) -> None:
    (copy / "profiles" / "other.yaml").write_text("profile: other\nexpert:\n  rank: 3\n")
    profile.apply("other", copy)
    direct = text(copy)
    profile.apply("sd2", copy)
    profile.apply("other", copy)
    assert text(copy) == direct and load_params(copy / "params.yaml").expert.rank == 3


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_value_is_overlaid_as_null_is(name: str, copy: Path) -> None:
    """As editors and ruamel.yaml write null."""
    before = text(copy)
    (copy / "params.yaml").write_text(before.replace("  model: null ", "  model: "), encoding="utf-8")
    assert text(copy) != before
    profile.apply(name, copy)
    assert load_params(copy / "params.yaml").profile == name
    profile.apply("shapes", copy)
    assert load_params(copy / "params.yaml") == build_params(YAML(typ="safe").load(before), "params.yaml")


def test_a_value_is_written_as_the_profile_writes_it(copy: Path) -> None:
    (copy / "profiles" / "other.yaml").write_text("profile: other\nexpert: {learning_rate: 3e-5}\n")
    profile.apply("other", copy)
    assert "  learning_rate: 3e-5   # of AdamW\n" in text(copy)


def test_rows_are_overlaid_key_by_key_and_a_users_own_row_stays(copy: Path) -> None:
    path = copy / "params.yaml"
    row = "  mine: {weights: models/experts/count, guidance: cfg}    # my own\n"
    path.write_text(text(copy).replace("  merged: {weights:", f"{row}  merged: {{weights:"))
    before = path.read_bytes()
    profile.apply("sdxl", copy)
    models = load_params(path).models
    assert models["base"].weights == "models/backbones/sdxl" and row in text(copy)
    assert models["count"].weights == "models/experts/count"
    profile.apply("shapes", copy)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("block", [True, False])
def test_a_users_own_origins_stay_in_every_profile(name: str, block: bool, copy: Path) -> None:
    """Written in braces or over lines, first or last, applied once or twice, and back."""
    path = copy / "params.yaml"
    benchmark = "  mine: {source: dsg, url: https://a.b/mine.csv}    # my own\n"
    clip = "clip: {kind: clip, path: models/clip/shapes}"
    judge = "mine: {kind: pickscore, path: /judges/mine}"
    judges = f"  judges:\n    {judge}\n    {clip}\n" if block else f"  judges: {{{clip}, {judge}}}\n"
    commit = "a" * 40
    backbone = (
        f"\nbackbones:\n  mine:\n    source: hub\n    id: a/b\n    revision: {commit}  # here\n"
        if block
        else f"\nbackbones: {{mine: {{source: hub, id: a/b, revision: {commit}}}}}\n"
    )
    path.write_text(
        text(copy)
        .replace("\nbackbones: {}\n", backbone)
        .replace("\nbenchmarks:\n", f"\nbenchmarks:\n{benchmark}" if block else "\nbenchmarks:\n")
        .replace("  backbones: {} ", "  backbones: {ours: {path: /models/ours}} ")
        .replace(f"  judges: {{{clip}}}\n", judges)
        .replace("test_per_skill: 30}\n", "test_per_skill: 30}\n" + ("" if block else benchmark))
    )
    before = load_params(path)
    profile.apply(name, copy)
    params = load_params(path)
    assert params.backbones["mine"] == before.backbones["mine"] and name in params.backbones
    assert params.benchmarks["mine"] == before.benchmarks["mine"] and "shapes" not in params.benchmarks
    assert params.own.backbones == before.own.backbones
    assert params.own.backbones["ours"].path == "/models/ours"
    named = load_yaml(copy / "profiles" / f"{name}.yaml")["own"]["judges"]
    assert set(params.own.judges) == {"mine", *named}, "the embedded CLIP is no judge here"
    assert params.own.judges["mine"] == before.own.judges["mine"]
    assert "# my own\n" in text(copy)
    once = path.read_bytes()
    profile.apply(name, copy)
    assert path.read_bytes() == once
    profile.apply("shapes", copy)
    assert load_params(path) == before


ROUNDS = """draws:
  mine: {weights: models/experts/single, prompts: data/questions, images: 2}    # my own
picks: {mine: {source: drawn/mine, picker: first}}
"""


@pytest.mark.parametrize("name", REAL)
def test_a_users_own_rounds_stay_in_every_profile(name: str, copy: Path) -> None:
    path = copy / "params.yaml"
    profile.apply("sd2", copy)
    for key, mine in (
        ("draws: {}\npicks: {}\n", ROUNDS),
        ("\nrate:\n  judges: []", "\nrate:\n  judges: [pickscore]"),
        ("[merged, single]]", "[merged, single], [single, base]]"),
    ):
        assert text(copy).count(key) == 1
        path.write_text(text(copy).replace(key, mine))
    before, mine = load_params(path), path.read_bytes()
    profile.apply(name, copy)
    after = load_params(path)
    assert after.draws["mine"] == before.draws["mine"] and after.picks["mine"] == before.picks["mine"]
    if name != "janus":  # which names these two
        assert (after.rate, after.compare) == (before.rate, before.compare)
        profile.apply("sd2", copy)
        assert path.read_bytes() == mine


OTHER = """profile: other
experts:
  one: {data: data/images, objective: denoising, rank: 3}    # a row of this profile
models:
  one: {weights: models/experts/one, guidance: cfg}
"""


@pytest.mark.parametrize("braces", [False, True])
def test_rows_that_a_profile_adds_go_with_it(braces: bool, copy: Path) -> None:
    path = copy / "params.yaml"
    (copy / "profiles" / "other.yaml").write_text(OTHER)
    before = text(copy)
    if braces:
        start, end = before.index("\nmodels:\n"), before.index("\n\n# Gains to report")
        rows = [row.strip() for row in before[start:end].splitlines()[2:]]
        before = before[:start] + "\nmodels: {" + ", ".join(rows) + "}" + before[end:]
        path.write_text(before)
    profile.apply("other", copy)
    params = load_params(path)
    assert list(params.experts)[-1] == list(params.models)[-1] == "one" and params.experts["one"].rank == 3
    profile.apply("sd2", copy)
    assert "one" not in load_params(path).experts and "one" not in load_params(path).models
    profile.apply("other", copy)
    path.write_text(text(copy).replace("rank: 3}    # a row", "rank: 4}    # a row"))
    row = "  mine: {data: data/images, objective: denoising}\n"
    path.write_text(text(copy).replace("  one: {data", f"{row}  one: {{data"))
    assert profile.apply("shapes", copy)[1] == ["experts.one.rank: 4 becomes nothing"]
    assert row in text(copy), "the user's own stays"
    assert text(copy).replace(row, "") == before


def test_a_users_row_with_the_name_of_one_that_is_added_is_said(copy: Path) -> None:
    path = copy / "params.yaml"
    mine = "  silmm1: {data: data/images, objective: denoising, rank: 9}\n"
    path.write_text(text(copy).replace("  single: {data", f"{mine}  single: {{data"))
    said = profile.apply("janus", copy)[1]
    assert "experts.silmm1.data: data/images becomes data/picked/round1" in said
    one = load_params(path).experts["silmm1"]
    assert (one.objective, one.rank) == ("token_dpo", None)


def test_every_row_of_the_default_is_named_in_its_file() -> None:
    """A row that a profile names and the default does not is that profile's own."""
    params, named = load_yaml(ROOT / "params.yaml"), load_yaml(ROOT / "profiles/shapes.yaml")
    for section in overlay.ROWS:
        assert params[section].keys() == named[section].keys()


def test_what_a_user_changed_and_loses_is_said(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copy)
    profile.main(["sd2"])
    assert "yours" not in capsys.readouterr().out
    path = copy / "params.yaml"
    changed = text(copy).replace("  rank: 128\n", "  rank: 16\n").replace("seed: 42 ", "seed: 43 ")
    path.write_text(changed)
    assert profile.main(["sd2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert (
        said
        == "yours would not stay: expert.rank: 16 becomes 128\nprofile sd2 would change 1 values of params.yaml\n"
    )
    assert text(copy) == changed
    assert profile.main(["sd2"]) == 0
    assert "yours did not stay: expert.rank: 16 becomes 128\n" in capsys.readouterr().out
    assert load_params(path).expert.rank == 128 and load_params(path).seed == 43  # no profile names the seed
    assert profile.main(["sd2"]) == 0
    assert "0 values changed" in capsys.readouterr().out


def test_a_profiles_origins_replace_those_of_the_default(copy: Path) -> None:
    (copy / "profiles" / "other.yaml").write_text(
        "profile: other\nbenchmarks:\n  shapes: {source: shapes, seed: 1, dev_per_skill: 1, test_per_skill: 2}\n"
        "  more: {source: shapes, seed: 2, dev_per_skill: 3, test_per_skill: 4}\n"
    )
    profile.apply("other", copy)
    assert set(load_params(copy / "params.yaml").benchmarks) == {"shapes", "more"}
    assert "# Stages ---" in text(copy)


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ("profile: other\nexpert: {rnak: 3}\n", "key expert.rnak is not in params.yaml"),
        ("profile: other\nexpert: {rank: 0}\n", "profiles/other.yaml on params.yaml: expert.rank is 0"),
        ("profile: other\nmodels:\n  mine: {weights: x}\n", "key models.mine.weights is not in params.yaml"),
        ("profile: shapes\nseed: 3\n", "must say `profile: other`"),
        ("profile: [\n", "is not valid YAML"),
        ("profile: other\n? [a, b]\n: 3\n", "key [a, b] is not in params.yaml"),
        ("", "must say `profile: other`"),
    ],
)
def test_a_profile_that_cannot_be_changes_nothing(contents: str, says: str, copy: Path) -> None:
    (copy / "profiles" / "other.yaml").write_text(contents)
    before = text(copy)
    with pytest.raises(UserError) as error:
        profile.apply("other", copy)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert text(copy) == before and not list(copy.glob(".tmp-*"))


def test_an_unknown_profile_gets_the_list(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copy)
    assert profile.main(["sd3"]) == 2
    assert capsys.readouterr().err == f"error: unknown profile sd3; allowed: {', '.join(NAMES)}\n"
    with pytest.raises(SystemExit, match="2"):
        profile.main([])
