"""The embedded stand-in for an LLM: offline, seeded, with the habits of real ones (selma/shapes/world/writer.py)."""

from __future__ import annotations

from selma.prompts.provider import Provider, Reply, Settings, ThreadedProvider
from selma.shapes.world.writer import Writer


def load(settings: Settings) -> Provider:
    """The provider; of the settings it takes `concurrency` alone."""
    writer = Writer()
    return ThreadedProvider(
        lambda request: Reply(request.index, *writer.reply(request.text, request.seed)), settings.concurrency
    )
