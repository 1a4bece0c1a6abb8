"""A LoRA's folder for use elsewhere: one safetensors file, a model card, sample images and export.json."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.ground.adapters import WEIGHTS
from selma.ground.backbones import is_multimodal
from selma.ground.errors import UserError
from selma.ground.files import atomic, read_record, sha256_file, write_text
from selma.net.pipelines import SOURCE
from selma.publishing import gallery, model_card, results, trained
from selma.publishing.folder import README, check_target, replaced, write_mark
from selma.runtime import dvcfile, schema
from selma.runtime.params import Params
from selma.runtime.places import BACKBONES, BROUGHT, EXPERTS, MERGES, MIXTURES

if TYPE_CHECKING:
    import torch

CITATION = Path("CITATION.cff")
FORMATS, DTYPES = ("kohya", "diffusers"), ("float16", "float32")


def known(params: Params) -> list[str]:
    """The rows that are LoRAs, merges first; of `mixtures`, those that are one LoRA can be exported."""
    return [*params.merges, *params.experts, *params.policies, *params.mixtures]


def write(
    params: Params,
    name: str,
    format: str,
    out: Path,
    *,
    dtype: str | None = None,
    hub: model_card.Hub = model_card.NOT_ON_HUB,
) -> Path:
    """Write the LoRA's folder `out`; an earlier export that lies there is replaced as a whole.

    Raises UserError for a name that is none of a merge, an expert, a policy and a mixture, for a mixture with gates, a
    LoRA that is missing, damaged or of a different backbone or that the format cannot hold, and an `out` that holds
    anything but an export.
    """
    # Here and not above, so that Ctrl-C is one line while torch and scipy are imported, too.
    from selma.backbones.loading import check_trained_on
    from selma.lora import kohya
    from selma.lora.files import load_lora

    if name not in known(params):
        raise UserError(f"{name}: unknown LoRA; allowed: {', '.join(known(params))}")
    check_target(out)

    home, kind = _kind(params, name)
    source = Path(home) / name
    if not source.is_dir():
        raise UserError(f"{source}: not here yet; {BROUGHT}")
    weights = load_lora(source)
    own = _precision(source / WEIGHTS)
    if format == "diffusers" and dtype not in (None, own):
        raise UserError(f"--dtype {dtype}: the diffusers format keeps the run's own {own}; leave --dtype out")
    folder = Path(BACKBONES) / params.expert.backbone
    if is_multimodal(folder):
        raise UserError(
            f"{source}: is for a multimodal backbone ({folder}); only LoRAs of diffusion ones are exported"
        )
    base = base_of(folder)
    check_trained_on(source, weights.provenance, folder)

    unet = read_record(folder / "unet/config.json", dict)
    scheduler = read_record(folder / "scheduler/scheduler_config.json", dict)
    prediction = scheduler.get("prediction_type", "epsilon")  # diffusers' default
    made_of = trained.origins(weights.provenance.get("experts", [name]), params)
    data = trained.data([one for one in made_of if one not in params.policies], params)
    learned = trained.learned([one for one in made_of if one in params.policies], params)
    brought = [one for one in made_of if one in params.own.loras]
    licence = None if brought else base.licence
    measured = results.read()
    model = _row(params, source)
    drawn = gallery.place(model, measured.summary["benchmark"]) if measured else None
    title = f"SELMA {kind}: {name} ({params.profile})"
    stem = f"selma-{params.profile}-{name}"
    dtype = dtype or ("float16" if format == "kohya" else own)
    file = f"{stem}.safetensors" if format == "kohya" else WEIGHTS

    with replaced(out) as temporary:
        if format == "kohya":
            metadata = kohya.metadata(
                weights, unet, name=stem, title=title, prediction_type=prediction, licence=licence
            )
            _write(temporary / file, kohya.tensors(weights, unet, dtype), metadata)
        else:
            shutil.copyfile(source / file, temporary / file)
        samples = gallery.write(drawn, temporary) if drawn else []
        card = model_card.render(
            base=base,
            lora=model_card.Lora(
                name=name,
                title=title,
                file=file,
                sha256=sha256_file(temporary / file),
                format=format,
                dtype=dtype,
                rank=weights.rank,
                alpha=weights.scaling * weights.rank,
                layers=len(weights.factors),
                targets=weights.provenance.get("targets", []),
                text_targets=weights.provenance.get("text_targets", []),
                operator=weights.provenance.get("operator"),
                experts=weights.provenance.get("experts", []),
                runs_in_tools=kohya.family(unet, prediction) is not None,
                model=model,
                base_model=_row(params, folder),
                brought=brought,
            ),
            data=data,
            learned=learned,
            dtype=params.runtime.dtype,
            measured=measured,
            samples=samples,
            hub=hub,
        )
        write_text(temporary / README, card)
        about = {"name": name, "profile": params.profile, "format": format, "dtype": dtype}
        write_mark(temporary, about, {"lora": _told(weights.provenance)})
    return out


def _told(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """lora.json for others' eyes: a folder of one's own outside the repository goes by its name alone."""
    data = provenance.get("data")
    outside = isinstance(data, str) and Path(data).is_absolute()
    return {**provenance, **({"data": Path(data).name} if outside else {})}


def _kind(params: Params, name: str) -> tuple[str, str]:
    """Where the LoRA of a row is kept, and what it is called."""
    if name in params.merges:
        return MERGES, "merged LoRA"
    if name in params.mixtures:
        return MIXTURES, "distilled LoRA"
    return EXPERTS, "expert" if name in params.experts else "policy"


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file; same input, same bytes."""
    from safetensors.torch import save

    from selma.lora.files import sort_header

    with atomic(path) as temporary:
        temporary.write_bytes(sort_header(save(tensors, metadata)))


def _precision(file: Path) -> str:
    """What a LoRA's factors are kept in, e.g. float16: an expert's are in expert.save_dtype, a merge's in float32."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        found = {str(opened.get_tensor(key).dtype).removeprefix("torch.") for key in opened.keys()}  # noqa: SIM118
    return ", ".join(sorted(found))


def _row(params: Params, weights: Path) -> str | None:
    """The row of `models` with these weights."""
    return next((name for name, row in params.models.items() if row.weights == weights.as_posix()), None)


def base_of(folder: Path) -> model_card.Base:
    """What a backbone's folder says about itself: its kind, and where it comes from if source.json exists."""
    from selma.backbones.parts import read_kind

    kind = read_kind(folder)
    if (folder / SOURCE).is_file():
        came = read_record(folder / SOURCE, dict)
        id, revision, licence = (came.get(key) for key in ("id", "revision", "licence"))
        vae = came.get("vae")
        return model_card.Base(
            folder.name, kind, id, revision, licence, vae.get("id") if isinstance(vae, dict) else None
        )
    for stage in dvcfile.load_stages(Path.cwd()).values():
        if folder.as_posix() in stage.outs:  # trained here, so under this repository's licence
            told = schema.load_yaml(CITATION)
            return model_card.Base(
                folder.name,
                kind,
                licence=told["license"].lower(),
                made_by=stage.name,
                project=told.get("repository-code"),
            )
    return model_card.Base(folder.name, kind)
