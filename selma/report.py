"""Put several runs side by side on one self-contained page: commits, branches, tags or experiments of `dvc exp run`.

    python -m selma.report main my-branch
    python -m selma.report HEAD steps-double-1a2b3c4d5e workspace --out compare.html

`workspace` is what lies here. The first run is the one that the others are compared with; all must have been examined
on the same prompts, and their images and answers must be in DVC's cache (`dvc pull -r starter` for the committed run,
`dvc exp run` for experiments).

writes  report.html, or what --out names
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError, first_line
from selma.ground.files import read_record, read_text, write_text
from selma.reporting.explorer import examined
from selma.reporting.metrics import Summary, read_summary
from selma.reporting.runs import Run, render
from selma.runtime import command
from selma.runtime.experiment import output, reference
from selma.runtime.facts import execution
from selma.runtime.params import load_params
from selma.runtime.places import home
from selma.runtime.recorder import recorded
from selma.runtime.schema import load_yaml
from selma.runtime.tracking import redact
from selma.studies.sources import Source

HERE = "workspace"
REPORT = "data/report"  # out of stage report


def main() -> None:
    parser = command.Parser(prog="python -m selma.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", metavar="REV", help="commits or experiments; `workspace`: what lies here"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="default: report.html")
    given = parser.parse_args()
    if code := command.run(lambda: _main(given.runs, given.out)):
        sys.exit(code)


def _main(names: list[str], out: Path) -> None:
    if len(set(names)) < len(names):
        raise UserError("REV: one is named twice; name each run once")
    if out.suffix != ".html" or out.is_dir():
        raise UserError(f"--out: {out}; allowed: a file that ends in .html")
    commits = {name: _commit(name) for name in names}
    params = load_params()
    with tempfile.TemporaryDirectory() as folder:
        runs = [_run(name, commit, Path(folder) / str(n)) for n, (name, commit) in enumerate(commits.items())]
        page = render(runs, resamples=params.evaluate.bootstrap, seed=params.seed)
    write_text(out, page)
    print(out)


def _commit(name: str) -> str:
    """The full hash of a commit, branch, tag or experiment; "" for the workspace. UserError for a name of nothing."""
    if name == HERE:
        return ""
    for tried in (name, reference(name)):
        words = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{tried}^{{commit}}"]
        found = subprocess.run(words, capture_output=True, text=True).stdout.strip() if tried else ""
        if found:
            return found
    raise UserError(
        f"{name}: no commit, branch, tag or experiment of that name; `dvc exp list` names experiments"
    )


def _run(name: str, commit: str, folder: Path) -> Run:
    """What lies here, or a run's metrics from git, its images, answers and page from DVC's cache in a folder."""
    if not commit:
        params, summary, data = load_yaml(Path("params.yaml")), read_summary(), Path("data")
        pair = _pair(name, params)
        found = examined(data, summary["benchmark"], [*pair])
        head = output(["git", "rev-parse", "HEAD"]).strip()
        began, seconds = _ran([execution(head, Path("params.yaml").read_bytes())])
        return Run(name, "", params, summary, found, pair, "", began, seconds, _page(Path(REPORT)))
    source = Source(commit, folder)
    for file in ("params.yaml", "metrics/eval.json"):
        write_text(folder / file, source.text(file))
    params, summary = load_yaml(folder / "params.yaml"), read_record(folder / "metrics/eval.json", Summary)
    benchmark, pair = summary["benchmark"], _pair(name, params)
    source.out(f"data/benchmarks/{benchmark}")
    for model in pair:
        source.out(f"data/samples/{model}/{benchmark}")
        source.out(f"data/answers/{model}/{benchmark}.jsonl")
    found = examined(folder / "data", benchmark, [*pair])
    when = int(output(["git", "show", "--no-patch", "--format=%ct", commit]))
    began, seconds = _ran(_executions(commit, (folder / "params.yaml").read_bytes()))
    return Run(name, commit, params, summary, found, pair, _utc(when), began, seconds, _report(name, source))


def _report(name: str, source: Source) -> str:
    """The page that a run wrote; "" where it wrote none, or where the cache does not hold it, with a note."""
    if f"- path: {REPORT}\n" not in source.text("dvc.lock"):
        return ""
    try:
        folder = source.out(REPORT)
    except UserError:
        print(f"note: {name}: its own report is not in DVC's cache; the page is without it", file=sys.stderr)
        return ""
    return _page(folder)


def _page(folder: Path) -> str:
    """The page that a run wrote, "" where it wrote none."""
    file = folder / "index.html"
    return read_text(file) if file.is_file() else ""


def _executions(commit: str, params: bytes) -> list[str]:
    """The names that tracking may have given the execution of a commit: an experiment's own, or, as what a run made is
    committed after it, that of the commit before, with these params; a run of the commit itself made the same."""
    refs = output(["git", "for-each-ref", "--format=%(refname)", f"--points-at={commit}", "refs/exps"])
    before = output(["git", "rev-list", "--parents", "--max-count=1", commit]).split()[1:2]
    return [ref.rpartition("/")[2] for ref in refs.split()] + [
        execution(each, params) for each in (*before, commit)
    ]


def _ran(names: list[str]) -> tuple[str, dict[str, float]]:
    """When the execution began and its stages' seconds, by MLflow; nothing where its store does not answer."""
    try:
        found = recorded(home().resolve(), names)
    except Exception as error:  # a store of any kind, which fails in its own way; the page is about more
        print(f"note: no times from MLflow: {redact(first_line(error))}", file=sys.stderr)
        found = None
    return (_utc(found[0] // 1000), found[1]) if found else ("", {})


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _pair(name: str, params: Any) -> tuple[str, str]:
    """The leading pair of a run's params.yaml."""
    try:
        after, before = params["compare"][0]
        return str(after), str(before)
    except (KeyError, IndexError, TypeError, ValueError):
        raise UserError(
            f"{name}: its params.yaml has no leading pair in `compare`; it is an older run"
        ) from None


if __name__ == "__main__":
    main()
