"""params.yaml is read strictly: whatever is wrong in it is one line that names the key and what is allowed."""

from __future__ import annotations

import copy
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
from selma.runtime import params as schema
from selma.runtime.params import Params, load_params
from selma.runtime.schema import load_yaml

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
    assert params.images.steps == COMMITTED["images"]["steps"]
    assert params.experts["count"].data == "data/images/count"
    assert params.skills == tuple(COMMITTED["skills"])


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_a_float_may_be_written_as_dvc_and_people_write_it(text: str, tmp_path: Path) -> None:
    """PyYAML takes 1e-4, as `dvc exp run -S` writes it, for a string."""
    source = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    lines = [f"  learning_rate: {text}" if "learning_rate:" in line else line for line in source]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines))
    assert load_params(path).expert.learning_rate == 1e-4


def test_an_integer_is_a_float_where_one_is_wanted(tmp_path: Path) -> None:
    guidance = load_params(write(tmp_path, changed("images.guidance", 2))).images.guidance
    assert guidance == 2.0 and isinstance(guidance, float)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("expert.rank", 0, "expert.rank is 0; it must be at least 1"),
        ("expert.rank", "16", "expert.rank is '16'; it must be an integer"),
        ("expert.rank", 16.0, "expert.rank is 16.0; it must be an integer"),
        ("expert.rank", True, "expert.rank is True; it must be an integer"),
        ("expert.rnak", 8, "unknown key expert.rnak; did you mean rank?"),
        ("expert.rank", del_, "missing key expert.rank"),
        ("colour", "red", "unknown key colour"),
        ("merge", del_, "missing key merge"),
        ("merge", None, "merge is None; it must be a mapping of operator, experts"),
        ("merge.operator", "ties", "it must be one of: factor_mean, delta_mean"),
        ("merge.experts", ["count", "animals"], "merge.experts holds animals; it must be one in `experts`"),
        ("merge.experts", [], "merge.experts is []; it must name at least one"),
        ("skills", ["count", "count"], "it must not name count twice"),
        ("skills", "count", "skills is 'count'; it must be a list"),
        ("skills", ["../count"], "skills[0] is '../count'; it must be a name"),
        ("experts.count.data", "data/images/animals", "experts.count.data is data/images/animals"),
        ("experts.count.data", "/data/images/count", "experts.count.data is /data/images/count"),
        ("experts.count.steps", 10, "it must be at most the 10 steps of expert count"),
        ("models.base.weights", "models/backbones/other", "models.base.weights is models/backbones/other"),
        ("models.merged", del_, "models.merged is needed"),
        ("filter.keep", 10**9, "it must be at most prompts.candidates"),
        ("filter.rouge_l", 1.5, "filter.rouge_l is 1.5; it must lie from 0 to 1"),
        ("filter.rouge_l", float("nan"), "filter.rouge_l is nan; it must be a number"),
        ("prompts.examples", 4, "prompts.examples is 4; it must lie from 1 to 3"),
        ("images.guidance", float("inf"), "images.guidance is inf; it must be a number"),
        ("images.scheduler", "ddmi", "images.scheduler is 'ddmi'; it must be one of: ddim"),
        ("expert.learning_rate", 0, "expert.learning_rate is 0; it must be above 0"),
        ("evaluate.benchmark", "tifa", "evaluate.benchmark is tifa; it must be one in `benchmarks`"),
        ("evaluate.others", ["tifa"], "evaluate.others holds tifa; it must be one in `benchmarks`: shapes"),
        ("evaluate.others", ["shapes"], "evaluate.others holds shapes, which is evaluate.benchmark"),
        ("evaluate.others", ["tifa", "tifa"], "it must not name tifa twice"),
        ("evaluate.others", None, "evaluate.others is None; it must be a list"),
        ("preferences", ["owl", "owl"], "it must not name owl twice"),
        ("runtime.dtype", "fp16", "runtime.dtype is 'fp16'; it must be one of: float32, bfloat16, float16"),
        ("seed", -1, "seed is -1; it must lie from 0"),
    ],
)
def test_what_is_wrong_is_named(key: str, value: Any, says: str, tmp_path: Path) -> None:
    path = write(tmp_path, changed(key, value))
    with pytest.raises(UserError) as error:
        load_params(path)
    assert says in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is None"),
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


def test_the_schedulers_are_those_the_library_knows() -> None:
    assert set(schema.SCHEDULERS) == set(schedulers.SCHEDULERS)
