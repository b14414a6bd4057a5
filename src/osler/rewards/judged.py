"""Rewards whose scores come from elsewhere: a judge, an embedding model, or the words that a good rationale names.

    semantic_alignment  the judge calls the thought sound (Zhu et al. 2025: an expert model, 1 or 0)
    reasoning_quality   how good the thought is, 0 to 1 (RARL; the form is our default): by judge, embedding or keywords
    open_accuracy       `accuracy`, and for open questions what a judge or an embedding model says of the answer

    by: judge       the judge's score; a causal judge's is a probability (osler.judging)
    by: embedding   cosine similarity to the reference rationale, or to the nearest gold (osler.model.embeddings)
    by: keywords    the share of the keywords that the thought names (osler.reasoning.keywords)

A judge or an embedding model writes its scores into `Answered.scores` before rewards are paid (osler.rl.experts). Where it
could not, the reward is None and the completion leaves its group: an outage is never a wrong answer. What is not there to be
scored is no outage: a completion without a thought has no sound one and gets 0, as does one without a strict answer.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from osler.reasoning.keywords import keyword_recall
from osler.rewards.answered import Answered
from osler.rewards.answers import accuracy
from osler.schema import Outcome
from osler.strategies import offered

By = Literal["judge", "embedding"]
Share = Annotated[float, Field(ge=0, le=1)]

SOUND, CORRECT = "sound", "correct"
"""The judge's scores of a thought and of an answer."""
NEAR_RATIONALE, NEAR_GOLD = "near_rationale", "near_gold"
"""The embedding model's: of the thought to the sample's rationale, of the answer to the gold it is nearest to."""
OF_JUDGE, OF_EMBEDDER = frozenset({SOUND, CORRECT}), frozenset({NEAR_RATIONALE, NEAR_GOLD})


def semantic_alignment(answered: Answered) -> float | None:
    """1 where the judge calls the thought sound, else 0; None where the judge gave no score (Zhu et al. 2025)."""
    sound = _of_thought(answered, SOUND)
    return None if sound is None else float(sound >= 0.5)


def reasoning_quality(answered: Answered, *, by: Literal["judge", "embedding", "keywords"]) -> float | None:
    """How good the thought is, 0 to 1 (RARL; the form is our default).

    None where there is no score: the judge gave none, or the row has no rationale or keyword to hold the thought against.
    """
    if by == "keywords":
        return keyword_recall(answered.sample, answered.parsed.thought or "")
    if by == "embedding" and not answered.sample.rationale:
        return None  # not even 0 for no thought: a group holds completions that were measured alike
    return _of_thought(answered, SOUND if by == "judge" else NEAR_RATIONALE)


def open_accuracy(answered: Answered, *, by: By, threshold: Share | None = None) -> float | None:
    """`accuracy` for questions with options, and 1 for an answer that is exactly a gold. For any other answer to an open
    question its score by judge or embedding; with `threshold` 1 from there on, and 0 below."""
    if not asks_for_answer(answered):
        return accuracy(answered)
    score = answered.scores.get(CORRECT if by == "judge" else NEAR_GOLD)
    return score if score is None or threshold is None else float(score >= threshold)


def asks_for_answer(answered: Answered) -> bool:
    """Whether exact matching leaves it open if the answer is right: an open question, and an answer that is no gold."""
    given = bool(answered.parsed.answer) and answered.verdict.outcome is not Outcome.CORRECT
    return given and not offered(answered.sample)


def score_needed(name: str, settings: Mapping[str, Any]) -> str | None:
    """The score that the reward `name` pays under its `settings`; None where it needs none from outside."""
    by = settings.get("by")
    if name == "semantic_alignment":
        return SOUND
    if name == "reasoning_quality":
        return {"judge": SOUND, "embedding": NEAR_RATIONALE}.get(str(by))
    return {"judge": CORRECT, "embedding": NEAR_GOLD}.get(str(by)) if name == "open_accuracy" else None


def _of_thought(answered: Answered, score: str) -> float | None:
    return answered.scores.get(score) if answered.parsed.thought else 0.0
