"""The envelope of an answer: how the policy is asked to answer, and how its completion is read back.

One object holds both, so that training, evaluation and parsing cannot disagree.

    think         reason in <think></think>, then answer in <answer></answer>     (Med-R1; the R1 template)
    nothink       answer in <answer></answer>, nothing else                       (Med-R1's No-Thinking, tagged)
    nothink_raw   the bare answer, no tag                                          (CLS-RL's No-Thinking)
    think_after   answer first, then the reasoning                                 (Med-R1 v5's Think-After)
    diverse       one of three prompts for each row, in training                   (RARL; osler.prompting)

`diverse` is another strategy for each row, as are the prompts of an evaluation: `Strategy.of` tells which.

The forms are those of Med-R1's format reward: a full match in which `.*?` may cross lines; only the first answer counts.
The wording of the instructions is ours; `osler.wordings` has others. Questions, options, golds and thoughts may be in any
language, and pass through untouched.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from osler.errors import DataError, RecipeError, unknown
from osler.prompting import DIVERSE, DYNAMIC, DYNAMICALLY, EXPLAIN, OPEN, PLAIN, REASONING, SHORT, drawn_prompt, posed
from osler.schema import LETTERS, Kind, Parsed, Sample, fold_text

AnswerForm = Literal["letter", "text"]

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_UNFINISHED = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True)
class Strategy:
    """An envelope: the `instruction` with a `{what}` to fill in, and the `form` that a completion must match in full.

    It `thinks` where it asks for a thought. Where it does not read one either (`reads_thoughts`), rewards of thoughts have
    nothing to pay for: they are 0 for every completion of the row, and move nothing.
    """

    name: str
    instruction: str
    form: re.Pattern[str]
    thinks: bool
    target: str
    reads_thoughts: bool = True

    @property
    def each(self) -> tuple["Strategy", ...]:
        """The envelopes that rows may be asked and read by."""
        return (self,)

    def of(self, sample: Sample) -> "Strategy":
        """The envelope that `sample` is asked and read by: this one, where it is the same for every row."""
        return self

    @property
    def tagged(self) -> bool:
        """Whether the answer stands in tags, so that a format reward has something to pay for."""
        return "<answer>" in self.target

    @property
    def answers_first(self) -> bool:
        """Whether a thought follows the answer, so that a completion may be begun with one."""
        return self.thinks and self.target.index("{answer}") < self.target.index("{thought}")

    def question(self, sample: Sample, answer_form: AnswerForm) -> str:
        """The text of the user's turn: question, options one a line, instruction. It never holds a path."""
        lines = [sample.question]
        if sample.kind is Kind.CHOICE:
            bullets = LETTERS if answer_form == "letter" else "-" * len(sample.options)
            mark = ")" if answer_form == "letter" else ""
            lines += [f"{bullet}{mark} {option}" for bullet, option in zip(bullets, sample.options, strict=False)]
        return "\n".join([*lines, self.instruction.format(what=_what(sample, answer_form))])

    def completion(self, sample: Sample, answer_form: AnswerForm) -> str:
        """The completion that SFT teaches: the gold answer, with the sample's rationale where the strategy thinks.

        Errors: RecipeError where the strategy thinks and the sample has no rationale to teach; DataError where what is taught
        holds a tag itself, so that it could not be read back.
        """
        if self.thinks and not (sample.rationale or "").strip():
            raise RecipeError(
                f"strategy {self.name!r} teaches a thought, and sample {sample.id!r} has no rationale. "
                "Use strategy=nothink for SFT, or add a rationale to every row."
            )
        answer = gold_answer(sample, answer_form)
        for name, text in (("gold", answer), ("rationale", (sample.rationale or "") if self.thinks else "")):
            if self.tagged and (tag := _TAG.search(text)):
                where = sample.origin or f"sample {sample.id!r}"
                raise DataError(
                    f"{where}: its {name} holds {tag[0]}, which strategy {self.name!r} marks answers with. Take it out."
                )
        return self.target.format(answer=answer, thought=sample.rationale)

    def begun(self, answer: str) -> str:
        """A completion up to where its thought begins, `<think>` included, behind this `answer`. Only where `answers_first`.

        Qwen2's tokenizer makes one token of the `><` between two tags, so that a beginning that ended with `</answer>` would be
        cut inside of a token that the model writes. What is left of this is a `>` that may be one token with the first word.
        """
        return self.target.partition("{thought}")[0].format(answer=answer)

    def parse(self, completion: str) -> Parsed:
        """`completion` taken apart: strict by the form, lenient by whatever stands outside the thought."""
        well_formed = self.form.fullmatch(completion) is not None
        answer, thought = _ANSWER.search(completion), _THOUGHT.search(completion)
        strict = completion if not self.tagged else answer.group(1) if answer and well_formed else None
        behind = thought and self.thinks and not self.answers_first
        outside = completion[thought.end() :] if thought and behind else _UNFINISHED.sub(" ", completion)
        lenient = answer.group(1) if answer else outside
        return Parsed(
            answer=(strict or "").strip() or None,
            lenient=lenient.strip() or None,
            thought=thought.group(1).strip() if thought and self.reads_thoughts else None,
            well_formed=well_formed,
        )


