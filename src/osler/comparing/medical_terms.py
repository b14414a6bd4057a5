"""Medical words in a text, to be marked for a reader. A reading aid, not a measure: it misses words and marks others wrongly.

A word or phrase is marked for one of three reasons, all by rule and without a dictionary:

    vocabulary   it is an option or a gold of the rows at hand, in whatever language they are
    names        it names an imaging modality (osler.taxonomy), a part of the body, or is a radiologist's everyday word
    morphology   it is built as medical English words are: -itis, -ectomy, cardio-, hepato-
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from osler.overlap import SIGNS, WORD
from osler.schema import Sample
from osler.taxonomy import MODALITY_SPELLINGS, Modality

Span = tuple[int, int]
"""Where something stands in a text: its first character, and the one after its last."""
Phrase = tuple[str, ...]
"""The words of a phrase, in one case."""

LONGEST = 12
"""Words of the longest phrase that is looked for. An option that is longer is a sentence, which no completion repeats."""

_BETWEEN = re.compile(r"[\s,/'\u2019\u2010\u2013-]{0,3}")
"""What may stand between the words of a phrase: X-ray is one, the end of a sentence is not."""


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


ANATOMY = _listed(
    """
    abdomen abdominal alveolar aorta aortic artery atrium bladder bone bowel brain breast bronchus cartilage cerebellum
    cerebral cervical colon cornea corneal cortex cortical diaphragm disc duodenum ear esophagus oesophagus eye femur fetus
    foetus fovea gallbladder gland heart hip humerus ileum intestine iris joint kidney knee larynx ligament liver lobe lung
    macula macular mediastinum mediastinal muscle nerve optic orbit ovary pancreas pancreatic pelvis pelvic pharynx placenta
    pleura pleural prostate rectum renal retina retinal rib sacrum sinus skin skull spine spinal spleen sternum stomach tendon
    testis thorax thoracic thyroid tibia tissue trachea ureter uterus valve vein ventricle vertebra vertebrae vessel
    """
)
"""Parts of the body, ours: the taxonomy knows modalities and question types only."""

FINDINGS = _listed(
    """
    abscess aneurysm artifact artefact attenuation benign biopsy calcification calcified carcinoma consolidation contrast cyst
    cystic density dilatation dilation diagnosis edema oedema effusion embolism enhancement exudate fibrosis fracture
    haemorrhage hemorrhage hernia hyperintense hypodense hyperdense hypoechoic hyperechoic hypointense infarct infarction
    infection infiltrate inflammation ischemia ischaemia keratosis lesion leukemia leukaemia lucency lymphoma malignancy
    malignant mass melanoma metastasis metastases metastatic nevus naevus nodule nodular opacity opacities plaque pneumonia
    pneumothorax polyp prognosis radiograph sclerosis stenosis symptom thrombus tumor tumour ulcer
    """
)
"""Words of radiologists and pathologists that their form alone would not give away, ours."""

_ENDINGS = re.compile(
    r"[a-z]{2,}(?:itis|itides|oma|omas|omata|osis|pathy|pathies|pathic|ectomy|ectomies|otomy|ostomy|plasty|scopy|a?emia|a?emic"
    r"|uria|algia|megaly|plasia|rrhage|rrhagic|rrho?ea|pno?ea|ptysis|ectasis|ectasia|cytes?|blastoma|penia|sthesia|ologists?"
    r"|(?:radi|son|tom|mamm|angi|cardi|fluor|ur|ven|myel)ograph(?:y|ies|ic|s))|(?:a|dys|hyper|hypo)troph(?:y|ic|ied)"
)
_BEGINNINGS = re.compile(
    r"(?:adeno|angio|arterio|arthro|broncho|bronchi|carcino|cardio|cardia|cerebro|chondro|cranio|dermato|echocardio|encephalo"
    r"|endoscop|erythro|gastro|ha?emato|ha?emo|hepat|histolog|histopath|hydroceph|immuno|leu[ck]o|lympho|lymphaden|mammo"
    r"|meningi|metasta|myocard|myelo|necro|nephro|neuro|oncolog|ophthalm|osteo|patholog|pericard|pneumo|pulmon|radio[gl]"
    r"|sarcoi|splen|thoraco|thrombo|tomogra|ultraso|uretero|vascul|ventricul)[a-z]{2,}"
)
_NOT_MEDICAL = _listed(
    """
    academia academic apathy archaeologist archaeologists aroma bohemia chroma diploma empathy geologist geologists hypnosis
    ideologist kurtosis oklahoma osmosis sociologist sociologists splendid splendidly splendor splendour sympathy
    technologist technologists telepathy
    """
)
"""English words with the same beginnings or endings."""
_EVERYDAY = _listed(
    """
    a above all an and answer any are at bad be below both but by can cannot correct different does either first false good
    has have image in incorrect is it last left lower many more most neither no none nor normal not of on one only
    option or other others picture present question right same second several shown some the there these they this three to
    true two unknown upper what which with yes absent zero red blue green white black large small big
    """
)
"""Words that make no phrase medical: an option of only these, as "yes" or "none of the above", is not marked."""

_SPELLINGS = {spelling for value, each in MODALITY_SPELLINGS.items() if value is not Modality.UNKNOWN for spelling in each}
_ABBREVIATIONS = frozenset(spelling.upper() for spelling in _SPELLINGS if len(spelling) <= 3)
"""CT, MRI, US and so on: read in capitals only, as "us" is a word too."""
_NAMED = frozenset(tuple(spelling.split()) for spelling in _SPELLINGS if len(spelling) > 3)
_NAMES = ANATOMY | FINDINGS


@dataclass(frozen=True)
class Word:
    """A word as it is written, and where."""

    text: str
    start: int
    end: int

    @property
    def folded(self) -> str:
        """The word in one case."""
        return self.text.casefold()


def vocabulary(samples: Iterable[Sample]) -> frozenset[Phrase]:
    """The phrases that are options or golds of `samples`, those of only everyday words, letters and digits left out."""
    texts = {text for sample in samples for text in (*sample.options, *sample.golds)}
    return frozenset(phrase for text in texts if _telling(phrase := phrase_of(text)))


def phrase_of(text: str) -> Phrase:
    """The words of `text` in one case."""
    return tuple(word.folded for word in words_of(text))


def find_terms(text: str, known: frozenset[Phrase] = frozenset()) -> list[Span]:
    """Where medical words and phrases stand in `text`, in order, none inside another: the longest phrase from each word on.

    `known` is the vocabulary of the rows at hand.
    """
    words, at = words_of(text), 0
    spans: list[Span] = []
    while at < len(words):
        length = _longest(text, words[at : at + LONGEST], known)
        if length:
            spans.append((words[at].start, words[at + length - 1].end))
        at += max(1, length)
    return spans


def words_of(text: str) -> list[Word]:
    """The words of `text` in order, without punctuation."""
    return [Word(found.group(), *found.span()) for found in WORD.finditer(text)]


def _longest(text: str, words: list[Word], known: frozenset[Phrase]) -> int:
    """How many of `words`, from the first on, make a medical phrase; 0 where none do."""
    folded = tuple(word.folded for word in words)
    gaps = (text[one.end : other.start] for one, other in pairwise(words))
    reach = next((k for k, gap in enumerate(gaps, 1) if not _BETWEEN.fullmatch(gap)), len(words))
    phrases = (k for k in range(reach, 0, -1) if folded[:k] in known or folded[:k] in _NAMED)
    return next(phrases, 1 if _is_medical(words[0].text) else 0)


def _is_medical(word: str) -> bool:
    """Whether `word` alone is a name, or built as medical words are."""
    if word in _ABBREVIATIONS:
        return True
    folded = word.casefold()
    if not _NAMES.isdisjoint((folded, folded.removesuffix("s"), folded.removesuffix("es"))):
        return True
    built = _ENDINGS.fullmatch(folded) or _BEGINNINGS.fullmatch(folded)
    return built is not None and folded not in _NOT_MEDICAL


def _telling(phrase: Phrase) -> bool:
    """Whether a phrase says more than everyday words: one of its words has four letters, or it has two signs."""
    if not 1 <= len(phrase) <= LONGEST:
        return False
    telling = [word for word in phrase if word not in _EVERYDAY and not word.isdigit()]
    if any(len(word) >= 4 for word in telling):
        return True
    return sum(re.fullmatch(f"[{SIGNS}]", word) is not None for word in telling) >= 2
