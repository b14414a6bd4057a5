"""PMC-VQA: questions with four options about figures of open-access articles, written from captions by a language model.

    Figure_path,Question,Answer,Choice A,Choice B,Choice C,Choice D,Answer_label
    PMC1064097_F1.jpg, What is the uptake pattern in the breast? , Focal uptake pattern , A:Diffuse uptake pattern ,
    ... B:Focal uptake pattern , C:No uptake pattern , D:Cannot determine from the information given ,B

    index,Figure_path,Caption,Question,Choice A,Choice B,Choice C,Choice D,Answer,split
    62,PMC8253867_Fig2_41.jpg,CT pulmonary angiogram ..., What is the name of the artery ... ?, A: Right Coronary Artery ,
    ... B: Left Anterior Descending Coronary Artery , C: Circumflex Coronary Artery , D: Superior Mesenteric Artery ,B,test

Zhang et al. 2023, arXiv:2305.10415; CC BY-SA; the hub's RadGenome/PMC-VQA. Version 1 is `train.csv` (176,948 rows), `test.csv`
(50,000) and `test_clean.csv` (2,000 of these, checked by hand), its images `images`; version 2, of figures taken apart, is
`train_2.csv` (152,603) and `test_2.csv` (33,430), its images `figures`. The files were not at hand: columns and counts are
those of the data card and of public programs that read them, and what is tested is rows written after these.

A file's name tells its split where it begins with that word, as test_clean.csv does and valve.csv does not, else the row's own
`split` does. Below a folder the train and test files of one version are read; test_clean.csv only by its name. ROOT of
`?images=ROOT` is their folder, or the one that holds it; without it rows have none. The group is the article, PMC1064097.
Options and question lose outer blanks, options the letter of their place too. Other columns are kept in `extra`; the caption
may hold the answer.

Letter and text of the gold must agree. Some rows of version 1 are broken: ten letters of test.csv are a quotation mark, and
others count 31 rows of train.csv whose options or gold do not fit. `read` stops at a row that tells no one option, while
`read_usable` leaves it out and says so.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from osler.datasets.load import DataSpec
from osler.datasets.places import image_root
from osler.datasets.problems import refuse, refuse_as
from osler.datasets.rows import at_row, image_below
from osler.errors import DataError
from osler.progress import console
from osler.schema import LETTERS, SPLITS, Kind, Sample, fold_text

FILES = {"train.csv": 1, "test.csv": 1, "train_2.csv": 2, "test_2.csv": 2}
"""The files that are read below a folder, and their versions."""

IMAGES = {1: ("images",), 2: ("figures", "images")}
"""The folder of the images of each version, as published; the first that there is."""

MOST_LEFT_OUT = 0.001
"""The share of a file's rows above which `read_usable` stops too; ours. 31 rows of train.csv are 0.0002."""

