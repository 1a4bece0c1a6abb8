"""A published pipeline becomes a backbone folder: what is loaded of it, and nothing else.

A multimodal model in transformers' layout lies in one folder, of which all but code is taken. A pipeline in diffusers'
layout holds each part's weights several times (pickled, for other frameworks, in several precisions) and parts that are
not loaded here. Of those, one set of safetensors is taken, under the names that every reader looks for, and
`source.json` says where it came from:

    {"source": "hub", "id": ..., "revision": ..., "commit": ..., "licence": ..., "variant": ...,
     "vae": {"id": ..., "commit": ..., "licence": ...} or null, "files": {path: sha256}}
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from selma.ground.backbones import CONFIG, INDEX, MULTIMODAL
from selma.ground.errors import UserError, first_line
from selma.ground.files import atomic, read_json, sha256_file, write_json
from selma.net.hub import Repository, open_hub
from selma.runtime import work
from selma.runtime.origins import Backbone, OwnBackbone

SOURCE = "source.json"

# Parts of a Stable Diffusion pipeline that are not loaded here; the pipeline opens without them.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")

SETTINGS = (".json", ".txt", ".model")  # what tokenizers and schedulers are made of
PROCESSOR = (*SETTINGS, ".jinja")  # and a multimodal model's processor


def fetch_pipeline(
    repository: Repository, out: Path, variant: str | None = None, vae: Repository | None = None
) -> dict[str, str]:
    """Put what is loaded of a pipeline into `out`, another repository's VAE in place of its own if one is given.

    Returns the sha256 of each file by its path in `out`. What a killed run downloaded is used again.
    Raises UserError where weights are not in safetensors, are corrupt, or do not match the hub's hashes.
    """
    if INDEX not in repository.files and CONFIG in repository.files:
        return _fetch_multimodal(repository, out, variant, vae)
    index = read_json(repository.fetch(INDEX)) if INDEX in repository.files else None
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"{repository.name}: holds no pipeline in diffusers' layout (no {INDEX})")
    wanted = {
        target: (repository, source) for target, source in loaded_files(index, repository, variant).items()
    }
    if vae is not None:
        part = "vae/" if any(file.startswith("vae/") for file in vae.files) else ""
        replaced = _weights(vae, part, variant)
        wanted = {target: found for target, found in wanted.items() if not target.startswith("vae/")}
        wanted |= {f"vae/{target.removeprefix(part)}": (vae, source) for target, source in replaced.items()}

    hashes = {}
    for target, (origin, source) in sorted(wanted.items()):
        hashes[target] = _place(origin, source, out / target)
    write_json(out / INDEX, _without(index, UNUSED))
    hashes[INDEX] = sha256_file(out / INDEX)
    return dict(sorted(hashes.items()))


def _fetch_multimodal(
    repository: Repository, out: Path, variant: str | None, vae: Repository | None
) -> dict[str, str]:
    """The same of a multimodal model: its weights, configuration and processor; no code, which would not be run."""
    config = read_json(repository.fetch(CONFIG))
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in MULTIMODAL:
        raise UserError(
            f"{repository.name}: its {CONFIG} is of a {str(kind)[:40]!r}; allowed: a pipeline in diffusers' layout "
            f"({INDEX}), or a multimodal model of type {', '.join(MULTIMODAL)}"
        )
    if vae is not None:
        raise UserError(
            f"{repository.name}: is a multimodal model, whose image tokens are its own; leave out vae"
        )
    settings = [file for file in repository.files if "/" not in file and file.endswith(PROCESSOR)]
    wanted = {file: file for file in settings if not file.endswith(".safetensors.index.json")}
    wanted |= _weights(repository, "", variant)
    return {target: _place(repository, source, out / target) for target, source in sorted(wanted.items())}


def take_pipeline(
    repository: Repository, wanted: Backbone | OwnBackbone, folder: Path, check: Callable[[Path], object]
) -> Path:
    """What is loaded of a row's pipeline, and source.json, in a folder under `folder`, which is returned.

    Another VAE is downloaded where the row names one. `check` opens the folder, and raises UserError if it cannot.
    """
    vae = open_hub(wanted.vae.id, wanted.vae.revision, folder / "vae") if wanted.vae else None
    out = folder / "backbone"
    files = fetch_pipeline(repository, out, wanted.variant, vae)
    with work.called({out: repository.name}):
        check(out)
    write_source(out, repository, wanted, vae, files)
    return out


def write_source(
    out: Path,
    repository: Repository,
    wanted: Backbone | OwnBackbone,
    vae: Repository | None,
    files: Mapping[str, str],
) -> None:
    """Write source.json: where a backbone came from, by its row of params.yaml, and what `fetch_pipeline` returned."""
    pinned = isinstance(wanted, Backbone)
    came = {
        "source": "hub" if pinned else "local",
        "id": wanted.id if pinned else None,
        "revision": wanted.revision if pinned else None,
        "commit": repository.commit,
        "licence": repository.licence,
        "variant": wanted.variant,
        "vae": vae and {"id": wanted.vae.id, "commit": vae.commit, "licence": vae.licence},
        "files": files,
    }
    write_json(out / SOURCE, came)


def loaded_files(index: Mapping[str, Any], repository: Repository, variant: str | None) -> dict[str, str]:
    """What is loaded of a pipeline: path in a backbone folder -> file of the repository, the index left out."""
    found: dict[str, str] = {}
    for part, spec in index.items():
        if part.startswith("_") or part in UNUSED or not (isinstance(spec, list) and all(spec)):
            continue
        named = len(spec) == 2 and all(isinstance(name, str) for name in spec)
        if not part.isidentifier() or not named:  # it becomes a folder's name
            raise UserError(f"{repository.name}: {INDEX} names a part {part[:80]!r}, which no pipeline has")
        if "Tokenizer" in spec[1] or "Scheduler" in spec[1]:
            found |= {file: file for file in _settings(repository.files, part)}
        else:
            found |= _weights(repository, f"{part}/", variant)
    return found


def _settings(files: Collection[str], part: str) -> list[str]:
    inside = (file for file in files if file.startswith(f"{part}/") and file.count("/") == 1)
    return [file for file in inside if file.endswith(SETTINGS)]


def _weights(repository: Repository, part: str, variant: str | None) -> dict[str, str]:
    """config.json and one set of safetensors of a part: the variant's if it is there, else the plain one's.

    A variant's single file loses its variant's name, so that whoever opens the folder need not know about it.
    """
    config = f"{part}config.json"
    names = [f"{part}{stem}" for stem in ("diffusion_pytorch_model", "model")]
    for name in names:
        for source in ([f"{name}.{variant}.safetensors"] if variant else []) + [f"{name}.safetensors"]:
            if source in repository.files and config in repository.files:
                return {config: config, f"{name}.safetensors": source}
        sharded = f"{name}.safetensors.index.json"
        if sharded in repository.files and config in repository.files:
            shards = {
                file: file
                for file in repository.files
                if file.startswith(f"{name}-") and file.endswith(".safetensors") and file.count(".") == 1
            }
            if shards:
                return {config: config, sharded: sharded, **shards}
    pickled = any(
        file.startswith(part) and file.endswith((".bin", ".pt", ".ckpt")) for file in repository.files
    )
    why = "only pickled weights, which are never loaded" if pickled else "no weights"
    raise UserError(
        f"{repository.name}: holds {why} for {part.rstrip('/') or 'the whole of it'}; a repository with safetensors in "
        "diffusers' layout, or of a multimodal model in transformers', is needed"
    )


def _place(repository: Repository, source: str, target: Path) -> str:
    """Put one file into place and return its sha256, checked against the hub's own where it names one."""
    file = repository.fetch(source)
    with atomic(target) as temporary:
        try:
            if not repository.shared:
                raise OSError
            os.link(file, temporary)  # no second copy of gigabytes
        except OSError:
            shutil.copyfile(file, temporary)
    digest = sha256_file(target)
    if digest != repository.hashes.get(source, digest):
        target.unlink()
        file.unlink()
        raise UserError(
            f"{repository.name}: {source} is corrupt (its sha256 does not match the hub's); run this again"
        )
    if target.suffix == ".safetensors":
        _check_safetensors(target, f"{repository.name}: {source}")
    return digest


def _check_safetensors(file: Path, name: str) -> None:
    """Raise UserError unless the file's header can be read and its tensors fill the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            opened.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{name} is not a complete safetensors file ({first_line(error)})") from None


def _without(index: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """A pipeline's index without `parts`, as diffusers itself writes it."""
    kept = {key: [None, None] if key in parts else value for key, value in index.items()}
    return kept | ({"requires_safety_checker": False} if "safety_checker" in index else {})
