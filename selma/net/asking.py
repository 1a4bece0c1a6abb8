"""Asking an OpenAI-compatible server, whatever it takes: JSON there, JSON back, from any number of threads.

It takes a server as it is: one that is busy, fails, hangs or answers nonsense is asked again, one that refuses
a field of the request is asked without it. What it cannot fix ends in a UserError; no message contains the key.
The openai package writes the requests; they go out through a wire of ours, which bounds time and size and sends nothing
that the environment would add (OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS, a proxy for this machine).
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import httpx2

from selma.ground.errors import UserError
from selma.net import refusals, servers, web, wire

T = TypeVar("T")
Fields = frozenset[str]

BACKOFF = 1.0  # seconds before the first retry; doubled for each further one
LONGEST = 60.0  # seconds that this doubles up to
PATIENCE = 600.0  # seconds that a server may ask us to wait (Retry-After); more ends the run
WHOLE = 5  # a whole request may take so many times the wait for its next byte
LARGEST = 4 * 2**20  # bytes of an answer
HOPS = 3  # redirects in a row
RETRIED = {408, 409, 425, 429}  # and anything from 500 up
LIMITS = (
    "max_tokens",
    "max_completion_tokens",
)  # the second is the name of the first for OpenAI's newer models
# What a dropped field does to the answers.
CONSEQUENCES = dict.fromkeys(("temperature", "top_p"), ": its own value applies, so the answers differ")


class Server:
    """One server; messages call it `who` at its address, and name settings of `section`."""

    def __init__(
        self,
        base_url: str | None,
        key_env: str | None,
        *,
        who: str,
        section: str,
        model: str,
        timeout: float,
        retries: int,
        optional: Sequence[str],
        timeout_is: str = "",
        ending: str = "",
    ) -> None:
        """Sends nothing yet. Raises UserError for an invalid address or a missing key.

        `timeout` is seconds to wait for the next byte, `timeout_is` its setting; all of an answer may take WHOLE times
        that. `optional` are fields that may be dropped, the most dispensable first. `model` is what a 404 is about,
        `ending` ends errors.
        """
        self.url = servers.address(base_url, param=f"{section}.base_url")
        self.key = servers.read(self.url, key_env, param=f"{section}.key_env")
        self.failed = 0  # requests without an answer
        self._who, self._ending = f"{who} at {self.url}", ending
        self._section, self._model = section, model
        self._timeout, self._retries = timeout, retries
        self._patience = f"{timeout_is} ({timeout:g} s)" if timeout_is else f"{timeout:g} s"
        self._optional = tuple(optional)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._headers |= {"Accept-Encoding": "identity", "User-Agent": "selma"}
        self._headers |= servers.headers(self.url, self.key)
        self._given_up: Fields = frozenset()  # fields that this server refused
        self._accepted: set[str] = set()  # those of the last request that it answered
        self._openai = wire.client(self.url, self.key, self.send)
        self._stop = threading.Event()  # one request's failure ends the waiting of the others
        self._lock = threading.Lock()

    def ask(
        self, path: str, body: Callable[[Fields], dict[str, Any]], read: Callable[[str], T | None]
    ) -> tuple[T, str, Fields]:
        """What `read` finds in the answer's JSON, the server's id of the request, and the fields that were not sent.

        `body` is called with the fields that the server refused; it may still hold them. `read` gets text without
        the key, and returns None for an answer that holds none.
        """
        given_up = self._given_up
        guesses: Iterator[Fields] | None = None
        first, tried = "", 0
        while True:
            sent = _without(body(given_up), given_up)
            try:
                answer, request_id = self._answer(path, sent, read)
            except _Refused as error:
                first = first or error.problem
                droppable = self._droppable(sent)
                field = refusals.blamed(error.text, droppable)
                if field in LIMITS and refusals.is_value(error.text):
                    raise self.end(error.problem) from None
                known = error.named_only or set(sent) == self._accepted or refusals.is_elsewhere(error.text)
                if field is None and known:  # it is not about a field that can be left out
                    raise self.end(error.problem) from None
                if field is not None:
                    given_up, guesses = given_up | {field}, None
                else:
                    guesses = guesses or _guesses(given_up, droppable)
                    given_up = next(guesses, frozenset())
                    if not given_up:
                        raise self.end(first) from None
            except _Failed as error:
                tried += 1
                if tried > self._retries:
                    raise self.end(f"{error.problem}, at the last of {tried} attempts") from None
                wait = _backoff(tried) if error.wait is None else error.wait
                self._say(f"{error.problem}; the next attempt is in {wait:.0f} s")
                if self._stop.wait(wait):
                    raise self.end(error.problem) from None
            else:
                with self._lock:
                    for field in sorted(given_up - self._given_up):
                        effect = CONSEQUENCES.get(field, "")
                        self._say(
                            f"this server does not accept {field}; continuing without it{effect} ({first})"
                        )
                    self._given_up |= given_up
                    self._accepted = set(sent)
                return answer, request_id, given_up
            with self._lock:
                self.failed += 1

    def end(self, problem: str) -> UserError:
        """The error that ends the run, and the other requests' waiting."""
        self._stop.set()
        return UserError(f"{self._who}: {problem}{self._ending}")

    def hide(self, text: str) -> str:
        """`text` without the key."""
        return servers.hide(text, self.key)

    def _answer(self, path: str, body: Mapping[str, Any], read: Callable[[str], T | None]) -> tuple[T, str]:
        """One request, and what is in its answer."""
        status, headers, text = self._post(path, body)
        if status >= 400:
            raise self._judge(status, headers, text)
        answer = read(servers.clean(text, self.key)) if 200 <= status < 300 else None
        if answer is None:
            refused = refusals.blamed(text, self._optional) and refusals.is_unknown(text)
            if code := refusals.error_code(text) or (
                refused and 400
            ):  # an error that came as if it were none
                raise self._judge(code, headers, text)
            said = servers.one_line(text, self.key) or "empty"
            raise _Failed(f"an answer without a choice in it: {said}")
        return answer, servers.one_line(headers.get("x-request-id", ""), self.key)

    def _post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], str]:
        """Status, headers and text of the response."""
        import openai

        with web.within(WHOLE * self._timeout):
            try:
                response = self._openai.post(f"/{path}", body=body, cast_to=httpx2.Response)
            except openai.APIStatusError as error:
                response = error.response
            except openai.APITimeoutError:
                often, whole = (f"{WHOLE} times ", "whole ") if web.overdue() else ("", "")
                raise _Failed(f"no {whole}answer within {often}{self._patience}") from None
            except openai.APIConnectionError as error:
                why = error.__cause__ or error
                if isinstance(why, web.Lasting):
                    raise self.end(web.problem(why)) from None
                raise _Failed(f"no connection ({servers.one_line(web.problem(why), self.key)})") from None
        return response.status_code, response.headers, _text(response)

    def send(self, by: web.Web, request: httpx2.Request) -> tuple[httpx2.Response, bytes]:
        """What the openai package wants sent, with headers of ours alone; the response, and all of its body."""
        url, waits = str(request.url), {"timeout": httpx2.Timeout(self._timeout).as_dict()}
        for _ in range(HOPS + 1):
            ours = httpx2.Request(
                "POST", url, headers=self._headers, content=request.content, extensions=waits
            )
            response = by.handle_request(ours)
            try:
                if not 300 <= response.status_code < 400:
                    return response, _body(response)
                url = self._redirected(url, response)
            finally:
                response.close()
        raise self.end(f"it redirects more than {HOPS} times")

    def _redirected(self, url: str, response: httpx2.Response) -> str:
        """Where a redirect leads, if the same request may go there: to the same server, by POST."""
        status = response.status_code
        try:
            old, new = httpx2.URL(url), httpx2.URL(url).join(response.headers.get("location", ""))
        except (httpx2.InvalidURL, ValueError):
            raise self.end(f"it redirects ({status}) to what is no address") from None
        upwards = (old.scheme, new.scheme) == ("http", "https") and new.port is None
        same = old.host == new.host and (upwards or (old.scheme, old.port) == (new.scheme, new.port))
        if status in (307, 308) and same and "location" in response.headers:
            return str(new)
        port = "" if new.port is None else f":{new.port}"
        where = servers.one_line(f"{new.scheme}://{new.host}{port}{new.path}", self.key)
        raise self.end(
            f"it redirects ({status}) to {where}; {self._section}.base_url must be the address that answers itself"
        )

    def _judge(self, status: int, headers: Mapping[str, str], text: str) -> Exception:
        """What an HTTP error means for the request."""
        text = servers.clean(text, self.key)
        said = f"{status}: {servers.one_line(refusals.error_message(text), self.key)}"
        named = refusals.blamed(text, self._optional) is not None
        if status in (400, 422):
            return _Refused(said, text)
        if named and (status in (404, 501) or (status not in (401, 429) and refusals.is_unknown(text))):
            return _Refused(said, text, named_only=True)
        if status in (401, 403):
            return self.end(
                f"the key was refused ({said}); {self._section}.key_env names the variable that holds it"
            )
        if status == 404:
            return self.end(f"{self._model} not found ({said})")
        again = headers.get("x-should-retry")
        if again == "false" or (again != "true" and status not in RETRIED and status < 500):
            return self.end(said)
        wait = refusals.retry_after(headers)
        if wait is not None and wait > PATIENCE:
            return self.end(f"{said}; it asks for a wait of {wait:.0f} s")
        return _Failed(said, wait)

    def _droppable(self, body: Mapping[str, Any]) -> list[str]:
        """The fields that a request can do without; a completion's limit is not one: the default would be 16 tokens."""
        sent = [name for name in (*self._optional, LIMITS[1]) if name in body]
        return [name for name in sent if name not in LIMITS or "messages" in body]

    def _say(self, note: str) -> None:
        print(f"{self._who}: {note}", file=sys.stderr, flush=True)


