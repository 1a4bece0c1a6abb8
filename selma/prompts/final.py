"""The final part of a reply: what a model says after it thought aloud, whatever marks the thought.

Templates mark thoughts by tokens (`<think>`, `[THINK]`, `<|channel|>analysis`, `<unused94>thought`), models by
headings ("### Reasoning"). Dialects differ in brackets and affixes and agree in their words, so marks are found by
their shape and told apart by their words. A thought without an end was cut off, and nothing in it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# Words of thoughts, in marks, in headings and in the keys of objects.
_THOUGHT = re.compile(
    r"think|thought|reason|reflect(?!ions)|analy[sz]|scratch|monolog|brainstorm|deliberat|contemplat|introspect|ponder"
    r"|musing|rationale|critique|explanation|verification|consideration|justification|思|推理|分析"
    r"|^(cot|plan|planning|drafts?|inner|commentary|notes?|comments?|process|inst|unused)$"
)
# The same in a mark or a heading only.
_ASIDE = re.compile(
    r"^(rules?|guidelines|constraints|requirements|instructions?|examples?|skills?|steps?|approach|strategy"
    r"|checks?|checklist|tips|remarks|criteria|ideas|system|user|human|developer|tool|details|summary)$"
)
_ANSWER = re.compile(
    r"^(final|answers?|outputs?|responses?|results?|solutions?|conclusion|reply|assistant|(最终)?[答回]案?)$"
)
# What may stand beside these words in a heading; "Prompts on spatial reasoning:" is no thought.
_FILLER = re.compile(
    r"a|about|all|and|are|as|at|behind|by|chain|do|first|follow|for|here|i|in|initial|internal|is|it|let|list|ll|me|my"
    r"|must|need|new|of|next|now|ok|okay|on|our|prompts?|quick|s|self|should|so|some|sure|task|the|then|these|this|those|through|thus|to"
    r"|will|your"
)


def words(name: str) -> list[str]:
    """The lower-case words of a name in any spelling: `newPrompt`, `new_prompt` and `New prompt 1` are one."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("▁", " ").lower())


def is_thought(name: str) -> bool:
    """Whether a name, such as an object's key, speaks of thoughts: `thinking`, `chain_of_thought`, `notes`."""
    return any(_THOUGHT.search(word) for word in words(name))


def is_aside(name: str) -> bool:
    """Whether a name speaks of thoughts or of anything else beside an answer: `step`, `rules`, `user`."""
    return any(_THOUGHT.search(word) or _ASIDE.match(word) for word in words(name))


def final_part(text: str) -> str:
    """What of a reply is its answer: its last answer if it marks one, else all that is no thought."""
    return _after_headings(_after_marks(text))


# Marks -----------------------------------------------------------------------------------------

_MARK = re.compile(
    r"(?P<bracket>[<＜◁\[【{])\s?(?P<bar>[|｜]?)(?P<slash>/?)\s?(?P<name>[^\W\d_][\w:.▁-]*)(?:\s[^<>\[\]{}\n]*)?"
    r"(?P<last>[|｜]?)[>＞▷\]】}]"
)
# The word after these says what begins: <|channel|>analysis, <|im_start|>assistant.
_NAMING = re.compile(r"^(channel|constrain|begin|role|turn|(im_)?start|start_header_id|start_of_turn)$")
_NEXT = re.compile(r"\s*((?i:analysis|commentary|final|json|assistant|user|system)|[a-z]+)")
_OVER = re.compile(
    r"^(/s|/?eos|eot(_id)?|eom(_id)?|im_end|turn_end|endoftext|end_?of_?(text|turn|sentence|message)(_token)?)$"
)
_OVER_SPECIAL = frozenset({"end", "return", "call"})
_BRACKETED = re.compile(r"(think|thinking|thoughts?|reasoning|思考)$")
_AFFIX = frozenset({"begin", "start", "end", "of", "prefix", "suffix"})
_ROLES = frozenset({"system", "user", "human", "developer", "tool"})


@dataclass(frozen=True)
class _Mark:
    kind: str  # thought, aside, answer, turn (the model's), over (a message's end); noise if none of them
    name: str
    closes: bool
    special: bool  # a template's token, which no model writes as text
    start: int
    end: int


def _marks(text: str) -> Iterator[_Mark]:
    for found in _MARK.finditer(text):
        name, end = found["name"].lower().replace("▁", "_"), found.end()
        special = bool(found["bar"] or found["last"]) or found["bracket"] == "◁"
        closes = bool(found["slash"]) or name == "unused95" or (name == "channel" and not found["bar"])
        if _NAMING.match(name) and not closes and (said := _NEXT.match(text, end)):
            name, end, special = said[1].lower(), said.end(), True
        kind, name, closes = _kind(name, closes, special)
        if found["bracket"] in "[【{":  # not [prompts], [reflection]
            loud = found["name"].isupper() and found["bracket"] != "{"
            alone = text[end : end + 1] == "\n" and f"/{name}" not in text.lower()  # a heading
            closed = bool(_BRACKETED.match(name)) and not alone
            kind, special = (kind, special or loud) if loud or closed else ("noise", special)
        yield _Mark(kind, name, closes, special, found.start(), end)


