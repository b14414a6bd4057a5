"""Samples as files: the JSON Lines that `osler.datasets.jsonl` reads back unchanged, and beside them what they are.

    DIR/train.jsonl, DIR/val.jsonl, DIR/test.jsonl     those that there are
    DIR/manifest.json                                  how they were made, their counts and their hashes

The folder appears whole or not at all.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osler import __version__
from osler.datasets import jsonl
from osler.datasets.load import DataSpec
from osler.datasets.samples import Samples
from osler.errors import DataError
from osler.images import MADE, PHANTOM, underlying
from osler.runs import require_free, write_json, write_whole
from osler.schema import Sample, fold_text


def write_parts(
    out: str | Path,
    parts: Mapping[str, Samples],
    about: Mapping[str, Any],
    root: str | None = None,
    pixels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What `out`/manifest.json says, once each of `parts` is `out`/NAME.jsonl.

    It begins with `about`, how the rows were made, and ends with `pixels`, the hashes of images. Paths of images are absolute,
    or begin at `root` where it is given, to be read with ?images=ROOT. Errors: RunError where `out` is taken, DataError where
    a row cannot be written.
    """
    with _whole_folder(Path(out)) as folder:
        made = {name: write_manifest(part, folder / f"{name}.jsonl", root) for name, part in parts.items()}
        hashes = {_written(image, root): pixels[image] for image in sorted(pixels)} if pixels else {}
        manifest = {"osler": __version__, **about, "images_root": root, "parts": made, "image_hashes": hashes}
        write_json(folder / "manifest.json", manifest)
    return manifest


def write_manifest(samples: Samples, file: Path, root: str | None = None) -> dict[str, Any]:
    """What `file` holds once it is written, whole: file, n, sha256, row_hash, counts of rows, images and strata.

    Errors: DataError where an image is not below `root`, or a row would not be read back as it is.
    """
    part = file.with_name(f"{file.name}.part")
    write_whole(part, "".join(json.dumps(_line(sample, root), ensure_ascii=False) + "\n" for sample in samples))
    try:
        _read_back(samples, part, root)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    strata = Counter(f"{sample.modality} x {sample.question_type}" for sample in samples)
    return {
        "file": file.name,
        "n": len(samples),
        "images": samples.counts()["images"],
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "row_hash": row_hash(samples),
        "strata": dict(sorted(strata.items())),
    }


def row_hash(samples: Iterable[Sample]) -> str:
    """A hash of what is asked and what is right, row by row, whatever the images show."""
    return _hash([s.id, s.question, s.options, s.golds] for s in samples)


def rows_and_images_hash(samples: Iterable[Sample]) -> str:
    """A hash of what is asked, what is right and about which images, row by row; of use on one machine only.

    Rows with marks or grain have the `row_hash` of those without, and other images. A file is known by where it lies, however
    its path was written. Errors: DataError for a reference that names no image.
    """
    return _hash([s.id, s.question, s.options, s.golds, list(map(_place, s.images))] for s in samples)


def _hash(rows: Iterable[Sequence[Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _place(image: str) -> str:
    """The reference to `image` with the absolute path of the file that it is, or is made from."""
    inner = underlying(image)
    return image if inner.startswith(PHANTOM) else image.removesuffix(inner) + os.path.abspath(inner)


def distinct_options(samples: Samples) -> tuple[Samples, tuple[str, ...]]:
    """The rows whose options the grader tells apart, and the ids of the others, which no manifest may hold."""
    same = [len(set(map(fold_text, sample.options))) < len(sample.options) for sample in samples]
    ids = (sample.id for sample, bad in zip(samples, same, strict=True) if bad)
    return samples.take(row for row, bad in enumerate(same) if not bad), tuple(ids)


def _line(sample: Sample, root: str | None) -> dict[str, Any]:
    """`sample` as a line of a manifest, without the fields that are empty."""
    shown = {"images": [_written(image, root) for image in sample.images]} if sample.images else {"text_only": True}
    choice = {"options": sample.options, "answer_index": sample.gold_index} if sample.options else {"answers": sample.golds}
    told = {"split": sample.split, "group": sample.group, "rationale": sample.rationale, "source": sample.source or None}
    return {
        "id": sample.id,
        **shown,
        "question": sample.question,
        **choice,
        "kind": sample.kind,
        "modality": sample.modality,
        "question_type": sample.question_type,
        **{name: value for name, value in told.items() if value is not None},
        "group_is_patient": sample.group_is_patient,
        "language": sample.language,
        **sample.extra,
    }


def _written(image: str, root: str | None) -> str:
    """The reference to `image`: absolute, or below `root`; a drawn one is its own. Errors: DataError."""
    if image.startswith(PHANTOM):
        return image
    if image.startswith(MADE):
        raise DataError(
            f"{image} is no image of a data set but made from one, which a manifest cannot hold. Write the originals."
        )
    path = os.path.abspath(image)
    if root is None:
        return path
    below = os.path.relpath(path, os.path.abspath(root))
    if below.split(os.sep)[0] == os.pardir:
        raise DataError(f"{image} is not below {root}. Name the folder that holds all images, or none.")
    return Path(below).as_posix()


def _read_back(samples: Samples, file: Path, root: str | None) -> None:
    """Errors: DataError where `file` is not read as `samples` are, but for the names of their images."""
    aside: dict[str, Any] = {"images": (), "origin": None}
    for written, read in zip(samples, jsonl.read(DataSpec("jsonl", str(file), root)), strict=True):
        before, after = vars(written) | aside, vars(read) | aside
        if changed := [name for name in before if before[name] != after[name]]:
            raise DataError(
                f"{written.origin or f'sample {written.id!r}'}: its {' and '.join(changed)} would be read back differently. "
                "Spell its gold as its option is, and name no extra field like a field of the manifest."
            )


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well, and is gone when it does not."""
    require_free(out)
    part = out.with_name(f".{out.resolve().name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{out} cannot be made ({error.strerror}). Name another folder with --out.") from error
    try:
        yield part
        if out.exists():
            out.rmdir()  # it is empty; not every system renames over it
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
