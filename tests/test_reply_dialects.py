"""Replies in the dialects of many models and templates: thoughts, JSON and lists as they write them."""

from __future__ import annotations

import json
import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma.prompts.replies import parse_list, parse_reply

RIGHT = ["two red kites", "five blue cups"]
LIST = "1. two red kites\n2. five blue cups"
IDEAS = "1. Pick the colours first\n2. Make sure no prompt repeats"

JSON = json.dumps({"prompts": RIGHT})

# Thoughts ----------------------------------------------------------------------------------------

TAGS = [
    ("<think>", "</think>"),
    ("<THINK>", "</THINK>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<Thoughts>", "</Thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ('<reasoning effort="high">', "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<analysis>", "</analysis>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("<chain_of_thought>", "</chain_of_thought>"),
    ("<antThinking>", "</antThinking>"),
    ("<plan>", "</plan>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<think:opensource>", "</think:opensource>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("[THINK]", "[/THINK]"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<|think|>", "<|/think|>"),
    ("<｜think｜>", "<｜/think｜>"),
    ("<|thinking_start|>", "<|thinking_end|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<details><summary>Thoughts</summary>", "</details>"),
    ("<!-- ", " -->"),
    ("```thinking\n", "\n```\n"),
    ("Thinking...\n", "\n...done thinking.\n"),
]


@pytest.mark.parametrize(("begin", "end"), TAGS)
def test_no_thought_is_a_prompt_whatever_marks_it(begin, end):
    assert parse_reply(f"{begin}{IDEAS}\n{end}{LIST}") == RIGHT
    assert parse_reply(f"{begin}\n{IDEAS}\n{end}\n\n{json.dumps({'prompts': RIGHT})}") == RIGHT
    assert parse_reply(f"{begin}{json.dumps(['a draft', 'another'])}\n{end}\n{LIST}") == RIGHT
    assert parse_reply(f"{begin}{IDEAS}") == []  # cut off
    assert parse_reply(f"{begin}{IDEAS}\n{end}") == []  # nothing but a thought
    assert parse_reply(f"{begin}{IDEAS}", "length") == []


@pytest.mark.parametrize(("begin", "end"), [tags for tags in TAGS[:28] if "unused" not in tags[0]])
def test_a_thought_that_its_template_opened(begin, end):
    assert parse_reply(f"{IDEAS}\n{end}\n{LIST}") == RIGHT
    assert parse_reply(f"{LIST}\n{begin}{IDEAS}{end}") == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        f"### Reasoning\n{IDEAS}\n\n### Final answer\n{LIST}",
        f"## Thought process\n#### Colours\n{IDEAS}\n## Prompts\n{LIST}",
        f"# Analysis\n{IDEAS}\n# Kites and cups\n{LIST}",
        f"**Thinking:**\n{IDEAS}\n\n**Answer:**\n{LIST}",
        f"**Reasoning**\n{IDEAS}\n\n**Final prompts**\n\n{LIST}",
        f"Here is my thought process:\n{IDEAS}\n\nHere is my response:\n{LIST}",
        f"Reasoning: I pick colours first.\n{IDEAS}\nFinal answer: \n{LIST}",
        f"Thought: I pick colours.\n{IDEAS}\nAnswer: {LIST}",
        f"Let me think about this:\n{IDEAS}\n\nHere are the prompts:\n{LIST}",
        f"I will follow these rules:\n{IDEAS}\n\nPrompts:\n{LIST}",
        f"Draft prompts:\n{IDEAS}\n\nFinal prompts:\n{LIST}",
        f"**Thinking**\n{IDEAS}\n\n---\n\n{LIST}",
        f"{LIST}\n\n**Notes:**\n- I varied the colours\n- and the numbers",
        f"{LIST}\n\nExplanation:\n1. kites fly\n2. cups do not",
        f"{LIST}\n\n### Why these work\nThey count.",
        f"Here are 2 prompts that need spatial reasoning:\n{LIST}",
        f"Sure! Here are prompts on reasoning:\n{LIST}",
        f"<think>{IDEAS}</think>\n<answer>\n{LIST}\n</answer>",
        f"<think>{IDEAS}</think>\n<final>{LIST}",
        f"<thinking>{IDEAS}<reflection>{IDEAS}</reflection>{IDEAS}</thinking>\n<output>{LIST}</output>",
        f"<think>a <think> in a thought\n{IDEAS}</think>\n{LIST}",
        f"<think>{IDEAS}<think>{IDEAS}</think>{IDEAS}</think>\n{LIST}",
        f"<thinking>{IDEAS}</think>\n{LIST}",
        f"{IDEAS}\n<answer>{LIST}</answer>\nI hope these help:\n- one\n- two",
        f"<answer>{IDEAS}</answer><reflection>no</reflection><answer>{LIST}</answer>",
        f"<think>{IDEAS}\n<answer>{LIST}</answer>",
        f"<|begin_of_thought|>{IDEAS}<|end_of_thought|><|begin_of_solution|>{LIST}<|end_of_solution|>",
        f"<|START_THINKING|>{IDEAS}<|END_THINKING|><|START_RESPONSE|>{LIST}<|END_RESPONSE|>",
        f"<|channel|>analysis<|message|>{IDEAS}<|end|><|start|>assistant<|channel|>commentary<|message|>"
        f"{IDEAS}<|end|><|start|>assistant<|channel|>final<|message|>{LIST}<|return|>",
        f"analysisWe need prompts.\n{IDEAS}assistantfinal{LIST}",
        f"<|begin|>assistant<|think|>{IDEAS}<|end|><|begin|>assistant<|content|>{LIST}<|end|>",
        f"<|im_start|>user\nRules:\n{IDEAS}<|im_end|>\n<|im_start|>assistant\n{LIST}<|im_end|>",
        f"[INST] Rules:\n{IDEAS} [/INST] {LIST}</s>",
        f"{LIST}<|im_end|>\n<|im_start|>user\nMore:\n{IDEAS}<|im_end|>\n<|im_start|>assistant\n{IDEAS}",
        f"{LIST}<|endoftext|>Human: go on\n{IDEAS}",
        f"{LIST}</s>\n{IDEAS}",
        f"<s>{LIST}</s>",
        f"> Thinking about colours\n> {IDEAS.replace(chr(10), chr(10) + '> ')}\n\n{LIST}",
    ],
)
def test_the_final_part_is_read(text):
    assert parse_reply(text) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        f"analysisWe need prompts.\n{IDEAS}",
        f"<|channel|>analysis<|message|>{IDEAS}",
        f"### Reasoning\n{IDEAS}",
        f"**Thinking:**\n{IDEAS}",
        f"<think>{IDEAS}</think>\n<answer>",
        json.dumps({"reasoning": IDEAS}),
        "I can't help with that. My reasons:\n1. it is unsafe\n2. it breaks the rules",
        json.dumps({"thoughts": IDEAS.split("\n"), "prompts": []}),
        '{"reasoning": "I will\n1. pick colours\n2. not repeat',
        '{"thoughts": ["pick colours", "do not repeat"], "prom',
    ],
)
def test_reasoning_alone_is_no_answer(text):
    assert parse_reply(text) == []