def _kind(name: str, closes: bool, special: bool) -> tuple[str, str, bool]:
    """The kind of a mark, its name without affixes, and whether it closes."""
    if _OVER.match("/s" if closes and name == "s" else name) or (special and name in _OVER_SPECIAL):
        return "over", name, True
    parts = words(name)
    if parts[-1:] == ["call"] or parts[-1:] == ["calls"]:  # <tool_call> may hold the answer
        return "noise", name, closes
    bare = [part for part in parts if part not in _AFFIX]
    closes |= "end" in parts or "suffix" in parts
    if special and name in ("assistant", "model"):
        return "turn", name, closes
    if name == "channel" or is_thought(name):
        return "thought", " ".join(bare), closes
    if any(_ASIDE.match(part) for part in bare):
        return "aside", " ".join(bare), closes
    if any(_ANSWER.match(part) for part in bare) or bare in (["prompts"], ["items"]):
        return "answer", " ".join(bare), closes
    return ("answer" if special and bare == ["content"] else "noise"), " ".join(bare), closes


@dataclass
class _Reader:
    """Sorts a text by its marks: `parts` is what was said, `inside` what is being said."""

    inside: str = "plain"  # or thought, answer, over
    parts: list[tuple[str, str]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)  # thoughts within thoughts
    outer: str = "plain"  # what the thought interrupts
    answer: str = ""  # the name of the answer's mark

    def say(self, text: str) -> None:
        self.parts.append((self.inside, text))

    def cross(self, mark: _Mark, text: str) -> None:
        """Pass a mark that is written as `text`."""
        match mark.kind, mark.closes:
            case "over", _:
                self.inside, self.opened = (self.outer if self.inside == "thought" else "over"), []
            case "turn", _:
                self.inside, self.opened = "plain", []
            case (("thought" | "aside"), False):
                if self.inside != "thought":
                    self.outer = "answer" if self.inside == "answer" else "plain"
                    self.inside, self.opened = "thought", []
                if mark.name not in self.opened:
                    self.opened.append(mark.name)
            case (("thought" | "aside"), True):
                if self.inside == "thought":
                    known = mark.name in self.opened
                    self.opened = self.opened[: self.opened.index(mark.name)] if known else []
                    self.inside = "thought" if self.opened else self.outer
                elif mark.kind == "thought":  # the template opened it: all so far was the thought
                    self.inside, self.parts = "plain", []
            case "answer", False if self.inside in ("plain", "over") or mark.special:
                self.inside, self.answer, self.opened = "answer", mark.name, []
            case "answer", True if self.inside == "answer" and mark.name == self.answer:
                self.inside = "plain"
            case _:
                self.say("" if mark.special else text)

    @property
    def said(self) -> str:
        """The last answer (a thought after it makes one a draft); without any, all that is no thought."""
        answers: list[str] = []
        draft = False
        for kind, text in self.parts:
            if kind == "answer":
                answers, draft = [*([] if draft else answers), text], False
            elif kind == "thought" and answers and text.strip():
                draft = True
        plain = (text for kind, text in self.parts if kind == "plain")
        return "".join(answers) if any(kind == "answer" for kind, _ in self.parts) else "".join(plain)


def _after_marks(text: str) -> str:
    text = re.sub(r"<!--.*?(?:-->|\Z)", "", text.replace("&lt;", "<").replace("&gt;", ">"), flags=re.DOTALL)
    text = _with_channels(text)
    reader, position = _Reader(), 0
    answer: int | None = None  # where, in a thought, an answer begins
    for mark in _marks(text):
        if mark.start < position:
            continue
        reader.say(text[position : mark.start])
        position = mark.end
        if mark.kind == "aside" and mark.name in _ROLES and reader.inside == "over" and reader.said.strip():
            break  # the model goes on and writes the user's next message, too
        if reader.inside == "thought" and mark.kind == "answer" and not mark.special:
            if not mark.closes:
                answer = mark.start
            elif answer is not None and not text[mark.end :].strip(" \n`"):
                return _after_marks(text[answer:])  # a thought that has no end but the answer's begin
        reader.cross(mark, text[mark.start : mark.end])
    else:
        reader.say(text[position:])
    return reader.said


def _with_channels(text: str) -> str:
    """A harmony reply whose marks were dropped ("analysisWe need ...assistantfinal1. ...") with marks."""
    if not re.match(
        r"\s*(assistant)?(analysis[A-Z]|(analysis|commentary)\b(?=.*assistant\s*final))", text, re.DOTALL
    ):
        return text
    return re.sub(
        r"(?:\A\s*(?:assistant)?|assistant\s*)(analysis|commentary|final)(?![a-z])",
        r"<|channel|>\1<|message|>",
        text,
    )


