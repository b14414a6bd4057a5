"""`osler data prepare`: every image of a data set scaled once to a pixel budget, and the rows that show them.

    DIR/images/AB/ABCD....png    the images (osler.preparing.pictures)
    DIR/rows.jsonl               every row of every split, a manifest; paths are below DIR. Its field `prepared` has for each
                                 image the hash and size of its file, and path, hash and size of the original
    DIR/manifest.json            how they were made, what was left out, counts and hashes
    DIR/pictures.jsonl           what is ready so far, while it runs; gone at the end

What is there is not made again: a second run writes nothing, and one that was killed goes on. Two runs at the same time into
one folder are not foreseen. The folder can be moved: read it as jsonl:DIR.
"""

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osler import __version__
from osler.datasets.jsonl import json_lines
from osler.datasets.load import load_data
from osler.datasets.manifests import distinct_options, write_manifest
from osler.datasets.samples import Samples
from osler.errors import DataError, RunError
from osler.preparing.budget import Budget
from osler.preparing.pictures import Picture, made, original_of, remove_parts
from osler.preparing.places import require_outside
from osler.progress import bar
from osler.runs import Run, read_json, require_free, write_json
from osler.schema import Sample

ROWS = "rows.jsonl"
_READY = "pictures"  # the file of what is ready so far, without its ending
_EXTRA = "prepared"

Broken = dict[str, str]
"""What is wrong with an image that cannot be prepared, by its reference."""


@dataclass(frozen=True)
class Prepared:
    """What became of a data set: how many images were `made` now and how many `found`, and how many files `written` of them.

    `unscaled` images keep their own size, as the processor would scale them twice. `manifest` is what manifest.json says.
    """

    folder: Path
    manifest: dict[str, Any]
    made: int
    found: int
    written: int
    unscaled: int

    def to_json(self) -> dict[str, Any]:
        """The counts, and the manifest without ids."""
        left_out = {reason: one["n"] for reason, one in self.manifest["left_out"].items()}
        counts = {"made": self.made, "found": self.found, "written": self.written, "unscaled": self.unscaled}
        facts = {name: self.manifest[name] for name in ("spec", "budget", "images", "text_only", "mb")}
        return {"out": str(self.folder), "rows": self.manifest["rows"]["n"], **facts, **counts, "left_out": left_out}


def prepare(spec: str, out: Path, budget: Budget, skip_broken: bool = False) -> Prepared:
    """What was prepared of the data set `spec` in the folder `out`.

    With `skip_broken` rows with an image that cannot be opened are left out, and are in the manifest with the reason.
    Errors: DataError that names row and file for such an image; RunError where `out` holds something else,
    or is below the folder that `spec` reads.
    """
    require_outside(spec, out)
    settings = {"kind": "prepare", "spec": spec, "budget": budget.to_json()}
    _require_ours(out, settings)
    samples, same = distinct_options(load_data(spec))
    where = _first_rows(spec, samples)
    _begin(out, settings)
    remove_parts(out)
    pictures, broken, counts = _pictures(where, budget, out, skip_broken)
    rows = Samples.of(_shown(sample, pictures) for sample in samples if not broken.keys() & set(sample.images))
    if not len(rows):
        raise DataError(
            f"{spec}: no row is left of {len(samples)}. Replace the images; the first: {next(iter(broken.values()))}"
        )
    left_out = {"broken": _broken_rows(samples, broken), "same_options": {"n": len(same), "ids": list(same)}}
    manifest = _finish(out, settings, rows, left_out)
    return Prepared(out, manifest, **counts)


def _require_ours(out: Path, settings: Mapping[str, Any]) -> None:
    """Errors: RunError where `out` is neither free nor a folder that the same data set was being prepared in."""
    if not (out / "manifest.json").is_file():
        require_free(out)
        return
    before = read_json(out / "manifest.json")
    if before.get("kind") != "prepare":
        raise RunError(f"{out} exists, and is of kind {before.get('kind')!r}. Name another folder with --out.")
    for name, value in settings.items():
        if before.get(name) != value:
            raise RunError(f"{out} was prepared with {name} {before.get(name)}, not {value}. Name another folder with --out.")


def _first_rows(spec: str, samples: Samples) -> dict[str, str]:
    """Every different image, and the first row that shows it. Errors: DataError where there are none."""
    first: dict[str, str] = {}
    for sample in samples:
        for reference in sample.images:
            first.setdefault(reference, sample.origin or f"sample {sample.id!r}")
    if not first:
        raise DataError(f"{spec}: no row has an image. Give the images' root: NAME:PATH?images=ROOT.")
    return first