# JSON --------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"prompts": {"type": "array", "items": {"type": "string", "description": "a prompt"}}},
    "required": ["prompts"],
    "additionalProperties": False,
}
ITEMS = [{"id": "p1", "prompt": "two red kites", "style": "photo"}, {"id": "p2", "prompt": "five blue cups"}]
DATA = [
    RIGHT,
    [[text] for text in RIGHT],
    [RIGHT],
    [[1, "two red kites"], [2, "five blue cups"]],
    {"prompts": RIGHT},
    {"Prompts": RIGHT},
    {"prompts": {"1": "two red kites", "2": "five blue cups"}},
    {"prompts": {"kites": ["two red kites"], "cups": ["five blue cups"]}},
    {"prompts": ITEMS},
    {"prompts": [{"text": text, "skill": "count"} for text in RIGHT]},
    {"prompts": [{"prompt": {"text": text}, "explanation": "it counts"} for text in RIGHT]},
    {"prompts": [{"negative_prompt": "blurry", "image_prompt": text, "seed": 4} for text in RIGHT]},
    {"prompts": RIGHT, "negative_prompts": ["blurry", "dark"]},
    {"prompts": [f"{n}. {text}" for n, text in enumerate(RIGHT, 4)]},
    {"prompts": [f"Prompt {n}: {text}" for n, text in enumerate(RIGHT, 4)]},
    {"prompts": LIST},
    {"prompts": json.dumps(RIGHT)},
    {"new_prompts": RIGHT, "examples": ["a cat"]},
    {"result": {"prompts": RIGHT}},
    {"status": "ok", "data": {"items": [{"caption": text} for text in RIGHT]}},
    {"thinking": "pick colours", "output": RIGHT},
    {"reasoning": ["pick colours", "no repeats"], "answer": {"list": RIGHT}},
    {"answer": LIST},
    {"role": "assistant", "content": LIST},
    {"name": "write_prompts", "arguments": json.dumps({"prompts": RIGHT})},
    {"choices": [{"message": {"role": "assistant", "content": LIST}, "index": 0}]},
    {"prompt_1": "two red kites", "prompt_2": "five blue cups"},
    {"Prompt 1": "two red kites", "Prompt 2": "five blue cups"},
    {"first": "two red kites", "second": "five blue cups"},
    {"count": RIGHT},
    {"type": "object", "prompts": RIGHT},
    {"type": "object", "properties": {"prompts": {"type": "array", "items": RIGHT}}},
    {"type": "object", "properties": {"prompts": RIGHT}},
    ITEMS,
    {
        "prompts": {
            "p1": {"text": "two red kites", "style": "photo"},
            "p2": {"text": "five blue cups", "style": "photo"},
        }
    },
    {
        "tool_calls": [
            {"function": {"name": "w", "arguments": '{"prompts": ["two red kites", "five blue cups"]}'}}
        ]
    },
    {
        "prompts": [
            {"id": 0, "style": {"mood": "calm"}, "prompt": "two red kites", "words": ["a", "b"]},
            {"id": 1, "style": {"mood": "calm"}, "prompt": "five blue cups", "words": ["a", "b"]},
        ]
    },
    {
        "prompts": [
            {"skill": "count", "objects": ["kite", "lake"], "text": "two red kites"},
            {"skill": "count", "objects": ["kite", "lake"], "text": "five blue cups"},
        ]
    },
    {
        "prompts": [
            {"positive": "two red kites", "negative": "blurry"},
            {"positive": "five blue cups", "negative": "blurry"},
        ]
    },
    {
        "items": [
            {"content": "two red kites", "meta": {"skill": "count"}},
            {"content": "five blue cups", "meta": {"skill": "count"}},
        ]
    },
]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_of_any_shape(data, indent):
    text = json.dumps(data, indent=indent)
    schema = json.dumps(SCHEMA, indent=indent)
    assert parse_reply(text) == RIGHT
    for reply in (
        f"Sure!\n```json\n{text}\n```\nEnjoy!",
        f"Here they are: {text}",
        f"{schema}\n{text}",
        f"```json\n{schema}\n```\n\n```json\n{text}\n```",
        f"prompts = {text}",
        f"1. colours\n2. no repeats\n</think>{text}",
        repr(data),
    ):
        assert parse_reply(reply) == RIGHT, reply


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "two red kites"}\n{"prompt": "five blue cups"}\n',
        '{"prompt": "two red kites"},\n{"prompt": "five blue cups"}',
        '{"id": 1, "text": "two red kites", "style": "photo"}\n\n'
        '{"id": 2, "text": "five blue cups", "style": "oil"}',
        '{"output": "two red kites"}\n{"output": "five blue cups"}',
        '```jsonl\n{"prompt": "two red kites"}\n{"prompt": "five blue cups"}\n```',
        '["two red kites"]\n["five blue cups"]',
        '1. {"prompt": "two red kites"}\n2. {"prompt": "five blue cups"}',
        '- {"prompt": "two red kites", "style": "photo"}\n- {"prompt": "five blue cups", "style": "oil"}',
        '{"prompt": "two red kites"}\n{"prompt": "a "big" cup"}\n{"prompt": "five blue cups"}',
        '"two red kites"\n"five blue cups"',
        '"two red kites",\n"five blue cups"',
        "['two red kites', 'five blue cups',]",
        "{prompts: ['two red kites', 'five blue cups']}",
        '{\n  // two prompts\n  "prompts": ["two red kites", "five blue cups"], # done\n}',
        "{“prompts”: [“two red kites”, “five blue cups”]}",
        '{"prompts": ["two red kites", "five blue cups"]',
        '{"prompts": ["two red kites", "five blue cups", "six gr',
        '{"1": "two red kites", "2": "five blue cups", "3": "six gr',
        '[{"prompt": "two red kites"}, {"prompt": "five blue cups"}, {"style": "photo", "prom',
        '{"result": {"prompts": ["two red kites", "five blue cups"',
        '{"thoughts": ["pick"], "prompts": ["two red kites", "five blue cups", "six gr',
        '{"prompts": ["two red\\nkites", "five\nblue cups", "", "...", null, 7, true, {}]}',
        '{"prompts": ["two red kites", "five blue cups", ...]}',
        '{"prompts": ["<b>two</b> red kites", "**five** blue cups"]}',
        'print(["two red kites", "five blue cups"])',
    ],
)
def test_json_lines_and_what_is_nearly_json(text):
    assert parse_reply(text) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(SCHEMA),
        json.dumps(SCHEMA, indent=2),
        json.dumps({"type": "json_schema", "json_schema": {"name": "prompts", "schema": SCHEMA}}, indent=2),
        '{"error": "I cannot help with that"}',
        '{"response": "I cannot help with that"}',
        '{"refusal": "I cannot help with that", "prompts": []}',
        '{"prompts": null, "message": "no"}',
        '{"status": "ok", "id": "p1"}',
        '[["two red kites", "photo"], ["five blue cups", "oil"]]',
        '[{"scene": "two red kites", "place": "a lake"}]',
        "[]",
        "{}",
        "[" * 5000 + "]" * 5000,
        '{"prompts": ' * 5000,
        '["' + "9" * 5000,
    ],
)
def test_json_without_a_prompt(text):
    assert parse_reply(text) == []


