"""Noun phrases of a prompt, each with its noun and what modifies it, by rules of English.

No tagger and no model: words of the closed classes (determiners, prepositions, pronouns, auxiliaries, ...) end a
phrase, what lies between them is one, and its last word is the noun. That reads captions and tags well:

    a small red circle left of two blue squares    small, red -> circle; blue -> squares
    the cat on the mat is black and white          black, white -> cat

What it cannot tell: a verb that no rule below names ("the dog barks": a noun `barks`), a noun that is spelled like an
adjective, and what follows its noun as a clause. `parser: spacy` of the methods that use this is for such prompts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

Span = tuple[int, int]  # characters of the prompt, from the first to behind the last


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: its characters, with determiner and number, those of its noun, and of each word that modifies it.

    A modifier may stand outside of the phrase, as in "the background is black". Numbers are none.
    """

    span: Span
    noun: Span
    modifiers: tuple[Span, ...] = ()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = _words(
    "a an the this that these those some any each every another both all many several few more most no its his her "
    "their my our your"
)
_NUMBERS = _words(
    "one two three four five six seven eight nine ten eleven twelve twenty hundred thousand dozen"
)
_BE = _words("is are was were be been looks look seems seem appears appear")
# Prepositions, conjunctions, pronouns, auxiliaries, and the adverbs and verbs that captions are full of.
_STOPS = _words(
    "about above across against along alongside amid among around as at atop before behind below beneath beside "
    "besides between beyond by despite down during except for from in inside into like near next of off on onto "
    "opposite out outside over past per than through throughout to toward towards under underneath until up upon via "
    "with within without and or but nor so yet if when while where because although though whereas which who whom "
    "whose what that i you he she it we they me him us them itself himself herself themselves myself there here "
    "something anything nothing everything someone anyone nobody everyone else not never also too very just only "
    "alone together apart away again already still almost quite rather then now total can could may might must shall "
    "should will would do does did has have had having being placed seen shown made set put "
    "show shows showing depict depicts depicting see observe notice hold holds holding wear wears wearing contain "
    "contains stand stands sit sits sat lie lies imagine"
)
_RELATIVE = _words("that which who")
_ADVERBS = _words("not never also too very just only almost quite rather already still")  # and words in -ly
_POSITIONS = _words("left right top bottom center centre middle")
_ADJECTIVES = _words(
    "red orange yellow green blue purple violet pink brown black white gray grey golden silver teal cyan magenta beige "
    "turquoise dark bright pale light colorful small smaller large larger big bigger tiny huge giant little tall short "
    "long wide narrow thick thin high low deep old new young ancient modern round flat plain simple sharp clean wet "
    "dry hot cold warm soft hard heavy empty full open same different separate single visible upper lower rare odd "
    "strange unusual surreal happy sad angry beautiful pretty cute ugly shiny fluffy furry wooden metallic geometric "
    "abstract digital minimal striped spotted"
)
_LIKE_ADJECTIVES = ("ous", "ful", "less", "ish", "able", "ible")
_NOT_PARTICIPLES = _words(
    "bed seed shed sled weed reed feed breed building painting drawing king ring thing string ceiling clothing wing "
    "evening morning lightning railing wedding pudding sibling spring swing sling earring icing crossing"
)
_NOT_ADVERBS = _words("family butterfly fly lily belly jelly bully ally assembly dragonfly july italy")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class _Run:
    """Open words in a row, with what is around them: the phrase to be.

    lead    the determiner or number before them
    before  the closed word before that, or before them; not an adverb
    relates whether that is a form of `be` after `that` or the like
    after   what follows: the next word, "" at an end
    ends    whether punctuation follows, and which
    """

    words: tuple[re.Match, ...]
    lead: re.Match | None
    before: str
    relates: bool
    after: str
    ends: str


