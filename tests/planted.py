"""Data sets with one planted fault, in a known row, and valid sets of odd rows: for the tests of `osler data check`.

A set is a text file of some rows in one of several forms; all show images of one shared folder, where broken ones lie as well.

    python -m planted OUT --seed 0 --n 100       writes sets and prints what was planted where, a JSON object a line
"""

import argparse
import csv
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Row = dict[str, Any]

SOUND = ("a.png", "b.jpg", "c d.png", "e%20f.png", "g#h.png", "i&j.png", "k[1].png", "ü.png", "deep/er/l.png", "?m.png")
"""Images that are as they should be."""


@dataclass(frozen=True)
class Planted:
    """A data set and the one fault in it, in row `row`, from 1; the right message has one of the words of `cause`."""

    spec: str
    file: str
    row: int
    form: str
    fault: str
    cause: tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """A published form: how its file is called, its rows, where image, question and gold stand, and how it is written."""

    name: str
    file: str
    row: Callable[[random.Random, int], Row]
    image: str
    question: str
    gold: str
    wrong_gold: Any
    id: str | None
    needed: tuple[str, ...]
    as_lines: bool = False
    as_table: bool = False


# --- images ---


def write_images(folder: Path) -> Path:
    """The folder, now with the images of `SOUND`, small and of many kinds, and with broken ones."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(SOUND):
        path = folder / "Images" / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    below = folder / "Images" / "set"
    whole = (below / "a.png").read_bytes()
    (below / "cut.png").write_bytes(whole[: len(whole) // 2])
    jpeg = (below / "b.jpg").read_bytes()
    (below / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (below / "empty.png").write_bytes(b"")
    (below / "text.png").write_text("<html>404 Not Found</html>")
    (below / "noise.png").write_bytes(rng.integers(0, 256, 300, dtype=np.uint8).tobytes())
    (below / "huge.png").write_bytes(_png_of(200_000, 200_000))
    Image.new("RGB", (900, 2)).save(below / "narrow.png")
    (below / "folder.png").mkdir(exist_ok=True)
    return folder


def _png_of(width: int, height: int) -> bytes:
    """A PNG that says to be so large, with nearly nothing in it."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    body = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _image(rng: random.Random) -> str:
    return "Images/set/" + rng.choice(SOUND)


BROKEN_IMAGES = {
    "missing image": ("none.png", ("no image", "no such")),
    "cut PNG": ("cut.png", ("cannot be decoded",)),
    "cut JPEG": ("cut.jpg", ("cannot be decoded",)),
    "empty image": ("empty.png", ("empty",)),
    "text as image": ("text.png", ("cannot be decoded",)),
    "noise as image": ("noise.png", ("cannot be decoded",)),
    "unsafe image": ("huge.png", ("too large",)),
    "narrow image": ("narrow.png", ("too narrow",)),
    "folder as image": ("folder.png", ("there is no image", "no such image")),
}
"""What can be wrong with an image, its file, and words of the message."""


# --- forms ---

_WORDS = ("liver", "spleen", "kidney", "heart", "lung", "aorta", "cyst", "nodule", "fracture", "edema", "tumor", "stone")


def _manifest(rng: random.Random, number: int) -> Row:
    return {
        "id": f"q{number}",
        "image": _image(rng),
        "question": f"Which finding is shown in picture {number}?",
        "options": rng.sample(_WORDS, 4),
        "answer_index": rng.randrange(4),
        "modality": "CT",
    }


def _medr1(rng: random.Random, number: int) -> Row:
    options = rng.sample(_WORDS, 4)
    problem = f"What is seen in {number}? A){options[0]}, B){options[1]}, C){options[2]}, D){options[3]}"
    return {"image": _image(rng), "problem": problem, "solution": f"<answer> {rng.choice('ABCD')} </answer>"}


def _rad(rng: random.Random, number: int) -> Row:
    words = {"answer_type": "OPEN", "question_type": "ORGAN", "phrase_type": "freeform", "image_organ": "ABD"}
    return {"qid": number, "image_name": _image(rng), "question": f"What is {number}?", "answer": rng.choice(_WORDS), **words}


def _slake(rng: random.Random, number: int) -> Row:
    words = {"location": "Abdomen", "modality": "MRI", "answer_type": "OPEN", "base_type": "vqa", "content_type": "Organ"}
    shown = {"img_id": number, "img_name": _image(rng), "q_lang": "en", "triple": ["vhead", "_", "_"], "qid": 7000 + number}
    return {"question": f"Which organ is {number}?", "answer": rng.choice(_WORDS), **words, **shown}