def _begin(out: Path, settings: Mapping[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "manifest.json").exists():
            write_json(out / "manifest.json", {**settings, "state": "running"})
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error.strerror}). Name another folder with --out.") from error


def _pictures(
    where: Mapping[str, str], budget: Budget, out: Path, skip_broken: bool
) -> tuple[dict[str, Picture], Broken, dict[str, int]]:
    """The picture of each reference of `where`, what is wrong with those that have none, and counts."""
    ready, log = _ready(out), Run(out, {})

    def attempt(reference: str) -> tuple[Picture, bool | None] | DataError:
        before = ready.get(original_of(reference))
        try:
            return (before, None) if before and before.stands_for(reference, out) else made(reference, budget, out)
        except DataError as error:
            return error

    pictures, broken, wrote = dict[str, Picture](), Broken(), set[str]()
    found = 0
    with bar("Prepare images", len(where)) as tick, ThreadPoolExecutor(os.cpu_count()) as pool:
        for reference, result in zip(where, pool.map(attempt, where), strict=True):
            if isinstance(result, DataError):
                broken[reference] = f"{where[reference]}: {result}"
                if not skip_broken:
                    pool.shutdown(cancel_futures=True)
                    raise DataError(f"{broken[reference]} With --skip-broken such rows are left out, and counted.") from result
            else:
                pictures[reference], written = result
                found += written is None
                wrote |= {pictures[reference].file} if written else set()
                if written is not None:
                    log.append(_READY, pictures[reference].to_json())
            tick("")
    unscaled = sum(not budget.settled(*one.original_size) for one in pictures.values())
    return pictures, broken, {"made": len(pictures) - found, "found": found, "written": len(wrote), "unscaled": unscaled}


def _ready(out: Path) -> dict[str, Picture]:
    """The pictures that earlier runs made, by their originals. Errors: RunError where a file of theirs is damaged."""
    found: dict[str, Picture] = {}
    try:
        for value in (*_in_rows(out / ROWS), *Run(out, {}).rows(_READY)):
            picture = Picture.from_json(value)
            found[picture.original] = picture
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{out}: {ROWS} or {_READY}.jsonl is damaged ({error}). Remove both to go on.") from error
    Run(out, {}).trim(_READY)
    return found


def _in_rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.is_file():
        for _, line in json_lines(file):
            row = json.loads(line)
            for name, one in zip(row.get("images", ()), row.get(_EXTRA, ()), strict=True):
                yield {"file": name, **one}


def _shown(sample: Sample, pictures: Mapping[str, Picture]) -> Sample:
    """`sample` with its prepared images; `images` are paths below the folder, to be written there."""
    if not sample.images:
        return sample
    chosen = [pictures[reference] for reference in sample.images]
    about = [{name: value for name, value in one.to_json().items() if name != "file"} for one in chosen]
    return replace(sample, images=tuple(one.file for one in chosen), extra={**sample.extra, _EXTRA: about})


def _broken_rows(samples: Samples, broken: Broken) -> dict[str, Any]:
    rows = [{"id": sample.id, "what": broken[one]} for sample in samples for one in sample.images if one in broken]
    return {"n": len({row["id"] for row in rows}), "rows": rows}


def _finish(out: Path, settings: Mapping[str, Any], rows: Samples, left_out: dict[str, Any]) -> dict[str, Any]:
    """What manifest.json says. It and the rows are written where they are not there already."""
    below = Samples.of(replace(row, images=tuple(str(out / image) for image in row.images)) for row in rows)
    facts = _write_rows(below, out)
    files = {image for row in below for image in row.images}
    manifest = {
        "osler": __version__,
        **settings,
        "state": "done",
        "images": len(files),
        "mb": round(sum(os.path.getsize(file) for file in files) / 2**20, 2),
        "text_only": sum(not row.images for row in rows),
        "left_out": left_out,
        "rows": facts,
    }
    if read_json(out / "manifest.json") != manifest:
        write_json(out / "manifest.json", manifest)
    (out / f"{_READY}.jsonl").unlink(missing_ok=True)
    return manifest


def _write_rows(rows: Samples, out: Path) -> dict[str, Any]:
    """What the file of the rows holds; it is left alone where it holds that already. Errors: DataError."""
    file, fresh = out / ROWS, out / f"{ROWS}.new"
    facts = write_manifest(rows, fresh, str(out))
    if file.is_file() and file.read_bytes() == fresh.read_bytes():
        fresh.unlink()
    else:
        os.replace(fresh, file)
    return {**facts, "file": ROWS}
