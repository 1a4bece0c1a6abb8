"""The tokens by which prompts are compared: `rouge_score`'s, and words and characters where it would see nothing.

`rouge_score` keeps lower-case runs of a-z and 0-9. Of `café` it keeps `caf`, of a Chinese or Russian prompt nothing,
and what it reduces to nothing it calls unlike everything. Here a text is read as `rouge_score` reads it if it loses
nothing but punctuation by that (every ASCII text is such a text). Any other text is read by Unicode: NFKC and case
folding first, so that full-width, half-width, decomposed and upper-case spellings are one; then a token is

- a run of letters and digits of any script with their combining marks (accents stay: `schön` is not `schon`),
- one character, with its marks, of a script written without spaces (Han, kana, Thai, Lao, Khmer, Burmese, ...),
- one emoji, with its skin tone.

Of a text of the first kind, Unicode's tokens are `rouge_score`'s. So any two texts are compared by a tokenizer that
sees both, and an English prompt with an emoji is its English twin plus a token.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right

# First and last code points of scripts without spaces between words; their punctuation is told by its category.
_UNSPACED = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x2E80, 0x312F),  # radicals, Han iteration marks, hiragana, katakana, bopomofo
    (0x31A0, 0x31FF),  # bopomofo and katakana, extended
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0xA4CF),  # Han, Yi
    (0xA9E0, 0xA9FF),  # Burmese, extended
    (0xAA60, 0xAADF),  # Burmese, Tai Viet
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x1AFF0, 0x1B16F),  # kana, extended
    (0x20000, 0x3FFFF),  # Han, extensions B and later
)
_STARTS = [first for first, _ in _UNSPACED]
_EMOJI = 0x2300  # symbols below this, such as (c), (tm) and degree, are signs as punctuation is
_JOINERS = {0x200C, 0x200D, *range(0xFE00, 0xFE10)}  # zero width joiners; text or emoji style
_TONES = range(0x1F3FB, 0x1F400)

_NO_TOKEN = {i: " " for i in range(128) if not chr(i).isalnum()}
# w: letter or digit, c: the same of an unspaced script, m: mark, z: joins its neighbours, e: emoji
_TOKEN = re.compile(r"w(?:[wm]|z+(?=[wm]))*|cm*|em*")


def tokens(text: str) -> list[str]:
    """The tokens of a text, in order; those of `rouge_score`'s default tokenizer if `is_plain(text)`."""
    if text.isascii():
        return text.lower().translate(_NO_TOKEN).split()
    return unicode_tokens(text)


def unicode_tokens(text: str) -> list[str]:
    """The tokens of a text of any script, in order."""
    seen = "".join(char if _KINDS[ord(char)] != " " else " " for char in text)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return [folded[slice(*found.span())] for found in _TOKEN.finditer(folded.translate(_KINDS))]


def is_plain(text: str) -> bool:
    """Whether `rouge_score`'s tokenizer loses nothing but punctuation, signs and spaces of the text."""
    return text.isascii() or all(char.isascii() or _KINDS[ord(char)] == " " for char in text)


class _Kinds(dict[int, str]):
    """A code point's kind, one of `wcmze` or a space for what is in no token; found once for each."""

    def __missing__(self, code: int) -> str:
        self[code] = kind = _kind(chr(code))
        return kind


def _kind(char: str) -> str:
    code, category = ord(char), unicodedata.category(char)
    if code in _JOINERS:
        return "z"
    if category[0] == "M" or code in _TONES:
        return "m"
    if category[0] in "LN":
        place = bisect_right(_STARTS, code) - 1
        return "c" if place >= 0 and code <= _UNSPACED[place][1] else "w"
    return "e" if category == "So" and code >= _EMOJI else " "


_KINDS = _Kinds()