def _omni(rng: random.Random, number: int) -> Row:
    options = rng.sample(_WORDS, 4)
    told = {f"option_{letter}": option for letter, option in zip("ABCD", options, strict=True)}
    names = {"dataset": "SET", "question_id": f"SET_{number:04}", "question_type": "Disease Diagnosis", "modality_type": "CT"}
    return {"question": f"What is {number}?", "gt_answer": rng.choice(options), "image_path": _image(rng), **told, **names}


def _pmc(rng: random.Random, number: int) -> Row:
    options = rng.sample(_WORDS, 4)
    place = rng.randrange(4)
    told = {f"Choice {letter}": f" {letter}:{option} " for letter, option in zip("ABCD", options, strict=True)}
    asked = {"Figure_path": _image(rng), "Question": f" What is {number}? ", "Answer": options[place]}
    return asked | told | {"Answer_label": "ABCD"[place]}


def _csv(rng: random.Random, number: int) -> Row:
    options = rng.sample(_WORDS, 3)
    told = dict(zip("ABC", options, strict=True))
    return {"id": f"q{number}", "image": _image(rng), "question": f"What is {number}?", **told, "answer": rng.choice("ABC")}


def _silvar(rng: random.Random, number: int) -> Row:
    told = {"modality": "X-Ray", "organ": "Lung", "rationale": "The left side is denser than the right.", "id": f"s{number}"}
    return {"image": _image(rng), "question": f"Is {number} well?", "answer": rng.choice(("yes", "no")), **told}


FORMS = (
    Form("jsonl", "rows.jsonl", _manifest, "image", "question", "answer_index", 9, "id", ("id", "question", "image"), True),
    Form("medr1", "CT_test.json", _medr1, "image", "problem", "solution", "<answer> F </answer>", None,
         ("image", "problem", "solution")),
    Form("vqa_rad", "trainset.json", _rad, "image_name", "question", "answer", " ", "qid",
         ("qid", "image_name", "question", "answer", "answer_type")),
    Form("slake", "train.json", _slake, "img_name", "question", "answer", "", "qid",
         ("qid", "img_name", "question", "answer", "q_lang", "modality")),
    Form("omnimedvqa", "SET.json", _omni, "image_path", "question", "gt_answer", "a thing not offered", "question_id",
         ("dataset", "question_id", "question", "gt_answer", "image_path")),
    Form("silvar_med", "rows.jsonl", _silvar, "image", "question", "answer", " ", "id",
         ("image", "question", "answer", "rationale"), True),
    Form("pmc_vqa", "train.csv", _pmc, "Figure_path", "Question", "Answer_label", "E", None, ("Figure_path", "Question"),
         as_table=True),
    Form("csv", "rows.csv", _csv, "image", "question", "answer", "J", "id", ("image", "question", "answer"), as_table=True),
)  # fmt: skip
"""The forms that faults are planted in."""


def text_of(form: Form, rows: list[Row | str]) -> str:
    """The file of `rows`; one that is a text stands there as it is."""
    if form.as_table:
        out = io.StringIO()
        names = list(next(row for row in rows if isinstance(row, dict)))
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            out.write(row) if isinstance(row, str) else writer.writerow(row)
        return out.getvalue()
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return "\n".join(lines) + "\n" if form.as_lines else "[\n" + ",\n".join(lines) + "\n]\n"


def spec_of(form: Form, file: Path, images: Path) -> str:
    """The data spec of a file in `form`."""
    return f"{form.name}:{file}?images={images}"


# --- faults ---

Fault = Callable[[random.Random, Form, list[Any], int], tuple[str, ...] | None]
"""Changes row `k`, from 0, and says which words the message should have one of; None where the form cannot have the fault."""