# Headings --------------------------------------------------------------------------------------

# "## Title", "**Title**", "=== Title ===", "[Title]", "Title:", "Title: text", "Title...", "Title", perhaps numbered.
_HEADING = re.compile(
    r"(?P<hash>#{1,6})\s+(?P<a>.+)"
    r"|(?:[*_]{1,3}|[=~-]{2,})\s*(?P<b>[^*_=~\n]{1,80}?)\s*(?:[*_]{1,3}|[=~-]{2,}):?\s*(?P<rest_b>.*)"
    r"|[(\[](?P<c>[^\])\d\n]{1,40})[)\]]|(?P<d>[^\W\d_][^\n:\x22{}\[\]|]{0,80}):\s*(?P<rest_d>.*)"
    r"|(?P<e>[\w ]{1,40})(?:\.\.\.|…)|(?P<word>[^\W\d_]+(?: [^\W\d_]+){0,2})"
)
_ORNAMENT = re.compile(r"\A[\u2190-\u2bff\U0001F000-\U0001FAFF\ufe0f\s]+")
_NUMBERED = re.compile(r"\A\(?\d{1,2}[.):]\s+(?=\*\*[^*]+\*\*:?$|[^:]+:$)")
_ITEM = re.compile(r"[\s*_#>]*\(?\w{1,4}[.)\]、:．）]")  # enough to know that a list has begun
_RULE = re.compile(r"([-*_=])\1{2,}$")
_DONE = re.compile(r"\W*(done|finished|end of|stopped) (my )?(think|thought|reason)\w*\W*$", re.IGNORECASE)


@dataclass(frozen=True)
class _Heading:
    said: list[str]  # the words of its title
    kind: str  # see _section
    depth: int  # 1 to 6 by Markdown's marks, 7 for others
    rest: str  # of its line
    bare: bool  # words alone: a heading if it opens a thought before any item, or the answer after one
    closes: bool  # "(/thinking)"


def _heading(line: str) -> _Heading | None:
    """The heading in a line; None if it is none, or indented and so a part of something else."""
    if line.startswith(("  ", "\t")):
        return None
    found = _HEADING.fullmatch(_NUMBERED.sub("", _ORNAMENT.sub("", line.strip())))
    if not found:
        return None
    title = next(filter(None, (found[name] for name in (*"abcde", "word"))))
    rest = found["rest_b"] or found["rest_d"] or ""
    depth = len(found["hash"] or "#######")
    return _Heading(words(title), _section(title), depth, rest, bool(found["word"]), title.startswith("/"))


def _after_headings(text: str) -> str:
    kept: list[str] = []
    depth = 0  # that of the heading whose thought this is; 0 outside of thoughts
    begun = fenced = False  # whether an item was kept; whether this is a fenced thought
    for line in text.splitlines():
        bare = line.strip()
        heading = _heading(line)
        if fenced or (bare.startswith(("```", "~~~")) and is_thought(bare)):
            fenced = not (fenced and bare.startswith(("```", "~~~")))
            continue
        if _DONE.match(bare):
            kept, depth = [], 0
            continue
        if heading and heading.closes and heading.kind == "thought":
            depth = 0
            continue
        if heading and heading.bare and not (depth if heading.kind == "final" else not begun):
            heading = None
        if heading:
            if begun and heading.said in (["user"], ["human"]):
                break  # the model goes on with the user's next message
            if heading.kind == "final" and not (begun and heading.said == ["assistant"]):
                kept, depth, begun, line = [], 0, False, heading.rest
            elif heading.kind == "thought" and not (heading.rest and begun):  # beside an item: about it
                depth = min(depth or heading.depth, heading.depth)
            elif heading.kind == "list" or heading.depth <= min(depth, 6):
                depth = 0
                line = "" if heading.said[-1:] == ["prompts"] and not heading.rest else line
        elif _RULE.match(bare):
            depth = 0
        if not depth:
            kept.append(line)
            begun |= bool(_ITEM.match(line))
    return "\n".join(kept)


def _section(title: str) -> str:
    """What a heading opens: thought, final, list (of prompts), or nothing that it says."""
    said = words(re.sub(r"(?i)\A.*[.!?]\s+(?=[^\W\d_])|\bstep \d+[\W_]+(?=\w)", "", title))
    thought = [word for word in said if _THOUGHT.search(word) or _ASIDE.match(word)]
    named = [word for word in said if not _FILLER.fullmatch(word)]
    if named and all(_ANSWER.match(word) for word in named):
        return "final"
    prompts = [number for number, word in enumerate(said) if word in ("prompt", "prompts")]
    if prompts and (not thought or prompts[0] < said.index(thought[0])):
        return "list"
    about = named[:1] and re.match(r"explanation|reasoning|rationale|analysis|notes|justification", named[0])
    return (
        "thought"
        if thought and ((about and "here" not in said) or all(word in thought for word in named))
        else ""
    )