@dataclass(frozen=True)
class Mixed(Strategy):
    """A strategy that is another for each row: `asked` gives the row as it is asked, and the name of its part."""

    parts: Mapping[str, Strategy] = field(default_factory=dict)
    asked: Callable[[Sample], tuple[Sample, str]] = lambda sample: (sample, "")

    @property
    def tagged(self) -> bool:
        """Whether the answer stands in tags on every row."""
        return all(part.tagged for part in self.parts.values())

    @property
    def answers_first(self) -> bool:
        """Whether a thought follows the answer on every row."""
        return all(part.answers_first for part in self.parts.values())

    @property
    def each(self) -> tuple[Strategy, ...]:
        """Its parts."""
        return tuple(self.parts.values())

    def of(self, sample: Sample) -> Strategy:
        """The part that `sample` is asked and read by."""
        return self.parts[self.asked(sample)[1]]

    def question(self, sample: Sample, answer_form: AnswerForm) -> str:
        """The text of the user's turn, by the row's part."""
        row, part = self.asked(sample)
        return self.parts[part].question(row, answer_form)

    def completion(self, sample: Sample, answer_form: AnswerForm) -> str:
        """The completion that SFT teaches, by the row's part. Errors: as any strategy's."""
        row, part = self.asked(sample)
        return self.parts[part].completion(row, answer_form)

    def parse(self, completion: str) -> Parsed:
        """Errors: TypeError always, as the form is that of a row: `strategy.of(sample).parse(completion)`."""
        raise TypeError(f"strategy {self.name!r} is another for each row. Use of(sample).parse(completion).")


def thought_in(completion: str) -> str | None:
    """What `completion` says inside `<think></think>`, or behind a `<think>` that was never closed; None without such a tag."""
    found = _UNFINISHED.search(completion)
    return _TAG.sub("", found[0]).strip() if found else None


def offered(sample: Sample) -> tuple[str, ...]:
    """The answers that `sample` can have: its options, or yes and no; empty where it is open.

    A yes/no question in another language has no answers of ours: without options of its own it is asked and graded as an open
    one, by its golds. So is its `no`, which in Spanish or Italian looks English: else the prompt would tell the answer.
    """
    if sample.kind is Kind.OPEN:
        return ()
    if sample.options or sample.kind is Kind.CHOICE:
        return sample.options
    english = sample.language.casefold()[:2] in ("", "en")
    return ("yes", "no") if english and set(map(fold_text, sample.golds)) <= {"yes", "no"} else ()


def gold_answer(sample: Sample, answer_form: AnswerForm) -> str:
    """The gold as the policy should write it: a letter for choices in letter form, else the first gold's text."""
    if sample.kind is Kind.CHOICE and answer_form == "letter" and sample.gold_letter is not None:
        return sample.gold_letter
    return sample.golds[0]


def _what(sample: Sample, answer_form: AnswerForm) -> str:
    if not offered(sample):
        return "the answer"
    if sample.kind is Kind.YESNO:
        english = set(map(fold_text, offered(sample))) == {"yes", "no"}
        return "yes or no" if english else " or ".join(offered(sample))
    return "the letter of the right option" if answer_form == "letter" else "the right option"


