"""The text of an answer, as it is compared with the texts of golds by overlap, embedding or BERTScore."""

from osler.schema import LETTERS, Sample, Verdict


def answer_text(sample: Sample, answer: str | None, verdict: Verdict) -> str:
    """The text of the strict `answer`, as it was written; empty where there is none. A letter that was asked for is its
    option's text."""
    lettered = sample.gold_letter is not None and verdict.gold == sample.gold_letter
    options = dict(zip(LETTERS, sample.options, strict=False)) if lettered else {}
    return options.get(answer or "", answer or "")
