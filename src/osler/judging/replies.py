"""What comes back from a judge: two scores, or why there are none. What cannot be read is unscored, and never a 0."""

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from osler.judging.prompts import Item
from osler.schema import Completion

REASONS = {
    "unparseable": "the reply was not the JSON object that was asked for",
    "echoed": "the reply stands in the text that was to be judged",
    "truncated": "the reply was cut off",
    "refused": "the server refused this request",
    "garbage": "what came was no chat completion",
    "another": "another model than the one that was asked answered",
    "failed": "no answer after all tries",
    "down": "not asked: too many failures in a row",
    "deadline": "not asked, or not answered, in time",
    "too_long": "the item is longer than the model reads, even with the middle of each text left out",
    "no_number": "the model's probabilities are no finite numbers",
    "no_phantom": "the image is not drawn, so nobody here knows what it shows",
    "no_finding": "no reference answer is a finding that could be looked for in the reasoning",
}
"""Why an item has no scores."""

DOWN = frozenset({"failed", "garbage", "another"})
"""The reasons that speak against the server, not against the item."""

_OBJECT = re.compile(r"\{[^{}]*\}")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_THOUGHT = re.compile(r"</(?:think|thinking|thought)>|\[/THINK\]")
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)


class Reply(BaseModel):
    """The one form of a reply that is read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    correct: Literal[0, 1]
    sound: Literal[0, 1]
    why: str


RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "scores", "strict": True, "schema": Reply.model_json_schema()},
}
"""`Reply` as a server is asked for it."""


class Odds(BaseModel):
    """What a causal judge says: the probabilities of yes, of yes and no; `p_sound` is None where it was not asked."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    p_correct: float = Field(ge=0, le=1)
    p_sound: float | None = Field(ge=0, le=1)


@dataclass(frozen=True)
class Judgement:
    """The scores of one item, 0 or 1; None where there is none: both (`unscored` says why), or `sound` of no thought.

    `detail` is what a failure was (`HTTP 500`). `seconds` and the tokens are those of this request, with its further tries, or
    an even share of its batch; None where none was made (`cached`, or not asked) and where the server does not count.
    `p_correct` and `p_sound` are the probabilities behind the scores of a causal judge, and None of others. `shortened` says
    that the judge was not shown all of the item.
    """

    correct: int | None
    sound: int | None
    why: str | None
    unscored: str | None = None
    detail: str | None = None
    seconds: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cached: bool = False
    p_correct: float | None = None
    p_sound: float | None = None
    shortened: bool = False

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def unscored(reason: str, detail: str | None = None, seconds: float | None = None) -> Judgement:
    """The judgement of an item without scores, for one of `REASONS`."""
    return Judgement(None, None, None, reason, detail, seconds)


def scored(item: Item, reply: Reply) -> Judgement:
    """The judgement of `item` by `reply`; an item without a thought has no `sound`."""
    return Judgement(reply.correct, reply.sound if item.thought else None, reply.why, shortened=item.shortened)


def weighed(item: Item, odds: Odds) -> Judgement:
    """The judgement of `item` by `odds`: 1 where yes is at least as likely as no."""
    sound = None if odds.p_sound is None else int(odds.p_sound >= 0.5)
    found = Judgement(int(odds.p_correct >= 0.5), sound, None, p_correct=odds.p_correct, p_sound=odds.p_sound)
    return replace(found, shortened=item.shortened)


def judgement_of(item: Item, said: Completion, reply: Reply | None) -> Judgement:
    """What the judge's completion `said`, read as `reply`, comes to for `item`."""
    if said.truncated:
        return unscored("truncated")
    if reply is None:
        return unscored("unparseable")
    return unscored("echoed") if is_echo(reply, item.thought, item.answer) else scored(item, reply)


def read_reply(text: str) -> Reply | None:
    """The scores in `text`: one JSON object by the schema, alone or in one code fence; None for everything else.

    A thought may stand before it, if a tag ends it (`</think>` and the like). Of several such tags the first or the last ends
    it, as a thought may quote one, and so may `why`. Words around the object, further or repeated keys, `true`, "1" and 0.5
    are all None: nothing is looked for inside a text.
    """
    ends = [tag.end() for tag in _THOUGHT.finditer(text)]
    starts = dict.fromkeys((0, *ends[:1], *ends[-1:]))
    return next((reply for start in starts if (reply := _read(text[start:]))), None)


def _read(text: str) -> Reply | None:
    body = text.strip()
    fenced = _FENCE.fullmatch(body)
    body = fenced[1] if fenced else body
    try:
        reply = Reply.model_validate_json(body)
        pairs = json.loads(body, object_pairs_hook=list)
    except ValueError:
        return None
    exact = all(type(value) is int for name, value in pairs if name != "why")
    return reply if exact and len(pairs) == len(Reply.model_fields) else None


def read_odds(text: str) -> Odds | None:
    """The probabilities in `text`, which `Odds` wrote; None for everything else."""
    try:
        return Odds.model_validate_json(text)
    except ValueError:
        return None


def is_echo(reply: Reply, *judged: str | None) -> bool:
    """Whether `reply`, favourable in a score, stands in a text that was `judged`, however it is spelt there: scores that
    somebody wrote to be copied. A reply without a favour is none, or else a text could be spared its 0 by stating it."""
    favourable = bool(reply.correct or reply.sound)
    said = _squeezed(reply.model_dump_json())
    return favourable and any(reply in _planted(one) or said in _squeezed(one) for one in judged if one)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _planted(text: str) -> list[Reply]:
    """The replies that stand in `text`: objects as they are, with escaped or single quotes, or in escapes."""
    spelt = {text, text.replace('\\"', '"'), text.replace("'", '"'), _ESCAPED.sub(lambda sign: chr(int(sign[1], 16)), text)}
    found = {part for one in spelt for part in _OBJECT.findall(one)}
    return [reply for part in found if (reply := _loosely(part))]


def _loosely(part: str) -> Reply | None:
    """The reply that the object `part` is, in whatever order its keys stand."""
    try:
        return Reply.model_validate_json(part)
    except ValueError:
        return None
