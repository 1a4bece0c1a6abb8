"""Bring a pipeline that somebody published into a backbone folder: what is loaded of it, and nothing else.

A pipeline in diffusers' layout holds each part's weights several times (pickled, for other frameworks, in several
precisions) and parts that are not loaded here. Of those, one set of safetensors is taken, under the names that
every reader looks for, and `source.json` says where it came from:

    {"source": "hub", "id": ..., "revision": ..., "commit": ..., "licence": ..., "variant": ...,
     "vae": {"id": ..., "commit": ..., "licence": ...} or null, "files": {path: sha256}}

The hub is asked through its own client: HF_ENDPOINT, HF_TOKEN and a login are honoured, and never written anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.ground import records
from selma.ground.errors import UserError

INDEX = "model_index.json"
SOURCE = "source.json"
# Parts of a Stable Diffusion pipeline that are not loaded here; without them it opens all the same.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
SETTINGS = (".json", ".txt", ".model")  # what tokenizers and schedulers are made of


@dataclass(frozen=True)
class Repository:
    """One commit of a hub repository, or a folder: its files, their sha256 where known, and its licence."""

    name: str
    files: tuple[str, ...]
    hashes: Mapping[str, str]
    commit: str | None
    licence: str | None
    fetch: Callable[[str], Path]  # the file of that name, on this disk
    shared: bool = True  # whether a backbone folder may hold the very same files: a user's own it must not


def open_hub(id: str, revision: str, folder: Path) -> Repository:
    """A commit of a hub repository; its files are downloaded under `folder`, where a killed download goes on.

    Raises UserError, in one line, where the hub cannot be reached, has no such commit or wants a login.
    """
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = huggingface_hub.HfApi()
    info = _ask(id, revision, lambda: api.model_info(id, revision=revision, files_metadata=True))

    def fetch(file: str) -> Path:
        return Path(
            _ask(id, revision, lambda: api.hf_hub_download(id, file, revision=info.sha, local_dir=folder))
        )

    siblings = info.siblings or []
    return Repository(
        name=f"{id}@{revision[:12]}",
        files=tuple(file.rfilename for file in siblings),
        hashes={file.rfilename: file.lfs.sha256 for file in siblings if file.lfs},
        commit=info.sha,
        licence=_licence(info),
        fetch=fetch,
    )


def open_folder(path: Path) -> Repository:
    """A folder of the same layout on this disk; UserError if it is none."""
    if not path.is_dir():
        raise UserError(f"backbone path {path}: no such folder; a pipeline in diffusers' layout is needed")
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return Repository(str(path), tuple(files), {}, None, None, lambda file: path / file, shared=False)


def bring(
    repository: Repository, out: Path, variant: str | None = None, vae: Repository | None = None
) -> dict[str, str]:
    """Put what is loaded of a pipeline into `out`, another repository's VAE in place of its own if one is given.

    Returns the sha256 of each file by its path in `out`. What lies there from a killed run is used again if it is
    what the hub says. Raises UserError where weights are not in safetensors, broken, or not what the hub's hashes say.
    """
    index = records.read_json(repository.fetch(INDEX)) if INDEX in repository.files else None
    if not isinstance(index, dict) or "_class_name" not in index:
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
    records.write_json(out / INDEX, _without(index, UNUSED))
    hashes[INDEX] = records.sha256_file(out / INDEX)
    return dict(sorted(hashes.items()))


def loaded_files(index: Mapping[str, Any], repository: Repository, variant: str | None) -> dict[str, str]:
    """What is loaded of a pipeline: path in a backbone folder -> file of the repository, the index left out."""
    found: dict[str, str] = {}
    for part, spec in index.items():
        if part.startswith("_") or part in UNUSED or not (isinstance(spec, list) and all(spec)):
            continue
        if not part.isidentifier() or len(spec) != 2:  # it becomes a folder's name
            raise UserError(f"{repository.name}: {INDEX} names a part {part!r}, which no pipeline has")
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

    A variant's single file loses its variant's name, so that whoever opens the folder needs not know of it.
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
        f"{repository.name}: holds {why} for {part.rstrip('/') or 'the VAE'}; "
        "a repository with safetensors in diffusers' layout is needed"
    )


def _place(repository: Repository, source: str, target: Path) -> str:
    """Put one file into place and return its sha256, checked against the hub's own where it names one."""
    file = repository.fetch(source)
    with records.atomic(target) as temporary:
        try:
            if not repository.shared:
                raise OSError
            os.link(file, temporary)  # no second copy of gigabytes
        except OSError:
            shutil.copyfile(file, temporary)
    digest = records.sha256_file(target)
    if digest != repository.hashes.get(source, digest):
        target.unlink()
        file.unlink()
        raise UserError(
            f"{repository.name}: {source} came broken (its sha256 is not the hub's); run this again"
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
        raise UserError(f"{name} is not a whole safetensors file ({str(error).splitlines()[0]})") from None


def _without(index: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """A pipeline's index in which `parts` are not there, as diffusers itself writes it."""
    kept = {key: [None, None] if key in parts else value for key, value in index.items()}
    return kept | ({"requires_safety_checker": False} if "safety_checker" in index else {})


def _licence(info: Any) -> str | None:
    """The licence that a model card declares; its name where it is one of its own (`other`)."""
    card = info.card_data or {}
    declared = card.get("license")
    if declared == "other":
        declared = card.get("license_name") or declared
    tagged = (tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:"))
    return declared or next(tagged, None)


def _ask(id: str, revision: str, call: Callable[[], Any]) -> Any:
    """The answer of the hub's client; its errors, which run over many lines, become one UserError."""
    import huggingface_hub
    from huggingface_hub import errors

    host = huggingface_hub.constants.ENDPOINT
    try:
        return call()
    except errors.GatedRepoError:
        why = f"its owner wants a login: accept the terms at {host}/{id}, then set HF_TOKEN or run `hf auth login`"
    except errors.RepositoryNotFoundError:
        why = f"{host} has no such repository, or it is private (set HF_TOKEN or run `hf auth login`)"
    except errors.RevisionNotFoundError:
        why = f"{host} has no such commit of it; {host}/{id}/commits/main lists them"
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        why = f"{host} cannot be reached, or HF_HUB_OFFLINE is set; `dvc pull` brings it from a remote that has it"
    except errors.HfHubHTTPError as error:
        why = f"{host} answered {error.response.status_code}; run this again later, what came is kept"
    except errors.HFValidationError:
        why = "is no repository's id; it is written owner/name"
    except (ConnectionError, errors.HTTPError, json.JSONDecodeError) as error:
        why = f"the connection to {host} broke ({type(error).__name__}); run this again, what came is kept"
    raise UserError(f"{id}@{revision[:12]}: {why}")
