"""What `osler data list` prints: every data set and every form of rows that has an adapter, and where to get it.

Facts are the publishers': their papers, pages and data cards; sizes are counted, where the files were at hand. What we could
not find is said to be not known to us. A licence of the questions is not always one of the images.
"""

from dataclasses import asdict, dataclass
from typing import Any

NOT_KNOWN = "not known to us"


@dataclass(frozen=True)
class Entry:
    """What is known of a data set: `rows` and `images` are None for a form that is the user's own, or where nobody says."""

    title: str
    what: str
    spec: str
    where: str
    licence: str
    citation: str
    rows: int | None = None
    images: int | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        return asdict(self)


def _own(title: str, what: str, spec: str) -> Entry:
    """A form for rows that the user has."""
    return Entry(title, what, spec, where="your own files", licence="your own", citation="none")


_PMC_VQA = {
    "title": "PMC-VQA",
    "where": "https://huggingface.co/datasets/RadGenome/PMC-VQA",
    "licence": "CC BY-SA; articles CC0 or CC BY",
    "citation": "Zhang et al. 2023, arXiv:2305.10415",
}
_VQA_MED = {
    "title": "VQA-Med 2019",
    "licence": "CC BY 4.0",
    "citation": "Ben Abacha et al. 2019, CEUR-WS 2380, paper 272",
}

