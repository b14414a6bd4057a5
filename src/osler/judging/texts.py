"""Answers and thoughts held against golds and rationales as texts, without a judge: by words, embeddings and BERTScore.

    exact_match, token_f1, rouge_l    the rewards of these names (osler.rewards.answers): the best over the golds
    keyword_recall                    the share of keywords that the thought names (osler.reasoning.keywords)
    answer_similarity, bertscore      the answer and the gold that it is nearest to, by a model (osler.model)
    rationale_similarity, rationale_bertscore    the thought and the sample's rationale, by a model

Letters stand for their options' texts. A record without a strict answer has a wrong one and counts 0. One without a thought,
rationale or keyword has no part in what needs it, and is counted as lacking it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from osler.answer_texts import answer_text
from osler.judging.prompts import item_of
from osler.progress import bar
from osler.reasoning.keywords import keyword_recall, keywords_of
from osler.rewards import answers
from osler.rewards.answered import Answered
from osler.schema import Completion, Record
from osler.stats import Estimate, proportion

if TYPE_CHECKING:
    from osler.model.bert_score import BertScore
    from osler.model.embeddings import Embedder
    from osler.model.encoders import Encoder

_SHARES = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "keyword_recall": "keywords that the thought names",
}
_BY_MODEL = {
    "answer_similarity": "answer to gold, cosine",
    "rationale_similarity": "thought to rationale, cosine",
    "bertscore": "answer to gold, BERTScore",
    "rationale_bertscore": "thought to rationale, BERTScore",
}
_MODELS = {"embedder": "cosine by", "bertscore_model": "BERTScore by"}

TEXTS = frozenset({*_SHARES, *_BY_MODEL})
"""The measures, by their keys in judge.json."""

_PART = 64
"""Pairs between two ticks of the bar."""

Pair = tuple[str, str]
"""A text, and what it is held against."""
Score = TypeVar("Score")
Mean = Callable[[Sequence[Record], Sequence[float | None]], Estimate]


@dataclass(frozen=True)
class Matched:
    """BERTScore's three numbers (osler.model.bert_score)."""

    precision: Estimate
    recall: Estimate
    f1: Estimate


@dataclass(frozen=True)
class Texts:
    """The measures of `rows` records, each a mean with its n; None where it needs a model and none was named.

    `lacking` counts the records without a strict answer, a thought, a rationale or keywords. `cut` counts the records of which
    a text was longer than the model reads, by the key of its name.
    """

    rows: int
    exact_match: Estimate
    token_f1: Estimate
    rouge_l: Estimate
    keyword_recall: Estimate
    embedder: str | None
    answer_similarity: Estimate | None
    rationale_similarity: Estimate | None
    bertscore_model: str | None
    bertscore: Matched | None
    rationale_bertscore: Matched | None
    lacking: Mapping[str, int]
    cut: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "lacking": dict(self.lacking), "cut": dict(self.cut)}


def check_text_models(embedder: str | None, bertscore: str | None) -> None:
    """Nothing, where both names, if any, are of models that can be used. Errors: ModelError, RecipeError."""
    if embedder is not None:
        from osler.model.embeddings import check_embedder

        check_embedder(embedder)
    if bertscore is not None:
        from osler.model.encoders import check_encoder

        check_encoder(bertscore)


def texts_by(records: Sequence[Record], embedder: str | None = None, bertscore: str | None = None) -> Texts:
    """The measures of `records`, by the models that are called so. Errors: as `check_text_models`."""
    check_text_models(embedder, bertscore)
    loaded = encoder = None
    if embedder is not None:
        from osler.model.embeddings import load_embedder

        loaded = load_embedder(embedder)
    if bertscore is not None:
        from osler.model.encoders import load_encoder

        encoder = load_encoder(bertscore)
    return texts_of(records, loaded, encoder)


def texts_of(records: Sequence[Record], embedder: "Embedder | None" = None, encoder: "Encoder | None" = None) -> Texts:
    """The measures of `records`. Errors: ModelError where a model gives no finite numbers; DataError for bad keywords."""
    given, thoughts = [_answered(record) for record in records], [item_of(record).thought for record in records]
    to_golds, to_rationale = [_to_golds(record) for record in records], [_to_rationale(record) for record in records]
    measured: dict[str, Any] = dict.fromkeys(_BY_MODEL)
    if embedder:
        measured["answer_similarity"] = _of_all(records, _similar("Answers, embedded", to_golds, embedder))
        measured["rationale_similarity"] = _of_some(records, _similar("Thoughts, embedded", to_rationale, embedder))
    if encoder:
        measured["bertscore"] = _matched(_of_all, records, _scores("Answers, BERTScore", to_golds, encoder))
        measured["rationale_bertscore"] = _matched(_of_some, records, _scores("Thoughts, BERTScore", to_rationale, encoder))
    named = [keyword_recall(one.sample, thought) if thought else None for one, thought in zip(records, thoughts, strict=True)]
    return Texts(
        rows=len(records),
        exact_match=_of_all(records, [answers.exact(one) for one in given]),
        token_f1=_of_all(records, [answers.token_f1(one) for one in given]),
        rouge_l=_of_all(records, [answers.rouge_l(one) for one in given]),
        keyword_recall=_of_some(records, named),
        embedder=embedder.name if embedder else None,
        bertscore_model=encoder.name if encoder else None,
        lacking={
            "answer": sum(not many for many in to_golds),
            "thought": sum(not thought for thought in thoughts),
            "rationale": sum(not (record.sample.rationale or "").strip() for record in records),
            "keywords": sum(not keywords_of(record.sample) for record in records),
        },
        cut={name: _cut(one, to_golds, to_rationale) for name, one in zip(_MODELS, (embedder, encoder), strict=True) if one},
        **measured,
    )


