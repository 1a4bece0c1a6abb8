"""Let people compare two models: a local page with pairs of images, blind, and a summary of their votes.

    python -m selma.rate merged base                            the page, on http://127.0.0.1:8000
    python -m selma.rate merged base --raters anna ben --pairs 50
    python -m selma.rate merged base --summary [--json] [--csv FILE]

reads   data/samples/<model>/<benchmark>/             the first image of each test prompt
writes  data/votes/<model>-vs-<model>-<benchmark>.sqlite

docs/human-evaluation.md says how to share a link, and how the summary counts.
"""

from __future__ import annotations

import argparse
import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from selma.ground.errors import UserError
from selma.ground.files import write_csv, write_json
from selma.ground.items import load_split
from selma.rating import votes as store
from selma.rating.pairs import Couple, Models, chosen, read_couples
from selma.runtime import command
from selma.runtime.params import Params, load_params
from selma.runtime.places import BROUGHT

DATA = Path("data")
FOLDER = DATA / "votes"
METRICS = Path("metrics/human")  # what the report shows
TOKEN = 16  # characters of a token that cannot be guessed
STOPPED = "stopped: every vote is kept, and the same command goes on"


def main() -> None:
    arguments = _parser().parse_args()
    interrupted = "interrupted" if arguments.summary else STOPPED
    if code := command.run(lambda: _main(arguments), interrupted):
        sys.exit(code)


_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:-]*[A-Za-z0-9_])?")


def _parser() -> command.Parser:
    parser = command.Parser(prog="python -m selma.rate", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs=2, metavar="MODEL", help="two rows of `models`")
    parser.add_argument("--benchmark", metavar="NAME", help="default: the first of evaluate.benchmarks")
    parser.add_argument("--pairs", type=int, metavar="N", help="at most so many prompts, chosen at random")
    page = parser.add_argument_group("the page")
    page.add_argument("--raters", nargs="+", metavar="NAME", default=[], help="these alone, a link for each")
    page.add_argument("--seed", type=int, help="of the order and sides (default: params.yaml's)")
    page.add_argument("--port", type=int, default=8000, help="default: 8000; 0: a free one")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on; another one needs --token")
    page.add_argument(
        "--name", metavar="HOST", help="name under which raters reach this machine, for the links"
    )
    page.add_argument(
        "--token",
        nargs="?",
        const="",
        metavar="TEXT",
        help="only who has the link gets in (default: generated)",
    )
    summary = parser.add_argument_group("the summary")
    summary.add_argument("--summary", action="store_true", help="count the votes instead of asking for them")
    summary.add_argument(
        "--json",
        nargs="?",
        const="",
        metavar="FILE",
        help=f"write it, too (default: {METRICS}/..., for the report)",
    )
    summary.add_argument("--csv", type=Path, metavar="FILE", help="write the votes, one a row")
    return parser


def _main(arguments: argparse.Namespace) -> None:
    params = load_params()
    models = (arguments.models[0], arguments.models[1])
    for model in models:
        if model not in params.models:
            raise UserError(f"models: no model {model!r} in params.yaml; allowed: {', '.join(params.models)}")
    if models[0] == models[1]:
        raise UserError(f"models: {models[0]} twice; name two")
    known = params.evaluate.benchmarks
    benchmark = known[0] if arguments.benchmark is None else arguments.benchmark
    if benchmark not in known:
        raise UserError(f"--benchmark: {benchmark}; allowed: {', '.join(known)}")
    if arguments.pairs is not None and arguments.pairs < 1:
        raise UserError(f"--pairs: {arguments.pairs}; at least 1 is needed")
    (_summary if arguments.summary else _page)(arguments, params, models, benchmark)


# The page --------------------------------------------------------------------------------------


