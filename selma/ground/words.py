"""Words of English, as questions need them."""

from __future__ import annotations


def article(name: str) -> str:
    """ "an apple", "a bench"."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