def _bad_json(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...] | None:
    if form.as_table:
        return None
    whole = json.dumps(rows[k])
    rows[k] = rng.choice((whole[:-1], whole.replace(":", " ", 1), whole.replace('"', "", 1), whole[: len(whole) // 2], "{,}"))
    return ("JSON",)


def _no_object(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...] | None:
    if form.as_table:
        return None
    rows[k] = rng.choice(("null", '"a text"', "[1, 2]", "17"))
    return ("no JSON object", "valid dictionary", "object")


def _too_many_fields(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...] | None:
    if not form.as_table:
        return None
    rows[k] = ",".join(map(str, rows[k].values())).replace('"', "") + rng.choice((",one more\n", ",,\n"))
    return ("fields",)


def _missing_key(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...]:
    key = rng.choice(form.needed)
    if form.as_table:
        rows[k][key] = ""
        return (key, "gold", "image")
    del rows[k][key]
    return (key,)


def _wrong_type(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...] | None:
    if form.as_table:
        return None
    key = rng.choice(form.needed)
    rows[k][key] = rng.choice(({"a": 1}, ["x", 2], True, None))
    return (key,)


def _not_a_number(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...] | None:
    if form.name == "pmc_vqa":
        return None
    key = rng.choice((form.question, form.gold))
    if form.as_table:
        key = form.question
    rows[k][key] = "NaN" if form.as_table else float(rng.choice(("nan", "inf")))
    return ("NaN",)


def _nan_beside(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...] | None:
    if form.as_table:
        return None
    rows[k]["score"] = rng.choice((float("nan"), {"a": [float("inf")]}))
    return ("score", "NaN")


def _wrong_gold(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...]:
    rows[k][form.gold] = form.wrong_gold
    return ("gold", "answer", "letter")


def _empty_question(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...]:
    rows[k][form.question] = rng.choice(("", "  "))
    return ("question", "problem", form.question)


def _duplicate_id(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...] | None:
    if form.id is None or not k:
        return None
    rows[k][form.id] = rows[rng.randrange(k)][form.id]
    return ("is taken by",)


def _twin_options(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...] | None:
    if form.name != "jsonl":
        return None
    rows[k]["options"][1] = rows[k]["options"][0].upper() + rng.choice((" ", ".", ""))
    return ("same",)


def _control_token(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...]:
    token = rng.choice(("<|image_pad|>", "<|im_end|>", "<|video_pad|>", "<|vision_start|>"))
    rows[k][form.question] = f"{token} {rows[k][form.question]}"
    return (token,)


def _unknown_label(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...] | None:
    if form.name != "jsonl":
        return None
    key, value = rng.choice((("modality", "X-ry"), ("split", "dev"), ("kind", "guess"), ("question_type", "Colour")))
    rows[k][key] = value
    return (value,)


def _broken_image(fault: str) -> Fault:
    name, cause = BROKEN_IMAGES[fault]

    def plant(rng: random.Random, form: Form, rows: list[Any], k: int) -> tuple[str, ...]:
        rows[k][form.image] = f"Images/set/{name}"
        return cause

    return plant


FAULTS: dict[str, Fault] = {
    "bad JSON": _bad_json,
    "no object": _no_object,
    "too many fields": _too_many_fields,
    "missing key": _missing_key,
    "wrong type": _wrong_type,
    "NaN": _not_a_number,
    "NaN beside": _nan_beside,
    "wrong gold": _wrong_gold,
    "empty question": _empty_question,
    "duplicate id": _duplicate_id,
    "twin options": _twin_options,
    "control token": _control_token,
    "unknown label": _unknown_label,
    **{name: _broken_image(name) for name in BROKEN_IMAGES},
}
"""What can be planted in a row; encodings are planted in a file."""

ENCODING = "other encoding"


def plant(out: Path, images: Path, seed: int) -> Planted:
    """The data set of `seed`, written to `out`: one fault, in one row, of one form."""
    rng = random.Random(seed)
    while True:
        form, fault = FORMS[seed % len(FORMS)], rng.choice([*FAULTS, ENCODING])
        n = rng.randint(6, 12)
        rows: list[Any] = [form.row(rng, number) for number in range(1, n + 1)]
        k = rng.randrange(n)
        if fault == ENCODING:
            for row in rows:
                row[form.image] = "Images/set/a.png"  # all else is ASCII
            rows[k][form.question] = f"é ü {rows[k][form.question]}"
            cause: tuple[str, ...] | None = ("UTF-8", "utf-8")
        else:
            cause = FAULTS[fault](rng, form, rows, k)
        if cause is not None:
            break
    file = out / f"{seed}" / form.file
    file.parent.mkdir(parents=True)
    file.write_bytes(text_of(form, rows).encode("latin-1" if fault == ENCODING else "utf-8"))
    return Planted(spec_of(form, file, images), str(file), k + 1, form.name, fault, cause)


# --- odd rows that are valid ---

_TEXTS = (
    "哪个器官异常\uff1f",
    "ما هو العضو الظاهر في الصورة؟",
    "איזה איבר מוצג?",
    "कौन सा अंग दिखाया गया है?",
    "Wo liegt die Läsion \u2013 links oder rechts?",
    "🫁 or 🫀?",
    "e\u0301tat \u00e9tat",
    'She said "no", didn\'t she? \\n is no line break',
    "first line\nsecond line\n\nfourth",
    "tab\there, and a carriage return\r\nthere",
    "<b>bold</b> & {braces} [brackets] %s %20 {what} $x_1^2$ #1 ?images=x",
    "a <think> of it",
    "Is p < 0.05 and q > 3? <answer> goes elsewhere",
    "{0}",
    "line\u2028separator\u2029and\u00a0no-break\u200bzero width",
    "row 3: it is no JSON. Give it up.",
    "x " * 1200,
    "1",
    "None",
    "NaN is what the table says",
    "null",
)
_SHORT = (
    "肝脏", "الكبد", "כבד", "यकृत", "foie gras", "12", "3.5", "-1", "1e5", "None", "nan is not", "null", "true", "A", "B",
    "yes", "no", 'the "left" one', "l'aorte", "a\\b", "50 %", "#3", "R&D", "x;y", "x|y", "x,y", "ß", "İstanbul", "½", "Ω",
    "T1-weighted (fat-sat)", "liver.", "Liver cyst", "very long " * 30 + "option", "🫀", "<5 mm", "> 10 mm", "{x}", "[x]", "0",
    "C) spleen", "a/b",
)  # fmt: skip


def odd_row(rng: random.Random, number: int) -> Row:
    """A row of a manifest that is valid, however odd."""
    texts = rng.sample(_SHORT, rng.choice((2, 2, 3, 4, 5, 10)))
    gold = rng.randrange(len(texts))
    row: Row = {
        "id": rng.choice((number, f"id/{number}", f"№ {number}", f" {number} ", f"{number}.0")),
        "question": rng.choice(_TEXTS),
    }
    shown = [_image(rng) for _ in range(rng.choice((1, 1, 1, 2, 5)))]
    row |= {"image": shown[0]} if len(shown) == 1 and rng.random() < 0.5 else {"images": shown}
    shape = rng.randrange(5)
    if shape == 0:
        row |= {"options": texts, "answer_index": gold}
    elif shape == 1:
        row |= {
            "options": texts,
            "answer": rng.choice((texts[gold], texts[gold].upper() if texts[gold].isascii() else texts[gold])),
        }
    elif shape == 2:
        row |= {"answers": texts[:3]}
    elif shape == 3:
        row |= {"answer": rng.choice(("Yes", "no", "NO.")), "kind": rng.choice(("yesno", "open", None))}
    else:
        row |= {"options": ["yes", "no"], "answer_index": rng.randrange(2), "kind": rng.choice(("choice", "yesno"))}
    extras = {
        "rationale": rng.choice(("", None, "Because\nof it.", rng.choice(_TEXTS))),
        "language": rng.choice(("en", "zh", "ar")),
    }
    extras |= {"modality": rng.choice((None, "X-ray", "MR", "CT(Computed Tomography)")), "group": rng.choice((None, 7, "p 1"))}
    extras |= {"score": rng.choice((None, 0.5, [1, None])), "نص": {"deep": ["x", {"y": 1}]}, "": "a field without a name"}
    return row | {name: value for name, value in extras.items() if rng.random() < 0.5}


def write_odd(file: Path, n: int, seed: int) -> Path:
    """A manifest of `n` valid odd rows, as odd files are: a mark of byte order, blank lines, no last line end, escapes."""
    rng = random.Random(seed)
    end = rng.choice(("\n", "\r\n"))
    lines = [json.dumps(odd_row(rng, number), ensure_ascii=rng.random() < 0.5) for number in range(n)]
    text = "".join(line + end * rng.choice((1, 1, 2)) for line in lines)
    file.write_bytes(text.rstrip().encode(rng.choice(("utf-8", "utf-8-sig"))))
    return file


def main() -> None:
    """Write sets with a fault each, and print what was planted."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=100)
    given = parser.parse_args()
    images = write_images(given.out / "images")
    for seed in range(given.seed, given.seed + given.n):
        print(json.dumps(asdict(plant(given.out, images, seed))))


if __name__ == "__main__":
    main()