def test_a_list_that_speaks_of_lists_is_no_json():
    text = '1. a sign: ["open", "closed"]\n2. five {blue} cups [photo]'
    assert parse_reply(text) == ['a sign: ["open", "closed"]', "five {blue} cups [photo]"]


# Lists -------------------------------------------------------------------------------------------

MARKERS = [
    "{n}. ", "{n}) ", "({n}) ", "{n}: ", "{n} - ", "{n} – ", "{n}.) ", "{n}\\. ", "[{n}] ", "#{n} ", "#{n}: ",
    "No. {n}: ",
    "**{n}.** ", "**{n})** ", "{n}．", "{n}、", "（{n}）", "Prompt {n}: ", "Prompt #{n}: ", "**Prompt {n}:** ",
    "**Prompt {n}**: ",
    "**Prompt {n}** ", "### Prompt {n}: ", "### Prompt {n}\n", "### {n}. ", "## Prompt {n}\n\n", "**Prompt {n}:**\n",
    "**Prompt {n}:**\n\n", "Prompt: ", "**Prompt:** ", "- Prompt {n}: ", "- **Prompt:** ", "{n}. Prompt: ",
    "{n}. **Prompt:** ",
    "{n}. **Kites:** ", "{n}. **Kites**: ", "{n}.\n", "{n}\t", "- ", "* ", "+ ", "• ", "◦ ", "– ", "- [ ] ",
    "- [x] ", "- {n}. ",
    "✅ ", "> {n}. ", "> - ", "  {n}. ", "prompt: ", "- prompt: ", "- text: >\n    ", "Caption {n}: ",
    "{n}\ufe0f\u20e3 ",
]  # fmt: skip


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize(
    "quote", ["{}", '"{}"', "“{}”", "'{}'", "**{}**", "*{}*", "`{}`", "«{}»", "{}  ", '"{}",']
)
def test_lists_with_every_marker(marker, quote):
    lines = [marker.replace("{n}", str(n)) + quote.format(text) for n, text in enumerate(RIGHT, start=4)]
    for gap in ("\n", "\n\n"):
        assert parse_reply(gap.join(lines)) == RIGHT
        assert parse_reply("Sure! Here you go:\n\n" + gap.join(lines) + "\n\nLet me know!") == RIGHT
        if ">" in marker[:1]:
            continue
        below = [f"{line}\n   - Style: photo\n   - Mood: calm" for line in lines]
        assert parse_reply(gap.join(below)) == RIGHT
        assert parse_reply(gap.join(f"{line}\n   Style: photo" for line in lines)) == RIGHT
        assert parse_reply(gap.join(f"{line}\n   *(tests counting)*" for line in lines)) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        "a) two red kites\nb) five blue cups",
        "(a) two red kites\n(b) five blue cups",
        "A. two red kites\nB. five blue cups",
        "i. two red kites\nii. five blue cups",
        "I) two red kites\nII) five blue cups",
        "① two red kites\n② five blue cups",
        "⑴ two red kites\n⑵ five blue cups",
        "❶ two red kites\n❷ five blue cups",
        "１．two red kites\n２．five blue cups",
        "（１）two red kites\n（２）five blue cups",
        "１：two red kites\n２：five blue cups",
        "一、two red kites\n二、five blue cups",
        "  1. two red\n     kites\n  2. five blue\n     cups",
        "1. two red kites\n  2. five blue cups",
        " 9. two red kites\n10. five blue cups",
        "1. two red kites (3 words)\n2. five blue cups (3 words)",
        "1. two red kites\n   1. Style: photo\n   2. Mood: calm\n2. five blue cups\n   1. Style: photo",
        "1. two red kites\n   a) photo\n   b) calm\n2. five blue cups\n   a) photo",
        "1. two red kites\na) photo\n2. five blue cups\na) photo",
        "1. two red kites\n- photo\n2. five blue cups\n- photo",
        "- two red kites\n    - photo\n- five blue cups\n    - photo",
        "- Kites:\n  - two red kites\n- Cups:\n  - five blue cups",
        "1. Kites:\n   - two red kites\n2. Cups:\n   - five blue cups",
        "1. **Kites:**\n   a. two red kites\n2. **Cups:**\n   a. five blue cups",
        "- **Kites**\n  1. two red kites\n- **Cups**\n  2. five blue cups",
        "**Kites**\n1. two red kites\n\n**Cups**\n1. five blue cups",
        "1. Kite scene\n   Prompt: two red kites\n   Style: photo\n2. Cup scene\n   Prompt: five blue cups",
        "1. Kite scene\n   - Prompt: two red kites\n   - Style: photo\n2. Cup scene\n   - Prompt: five blue cups",
        "Prompt: two red kites\nStyle: photo\n\nPrompt: five blue cups\nStyle: photo",
        "- id: 1\n  prompt: two red kites\n  style: photo\n- id: 2\n  prompt: five blue cups\n  style: photo",
        "prompts:\n  - two red kites\n  - five blue cups",
        'prompts:\n- prompt: "two red kites"\n  style: photo\n- prompt: "five blue cups"\n  style: photo',
        '[[prompts]]\nprompt = "two red kites"\n\n[[prompts]]\nprompt = "five blue cups"',
        '1,"two red kites"\n2,"five blue cups"',
        "id,prompt,style\n1,two red kites,photo\n2,five blue cups,photo",
        'prompt,style\n"two red kites",photo\n"five blue cups",photo',
        "| # | Prompt | Style |\n|---|:---|---|\n| 1 | two red kites | photo |\n| 2 | five blue cups | oil |",
        "| No. | Scene |\n|--|--|\n| 1 | two red kites |\n| 2 | five blue cups |",
        "<ol>\n<li>two red kites</li>\n<li><b>five</b> blue cups</li>\n</ol>",
        "<ul><li>two red kites<ul><li>Style: photo</li></ul></li><li>five blue cups</li></ul>",
        "<prompt>two red kites</prompt>\n<prompt>five blue cups</prompt>",
        '<prompts><prompt id="1">two red kites</prompt><prompt id="2">five blue cups</prompt></prompts>',
        "<prompts>\n<prompt><text>two red kites</text><style>photo</style></prompt>\n"
        "<prompt><style>oil</style><text>five blue cups</text></prompt>\n</prompts>",
        "<item><prompt>two red kites</prompt><skill>count</skill></item>"
        "<item><prompt>five blue cups</prompt><skill>count</skill></item>",
        "<prompt>two red kites</prompt>\n<prompt>five blue cups</prompt>\n<prompt>six gr",
        "1. two <b>red</b> kites<br>2. five blue cups",
        "```text\n1. two red kites\n2. five blue cups\n```\n- I varied the colours",
        "```markdown\n- two red kites\n- five blue cups\n```",
        "1. two red kites\n2. five blue cups\n\nNote: all new.\n- really",
        "1. two red kites\n2. five blue cups\n---\nTotal: 2",
        "Rules:\n- State a number.\n\nExamples:\n1. a cat\n2. a dog\n\nPrompts:\n3. two red kites\n"
        "4. five blue cups",
        "1. two red \ud83dkites\n2. five\x00 blue\u200b cups\ufffd",
    ],
)
def test_lists_of_every_layout(text):
    assert parse_reply(text) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        f"< think >{IDEAS}< /think >\n{LIST}",
        f"＜think＞{IDEAS}＜/think＞{LIST}",
        f"【思考】{IDEAS}【/思考】{LIST}",
        f"【think】{IDEAS}【/think】{LIST}",
        f"{{think}}{IDEAS}{{/think}}{LIST}",
        f"<<think>>{IDEAS}<</think>>\n{LIST}",
        f"=== THINKING ===\n{IDEAS}\n=== ANSWER ===\n{LIST}",
        f"--- Thinking ---\n{IDEAS}\n--- Final Answer ---\n{LIST}",
        f"~~~thinking\n{IDEAS}\n~~~\n{LIST}",
        f"<think/>{LIST}",
        f"<think></think>{LIST}",
        f"<think>\n\n</think>\n\n{LIST}",
        f"## 1. Reasoning\n{IDEAS}\n## 2. Prompts\n{LIST}",
        f"### Step 1: Analyse\n{IDEAS}\n### Step 2: Write\n- x\n### Final answer\n{LIST}",
        "1. **Reasoning:**\n   - pick colours\n   - no repeats\n2. **Prompts:**\n   - two red kites\n"
        "   - five blue cups",
        f"Step 1: pick colours\nStep 2: no repeats\n\nFinal answer:\n{LIST}",
        f"Assistant: {LIST}",
        f"assistant\n{LIST}",
        f"{LIST}\n\nUser: more please\n\nAssistant: 3. six cats",
        f"Human: give me\n\nAssistant:\n{LIST}",
        f"<|channel|>analysis<|message|>{IDEAS}<|channel|>final<|message|>{LIST}",
        f"<|start|>assistant<|channel|>final<|message|>{LIST}<|end|>",
        '<tool_call>\n{"name": "w", "arguments": {"prompts": ["two red kites", "five blue cups"]}}\n</tool_call>',
        '<tool_call>{"name": "w", "arguments": {"prompts": ["two red kites", "five blue cups"]}}</tool_call>',
        '[TOOL_CALLS][{"name": "w", "arguments": {"prompts": ["two red kites", "five blue cups"]}}]',
        '<json>["two red kites", "five blue cups"]</json>',
        f"<final_prompts>{LIST}</final_prompts>",
        f"<thinking>{IDEAS}</thinking><prompts>{LIST}</prompts>",
        f"<thinking>{IDEAS}</thinking><prompts>\n<prompt>two red kites</prompt>\n"
        f"<prompt>five blue cups</prompt></prompts>",
        "1. two red kites\n   Style - photo\n2. five blue cups\n   Style — oil",
        "1. two red kites\n   [Style: photo]\n2. five blue cups\n   {Style: photo}",
        "1. two red kites\n   • Style: photo\n   • Mood\n2. five blue cups",
        "1. two red kites\n   o Style: photo\n2. five blue cups",
        "1. two red kites\n   > a note\n2. five blue cups",
        "1. two red kites\n   _Style: photo_\n2. five blue cups",
        "1 . two red kites\n2 . five blue cups",
        "<1> two red kites\n<2> five blue cups",
        "{1} two red kites\n{2} five blue cups",
        "【1】two red kites\n【2】five blue cups",
        "1/ two red kites\n2/ five blue cups",
        "1> two red kites\n2> five blue cups",
        "1.1. two red kites\n1.2. five blue cups",
        "1º two red kites\n2º five blue cups",
        "1.- two red kites\n2.- five blue cups",
        "1]  two red kites\n2]  five blue cups",
        "[1]: two red kites\n[2]: five blue cups",
        "[1]. two red kites\n[2]. five blue cups",
        "(1): two red kites\n(2): five blue cups",
        "1): two red kites\n2): five blue cups",
        "1.: two red kites\n2.: five blue cups",
        "Prompt one: two red kites\nPrompt two: five blue cups",
        "Prompt A: two red kites\nPrompt B: five blue cups",
        "First prompt: two red kites\nSecond prompt: five blue cups",
        "1st: two red kites\n2nd: five blue cups",
        "Scene 1: two red kites\nScene 2: five blue cups",
        "提示1：two red kites\n提示2：five blue cups",
        "Invite 1 : two red kites\nInvite 2 : five blue cups",
        "第一：two red kites\n第二：five blue cups",
        "第1条：two red kites\n第2条：five blue cups",
        "Prompt n°1 : two red kites\nPrompt n°2 : five blue cups",
        "prompt_1: two red kites\nprompt_2: five blue cups",
        'prompt1 = "two red kites"\nprompt2 = "five blue cups"',
        "Prompt #1\ntwo red kites\n\nPrompt #2\nfive blue cups",
        "PROMPT 1\ntwo red kites\n\nPROMPT 2\nfive blue cups",
        "Prompt:\ntwo red kites\n\nPrompt:\nfive blue cups",
        f"Prompt: Here are two prompts:\n{LIST}",
        "\\begin{enumerate}\n\\item two red kites\n\\item five blue cups\n\\end{enumerate}",
        "#. two red kites\n#. five blue cups",
        ". two red kites\n. five blue cups",
        "🎨 two red kites\n🎨 five blue cups",
        "🔹 **two red kites**\n🔹 **five blue cups**",
        "→ two red kites\n→ five blue cups",
        "&bull; two red kites\n&bull; five blue cups",
        "\\- two red kites\n\\- five blue cups",
        "\u200b1. two red kites\n\u200b2. five blue cups",
        f"\ufeff{LIST}",
        "\x1b[1m1. two red kites\x1b[0m\n2. five blue cups",
        "1. two red kites\r2. five blue cups",
        "1. two red kites\\n2. five blue cups",
        '"1. two red kites\\n2. five blue cups"',
        "1. two red kites 2. five blue cups",
        "1) two red kites; 2) five blue cups",
        "1. two red kites;\n2. five blue cups;",
        '1. "two red kites" - they fly high\n2. "five blue cups" (a table)',
        f"{LIST}\n[END]",
        f"{LIST}\nEND",
        f"{LIST}\nThese prompts vary the colours.",
        f"{LIST}\nI've varied the colours.",
        f"{LIST}\nEach prompt is new.",
        f"{LIST}\n\n- Total: 2",
        "<p>Sure! Here you go</p><p>1. two red kites</p><p>2. five blue cups</p>",
        f"<prompts>\n{LIST}\n</prompts>",
        f"<prompt>{LIST}</prompt>",
        "<prompt>1. two red kites</prompt><prompt>2. five blue cups</prompt>",
        "<ol><li><p>two red kites</p></li><li><p>five blue cups</p></li></ol>",
        "<ol>\n  <li>\n    two red kites\n  </li>\n  <li>\n    five blue cups\n  </li>\n</ol>",
        "<table><tr><th>#</th><th>Prompt</th></tr><tr><td>1</td><td>two red kites</td></tr>"
        "<tr><td>2</td><td>five blue cups</td></tr></table>",
        "<prompt><![CDATA[two red kites]]></prompt><prompt><![CDATA[five blue cups]]></prompt>",
        "<PROMPT>two red kites</PROMPT>\n<PROMPT>five blue cups</PROMPT>",
        "<prompt_1>two red kites</prompt_1>\n<prompt_2>five blue cups</prompt_2>",
        "<prompt1>two red kites</prompt1><prompt2>five blue cups</prompt2>",
        "&lt;prompt&gt;two red kites&lt;/prompt&gt;&lt;prompt&gt;five blue cups&lt;/prompt&gt;",
        '{"prompt": "two red kites", "prompt": "five blue cups"}',
        'data: {"prompt": "two red kites"}\n\ndata: {"prompt": "five blue cups"}\n\ndata: [DONE]',
        'prompts: list[str] = [\n    "two red kites",\n    "five blue cups",\n]',
        'return ["two red kites", "five blue cups"]',
        '"1": "two red kites",\n"2": "five blue cups"',
        '"prompt": "two red kites",\n"prompt": "five blue cups"',
        '[{"1": "two red kites"}, {"2": "five blue cups"}]',
        '{"prompts": [{"type": "string", "value": "two red kites"}, {"type": "string", "value": "five blue cups"}]}',
        '[{"role": "assistant", "content": "1. two red kites\\n2. five blue cups"}]',
        '{"prompts": [{"prompt": "two red kites", "explanation": "1. x\\n'
        '2. y"}, {"prompt": "five blue cups", "explanation": "1. x\\n2. y"}]}',
        '{"prompts": [“two red kites”, “five blue cups”]}',
        '```json\n{\n  "prompts": [\n    "two red kites",\n    "five blue cups"\n  ]\n}\n```\n\n'
        "1. I varied colours\n2. I kept it short",
        '{"prompts": ["two red kites",\n "five blue cups"\n',
        "{'prompts': [{'prompt': 'two red kites', 'skill': 'count'}, {'prompt': 'five blue cups', 'skill': 'count'}]}",
        "[\n'two red kites',\n'five blue cups'\n]",
        "1. [ ] two red kites\n2. [ ] five blue cups",
        "1. ~~draft~~ two red kites\n2. five blue cups",
        "1. two red kites  <!-- photo -->\n2. five blue cups <!-- oil -->",
        "1. two red kites {style: photo}\n2. five blue cups {style: oil}",
        "Prompt | Style\n--- | ---\ntwo red kites | photo\nfive blue cups | oil",
        "prompts:\n  - text: two red kites\n    style: photo\n  - text: five blue cups\n    style: oil",
        "prompts:\n  1: two red kites\n  2: five blue cups",
        "1. Skill: count\n   Prompt: two red kites\n2. Skill: count\n   Prompt: five blue cups",
        "**1. Kites**\ntwo red kites\n\n**2. Cups**\nfive blue cups",
        "1. **Kites**\n   two red kites\n2. **Cups**\n   five blue cups",
        "### 1. Kites\n> two red kites\n\n### 2. Cups\n> five blue cups",
        "**Prompt 1: Kites**\ntwo red kites\n\n**Prompt 2: Cups**\nfive blue cups",
        "### Prompt 1: Kites\n\n```\ntwo red kites\n```\n\n### Prompt 2: Cups\n\n```\nfive blue cups\n```",
        "**Prompt 1**\n```\ntwo red kites\n```\n**Prompt 2**\n```\nfive blue cups\n```",
        f'<think>\nOkay, the user wants {{"prompts": ["draft one"]}}.\n</think>\n\n{JSON}',
        f"Okay, let me think.\n{IDEAS}\n</think>\n\n```json\n{JSON}\n```",
        f"<|channel|>commentary<|message|>{IDEAS}<|end|>"
        f"<|start|>assistant<|channel|>final <|constrain|>json<|message|>{JSON}<|return|>",
        f"<|channel|>final<|message|>{LIST}",
        f"<|start|>assistant<|channel|>analysis<|message|>{IDEAS}<|end|>\n"
        f"<|start|>assistant<|channel|>final<|message|>{LIST}",
        f"assistantanalysisWe need.\n{IDEAS}assistantfinal{LIST}",
        f"analysis\n{IDEAS}\n\nfinal\n{LIST}",
        f"analysis: {IDEAS}\nfinal: {LIST}",
        f"<reasoning>\n{IDEAS}\n</reasoning>\n<answer>\n{JSON}\n</answer>",
        f"<REASONING>{IDEAS}</REASONING><CONCLUSION>{LIST}</CONCLUSION>",
        f"<Thought>{IDEAS}</Thought>\n<Output>\n{LIST}\n</Output>",
        f"<SUMMARY>{IDEAS}</SUMMARY>\n<CAPTION>{IDEAS}</CAPTION><REASONING>{IDEAS}</REASONING><CONCLUSION>{LIST}</CONCLUSION>",
        f"<response>{LIST}</response>",
        f"<think>{IDEAS}</think><response>\n{LIST}\n</response>",
        f"<|thinking|>{IDEAS}<|/thinking|>{LIST}",
        f"<|reasoning|>{IDEAS}<|end_of_reasoning|>{LIST}",
        f"<think>{IDEAS}</think><|begin_of_box|>{JSON}<|end_of_box|>",
        f"<thoughts>\n- {IDEAS}\n</thoughts>\n\n- two red kites\n- five blue cups",
        f"<draft>{LIST}\n3. six cats</draft>\n<final>{LIST}</final>",
        f"<brainstorm>{IDEAS}</brainstorm>{LIST}",
        f"<self_reflection>{IDEAS}</self_reflection>{LIST}",
        f"<cot>{IDEAS}</cot>{LIST}",
        f"<internal>{IDEAS}</internal>{LIST}",
        f"<mental_notes>{IDEAS}</mental_notes>{LIST}",
        f"<working>{IDEAS}</working>{LIST}",
        f"<process>{IDEAS}</process>{LIST}",
        f"<musing>{IDEAS}</musing>{LIST}",
        f"<deliberate>{IDEAS}</deliberate>{LIST}",
        f"<strategy>{IDEAS}</strategy>{LIST}",
        f"<outline>{IDEAS}</outline>{LIST}",
        f"<|im_start|>think\n{IDEAS}<|im_end|>\n<|im_start|>answer\n{LIST}<|im_end|>",
        f"<|assistant|>\n<think>{IDEAS}</think>\n{LIST}<|user|>",
        f"<start_of_turn>model\n{LIST}<end_of_turn>",
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{LIST}<|eot_id|>",
        f"<bos><start_of_turn>user\n{IDEAS}<end_of_turn>\n<start_of_turn>model\n{LIST}<end_of_turn>",
        f"**Thought process:** I pick.\n\n{IDEAS}\n\n**Final list:**\n{LIST}",
        f"*Thinking*\n{IDEAS}\n\n*Answer*\n{LIST}",
        f"_Reasoning:_\n{IDEAS}\n\n_Final answer:_\n{LIST}",
        f"Thinking Process:\n\n{IDEAS}\n\nFinal Output:\n{LIST}",
        f"# Thinking\n\n{IDEAS}\n\n# Response\n\n{LIST}",
        f"## Approach\n{IDEAS}\n\n## New prompts\n{LIST}",
        f"Plan:\n{IDEAS}\n\nPrompts:\n{LIST}",
        f"Let's think step by step.\n{IDEAS}\n\nSo the final answer is:\n{LIST}",
        f"Thought for 12 seconds\n\n{LIST}",
        f"🤔 Thinking:\n{IDEAS}\n\n✅ Answer:\n{LIST}",
        f"💭 **Reasoning**\n{IDEAS}\n\n📝 **Final answer**\n{LIST}",
        f"[Reasoning]\n{IDEAS}\n[Answer]\n{LIST}",
        f"[Thinking]\n{IDEAS}\n[/Thinking]\n{LIST}",
        f"(thinking)\n{IDEAS}\n(/thinking)\n{LIST}",
        f"[REASONING]{IDEAS}[/REASONING][ANSWER]{LIST}[/ANSWER]",
        f"THINKING:\n{IDEAS}\nANSWER:\n{LIST}",
        f"Reasoning\n---------\n{IDEAS}\n\nAnswer\n------\n{LIST}",
        f"<details>\n<summary>Click to see my reasoning</summary>\n\n{IDEAS}\n\n</details>\n\n{LIST}",
        f"{LIST}\n\n<details><summary>Why</summary>{IDEAS}</details>",
        f"Final answer: {JSON}",
        f"The final answer is:\n\n$\\boxed{{{JSON}}}$",
        f"{LIST}\n\n## Explanation\n{IDEAS}",
        f"{LIST}\n\n**Why these work:**\n- They count\n- They vary",
        f"{LIST}\n\n---\n**Rationale**\n1. count\n2. vary",
        f"{LIST}\n\nExplanation of choices:\n1. count\n2. vary",
        f"{LIST}\n\nKey features:\n- count\n- vary",
        f"{LIST}\n\nThese prompts:\n- count\n- vary",
        f"{LIST}\n\nTips:\n1. count",
        f"{LIST}\n\nWould you like more? I can:\n1. write more\n2. stop",
        "1. two red kites\n\n   **Style:** photo\n   **Mood:** calm\n\n2. five blue cups\n\n"
        "   **Style:** oil",
        "1. **Prompt:** two red kites\n   **Skill:** count\n   **Difficulty:** easy\n"
        "2. **Prompt:** five blue cups\n   **Skill:** count",
        "1. two red kites\n*Skill: count*\n\n2. five blue cups\n*Skill: count*",
        "1. two red kites\n   ↳ Style: photo\n2. five blue cups\n   ↳ Style: photo",
        "1. two red kites\n    1.1. Style: photo\n    1.2. Mood: calm\n2. five blue cups",
        "1. two red kites\n   i. photo\n   ii. calm\n2. five blue cups",
        "1. two red kites\n   a. photo\n   b. calm\n2. five blue cups",
        "* two red kites\n    + photo\n    + calm\n* five blue cups",
        "- two red kites\n\t- photo\n- five blue cups",
        "1. two red kites\n\n   - Style: photo\n\n2. five blue cups\n\n   - Style: oil",
        f"{LIST}\n   - Style: photo\n   - Camera: 35mm\n   - Count: five",
        "1. two red kites\n   Style: photo, Mood: calm\n2. five blue cups",
        "1. two red kites\n   `style: photo`\n2. five blue cups\n   `style: oil`",
        "1. two red kites\n   #count #kites\n2. five blue cups\n   #count",
        "1. two red kites\n   ```\n   style: photo\n   ```\n2. five blue cups",
        "1. two red kites\n   <style>photo</style>\n2. five blue cups\n   <style>oil</style>",
        "1. <prompt>two red kites</prompt>\n2. <prompt>five blue cups</prompt>",
        f"<|channel|>Analysis<|message|>{IDEAS}<|end|><|start|>assistant<|channel|>final "
        f"<|constrain|>JSON<|message|>{JSON}<|return|>",
        f"**Step 1: pick colours**\n\n{IDEAS}\n\n**Step 2: final list**\n\n{LIST}",
        f"Sure! First my reasoning:\n{IDEAS}\n\nThat is settled. Here are the prompts:\n{LIST}",
        "- two red kites\n   1. a photo\n   2. a detail\n- five blue cups\n   1. a photo\n   2. a detail",
        "- two red kites\n   i. photo\n- five blue cups\n   i. photo",
        "* two red kites\n    1.1. photo\n* five blue cups\n    1.2. photo",
        "1. two red kites\n   -- Style: photo\n2. five blue cups\n   1.1 Style: photo",
        "1. **Kites**\n   - two red kites\n2. **Cups**\n   - five blue cups",
        "**1. Kites**: two red kites\n**2. Cups**: five blue cups",
        "**1. two red kites**\n**2. five blue cups**",
        "1. - two red kites\n2. - five blue cups",
        "1. → two red kites\n2. → five blue cups",
        "1- two red kites\n2- five blue cups",
        "［1］ two red kites\n［2］ five blue cups",
        "〔１〕two red kites\n〔２〕five blue cups",
        "1. _two red kites_\n2. _five blue cups_",
        '1. "two red kites".\n2. “five blue cups”.',
        "1. 『two red kites』\n2. 『five blue cups』",
        '["Here are two prompts:", "two red kites", "five blue cups"]',
    ],
)
def test_further_spellings(text):
    assert parse_reply(text) == RIGHT