def answer_form_of(name: str | None) -> AnswerForm | None:
    """The answer form called `name`; None for None. Errors: RecipeError with the nearest name."""
    if name not in (None, "letter", "text"):
        raise RecipeError(unknown("answer form", name, ("letter", "text")))
    return name  # type: ignore[return-value]


_THINK = Strategy(
    name="think",
    instruction="Reason inside <think></think>, then give {what} inside <answer></answer>.",
    form=re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL),
    thinks=True,
    target="<think>{thought}</think><answer>{answer}</answer>",
)
_NOTHINK = Strategy(
    name="nothink",
    instruction="Give {what} inside <answer></answer> and nothing else.",
    form=re.compile(r"\s*<answer>.*?</answer>", re.DOTALL),
    thinks=False,
    target="<answer>{answer}</answer>",
)

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        _THINK,
        _NOTHINK,
        Strategy(
            name="nothink_raw",
            instruction="Give {what} and nothing else.",
            form=re.compile(r".+", re.DOTALL),
            thinks=False,
            target="{answer}",
        ),
        Strategy(
            name="think_after",
            instruction="Give {what} inside <answer></answer>, then explain it inside <think></think>.",
            form=re.compile(r"<answer>.*?</answer>\s*<think>.*?</think>", re.DOTALL),
            thinks=True,
            target="<answer>{answer}</answer><think>{thought}</think>",
        ),
    )
}
"""The strategies that are the same for every row."""

_STEP_BY_STEP = (
    "Explain step by step inside <think></think> what in the image leads to the answer, then give {what} inside "
    "<answer></answer>."
)

DRAWN: dict[str, Strategy] = {
    EXPLAIN: replace(_THINK, name=f"{DIVERSE}/{EXPLAIN}", instruction=_STEP_BY_STEP),
    SHORT: replace(
        _NOTHINK,
        name=f"{DIVERSE}/{SHORT}",
        instruction="Be brief: give {what} inside <answer></answer>, without an explanation.",
        reads_thoughts=False,
    ),
    OPEN: replace(
        _THINK,
        name=f"{DIVERSE}/{OPEN}",
        instruction="In your own words: reason inside <think></think>, then state {what} inside <answer></answer>.",
    ),
}
"""What `diverse` draws from, by the name of the prompt."""

INFERRED: dict[str, Strategy] = {
    PLAIN: Strategy(
        name=f"infer/{PLAIN}",
        instruction="Give {what} inside <answer></answer>.",
        form=re.compile(r"(?:<think>.*?</think>)?\s*<answer>.*?</answer>", re.DOTALL),
        thinks=False,
        target="<answer>{answer}</answer>",
    ),
    REASONING: replace(_THINK, name=f"infer/{REASONING}", instruction=_STEP_BY_STEP),
}
"""The prompts of an evaluation that are not as trained, by name; `dynamic` is one of these for each row."""


def _as_drawn(sample: Sample) -> tuple[Sample, str]:
    """`sample` and its prompt; one that was not drawn yet, as of a validation split, gets the draw of seed 0."""
    row = sample if drawn_prompt(sample) else posed(sample)
    return row, drawn_prompt(row) or ""


def _mixed(name: str, parts: Mapping[str, Strategy], asked: Callable[[Sample], tuple[Sample, str]]) -> Mixed:
    return Mixed(name, "", re.compile(""), any(part.thinks for part in parts.values()), "", parts=parts, asked=asked)


_DIVERSE = _mixed(DIVERSE, DRAWN, _as_drawn)
INFERRED[DYNAMICALLY] = _mixed(f"infer/{DYNAMICALLY}", dict(INFERRED), lambda sample: (sample, DYNAMIC[sample.question_type]))


def strategy_of(name: str) -> Strategy:
    """The strategy called `name`. Errors: RecipeError with the nearest name."""
    known = {**STRATEGIES, DIVERSE: _DIVERSE}
    if name not in known:
        raise RecipeError(unknown("strategy", name, known))
    return known[name]
