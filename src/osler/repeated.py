"""Several sampled completions of each row -> Acc@1, Pass@K, the majority's accuracy, and whether agreement can be trusted.

RL may sharpen what a model could already sample rather than add to it (arXiv 2603.01301): Pass@K beside Acc@1 shows which.
A row with a completion that the grader left unjudged is left out and counted.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from osler.looking import answer_of, right
from osler.schema import Record, Sample, fold_text
from osler.selfconsistency import acc_at_1, aurc, brier, ece, majority, majority_accuracy, mean_pass_at_k
from osler.stats import Estimate
from osler.strategies import AnswerForm

OF, DRAW = "sample_of", "draw"
"""In a row's `extra`: the id of the row that it repeats, and which of its completions it is."""


@dataclass(frozen=True)
class Repeated:
    """What K completions a row come to, over n rows. Confidence is the share of a row's completions that say the same.

    `ece` has no interval: it is biased upwards, and resampling would add to that.
    """

    k: int
    n: int
    acc_at_1: Estimate
    pass_at_k: Estimate
    majority: Estimate
    brier: Estimate
    aurc: Estimate
    ece: float | None
    unjudged: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def repeat(samples: Sequence[Sample], k: int) -> list[Sample]:
    """Each of `samples` `k` times, one after the other."""
    return [
        replace(sample, id=f"{sample.id}#s{draw}", group=sample.cluster, extra={**sample.extra, OF: sample.id, DRAW: draw})
        for sample in samples
        for draw in range(k)
    ]


def measure(records: Sequence[Record], answer_form: AnswerForm) -> Repeated | None:
    """What the records of repeated rows come to; None where there are none."""
    rows: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        rows[record.sample.extra[OF]].append(record)
    judged = [row for row in rows.values() if None not in map(right, row)]
    if not rows:
        return None
    correct = [[bool(right(record)) for record in row] for row in judged]
    clusters = [row[0].sample.cluster for row in judged]
    votes = [majority([answer_of(record, answer_form) for record in row]) for row in judged]
    golds = [fold_text(row[0].sample.golds[0]) for row in judged]
    confidence = [vote.confidence for vote in votes]
    credit = [vote.credit(gold) for vote, gold in zip(votes, golds, strict=True)]
    k = min((len(row) for row in judged), default=max(map(len, rows.values())))
    return Repeated(
        k=k,
        n=len(judged),
        acc_at_1=acc_at_1(correct, clusters),
        pass_at_k=mean_pass_at_k(correct, k, clusters),
        majority=majority_accuracy(votes, golds, clusters),
        brier=brier(confidence, credit, clusters),
        aurc=aurc(confidence, credit, clusters),
        ece=ece(confidence, credit, clusters).ece,
        unjudged=len(rows) - len(judged),
    )