def test_wrapped_lines_and_names_stay_whole():
    text = (
        "1. a drawing of a rope of\n   3.5 metres in the style of\n   A. Rackham\n2. a cat\n10:30 on a clock"
    )
    assert parse_list(text) == [
        "a drawing of a rope of 3.5 metres in the style of A. Rackham",
        "a cat 10:30 on a clock",
    ]


@pytest.mark.parametrize(
    "item",
    [
        "a bird's nest with three eggs\n   — stock photo",
        "a city by\n   [makoto shinkai] style, 8K",
        "a still from The Wizard of Oz set in the Pacific\n   Northwest :: --ar 16:9",
        "in this image\n   it rains and\nthis is\n   the end",
        "a shelf by\n   A. Rackham with\n   3.5 metres of books",
        "a clock that says\n   10:30",
        "a backpack beside a\nhuman",
        "a lake and its\nreflection",
    ],
)
def test_wrapped_lines_that_look_like_something_else(item):
    assert parse_reply(f"1. {item}\n2. five blue cups") == [" ".join(item.split()), "five blue cups"]


def test_characters_are_whole():
    text = '{"prompts": ["a \\ud83d\\ude00 kite", "R&amp;D &lt;3", "a \\ud83d cup", "a 👨\u200d👩\u200d👧 kite"]}'
    assert parse_reply(text) == ["a 😀 kite", "R&D <3", "a cup", "a 👨\u200d👩\u200d👧 kite"]


