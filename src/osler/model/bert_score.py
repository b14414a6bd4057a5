"""BERTScore: how far the tokens of two texts mean the same, by the vectors that an encoder gives them.

Source: Zhang et al. 2020 (arXiv:1904.09675), equations of section 3: greedy matching by cosine, without weights by idf and
without rescaling by a baseline, so that unlike texts still score far above 0: compare values of one encoder and layer only.
The package of the paper is no longer kept, and this is small. Axes: `S` tokens of the text, `T` of the reference, `D` features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from osler.model.encoders import Encoder

PAIRS_AT_ONCE = 64
"""Pairs whose vectors are in memory together."""


@dataclass(frozen=True)
class BertScore:
    """How well the text's tokens find their like in the reference (`precision`), and the other way round (`recall`), 0 to 1."""

    precision: float
    recall: float
    f1: float


NONE = BertScore(0.0, 0.0, 0.0)
"""Of a text without tokens."""


def bert_scores(texts: Sequence[tuple[str, str]], encoder: Encoder, layer: int | None = None) -> list[BertScore]:
    """The BERTScore of each pair of a text and its reference, by the vectors of `encoder` behind `layer` (None: the last).

    Each token is matched with the token of the other text that has the highest cosine, the tokens that the tokenizer adds left
    out. A token whose best cosine is below 0 counts 0. Equal texts score 1, and a text without tokens 0.
    Errors: ModelError for a layer that the encoder lacks.
    """
    by_length = sorted(range(len(texts)), key=lambda place: sum(map(len, texts[place])))
    found: dict[int, BertScore] = {}
    for at in range(0, len(by_length), PAIRS_AT_ONCE):
        places = by_length[at : at + PAIRS_AT_ONCE]
        different = list(dict.fromkeys(text for place in places for text in texts[place]))
        vectors = dict(zip(different, encoder.vectors(different, layer), strict=True))
        for place in places:
            text, reference = texts[place]
            found[place] = _matched(vectors[text], vectors[reference])
    return [found[place] for place in range(len(texts))]


def _matched(text_SD: Tensor, reference_TD: Tensor) -> BertScore:
    if not len(text_SD) or not len(reference_TD):
        return NONE
    cosine_ST = (normalize(text_SD, dim=-1) @ normalize(reference_TD, dim=-1).T).clamp(0.0, 1.0)
    precision, recall = (float(cosine_ST.amax(dim=axis).double().mean()) for axis in (1, 0))
    both = precision + recall
    return BertScore(precision, recall, 2 * precision * recall / both if both else 0.0)
