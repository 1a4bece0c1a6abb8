"""What is known of a stage's run before it begins: its params, its commit, what it reads, which model it is about."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def of_stage(name: str) -> dict[str, Any]:
    """`params` that it declares, `tags`, `inputs` that earlier stages made, the pipeline's `run` and `settings`."""
    return {"params": _declared(name), "tags": _tags(name), "inputs": _inputs(name), **_pipeline()}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; an empty one is a value."""
    if not isinstance(value, Mapping) or (prefix and not value):
        return {prefix: value}
    return {
        k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}.{key}".lstrip(".")).items()
    }


def _declared(name: str) -> dict[str, Any]:
    """The values of the params that dvc.yaml declares for the stage, by dotted key."""
    from selma.runtime.dvcfile import load_stages, lookup
    from selma.runtime.schema import load_yaml

    if not Path("dvc.yaml").is_file():
        return {}
    stage = load_stages(Path.cwd()).get(name)
    plain = load_yaml(Path("params.yaml"))
    return flatten({key: lookup(plain, key) for key in stage.params}) if stage else {}


def _pipeline() -> dict[str, Any]:
    """`run`: the name of this pipeline execution, the same for all its stages; `settings`: all of params.yaml."""
    from selma.runtime.schema import load_yaml

    path = Path("params.yaml")
    params = path.read_bytes() if path.is_file() else b""
    short = f"{_git('rev-parse', '--short', 'HEAD') or 'nogit'}-{hashlib.sha256(params).hexdigest()[:6]}"
    plain = load_yaml(path) if params else {}
    return {
        "run": os.environ.get("DVC_EXP_NAME") or short,
        "settings": {**flatten(plain), **_headline(plain)},
    }


def _headline(params: Any) -> dict[str, str]:
    """What the leading comparison is about, under names that hold for any rows: its pair, and the merge's operator."""
    with suppress(LookupError, TypeError, AttributeError):
        first, second = params["compare"][0]
        merge = params["merges"].get(Path(params["models"][first]["weights"]).name)
        operator = {"merge.operator": merge["operator"]} if merge else {}
        return {"leading": f"{first} over {second}", **operator}
    return {}


def _tags(name: str) -> dict[str, str]:
    tags = {"dvc.stage": name, "git.commit": _git("rev-parse", "HEAD") or "none", "git.dirty": _dirty()}
    if "@" in name:
        tags["dvc.key"] = name.partition("@")[2]
    with suppress(OSError, KeyError, TypeError):
        from selma.runtime.schema import load_yaml

        params = load_yaml(Path("params.yaml"))
        tags["profile"] = str(params["profile"])
        tags["model"] = _model(str(params["expert"]["backbone"]))
    return tags


def _dirty() -> str:
    """Whether tracked files differ from the commit; what a pipeline writes as it runs does not count."""
    made = (":(exclude)dvc.lock", ":(exclude)metrics")
    return "yes" if _git("status", "--porcelain", "--untracked-files=no", "--", ".", *made) else "no"


def _model(backbone: str) -> str:
    """The base model: its name, and where it is from the hub, which commit."""
    source = Path("models/backbones") / backbone / "source.json"
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        found = json.loads(source.read_text(encoding="utf-8"))
        if found["id"]:
            return f"{found['id']}@{found['commit'][:12]}"
    return backbone


def _inputs(name: str) -> dict[str, str]:
    """DVC's checksum of each of the stage's deps that an earlier stage made."""
    from selma.runtime.dvcfile import load_stages

    if not (Path("dvc.lock").is_file() and Path("dvc.yaml").is_file()):
        return {}
    import yaml  # thirty times ruamel's speed, and enough for a file that a machine wrote

    lock = yaml.load(
        Path("dvc.lock").read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    stages = load_stages(Path.cwd())
    # DVC keeps entries of stages that no longer exist.
    known = [ran for title, ran in lock.get("stages", {}).items() if title in stages]
    made = {o["path"]: o.get("md5") for ran in known for o in ran.get("outs", ())}
    stage = stages.get(name)
    return {dep: str(made[dep]) for dep in (stage.deps if stage else ()) if made.get(dep)}


def _git(*arguments: str) -> str:
    """One git command's output; '' where there is no git or no commit. Takes no lock that DVC could trip over."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            check=False,
        )
    except OSError:  # there is no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
