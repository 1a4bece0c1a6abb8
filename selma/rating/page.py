"""The page: a rater's name, pair after pair, and thanks. It says nowhere which model drew what.

GET  /                      asks for a name, unless the raters are fixed
GET  /rate/<rater>          the first pair in the rater's order that has no vote yet
POST /rate/<rater>          a vote {pair, vote}, or {undo}: a pair's id
GET  /rate/<rater>/<image>  an image as its pixels alone, under a name that is a keyed hash of rater, pair and side
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sys
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import jinja2
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from selma.ground.errors import UserError
from selma.ground.pairs import read_image
from selma.rating.guard import HEADERS
from selma.rating.pairs import Couple, ordered, sides
from selma.rating.votes import CHOICES, Votes, rater_name

if TYPE_CHECKING:
    from starlette.requests import Request

TEMPLATE = Path(__file__).with_name("page.html.j2")
LONGEST = 4096  # bytes of a form
SMALL = 256  # pixels of a side, below which an image is enlarged without smoothing
DAY = 24 * 3600  # seconds that a browser may keep an image: its name changes with its content


class Page:
    """The page's application: `couples` to vote on, `votes` to keep, and the only `raters`, where they are fixed."""

    def __init__(self, couples: Sequence[Couple], votes: Votes, raters: Sequence[str] = ()) -> None:
        self.couples, self.votes, self.raters = couples, votes, raters
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self.template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
        self.order = lru_cache(100)(lambda rater: ordered(couples, votes.seed, rater))
        self.images = lru_cache(100)(self._images)

    def app(self) -> Starlette:
        """The ASGI application, without the guard that belongs before it."""
        routes = [
            Route("/", self.front, methods=["GET"]),
            Route("/", self.name, methods=["POST"]),
            Route("/rate/{rater}", self.pair, methods=["GET"]),
            Route("/rate/{rater}", self.vote, methods=["POST"]),
            Route("/rate/{rater}/{image}", self.image, methods=["GET"]),
        ]
        handlers = {404: self._missing, UserError: _failed}
        return Starlette(routes=routes, exception_handlers=handlers)

    def front(self, request: Request) -> Response:
        return self._show(kind="front", fixed=bool(self.raters), wrong="")

    async def name(self, request: Request) -> Response:
        form = await _form(request)
        rater = rater_name(form.get("name", ""))
        if rater is None or self.raters:
            wrong = "Please use letters and digits, at most 40."
            return self._show(400, kind="front", fixed=bool(self.raters), wrong=wrong)
        return RedirectResponse(_home(rater), 303, HEADERS)

    def pair(self, request: Request) -> Response:
        if (rater := self._rater(request)) is None:
            return self._missing(request, None)
        order, voted = self.order(rater), self.votes.done(rater)
        have, known = set(voted), {couple.id for couple in order}
        todo = [couple for couple in order if couple.id not in have]
        told = {
            "rater": rater,
            "done": len(order) - len(todo),
            "total": len(order),
            "undo": next((pair for pair in reversed(voted) if pair in known), None),
            "fixed": bool(self.raters),
        }
        if not todo:
            return self._show(kind="thanks", **told)
        pictures = [self._picture(rater, todo[0], side) for side in (0, 1)]
        ahead = [self._url(rater, couple, side) for couple in todo[1:2] for side in (0, 1)]
        return self._show(kind="pair", couple=todo[0], pictures=pictures, ahead=ahead, **told)

    async def vote(self, request: Request) -> Response:
        if (rater := self._rater(request)) is None:
            return self._missing(request, None)
        form = await _form(request)
        if "undo" in form:
            self.votes.undo(rater, form["undo"])
            return RedirectResponse(_home(rater), 303, HEADERS)
        couple = next((one for one in self.couples if one.id == form.get("pair")), None)
        if couple is None or form.get("vote") not in CHOICES:
            return self._show(
                400, kind="note", note="That is no vote on a pair of this page. Please reload it."
            )
        self.votes.add(rater, couple, sides(couple, self.votes.seed, rater), form["vote"])
        return RedirectResponse(_home(rater), 303, HEADERS)

    def image(self, request: Request) -> Response:
        rater = self._rater(request)
        file = self.images(rater).get(request.path_params["image"]) if rater else None
        if file is None:
            return self._missing(request, None)
        buffer = BytesIO()  # decoded and encoded again: no metadata, no time stamp, one format for both sides
        read_image(file).save(buffer, format="WEBP", lossless=True, quality=0, method=1)
        headers = HEADERS | {"Cache-Control": f"private, max-age={DAY}, immutable"}
        return Response(buffer.getvalue(), media_type="image/webp", headers=headers)

    def _rater(self, request: Request) -> str | None:
        """The rater whom a path names; None for one who is not asked, or no name."""
        given = request.path_params["rater"]
        return given if given == rater_name(given) and (not self.raters or given in self.raters) else None

    def _picture(self, rater: str, couple: Couple, side: int) -> dict[str, Any]:
        from PIL import Image

        with Image.open(couple.files[sides(couple, self.votes.seed, rater)[side]]) as image:
            width, height = image.size
        return {
            "url": self._url(rater, couple, side),
            "side": ("left", "right")[side],
            "width": width,
            "height": height,
            "small": max(width, height) < SMALL,
        }

    def _url(self, rater: str, couple: Couple, side: int) -> str:
        return f"{_home(rater)}/{self._name(rater, couple, side)}"

    def _name(self, rater: str, couple: Couple, side: int) -> str:
        text = f"{rater}\0{couple.id}\0{side}".encode()
        return f"{hmac.new(self.votes.salt, text, hashlib.sha256).hexdigest()[:32]}.webp"

    def _images(self, rater: str) -> dict[str, Path]:
        """The files that a rater may ask for, by their names on the page."""
        return {
            self._name(rater, couple, side): couple.files[model]
            for couple in self.couples
            for side, model in enumerate(sides(couple, self.votes.seed, rater))
        }

    def _missing(self, request: Request, error: Any) -> Response:
        return self._show(404, kind="note", note="There is nothing here. Please check the link.")

    def _show(self, status: int = 200, **content: Any) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; img-src 'self' data:; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
            "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        )
        page = self.template.render(nonce=nonce, **content)
        return HTMLResponse(page, status, HEADERS | {"Content-Security-Policy": policy})


def _home(rater: str) -> str:
    return f"/rate/{quote(rater)}"


async def _form(request: Request) -> dict[str, str]:
    """A short form's fields; empty for one that is too long or odd."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST:
            return {}
    try:
        return {key: values[-1] for key, values in parse_qs(body.decode(), max_num_fields=10).items()}
    except ValueError:
        return {}


def _failed(request: Request, error: Exception) -> Response:
    """A full disk, say: the rater is told that nothing was kept, the terminal why."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    text = "<!doctype html><p>That did not work, and nothing was kept. Please go back and try again."
    return HTMLResponse(text, 503, HEADERS)