def noun_phrases(text: str) -> list[Phrase]:
    """The noun phrases of an English prompt, in order and apart from each other; case counts for nothing."""
    phrases: list[Phrase] = []
    adjectives: list[
        tuple[int, int]
    ] = []  # of a run of them alone, for the noun after `and`: "red and blue balls"
    start = 0  # of that run, with its determiner
    subject: int | None = None  # the phrase that `is` speaks of
    introduced: list[str] = []  # the closed word before each phrase
    clause = 0  # the number of phrases before this clause
    for run in _runs(text):
        words = [match.group().lower() for match in run.words]
        spans = [match.span() for match in run.words]
        if run.before in _BE and run.lead is None and all(map(_is_adjective, words)):
            subject = len(phrases) - 1 if run.relates and phrases else _subject(introduced, clause)
            if subject is not None:
                phrases[subject] = _modified(phrases[subject], spans)
        elif run.before in ("and", "or") and subject is not None and all(map(_is_adjective, words)):
            phrases[subject] = _modified(phrases[subject], spans)
        elif run.before in _BE and run.lead is None and len(words) == 1 and _is_participle(words[0]):
            pass
        else:
            subject = None
            words, spans = _without_tail(run, words, spans)
            if words and not (all(map(_is_adjective, words)) and (run.lead is None or _joins(run))):
                joined = adjectives if run.lead is None else []
                first = start if joined else (run.lead or run.words[0]).start()
                phrases.append(Phrase((first, spans[-1][1]), spans[-1], (*joined, *spans[:-1])))
                introduced.append(run.before)
                adjectives = []
            elif words and _joins(run):
                start = start if adjectives and run.lead is None else (run.lead or run.words[0]).start()
                adjectives = [*(adjectives if run.lead is None else []), *spans]
            else:
                adjectives = []
        if set(run.ends) & set(".;:!?\n"):
            clause, subject, adjectives = len(phrases), None, []
    return phrases


def _runs(text: str) -> list[_Run]:
    """The runs of open words, with what is around each."""
    matches = list(_WORD.finditer(text))
    runs, words, lead, before, relates = [], [], None, "", False
    for i, match in enumerate(matches):
        word = match.group().lower()
        after = matches[i + 1].group().lower() if i + 1 < len(matches) else ""
        gap = text[match.end() : matches[i + 1].start() if after else len(text)].strip()
        is_number = word.isdigit() or word in _NUMBERS
        if _is_closed(word) or after == "than" or (is_number and not words):
            opens = word in _DETERMINERS or is_number
            if opens and lead is None:
                lead = match
            elif not opens and not (word in _ADVERBS or _is_adverb(word)):
                relates = word in _BE and matches[i - 1].group().lower() in _RELATIVE and i > 0
                lead, before = None, word
        else:
            words.append(match)
        if words and (gap or not after or _is_closed(after) or after.isdigit() or after in _NUMBERS):
            runs.append(_Run(tuple(words), lead, before, relates, after, gap or ("" if after else ".")))
            words, lead, before, relates = [], None, "", False
        elif gap:
            lead, before, relates = None, "", False
    return runs


def _without_tail(run: _Run, words: list[str], spans: list[Span]) -> tuple[list[str], list[Span]]:
    """The run without what only follows its noun: a position, a participle, the verb before the next phrase."""
    verb = run.after in _DETERMINERS | _NUMBERS or run.after.isdigit()
    if verb and not run.ends and (len(words) > 1 or run.lead is None):
        words, spans = words[:-1], spans[:-1]
    while words:
        alone = len(words) == 1
        described = not alone and _is_adjective(words[-2])  # "the upper left", "a red building"
        position = words[-1] in _POSITIONS and not described
        participle = _is_participle(words[-1]) and not described and not (alone and run.lead)
        if not (position or participle):
            break
        words, spans = words[:-1], spans[:-1]
    return words, spans


def _joins(run: _Run) -> bool:
    """Whether a run of adjectives modifies the noun of the next: "red and blue balls", "a small, red ball"."""
    return (run.after in ("and", "or") and not run.ends) or (run.lead is not None and run.ends == ",")


def _subject(introduced: list[str], clause: int) -> int | None:
    """The phrase that a predicate speaks of: the last one of the clause that no preposition introduces."""
    for i in reversed(range(clause, len(introduced))):
        if introduced[i] in ("", "and", "or", "that", "which", "but", "while", "where", "when", "as"):
            return i
    return None


def _modified(phrase: Phrase, spans: list[Span]) -> Phrase:
    return replace(phrase, modifiers=(*phrase.modifiers, *spans))


def _is_closed(word: str) -> bool:
    return _is_adverb(word) or word in _DETERMINERS or word in _STOPS or word in _BE


def _is_adverb(word: str) -> bool:
    return word.endswith("ly") and len(word) > 4 and word not in _NOT_ADVERBS


def _is_adjective(word: str) -> bool:
    return word in _ADJECTIVES or word.endswith(_LIKE_ADJECTIVES)


def _is_participle(word: str) -> bool:
    return len(word) > 4 and word.endswith(("ing", "ed")) and word not in _NOT_PARTICIPLES | _ADJECTIVES
