"""Noun phrases of prompts by the parser that a method's settings name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selma.ground.errors import UserError
from selma.images.phrases import Phrase, Span, noun_phrases

if TYPE_CHECKING:
    from spacy.tokens import Span as Chunk
    from spacy.tokens import Token

MODEL = "en_core_web_sm"
# What modifies a noun, as in SynGen's own code; `conj` of a modifier modifies, too.
_MODIFIES = ("amod", "nmod", "compound", "npadvmod", "advmod", "acomp", "relcl")


def parse(texts: Sequence[str], parser: str) -> list[list[Phrase]]:
    """The noun phrases of every text, by `rules` (phrases.py) or by `spacy`'s dependency parser.

    Raises UserError where spaCy or its model is not installed.
    """
    if parser == "rules":
        return [noun_phrases(text) for text in texts]
    try:
        import spacy

        language = spacy.load(MODEL)
    except (ImportError, OSError):
        raise UserError(
            f"parser: spacy is not there, or its model {MODEL}; `pip install spacy` and "
            f"`python -m spacy download {MODEL}`, or set parser to rules"
        ) from None
    return [[phrase_of(chunk) for chunk in document.noun_chunks] for document in language.pipe(texts)]


def phrase_of(chunk: Chunk) -> Phrase:
    """A noun chunk of spaCy with what modifies its root, also from behind a form of `be`: "the sky is blue"."""
    root = chunk.root
    found = _modifiers(root)
    if root.dep_ == "nsubj":
        found += [
            part for child in root.head.children if child.dep_ == "acomp" for part in _with_conjuncts(child)
        ]
    found = [token for token in found if token.i != root.i]
    return Phrase(
        (chunk.start_char, chunk.end_char),
        _characters(root),
        tuple(_characters(token) for token in sorted(found, key=lambda token: token.i)),
    )


def _modifiers(token: Token) -> list[Token]:
    return [part for child in token.children if child.dep_ in _MODIFIES for part in _with_conjuncts(child)]


def _with_conjuncts(token: Token) -> list[Token]:
    return [token, *token.conjuncts]


def _characters(token: Token) -> Span:
    return token.idx, token.idx + len(token.text)
