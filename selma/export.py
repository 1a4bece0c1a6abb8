"""Write a LoRA for use elsewhere: a folder with one safetensors file and a model card.

    python -m selma.export --format kohya                 the first merge, for ComfyUI, A1111 and diffusers
    python -m selma.export count --format diffusers       an expert or policy, in diffusers' format, as it is stored

reads   models/merges/<name>/, models/experts/<name>/ or, where that is one LoRA, models/mixtures/<name>/
        models/backbones/<expert.backbone>/, metrics/eval.json, data/samples/<its row of models>/
writes  exports/<profile>-<name>-<format>/   the weights, README.md, sample images, and export.json with their hashes
"""

from __future__ import annotations

import sys
from pathlib import Path

from selma.publishing import lora
from selma.publishing.lora import DTYPES, FORMATS
from selma.runtime import command
from selma.runtime.params import load_params


def main() -> None:
    parser = command.Parser(prog="python -m selma.export", description=__doc__.splitlines()[0])
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

    Raises UserError as selma/publishing/lora.py does.
    """
    params = load_params()
    name = next(iter(params.merges), None) if name is None else name
    out = Path("exports") / f"{params.profile}-{name}-{format}" if out is None else out
    return lora.write(params, name, format, out, dtype=dtype)


if __name__ == "__main__":
    main()