# Anything ----------------------------------------------------------------------------------------

TOKENS = [
    *(token for tags in TAGS for token in tags), *(marker.replace("{n}", "3") for marker in MARKERS), LIST, IDEAS,
    json.dumps(SCHEMA), json.dumps(ITEMS), "<answer>", "</answer>", "<prompt>", "</prompt>", "<li>", "</li>",
    "<|", "|>",
    "[/INST]", "</s>", "<|end|>", "\n", "\n\n", "   ", '"', "'", "“", "\\", "\\u", "{", "}", "[", "]", ":",
    ",", "|", "```",
    "```json", "### Final answer", "**Notes:**", "two red kites", "a < b", "&lt;", "\ud83d", "\x00", "\u2028", "\t",
]  # fmt: skip
anything = st.one_of(st.text(), st.lists(st.sampled_from(TOKENS), max_size=14).map("".join))


@given(anything, st.sampled_from(["stop", "length"]))
def test_whatever_comes_items_are_clean_lines(text, finish_reason):
    for item in parse_reply(text, finish_reason):
        assert item == " ".join(item.split()) and any(char.isalnum() for char in item)
        assert not {unicodedata.category(char) for char in item} & {"Cc", "Cs"}
        assert item.encode() and not re.search(r"<[/|]?[a-z]\w*[^<>]*>", item, re.IGNORECASE)