def _body(response: httpx2.Response) -> bytes:
    """A response's body, at most LARGEST bytes of it, which is enough of an error."""
    data = bytearray()
    for part in response.iter_bytes():
        data += part
        if len(data) > LARGEST and response.status_code < 400:
            raise _Failed(f"an answer of more than {LARGEST >> 20} MB")
        if len(data) > LARGEST:
            break
    return bytes(data[:LARGEST])


def _text(response: httpx2.Response) -> str:
    """A whole response's text, in whichever encoding it is."""
    data = response.content
    for encoding in (json.detect_encoding(data), response.charset_encoding):
        with suppress(LookupError, ValueError, TypeError):  # not in this one; no such one; none is named
            return data.decode(encoding)
    return data.decode("utf-8", "replace")


class _Failed(Exception):
    """No answer this time; another attempt may succeed, after `wait` seconds if the server said so."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        self.problem, self.wait = problem, wait


class _Refused(Exception):
    """The server refuses the request; `text` is its full response. If `named_only`, it must name a field."""

    def __init__(self, problem: str, text: str, named_only: bool = False) -> None:
        self.problem, self.text, self.named_only = problem, text, named_only


def _without(body: Mapping[str, Any], given_up: Fields) -> dict[str, Any]:
    """A request without these fields, and those that mean nothing without them; its limit under its other name."""
    gone = given_up | ({"top_logprobs"} if "logprobs" in given_up else set())
    sent = {name: value for name, value in body.items() if name not in gone}
    limit, renamed = LIMITS
    if limit in given_up and renamed not in given_up and "messages" in body:
        sent[renamed] = body[limit]
    return sent


def _guesses(given_up: Fields, droppable: Sequence[str]) -> Iterator[Fields]:
    """What to leave out after a refusal that names no field: each field alone, then more and more of them."""
    for name in droppable:
        yield given_up | {name}
    for count in range(2, len(droppable) + 1):
        yield given_up | set(droppable[:count])
    if LIMITS[0] in droppable:  # which comes back under its other name
        yield given_up | {*droppable, *LIMITS}


def _backoff(tried: int) -> float:
    """Seconds to wait after so many failures, slightly different for each thread."""
    return min(BACKOFF * 2.0 ** (tried - 1), LONGEST) * random.uniform(0.75, 1.0)
