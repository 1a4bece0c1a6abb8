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

from selma.runtime import lockfile


def of_stage(name: str) -> dict[str, Any]:
    """`params` that it declares, `tags`, `inputs` that earlier stages made, the pipeline's `run` and `settings`."""
    commit, dirty = _commit()
    tags = {**_tags(name), "git.commit": commit or "none", "git.dirty": "yes" if dirty else "no"}
    return {"params": _declared(name), "tags": tags, "inputs": _inputs(name), **_pipeline(commit)}


def execution(commit: str, params: bytes) -> str:
    """The name of a pipeline execution that is no experiment: its commit ('': none), and a hash of its params.yaml."""
    return f"{commit[:7] or 'nogit'}-{hashlib.sha256(params).hexdigest()[:6]}"


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


def _pipeline(commit: str) -> dict[str, Any]:
    """`run`: the name of this pipeline execution, the same for all its stages; `settings`: all of params.yaml."""
    from selma.runtime.schema import load_yaml

    path = Path("params.yaml")
    params = path.read_bytes() if path.is_file() else b""
    plain = load_yaml(path) if params else {}
    return {
        "run": os.environ.get("DVC_EXP_NAME") or execution(commit, params),
        "settings": {**flatten(plain), **_headline(plain)},
    }


def _headline(params: Any) -> dict[str, str]:
    """What the leading comparison is about, under names that hold for any rows: its pair, and the merge's operator,
    the policy's algorithm or the mixture's objective."""
    with suppress(LookupError, TypeError, AttributeError):
        first, second = params["compare"][0]
        name = Path(params["models"][first]["weights"]).name
        merge, policy = params["merges"].get(name), params.get("policies", {}).get(name)
        how = {"merge.operator": merge["operator"]} if merge else {}
        how |= {"policy.algorithm": policy["algorithm"]} if policy else {}
        mixture = params.get("mixtures", {}).get(name)
        how |= {"mixture.objective": mixture["objective"]} if mixture else {}
        return {"leading": f"{first} over {second}", **how}
    return {}


def _tags(name: str) -> dict[str, str]:
    tags = {"dvc.stage": name}
    if "@" in name:
        tags["dvc.key"] = name.partition("@")[2]
    with suppress(OSError, KeyError, TypeError):
        from selma.runtime.schema import load_yaml

        params = load_yaml(Path("params.yaml"))
        tags["profile"] = str(params["profile"])
        tags["model"] = _model(str(params["expert"]["backbone"]))
    return tags


def _commit() -> tuple[str, bool]:
    """The commit, '' where there is none, and whether tracked files differ; what a pipeline writes does not count."""
    made = (":(exclude)dvc.lock", ":(exclude)metrics")
    status = _git("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--", ".", *made)
    lines = status.splitlines()
    commits = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    commit = next((found for found in commits if found != "(initial)"), "")
    return commit, any(not line.startswith("#") for line in lines)


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
    stages = load_stages(Path.cwd())
    if name not in stages:
        return {}
    makers = {
        out: title for title, made in stages.items() for out in (*made.outs, *made.metrics, *made.plots)
    }
    needed = {dep: makers[dep] for dep in stages[name].deps if dep in makers}
    found = lockfile.checksums(set(needed.values()))
    return {dep: str(found[dep]) for dep in needed if found.get(dep)}


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