_CHOICES = {f"Choice {letter}": letter for letter in "ABCD"}
_NEEDED = ("Figure_path", "Question", *_CHOICES, "Answer")
_PREFIX = re.compile(r"\s*([A-D])\s*:")
_ARTICLE = re.compile(r"PMC\d+")


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file, or of one version below a folder. Errors: DataError that names file and row."""
    files = _files(spec)
    root = _root(spec, files[0])
    for file in files:
        for found in _read(file, root):
            if isinstance(found, DataError):
                do = "Put it right, or name pmc_vqa_usable, which leaves such rows out."
                refuse_as(DataError(f"{found} {do}"), found)
                continue
            yield found


def read_usable(spec: DataSpec) -> Iterator[Sample]:
    """As `read`, without broken rows; stderr says how many they were. Errors: DataError where they are many."""
    files = _files(spec)
    root = _root(spec, files[0])
    for file in files:
        faults, usable = [], 0
        for found in _read(file, root):
            if isinstance(found, DataError):
                faults.append(found)
            else:
                usable += 1
                yield found
        said = f"{len(faults):,} of the {usable + len(faults):,} rows of {file} are broken"
        if len(faults) > MOST_LEFT_OUT * (usable + len(faults)):
            raise DataError(f"{said}, too many to leave out. The first: {faults[0]}")
        if faults:
            console.print(f"{said} and left out. The first: {faults[0]}", markup=False, highlight=False, soft_wrap=True)


def _files(spec: DataSpec) -> list[Path]:
    """The file of `spec`, whatever its name, or the published ones of one version below a folder. Errors: DataError."""
    files = spec.files(".csv")
    if files == [Path(spec.path or "")]:
        return files
    found = [file for file in files if file.name in FILES]
    if len({FILES[file.name] for file in found}) == 1:
        return found
    if not found:
        raise DataError.at(str(spec.path), None, f"the folder holds none of {', '.join(FILES)}.", "Name the file itself.")
    do = f"Name one file, as {spec.name}:{found[0]}, or move those of one version to a folder of their own."
    raise DataError.at(str(spec.path), None, f"the folder holds both versions, {', '.join(file.name for file in found)}.", do)


def _root(spec: DataSpec, file: Path) -> str | None:
    """The folder of the images that the rows of `file`, and of all of its version, name."""
    version = 2 if file.stem.endswith("_2") else 1
    return image_root(spec.name, spec.path, spec.images, IMAGES[version])


def _read(file: Path, root: str | None) -> Iterator[Sample | DataError]:
    """For each row its sample, or what is wrong with it. Errors: DataError for the file, or an image that is absent."""
    split = next((name for name in SPLITS if re.match(rf"{name}(?![^\W\d_])", file.stem)), None)
    for number, where, row in _rows(file):
        with at_row(file, number):
            images = () if root is None else (image_below(root, row["Figure_path"].strip()),)
            found: Sample | DataError
            try:
                found = _sample(f"pmc_vqa/{file.stem}/{number}", images, row, split, where)
            except DataError as error:
                found = DataError(f"{where}: {error}")
            yield found


def _rows(file: Path) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Of each row its number from 1, its place in words, and its fields by column. Errors: DataError. Empty lines are no rows.

    The place names the line as well, where that is not simply the one after the row's number.
    """
    with file.open("rb") as lines:
        reader = csv.reader(line.decode("utf-8" if n else "utf-8-sig") for n, line in enumerate(lines))
        names, number, begin = list[str](), 0, 1
        try:
            for fields in reader:
                begin, end = reader.line_num + 1, reader.line_num
                if not fields:
                    continue
                if not names:
                    names = _header(file, fields)
                    continue
                number += 1
                where = f"{file}, row {number}" + (f" (to line {end})" if end != number + 1 else "")
                if len(fields) != len(names):
                    what = f"it has {len(fields)} fields, the header {len(names)}. Is a quotation mark missing?"
                    refuse(where, what)
                    continue
                yield number, where, dict(zip(names, fields, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            what = f"from line {begin} on it is no CSV in UTF-8 ({error})."
            if not names:
                raise DataError.at(file, None, what) from error
            refuse(f"{file}, row {number + 1}", what, error)
            return
    if not names:
        raise DataError.at(file, None, "it is empty.")


def _header(file: Path, fields: list[str]) -> list[str]:
    """The names of the columns, without outer blanks. Errors: DataError where one is missing, or stands there twice."""
    names = [name.strip() for name in fields]
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise DataError.at(file, None, f"its header names the column {twice[0]!r} twice.", "Keep one of the two.")
    if missing := [name for name in _NEEDED if name not in names]:
        raise DataError.at(file, None, f"it has no column {missing[0]!r}, but {', '.join(names)}.")
    return names


def _sample(name: str, images: tuple[str, ...], row: dict[str, str], split: str | None, origin: str) -> Sample:
    """The sample of `row`, its id `name`. Errors: DataError."""
    figure, question, own = (row.get(column, "").strip() for column in ("Figure_path", "Question", "split"))
    if not figure or not question:
        raise DataError(f"the field {'Question' if figure else 'Figure_path'!r} is empty.")
    options = _options(row)
    gold_index = _gold(options, row["Answer"], row.get("Answer_label"))
    article = _ARTICLE.match(PurePosixPath(figure).name)
    return Sample(
        id=name,
        images=images,
        question=question,
        golds=(options[gold_index],),
        options=options,
        gold_index=gold_index,
        kind=Kind.CHOICE,
        source="PMC-VQA",
        split=split or (own if own in SPLITS else None),
        group=article[0] if article else figure,
        extra={column: text for column, text in row.items() if column not in _NEEDED} | {"path": figure},
        origin=origin,
    )


def _options(row: dict[str, str]) -> tuple[str, ...]:
    """The options, two to four: empty ones at the end are none. Errors: DataError."""
    options = [_cleaned(row[column], letter) for column, letter in _CHOICES.items()]
    while options and not options[-1].strip(". "):
        options.pop()
    if len(options) < 2 or not all(option.strip(". ") for option in options):
        raise DataError(f"an option before the last is empty, or all but one are: {[row[column] for column in _CHOICES]}.")
    return tuple(options)


def _cleaned(text: str, letter: str) -> str:
    """`text` without outer blanks and its own letter. Errors: DataError where it has the letter of another place."""
    found = _PREFIX.match(text)
    if found and found[1] != letter:
        raise DataError(f"the option {text!r} stands in the place of {letter}.")
    return text[found.end() :].strip() if found else text.strip()


def _gold(options: tuple[str, ...], answer: str, label: str | None) -> int:
    """The one place that letter and text tell together; without a label `answer` is either. Errors: DataError."""
    if label is None:
        answer, label = ("", answer) if _bare(answer) in _CHOICES.values() else (answer, "")
    text, letter = fold_text(_bare(answer)), _bare(label)
    fits = (letter in ("", LETTERS[n]) and text in ("", fold_text(_bare(option))) for n, option in enumerate(options))
    told = [n for n, fit in enumerate(fits) if fit]
    if len(told) != 1:
        count = len(told) or "none"
        raise DataError(f"its letter {label!r} and its text {answer!r} fit {count} of the options {list(options)}, not one.")
    return told[0]


def _bare(text: str) -> str:
    """`text` without outer blanks and quotation marks."""
    return text.strip().strip("'\"").strip()