def _page(arguments: argparse.Namespace, params: Params, models: Models, benchmark: str) -> None:
    from selma.rating.guard import Guard, is_loopback  # starlette and uvicorn: not for a summary
    from selma.rating.page import Page
    from selma.rating.serving import listening, serve

    if arguments.json is not None or arguments.csv:
        raise UserError("--json and --csv belong to --summary")
    host, name = arguments.host, arguments.name
    if arguments.token is None and not is_loopback(host):
        raise UserError(f"--host: {host} is reached from other machines; add --token, or leave --host out")
    if arguments.token and (len(arguments.token) < TOKEN or not arguments.token.isascii()):
        raise UserError(f"--token: needs at least {TOKEN} ASCII characters, or none, to generate one")
    if not 0 <= arguments.port < 2**16:
        raise UserError(f"--port: {arguments.port}; allowed: 0 to {2**16 - 1}")
    if not 0 <= (arguments.seed or 0) < 2**32:
        raise UserError(f"--seed: {arguments.seed}; allowed: 0 to {2**32 - 1}")
    if name is not None and not _HOST.fullmatch(name):
        raise UserError(f"--name: {name!r}; allowed: a host's name or address, without port")
    token = arguments.token if arguments.token != "" else secrets.token_hex(16)
    raters = _raters(arguments.raters)
    couples = read_couples(DATA / "samples", models, benchmark)
    listener = listening(host, arguments.port)
    kept = store.start(
        store.votes_file(FOLDER, models, benchmark), models, benchmark, arguments.seed, params.seed
    )
    shown = chosen(couples, kept.seed, arguments.pairs)
    app = Guard(Page(shown, kept, raters).app(), host=host, name=name, token=token)
    _say(shown, kept, _links(host, name, listener.getsockname()[1], token, raters))
    serve(app, listener)


def _raters(given: Sequence[str]) -> list[str]:
    names = {text: store.rater_name(text) for text in given}
    known = [name for name in (store.rater_name(text) for text in given) if name is not None]
    if twice := next((name for name in known if known.count(name) > 1), None):
        raise UserError(f"--raters: {twice} is there twice; each rater needs a name of their own")
    for text, name in names.items():
        if name is None:
            raise UserError(
                f"--raters: {text!r}; allowed: letters, digits, spaces and . ' - _, at most {store.LONGEST}"
            )
    return known


def _links(host: str, name: str | None, port: int, token: str | None, raters: Sequence[str]) -> list[str]:
    """What raters open: a link for each, or one for all who will say who they are."""
    import socket

    reached = name or (socket.gethostname() if host in ("0.0.0.0", "::") else host)
    at = f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"
    query = f"?token={quote(token, safe='')}" if token else ""
    return [f"{at}/rate/{quote(rater)}{query}" for rater in raters] or [f"{at}/{query}"]


def _say(couples: Sequence[Couple], kept: store.Votes, links: Sequence[str]) -> None:
    there = len(kept.all())
    print(f"{len(couples)} pairs; votes so far: {there}, in {kept.path}", flush=True)
    for link in links:
        print(f"open {link}", flush=True)
    print("Ctrl-C stops; every vote is kept", flush=True)


# The summary -----------------------------------------------------------------------------------


def _summary(arguments: argparse.Namespace, params: Params, models: Models, benchmark: str) -> None:
    from selma.rating.judges import verdicts
    from selma.rating.summary import summarise
    from selma.rating.text import text

    path = store.votes_file(FOLDER, models, benchmark)
    kept = store.kept(path, models, benchmark)
    counted = _current(kept, models, benchmark, arguments.pairs)
    if not counted:
        raise UserError(f"{path}: no votes yet; `python -m selma.rate {' '.join(models)}` asks for them")
    folder = DATA / "benchmarks" / benchmark
    skills = {item.id: item.skill for item in load_split(folder, "test")} if folder.is_dir() else {}
    found = summarise(
        counted,
        models,
        benchmark,
        skills=skills,
        judges=verdicts(DATA, models, benchmark, params.judge.name) if skills else {},
        resamples=params.evaluate.bootstrap,
        seed=params.seed,
    )
    written: list[Path] = []
    if arguments.json is not None:
        written.append(Path(arguments.json or METRICS / f"{'-vs-'.join(models)}-{benchmark}.json"))
        write_json(written[-1], found)
    if arguments.csv:
        written.append(arguments.csv)
        write_csv(arguments.csv, [vote.row() for vote in counted], store.COLUMNS)
    print(text(found))
    for out in written:
        print(f"\nwritten: {out}")


def _current(kept: store.Votes, models: Models, benchmark: str, pairs: int | None) -> list[store.Vote]:
    """The votes that count: of the images that are there now, where there are any."""
    votes = kept.all()
    folders = [DATA / "samples" / model / benchmark for model in models]
    if not all(folder.is_dir() for folder in folders):
        if pairs is not None:
            raise UserError(f"--pairs: {folders[0]} and {folders[1]} are needed to tell which; {BROUGHT}")
        return votes
    there = {one.id for one in chosen(read_couples(DATA / "samples", models, benchmark), kept.seed, pairs)}
    current = [vote for vote in votes if vote.pair in there]
    if left_out := len(votes) - len(current):
        why = (
            "other images, drawn before these, or prompts"
            if pairs is not None
            else "other images, drawn before these"
        )
        print(f"left out: {left_out} vote{'s' if left_out > 1 else ''} about {why}", file=sys.stderr)
    return current


if __name__ == "__main__":
    main()
