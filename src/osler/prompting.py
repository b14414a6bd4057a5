"""Which prompt a row is asked under: RARL's two uses of prompts, one in training and one in evaluation.

    strategy: diverse        each row is asked under one of three prompts, drawn anew whenever the row is drawn
        explain              reason in <think></think> about what the image shows, then answer      a thought and an answer
        short                answer at once                                                         an answer alone
        open                 reason, then answer without being told the options                     a thought and an answer

    infer_prompt: plain      the question and where the answer belongs, with no word about reasoning; a thought may come first
                  reasoning  asked to reason: the words of `explain`
                  dynamic    plain for what can be seen at once, reasoning for the rest (DYNAMIC, by the question type)

That RARL mixes prompts that want explanations, short and open-ended answers is known, and that it asks for reasoning in
evaluation. How it words them, how many there are, how they are mixed and what decides between them is not: the words (in
`osler.strategies`), the even mix and DYNAMIC are our default.

A draw is a function of the seed, the epoch and the row's id, so that it is the same again on resume and whatever other rows
there are. A drawn row says in `extra["prompt"]` which it was.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256

from osler.schema import Kind, Sample, fold_text
from osler.taxonomy import QuestionType

DIVERSE = "diverse"
"""The strategy that draws a prompt for each row."""

EXPLAIN, SHORT, OPEN = PROMPTS = ("explain", "short", "open")
"""What it draws from, evenly."""

PROMPT = "prompt"
"""Where a drawn row's `extra` says which prompt it was."""

PLAIN, REASONING, DYNAMICALLY = INFER_PROMPTS = ("plain", "reasoning", "dynamic")
"""The prompts of an evaluation."""

DYNAMIC: Mapping[QuestionType, str] = {
    QuestionType.MODALITY: PLAIN,
    QuestionType.ANATOMY: PLAIN,
    QuestionType.DISEASE: REASONING,
    QuestionType.GRADING: REASONING,
    QuestionType.ATTRIBUTE: REASONING,
    QuestionType.UNKNOWN: REASONING,
}
"""The prompt of each question type under `dynamic`: our reading of "dynamic inference-time prompting", not RARL's table."""

ASKS_FOR_OPTION = "its question refers to its options"
YES_OR_NO = "its options are yes and no"
"""Why a choice keeps its options; `osler.options` has further reasons."""

_REFERRING = (
    re.compile(r"\b(?:which|what|one|any|none|all|each|either|two) of (?:these|those|them|the (?:above|below))\b"),
    re.compile(r"\bthe following\b(?! (?:\w+ )?(?:image|images|picture|figure|scan|photo|photograph|view|slide|radiograph)\b)"),
    re.compile(r"(?<!treatment )(?<!management )\boptions?\b|(?<!of )\b(?:choices|choice)\b|\balternatives\b"),
    re.compile(r"\b(?:select|choose|tick)\b|\bpick (?:the|one|out)\b"),
    re.compile(r"\bexcept\b|\b(?:which|what)(?: \w+)? (?:is|are) (?:not|(?:in)?correct|true|false)\b"),
    re.compile("下列|以下哪|以下选|下面哪|哪一?项|选项|选择|선택|다음 중|のうち|選択"),
    re.compile(r"\b(?:siguientes|opciones|suivante?s|folgenden|seguenti|opções|seguintes)\b"),
)


def posed(sample: Sample, seed: int = 0, epoch: int = 0, taught: bool = True) -> Sample:
    """`sample` as `diverse` asks it: with the prompt that is drawn for it, and as an open question where that is `open`.

    A choice that makes no sense without its options (`closed_because`) draws from the other two. `taught` says that rationales
    are learnt from, which must not name an option that is not shown.
    """
    legal = PROMPTS if not closed_because(sample, taught) else tuple(one for one in PROMPTS if one != OPEN)
    digest = sha256(f"{seed}/{epoch}/{PROMPT}/{sample.id}".encode()).digest()
    prompt = legal[int.from_bytes(digest) % len(legal)]
    made = opened(sample) if prompt == OPEN else sample
    return replace(made, extra={**made.extra, PROMPT: prompt})


def drawn_prompt(sample: Sample) -> str | None:
    """Which prompt was drawn for `sample`; None where none was, whatever a user's own column of that name says."""
    found = sample.extra.get(PROMPT)
    shown = found == OPEN and sample.kind is Kind.CHOICE
    return found if found in PROMPTS and not shown else None


def opened(sample: Sample) -> Sample:
    """A choice as an open question whose gold is the gold option's text, without its options; other kinds as they are."""
    if sample.kind is not Kind.CHOICE or sample.gold_index is None:
        return sample
    return replace(sample, golds=(sample.options[sample.gold_index],), options=(), gold_index=None, kind=Kind.OPEN)


def closed_because(sample: Sample, taught: bool = True) -> str:
    """Why `sample` cannot be asked as an open question; empty where it can. Questions are read in a few languages only."""
    from osler.options import fixed_because

    if sample.kind is not Kind.CHOICE:
        return ""
    if any(pattern.search(fold_text(sample.question)) for pattern in _REFERRING):
        return ASKS_FOR_OPTION
    if set(map(fold_text, sample.options)) <= {"yes", "no"}:
        return YES_OR_NO
    return fixed_because(sample, taught)
