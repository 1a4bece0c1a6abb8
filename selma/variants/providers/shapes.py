"""The embedded stand-in for an LLM: offline, seeded, with the habits of real ones (selma/shapes/world/writer.py)."""

from __future__ import annotations

from selma.prompts.provider import Provider, Reply, ThreadedProvider
from selma.runtime.params import Llm
from selma.shapes.world.writer import Writer


def load(settings: Llm) -> Provider:
    """The provider; it uses only `concurrency` of the settings."""
    writer = Writer()
    return ThreadedProvider(
        lambda request: Reply(request.index, *writer.reply(request.text, request.seed)), settings.concurrency
    )