def lines_of_texts(texts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """`texts` of judge.json as lines of text."""
    for key, name in _SHARES.items():
        yield name, str(Estimate(**texts[key]))
    for key, name in _BY_MODEL.items():
        found = texts[key]
        if found and "f1" in found:
            yield from ((f"{name}, {part}", _decimal(found[part])) for part in ("precision", "recall", "f1"))
        elif found:
            yield name, _decimal(found)
    yield from ((name, texts[key]) for key, name in _MODELS.items() if texts[key])
    yield "records without", ", ".join(f"{name}: {count}" for name, count in texts["lacking"].items())
    yield from ((f"longer than {texts[key]} reads", f"{count} records") for key, count in texts["cut"].items() if count)


def _answered(record: Record) -> Answered:
    completion = Completion(record.completion, record.tokens, record.truncated)
    return Answered(record.sample, completion, record.parsed, record.verdict)


def _to_golds(record: Record) -> list[Pair]:
    """The strict answer beside each gold; empty where there is none."""
    text = answer_text(record.sample, record.parsed.answer, record.verdict)
    return [(text, gold) for gold in record.sample.golds] if text else []


def _to_rationale(record: Record) -> list[Pair]:
    """The thought, closed or not, beside the rationale; empty where one is absent."""
    thought, rationale = item_of(record).thought, (record.sample.rationale or "").strip()
    return [(thought, rationale)] if thought and rationale else []


def _similar(title: str, pairs: Sequence[Sequence[Pair]], embedder: "Embedder") -> list[float | None]:
    found = iter(_in_parts(title, pairs, embedder.similarities))
    return [max((next(found) for _ in many), default=None) for many in pairs]


def _scores(title: str, pairs: Sequence[Sequence[Pair]], encoder: "Encoder") -> "list[BertScore | None]":
    """Of each record the scores beside the gold with the highest F1."""
    from osler.model.bert_score import bert_scores

    found = iter(_in_parts(title, pairs, lambda part: bert_scores(part, encoder)))
    return [max((next(found) for _ in many), default=None, key=lambda one: one.f1) for many in pairs]


def _in_parts(title: str, pairs: Sequence[Sequence[Pair]], score: Callable[[Sequence[Pair]], list[Score]]) -> list[Score]:
    """The scores of all `pairs` in order, behind a bar."""
    together, found = [pair for many in pairs for pair in many], list[Score]()
    with bar(title, -(-len(together) // _PART)) as tick:
        for at in range(0, len(together), _PART):
            found += score(together[at : at + _PART])
            tick("")
    return found


def _matched(mean: Mean, records: Sequence[Record], scores: "Sequence[BertScore | None]") -> Matched:
    return Matched(
        precision=mean(records, [one.precision if one else None for one in scores]),
        recall=mean(records, [one.recall if one else None for one in scores]),
        f1=mean(records, [one.f1 if one else None for one in scores]),
    )


def _of_all(records: Sequence[Record], values: Sequence[float | None]) -> Estimate:
    """The mean of `values`, of which those that are absent count 0."""
    return proportion([_bounded(value or 0.0) for value in values], [record.sample.cluster for record in records])


def _of_some(records: Sequence[Record], values: Sequence[float | None]) -> Estimate:
    """The mean of those of `values` that are there."""
    there = [(value, record.sample.cluster) for record, value in zip(records, values, strict=True) if value is not None]
    return proportion([_bounded(value) for value, _ in there], [cluster for _, cluster in there])


def _bounded(value: float) -> float:
    return min(1.0, max(0.0, value))  # a mean of ones may be one and a bit


def _cut(model: "Embedder | Encoder", *pairs: Sequence[Sequence[Pair]]) -> int:
    """The records of which a text is longer than `model` reads."""
    rows = ({text for many in row for pair in many for text in pair} for row in zip(*pairs, strict=True))
    return sum(any(map(model.cut, texts)) for texts in rows)


def _decimal(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "no rows"
    return f"{value['value']:.3f} [{value['ci_low']:.3f}, {value['ci_high']:.3f}], n = {value['n']}"