CATALOGUE: dict[str, Entry] = {
    "jsonl": _own(
        "manifest", "JSON Lines, a question a line: the form to bring data of your own in", "jsonl:FILE.jsonl?images=ROOT"
    ),
    "conversations": _own(
        "conversations",
        "JSON Lines of messages with images and a solution, as TRL and ms-swift use them",
        "conversations:FILE.jsonl?images=ROOT",
    ),
    "csv": _own("CSV and a folder", "a table with a row a question, beside a folder of images", "csv:FILE.csv?images=ROOT"),
    "hub": Entry(
        "Hugging Face data set",
        "a data set of the Hugging Face hub, or one saved in a folder, its columns named in a mapping",
        "{name: hub, path: OWNER/NAME, columns: {...}}",
        where="https://huggingface.co/datasets",
        licence="each data set has its own",
        citation="each data set has its own",
    ),
    "medr1": Entry(
        "Med-R1 splits of OmniMedVQA",
        "multiple choice in 8 modalities and 5 question types, train and test by modality and again by question type",
        "medr1:SPLIT_FILES?images=ROOT",
        "https://github.com/Yuxiang-Lai117/Med-R1, folder Splits; images from OmniMedVQA",
        "of the splits not known to us; images as OmniMedVQA",
        "Lai et al., IEEE TMI 45(6), 2026, arXiv:2503.13939",
        rows=88_996,
        images=82_059,
        note="split by row: test rows show images of train, and the modality and question-type splits share rows",
    ),
    "medxpertqa": Entry(
        "MedXpertQA",
        "multiple choice at the level of specialist exams, with one to six images (MM) or none (Text)",
        "medxpertqa:FILE.jsonl?images=ROOT",
        "https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA",
        "MIT; of the images not known to us",
        "Zuo et al. 2025, arXiv:2501.18362",
        rows=4_460,
        note="2,000 rows are MM, counted; made to test, not to train; the rows of the hub's form were not at hand",
    ),
    "omnimedvqa": Entry(
        "OmniMedVQA",
        "multiple choice about images of 73 public data sets, 12 modalities, 5 question types",
        "omnimedvqa:QA_information?images=ROOT",
        "https://huggingface.co/datasets/foreverbeliever/OmniMedVQA",
        "each image as its own source; of the questions not known to us",
        "Hu et al. 2024, arXiv:2402.09181",
        rows=127_995,
        images=118_010,
        note="88,996 rows about 82,059 images, as others count them, are open access; the rest come without images",
    ),
    "pathvqa": Entry(
        "PathVQA",
        "open and yes/no questions about pictures of pathology",
        "pathvqa:FOLDER?images=ROOT",
        "https://github.com/UCSD-AI4H/PathVQA; hub: flaviagiammarino/path-vqa",
        "MIT; pictures belong to the books' publishers and PEIR",
        "He et al. 2020, arXiv:2003.10286",
        rows=32_795,
        images=5_004,
        note="4,289 of the images have a question; the hub's copy has 32,632 rows, without those that came twice",
    ),
    "phantoms": Entry(
        "phantoms",
        "drawn images with questions whose answers are known by construction; nothing to get",
        "phantoms:SEED",
        "drawn by osler",
        "as osler",
        "none",
    ),
    "pmc_vqa": Entry(
        what="multiple choice about figures of open-access articles, written by a language model from captions",
        spec="pmc_vqa:FOLDER?images=ROOT",
        rows=226_948,
        images=149_000,
        note="version 1; version 2 has 186,033 rows; the number of images is the authors' round one",
        **_PMC_VQA,
    ),
    "pmc_vqa_usable": Entry(
        what="as pmc_vqa; rows whose options or gold are broken are left out and counted",
        spec="pmc_vqa_usable:FOLDER?images=ROOT",
        rows=226_948,
        images=149_000,
        **_PMC_VQA,
    ),
    "silvar_med": Entry(
        "Silvar-Med, and rows like it",
        "questions with a rationale about abnormal CT, MRI and X-ray images of SLAKE, as RARL trains on",
        "silvar_med:FILE.json?images=ROOT",
        "https://github.com/Hanhpt23/SilVarMed",
        NOT_KNOWN,
        "Pham et al. 2025, arXiv:2504.10642",
        rows=866,
        note="the published file was not at hand: the form is ours; its images are SLAKE's, which is then not unseen",
    ),
    "slake": Entry(
        "SLAKE",
        "open and yes/no questions in English and Chinese about CT, MRI and X-ray images, with organs",
        "slake:FOLDER?images=ROOT",
        "https://www.med-vqa.com/slake; hub: BoKelvin/SLAKE",
        "CC BY 4.0",
        "Liu et al. 2021, arXiv:2102.09542",
        rows=14_028,
        images=642,
        note="each language is split by image, but not the same way: together they leak",
    ),
    "tsv": _own("TSV of VLMEvalKit", "one file a benchmark, its images in base64 or beside it", "tsv:FILE.tsv?images=ROOT"),
    "vqa_med_2019": Entry(
        what="open and yes/no questions about modality, plane, organ system and abnormality in radiology images",
        spec="vqa_med_2019:FOLDER?images=ROOT",
        where="https://zenodo.org/records/10499039; https://github.com/abachaa/VQA-Med-2019",
        rows=15_292,
        images=4_200,
        **_VQA_MED,
    ),
    "vqa_med_2019_rad": Entry(
        what="train and validation rows of VQA-Med 2019, as others put them into the schema of VQA-RAD",
        spec="vqa_med_2019_rad:FOLDER?images=ROOT",
        where="of the rows not known to us; images as vqa_med_2019",
        rows=14_792,
        images=3_700,
        **_VQA_MED,
    ),
    "vqa_rad": Entry(
        "VQA-RAD",
        "clinicians' open and closed questions about head, chest and abdomen images of MedPix",
        "vqa_rad:FOLDER?images=ROOT",
        "https://osf.io/89kps; hub: flaviagiammarino/vqa-rad",
        "CC0 1.0",
        "Lau et al. 2018, doi:10.1038/sdata.2018.251",
        rows=3_515,
        images=315,
        note="every image of a test row is also one of train; the public JSON has 2,248 rows, the hub's copy 2,244",
    ),
}
"""By the name that a data spec gives it."""


def to_json() -> dict[str, Any]:
    """The whole catalogue as plain JSON: `{"datasets": [{"name", "title", "what", "spec", ...}]}`, sorted by name."""
    return {"datasets": [{"name": name, **entry.to_json()} for name, entry in sorted(CATALOGUE.items())]}
