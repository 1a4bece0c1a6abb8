"""The lines of a spool: what a stage tells the recorder, each checked before MLflow sees it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AllowInfNan, Field
from typing_extensions import TypedDict

from selma.ground import schema
from selma.ground.errors import UserError

Moment = Annotated[int, Field(ge=0, lt=2**53)]  # ms since 1970
Figure = Annotated[float, AllowInfNan(True)]


@schema.record
class _Start(TypedDict):
    time: Moment
    stage: str
    run: str
    params: dict[str, Any]
    tags: dict[str, str]
    settings: NotRequired[dict[str, Any]]
    inputs: NotRequired[dict[str, str]]


@schema.record
class _Metric(TypedDict):
    time: Moment
    name: str
    value: Figure
    step: schema.Index


@schema.record
class _Metrics(TypedDict):
    time: Moment
    file: str
    values: dict[str, Figure]


@schema.record
class _Result(TypedDict):
    time: Moment
    name: str
    value: Figure


@schema.record
class _Image(TypedDict):
    file: schema.FileName


@schema.record
class _End(TypedDict):
    time: Moment
    status: Literal["FINISHED", "FAILED", "KILLED"]


_EVENTS = {
    "start": _Start,
    "metric": _Metric,
    "metrics": _Metrics,
    "result": _Result,
    "image": _Image,
    "end": _End,
}


def read(line: str) -> dict[str, Any] | None:
    """An event of a spool; None for a line that is none, torn or written by something else."""
    try:
        event = json.loads(line)
        return schema.check(_EVENTS[event["event"]], event, "")
    except (UserError, LookupError, RecursionError, TypeError, ValueError):
        return None
