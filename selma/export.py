"""Write a LoRA for use elsewhere: a folder with one safetensors file and a model card.

    python -m selma.export --format kohya                 the first merge, for ComfyUI, A1111 and diffusers
    python -m selma.export count --format diffusers       an expert or policy, in diffusers' format, as it is stored

reads   models/merges/<name>/, models/experts/<name>/ or, where that is one LoRA, models/mixtures/<name>/
        models/backbones/<expert.backbone>/, metrics/eval.json
writes  exports/<profile>-<name>-<format>/   the weights, README.md and export.json with their hashes
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.ground.adapters import WEIGHTS
from selma.ground.errors import UserError
from selma.ground.files import atomic, read_json, read_record, sha256_file, write_json, write_text
from selma.net.pipelines import SOURCE
from selma.reporting.metrics import EVAL, read_summary
from selma.runtime import command, dvcfile, schema, work
from selma.runtime.params import Params, load_params
from selma.runtime.places import BACKBONES, EXPERTS, MERGES, MIXTURES

if TYPE_CHECKING:
    import torch

    from selma.reporting import model_card

MARK, README = "export.json", "README.md"
CITATION = Path("CITATION.cff")
FORMATS, DTYPES = ("kohya", "diffusers"), ("float16", "float32")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selma.export", description=__doc__.splitlines()[0])
    parser.add_argument(
        "name",
        nargs="?",
        help="a merge, an expert, a policy or a mixture that is one LoRA (default: the first merge)",
    )
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of a kohya file (default: float16); diffusers keeps the run's"
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write (default: exports/<profile>-<name>-<format>)"
    )
    arguments = parser.parse_args()
    if code := command.run(
        lambda: print(export(arguments.name, arguments.format, arguments.dtype, arguments.out))
    ):
        sys.exit(code)


def export(name: str | None, format: str, dtype: str | None = None, out: Path | None = None) -> Path:
    """Write the export's folder and return its path; an existing export is replaced as a whole.

    Raises UserError for a name that is none of a merge, an expert, a policy and a mixture, for a mixture with gates, a
    LoRA that is missing, damaged or of a different backbone or that the format cannot hold, and an `out` that holds
    anything but an export.
    """
    # Here and not above, so that Ctrl-C is one line while torch and scipy are imported, too.
    from selma.backbones.loading import check_trained_on
    from selma.lora import kohya
    from selma.lora.files import load_lora
    from selma.reporting import model_card, trained

    params = load_params()
    name = next(iter(params.merges), None) if name is None else name
    known = [*params.merges, *params.experts, *params.policies, *params.mixtures]
    if name not in known:
        raise UserError(f"{name}: unknown LoRA; allowed: {', '.join(known)}")
    out = Path("exports") / f"{params.profile}-{name}-{format}" if out is None else out
    _check_target(out)

    home, kind = _kind(params, name)
    source = Path(home) / name
    weights = load_lora(source)
    own = _precision(source / WEIGHTS)
    if format == "diffusers" and dtype not in (None, own):
        raise UserError(f"--dtype {dtype}: the diffusers format keeps the run's own {own}; leave --dtype out")
    folder = Path(BACKBONES) / params.expert.backbone
    base = _base(folder)
    check_trained_on(source, weights.provenance, folder)

    unet = read_record(folder / "unet/config.json", dict)
    scheduler = read_record(folder / "scheduler/scheduler_config.json", dict)
    prediction = scheduler.get("prediction_type", "epsilon")  # diffusers' default
    made_of = trained.origins(weights.provenance.get("experts", [name]), params)
    data = trained.data([one for one in made_of if one not in params.policies], params)
    learned = trained.learned([one for one in made_of if one in params.policies], params)
    title = f"SELMA {kind}: {name} ({params.profile})"
    stem = f"selma-{params.profile}-{name}"
    dtype = dtype or ("float16" if format == "kohya" else own)
    file = f"{stem}.safetensors" if format == "kohya" else WEIGHTS

    with _replaced(out) as temporary:
        if format == "kohya":
            metadata = kohya.metadata(
                weights, unet, name=stem, title=title, prediction_type=prediction, licence=base.licence
            )
            _write(temporary / file, kohya.tensors(weights, unet, dtype), metadata)
        else:
            shutil.copyfile(source / file, temporary / file)
        digest = sha256_file(temporary / file)
        card = model_card.render(
            base=base,
            lora=model_card.Lora(
                name=name,
                title=title,
                file=file,
                sha256=digest,
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
                model=_row(params, source),
                base_model=_row(params, folder),
            ),
            data=data,
            learned=learned,
            dtype=params.runtime.dtype,
            summary=read_summary(EVAL) if EVAL.is_file() else None,
        )
        write_text(temporary / README, card)
        contents = {file: digest, README: sha256_file(temporary / README)}
        about = {"name": name, "profile": params.profile, "format": format, "dtype": dtype}
        write_json(temporary / MARK, {**about, "files": contents, "lora": weights.provenance})
    return out


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


def _base(folder: Path) -> model_card.Base:
    """What a backbone's folder says about itself: its kind, and where it comes from if source.json exists."""
    from selma.backbones.parts import read_kind
    from selma.reporting import model_card

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
            licence = schema.load_yaml(CITATION)["license"].lower()
            return model_card.Base(folder.name, kind, licence=licence, made_by=stage.name)
    return model_card.Base(folder.name, kind)


def _check_target(out: Path) -> None:
    """Raise UserError unless `out` does not exist, is empty, or holds an export and nothing else."""
    if out.is_dir():
        held = {path.name for path in out.iterdir()}
        mark: Any = read_json(out / MARK) if MARK in held else None
        files = mark.get("files") if isinstance(mark, dict) else None
        known = {MARK, *files} if isinstance(files, dict) else set()
        if strays := sorted(held - known):
            raise UserError(
                f"{out}: holds {strays[0]}, which no export wrote; choose another folder with --out"
            )
    elif out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists and is not a folder; choose another path with --out")


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """Yield an empty folder next to `out` that replaces it if the body succeeds, and is removed otherwise."""
    out = Path(os.path.abspath(out))
    temporary = out.with_name(f".new-{out.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        work.publish(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main()
