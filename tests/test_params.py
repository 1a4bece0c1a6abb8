"""params.yaml is read strictly: whatever is wrong in it is one line that names the key and what is allowed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from selma.backbones import schedulers
from selma.ground.errors import UserError
from selma.ground.schema import hints
from selma.runtime import drawing, variants
from selma.runtime.checks import warn
from selma.runtime.params import Expert, Params, load_params
from selma.runtime.schema import load_yaml
from selma.runtime.training import Training, training_of

ROOT = Path(__file__).parents[1]
COMMITTED = load_yaml(ROOT / "params.yaml")


def write(folder: Path, contents: Any) -> Path:
    path = folder / "params.yaml"
    with open(path, "w", encoding="utf-8") as file:
        YAML().dump(contents, file)
    return path


def changed(key: str, value: Any) -> dict[str, Any]:
    """The committed params with one value changed; `del` as the value removes the key."""
    contents = copy.deepcopy(COMMITTED)
    *path, last = key.split(".")
    section = contents
    for part in path:
        section = section[part]
    if value is del_:
        del section[last]
    else:
        section[last] = value
    return contents


del_ = object()


def test_the_committed_params_load() -> None:
    params = load_params(ROOT / "params.yaml")
    assert isinstance(params, Params)
    assert params.images.drawing.steps == COMMITTED["images"]["drawing"]["steps"]
    assert params.experts["count"].data == "data/images/count"
    assert params.skills == tuple(COMMITTED["skills"])


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_a_float_may_be_written_as_dvc_and_people_write_it(text: str, tmp_path: Path) -> None:
    """PyYAML takes 1e-4, as `dvc exp run -S` writes it, for a string."""
    source = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    lines = [f"  learning_rate: {text}" if line.startswith("  learning_rate:") else line for line in source]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines))
    assert load_params(path).expert.learning_rate == 1e-4


def test_an_integer_is_a_float_where_one_is_wanted(tmp_path: Path) -> None:
    guidance = load_params(write(tmp_path, changed("images.drawing.guidance", 2))).images.drawing.guidance
    assert guidance == 2.0 and isinstance(guidance, float)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("expert.rank", 0, "expert.rank is 0; it must be greater than or equal to 1"),
        ("expert.rank", "16", "expert.rank is '16'; it must be a valid integer"),
        ("expert.rank", 16.0, "expert.rank is 16.0; it must be a valid integer"),
        ("expert.rank", True, "expert.rank is True; it must be a valid integer"),
        ("expert.rnak", 8, "unknown key expert.rnak; did you mean rank?"),
        ("expert.rank", del_, "missing key expert.rank; expert needs backbone, rank, alpha"),
        ("colour", "red", "unknown key colour; it must be one of: profile, seed"),
        ("merges", del_, "missing key merges"),
        ("merges", None, "merges is None; it must be a mapping"),
        ("merges.merged", None, "merges.merged is None; it must be a mapping of operator, experts"),
        ("merges.merged.operator", "mean", "it must be one of: dare, delta_mean, factor_mean"),
        (
            "merges.merged.experts",
            ["count", "animals"],
            "merges.merged.experts holds animals; it must be one in",
        ),
        ("merges.merged.experts", [], "merges.merged.experts is []; it must have at least 1 item"),
        (
            "experts.count",
            del_,
            "merges.merged.experts is null (one expert for each skill), but no expert is called",
        ),
        ("skills", ["count", "count"], "it must not name count twice"),
        ("skills", "count", "skills is 'count'; it must be a list"),
        ("skills", ["../count"], "skills[0] is '../count'; it must be a name"),
        # A step of a dotted key, for DVC and for `dvc exp run -S`.
        ("skills", ["sd1.4"], "skills[0] is 'sd1.4'; it must be a name of letters, digits and _ -"),
        ("models.a+b", {}, "a key of models is 'a+b'; it must be a name of letters, digits and _ -"),
        # Part of file names, which hold 255 bytes: metrics/merge/<name>.json, exports/.new-<profile>-<name>-kohya.
        (f"merges.{'x' * 101}", {}, "a name of letters, digits and _ -, at most 100"),
        ("skills", ["x" * 101], "a name of letters, digits and _ -, at most 100"),
        ("profile", "x" * 101, "a name of letters, digits and _ . + -, at most 100"),
        ("experts.count.data", "data/images/animals", "experts.count.data is data/images/animals"),
        (
            "experts.count.data",
            "data/images/",
            "experts.count.data is data/images/; it must be one filled by",
        ),
        (
            "experts.count.data",
            "~/images",
            "experts.count.data is '~/images'; it must be a path on this disk",
        ),
        ("experts.count.data", "data/samples/base/shapes", "which shows the benchmarks' test prompts"),
        (
            "experts.count.skills",
            ["count"],
            "experts.count.skills: its data is data/images/count; only experts with data data/images choose skills",
        ),
        ("experts.single.skills", ["cuont"], "experts.single.skills holds cuont; it must be one in `skills`"),
        ("experts.single.skills", [], "experts.single.skills is []; it must have at least 1 item"),
        ("experts.single.skills", ["tags", "tags"], "it must not name tags twice"),
        ("experts.single.skills", "tags", "experts.single.skills is 'tags'; it must be a list"),
        ("expert.flip", "yes", "expert.flip is 'yes'; it must be a valid boolean"),
        ("expert.init", "random", "expert.init is 'random'; it must be one of: shared, own"),
        ("expert.steps", 10, "it must be at most the 10 steps of expert objects"),
        ("experts.count.objective", "gan", "experts.count.objective is 'gan'; it must be one of: denoising"),
        ("experts.a b", {}, "a key of experts is 'a b'; it must be a name"),
        ("models.base.weights", "models/backbones/other", "models.base.weights is models/backbones/other"),
        ("models.base.guidance", "none", "models.base.guidance is 'none'; it must be one of: cfg"),
        (
            "models.base",
            {"weights": "models/backbones/shapes", "guidance": "syngen", "options": {"step": -1}},
            "models.base.options: step is -1; it must be greater than or equal to 0",
        ),
        (
            "models.base",
            {"weights": "models/backbones/shapes", "guidance": "cfg", "options": {"step": 1}},
            "models.base.options: cfg has no settings; leave them out",
        ),
        ("models.merged", del_, "compare[0] holds merged; it must be one in `models`"),
        (
            "models.skill",
            {"weights": "models/experts/count", "guidance": "cfg"},
            "models.skill: metrics/items.csv has",
        ),
        (
            "merges.count",
            {"operator": "delta_mean", "experts": None},
            "merges.count: an expert has that name",
        ),
        ("compare", [["merged", "merged"]], "compare[0] compares merged with itself"),
        ("compare", [["merged", "base"]] * 2, "compare names [merged, base] twice"),
        ("compare", [["merged"]], "missing key compare[0][1]; compare[0] needs one more"),
        ("compare", [["a", "b", "c"]], "compare[0] is ['a', 'b', 'c']; it must have at most 2 items, not 3"),
        ("compare", [], "compare is []; it must have at least 1 item"),
        ("filter.keep", 10**6, "they must be at most prompts.candidates"),
        ("filter.rouge_l", 1.5, "filter.rouge_l is 1.5; it must be less than or equal to 1"),
        ("filter.rouge_l", float("nan"), "filter.rouge_l is nan; it must be a finite number"),
        ("prompts.examples", 4, "prompts.examples is 4; it must be less than or equal to 3"),
        (
            "images.drawing.guidance",
            float("inf"),
            "images.drawing.guidance is inf; it must be a finite number",
        ),
        ("images.drawing.scheduler", "ddmi", "images.drawing.scheduler is 'ddmi'; it must be one of: ddim"),
        ("images.drawing", 3, "images.drawing is 3; it must be a mapping of scheduler, steps, guidance"),
        ("expert.learning_rate", 0, "expert.learning_rate is 0; it must be greater than 0"),
        (
            "evaluate.benchmarks",
            ["tifa"],
            "evaluate.benchmarks holds tifa; it must be one in `benchmarks` or `own.benchmarks`: shapes",
        ),
        ("evaluate.benchmarks", [], "evaluate.benchmarks is []; it must have at least 1 item"),
        ("evaluate.benchmarks", ["shapes", "shapes"], "it must not name shapes twice"),
        ("evaluate.benchmarks", None, "evaluate.benchmarks is None; it must be a list"),
        (
            "benchmarks.shapes",
            {"source": "hps", "files": {"photo": {"url": "x"}}},
            "has no questions, so it cannot",
        ),
        (
            "own.benchmarks.shapes",
            {"source": "dsg", "path": "x"},
            "own.benchmarks.shapes: `benchmarks` has a row of that name; choose another",
        ),
        ("own.backbones.shapes", {"path": "x"}, "own.backbones.shapes: an embedded backbone has this name"),
        (
            "judge.kind",
            "blip2",
            "judge.kind is blip2, but judges.oracle.kind is oracle; they must be the same",
        ),
        ("preferences", ["oracle"], "preferences holds oracle, which does not score images"),
        ("preferences", ["owl", "owl"], "it must not name owl twice"),
        ("llm.provider", "gpt", "llm.provider is 'gpt'; it must be one of: openai, shapes"),
        ("runtime.dtype", "fp16", "runtime.dtype is 'fp16'; it must be one of: float32, bfloat16, float16"),
        ("seed", -1, "seed is -1; it must be greater than or equal to 0"),
    ],
)
def test_what_is_wrong_is_named(key: str, value: Any, says: str, tmp_path: Path) -> None:
    path = write(tmp_path, changed(key, value))
    with pytest.raises(UserError) as error:
        load_params(path)
    assert says in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_row_may_be_shorter_than_the_distance_of_checkpoints(tmp_path: Path) -> None:
    """It then has its last step alone; a short expert is no reason to train the others anew."""
    params = load_params(write(tmp_path, changed("experts.count.steps", 10)))
    training = training_of(params.expert, params.experts["count"])
    assert training.steps == 10 < training.checkpoint_every


def test_two_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    """DVC joins a model's and a benchmark's name by a dash."""
    contents = changed("models.base-a", COMMITTED["models"]["count"])
    contents["benchmarks"] |= {name: COMMITTED["benchmarks"]["shapes"] for name in ("b", "a-b")}
    contents["evaluate"]["benchmarks"] = ["shapes", "b", "a-b"]
    with pytest.raises(UserError) as error:
        load_params(write(tmp_path, contents))
    assert "base with a-b and base-a with b would make two stages sample@base-a-b; rename" in str(error.value)


def test_a_skill_without_an_expert_and_a_merge_that_forgets_one_are_warned_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = changed("merges.merged.experts", ["count"])
    for section, names in (("experts", ["single", "tags"]), ("models", ["single", "tags"])):
        for name in names:
            del contents[section][name]
    contents["compare"] = [["merged", "base"]]
    params = load_params(write(tmp_path, contents))
    assert not capsys.readouterr().err, "forty stages read params.yaml: each warning is for one of them"
    warn(params)
    skill, merge = capsys.readouterr().err.splitlines()
    assert skill.startswith("warning: skills holds tags, but no expert trains on its images")
    assert merge.startswith(
        "warning: merges.merged leaves out the skill's expert objects, paragraph, counterfactual"
    )
    for about, said in (("tags", skill), ("merged", merge), ("count", "")):
        warn(params, about)
        assert capsys.readouterr().err.strip() == said
    contents["experts"]["single"] = {**COMMITTED["experts"]["single"], "skills": ["count"]}
    warn(load_params(write(tmp_path, contents)), "tags")
    assert capsys.readouterr().err.strip() == skill, "it trains on all of data/images' skills but this one"
    contents["experts"]["single"]["skills"] = ["count", "tags"]
    warn(load_params(write(tmp_path, contents)), "tags")
    assert not capsys.readouterr().err
    warn(load_params(ROOT / "params.yaml"))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is None; it must be a mapping of profile, seed"),
        ("- a\n", "the file is ['a']"),
        ("seed: [1\n", "is not valid YAML"),
        ("seed: 1\nseed: 2\n", "is not valid YAML"),
        ("seed: !!python/object:os.system 1\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_params(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(UserError, match="UTF-8"):
        load_params(tmp_path / "params.yaml")


def _leaves(value: Any, key: str = "") -> list[str]:
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in _leaves(item, f"{key}.{name}".lstrip("."))]
    return [key]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
junk = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(_leaves(COMMITTED)), value=junk)
def test_any_value_loads_or_is_one_line(key: str, value: Any, tmp_path: Path) -> None:
    try:
        params = load_params(_write_junk(tmp_path, lambda: changed(key, value)))
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        loaded: Any = params
        for part in key.split("."):
            loaded = loaded[part] if isinstance(loaded, dict) else getattr(loaded, part)
        assert loaded == (tuple(value) if isinstance(value, list) else value)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UserError) as error:
        load_params(path)
    assert len(str(error.value).splitlines()) == 1


def _write_junk(folder: Path, contents: Callable[[], Any]) -> Path:
    buffer = StringIO()
    YAML().dump(contents(), buffer)
    path = folder / "params.yaml"
    path.write_text(buffer.getvalue(), encoding="utf-8", errors="surrogatepass")
    return path


def test_settings_of_training_that_a_file_does_without_are_the_papers(tmp_path: Path) -> None:
    contents = changed("expert.flip", del_)
    del contents["expert"]["init"]
    assert load_params(write(tmp_path, contents)) == load_params(ROOT / "params.yaml")


def test_the_schedulers_are_those_the_library_knows() -> None:
    assert set(drawing.SCHEDULERS) == {*schedulers.SCHEDULERS, drawing.TOKENS}


def test_a_row_trains_by_its_own_settings_and_the_sections_otherwise(tmp_path: Path) -> None:
    own = {"rank": 16, "alpha": 4.0, "targets": ["to_q"], "learning_rate": 1e-4, "batch": 8, "steps": 600}
    contents = changed("experts.count", {**COMMITTED["experts"]["count"], **own, "caption_dropout": 0.0})
    contents["expert"]["caption_dropout"] = 0.5
    contents["merges"]["merged"]["experts"] = ["objects", "tags"]
    params = load_params(write(tmp_path, contents))
    settings = training_of(params.expert, params.experts["count"])
    assert {name: getattr(settings, name) for name in own} == {**own, "targets": ("to_q",)}
    assert settings.caption_dropout == 0.0, "zero is a value, null is none"
    assert settings.resolution == params.expert.resolution
    assert training_of(params.expert, params.experts["objects"]) == params.expert


def test_what_a_row_may_set_is_what_the_section_takes() -> None:
    """One rule for a setting, wherever it stands."""
    shared = {name: kind for name, kind in hints(Expert).items() if name in hints(Training)}
    assert {"rank", "alpha", "targets", "learning_rate", "batch", "steps", "caption_dropout"} <= shared.keys()
    for name, kind in shared.items():
        assert kind in (hints(Training)[name], hints(Training)[name] | None), name
    page = (ROOT / "docs/real-runs.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    told = {name for row in rows if row[-2].strip() == "row" for name in re.findall(r"`(\w+)`", row[1])}
    assert told == shared.keys(), "docs/real-runs.md lists them"


LEARNER = {
    "algorithm": "nft",
    "start": "models/experts/count",
    "prompts": "data/questions",
    "rewards": {"oracle": 1.0},
    "images": 5760,
}


@pytest.mark.parametrize(
    ("rows", "operator", "says"),
    [
        (
            {"count": {"rank": 16, "alpha": 16}},
            "factor_mean",
            "merges.merged.operator is factor_mean, which needs experts of one rank; count has 16, objects 8; "
            "allowed: dare, delta_mean",
        ),
        ({"count": {"alpha": 16}}, "factor_mean", "needs experts of one scaling; count has 2, objects 1"),
        ({"count": {"rank": 16, "alpha": 16}}, "delta_mean", None),
        ({"count": {"rank": 16, "alpha": 1}}, "svd", None),
        ({"count": {"targets": ["to_v", "to_out.0", "to_k", "to_q"]}}, "factor_mean", None),
        (
            {"count": {"targets": ["to_q", "conv1"]}},
            "delta_mean",
            "merges.merged.experts: count has other targets (to_q, conv1) than objects (to_q, to_k, to_v, to_out.0)",
        ),
        ({"single": {"rank": 99}}, "factor_mean", None),  # it is not merged
    ],
)
def test_a_merge_that_cannot_hold_its_experts_is_refused_before_they_are_trained(
    rows: dict[str, Any], operator: str, says: str | None, tmp_path: Path
) -> None:
    contents = changed("merges.merged.operator", operator)
    for name, own in rows.items():
        contents["experts"][name] = {**contents["experts"][name], **own}
    path = write(tmp_path, contents)
    if says is None:
        load_params(path)
        return
    with pytest.raises(UserError) as error:
        load_params(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_policy_merges_as_what_it_starts_from(tmp_path: Path) -> None:
    contents = changed("policies", {"learner": LEARNER})
    contents["merges"]["merged"]["experts"] = ["count", "learner"]
    load_params(write(tmp_path, contents))
    contents["policies"]["learner"] = {**LEARNER, "start": "models/backbones/shapes"}
    with pytest.raises(UserError, match="one rank; learner has 16, count 8"):
        load_params(write(tmp_path, contents))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("expert.schedule", "step", "expert.schedule is 'step'; it must be one of: constant, linear, cosine"),
        ("expert.warmup", -1, "expert.warmup is -1; it must be greater than or equal to 0"),
        ("expert.warmup", 300, "expert.warmup is 300; it must be less than the 300 steps of expert objects"),
        ("expert.min_snr", 0, "expert.min_snr is 0; it must be greater than 0"),
        ("expert.ema", 1.0, "expert.ema is 1.0; it must be less than 1"),
        ("experts.count.warmup", 900, "experts.count.warmup is 900; it must be less than the 300 steps of"),
        ("experts.count.batch", 0, "experts.count.batch is 0; it must be greater than or equal to 1"),
        ("experts.count.samples", 4, "unknown key experts.count.samples"),  # DVC watches a row as a whole
        ("experts.count.init", "own", "unknown key experts.count.init; it must be one of: data, objective"),
    ],
)
def test_impossible_training_is_named(key: str, value: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_params(write(tmp_path, changed(key, value)))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_batch_of_a_rows_own_is_cut_into_no_more_parts_than_it_has(tmp_path: Path) -> None:
    contents = changed("expert.accumulate", 4)
    contents["experts"]["count"]["batch"] = 2
    with pytest.raises(UserError, match=r"accumulate is 4; it must be at most experts\.count\.batch \(2\)"):
        load_params(write(tmp_path, contents))


def test_an_objective_that_does_not_weigh_steps_is_not_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "constants", lambda door, name: {})
    contents = changed("experts.count.min_snr", 5)
    contents["policies"] = {}
    with pytest.raises(UserError, match=r"experts\.count\.min_snr is 5, which the objective of expert count"):
        load_params(write(tmp_path, contents))