word = st.text(alphabet="abcdefghijklmnopqrstuvwxyzäéß☃😀", min_size=2, max_size=8)
said = st.lists(word, min_size=2, max_size=6).map(lambda words: f"a {' '.join(words)}")


@given(st.lists(said, min_size=2, max_size=8, unique=True), st.sampled_from(MARKERS), st.sampled_from(TAGS))
def test_items_written_in_any_dialect_are_read_back(items, marker, tags):
    lines = [marker.replace("{n}", str(n)) + item for n, item in enumerate(items, start=4)]
    thought = f"{tags[0]}\n{IDEAS}\n{tags[1]}\n"
    assert parse_reply(thought + "\n".join(lines)) == items
    assert parse_reply(thought + "\n".join(lines), "length") == items[:-1]
    for value in (items, {"prompts": items}, [{"prompt": item, "style": "photo"} for item in items]):
        assert parse_reply(thought + json.dumps(value)) == items
        assert parse_reply(thought + repr(value)) == items
    rows = "\n".join(json.dumps({"text": item}) for item in items)
    assert parse_reply(thought + rows) == items


PIECES = [
    "<think>", "</think>", "<prompt>", "<x>\n", "<style>", "<a ", "<", "[think]", "[", "{", "[\n", '{"a":', "[a,",
    "- [", "return [", "\\boxed{", "1. a\n", "1. ", "1. 1. ", "1. a 2. b ", "1. **a", "- \n", "> ", "# ", "**a", "*",
    "_", "====", "~~", "a: ", "(a) \n", "a,", "a|b", "no ", "prompt ", " ", "a.", "'", '"', "```\n", "a ", "a\n",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_a_long_reply_is_read_in_time(piece):
    """No pattern goes back and forth over it: 20,000 characters take a fraction of a second, not minutes."""
    begun = time.process_time()
    for start in ("", "Prompt 1", "1. a", "# a"):
        parse_reply(start + piece * (20_000 // len(piece)) + "x")
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    "refusal",
    [
        "I'm sorry, but I can't assist with that. Here are some alternatives I can offer:",
        "I can’t write those because:",
        "Sorry, I cannot help with this request. Some reasons:",
        "I am very sorry, but I am unable to generate such prompts. I could instead write",
        "Unfortunately, I won't be able to provide these. What I can do:",
        "As an AI language model, I can not create them. Consider:",
        "We apologize, but we are not able to fulfill it:",
    ],
)
def test_a_list_after_a_refusal_holds_no_prompts(refusal):
    assert parse_reply(f"{refusal}\n1. a poem about kites\n2. a story about cups") == []


@pytest.mark.parametrize(
    "opening",
    [
        "I can't wait to help! Here they are:",
        "Sorry for the delay. Here are two prompts:",
        "I can help with that:",
        "",
    ],
)
def test_a_list_after_a_polite_opening_is_read(opening):
    assert parse_reply(f"{opening}\n1. two red kites\n2. five blue cups") == [
        "two red kites",
        "five blue cups",
    ]
