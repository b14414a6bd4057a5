"""`osler data rationalise`: rationales for the rows of a data set that have none, resumable.

    FILE.jsonl             every row, a manifest: `rationale`, and in `rationale_by` who wrote it, asked how, when
    FILE.jsonl.replies     one line a row that was asked about, as it comes: the rationale, or the reason that there is none
    FILE.summary.json      counts by reason, and what it cost

A rationale that is there is not asked for again, whoever wrote it; what failed or was refused is, by the same command. A row
that came with a rationale is kept as it is.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from osler.datasets.load import load_data
from osler.datasets.manifests import distinct_options, write_manifest
from osler.datasets.samples import Samples
from osler.errors import DataError, RunError
from osler.images import PHANTOM, underlying
from osler.model.endpoint import parse_endpoint
from osler.preparing.places import require_outside
from osler.progress import bar
from osler.rationales.author import Attempt, Author, Settings, added
from osler.rationales.refusals import concludes_gold
from osler.rationales.wording import VERSION, request_text, rules
from osler.runs import write_json, write_whole
from osler.schema import Sample

BY = "rationale_by"
"""The field of a row that says where its rationale comes from."""


def rationalise(
    spec: str,
    endpoint: str,
    out: Path,
    settings: Settings | None = None,
    max_seconds: float | None = None,
    root: str | None = None,
) -> dict[str, Any]:
    """The summary of what `endpoint` (`openai:URL#NAME`) wrote for the rows of `spec`; the rows are in `out`.

    Paths of images are absolute, or begin at `root`. After `max_seconds` of asking what has no rationale is left as it is.
    Errors: RecipeError for what names no endpoint; DataError for a row or an image; RunError where `out` is something else's
    or below the folder that `spec` reads; ModelError where the server is not fit for use from the start.
    """
    require_outside(spec, out)
    asked, known = settings or Settings(), parse_endpoint(endpoint)
    samples, same = distinct_options(load_data(spec))
    _require_images(samples, asked.see_images)
    replies = Replies(out)
    keys = {_key(sample, asked.see_images): sample for sample in samples if _lacks(sample)}
    _write_rows(samples, replies, asked, out, root)  # before the first request, so that none is paid for in vain
    replies.begin()
    if waiting := {key: sample for key, sample in keys.items() if replies.lacks(key)}:
        with Author(known, asked) as author, bar("Write rationales", len(waiting)) as tick:
            for key, attempt in author.as_written(waiting, max_seconds):
                replies.add(key, waiting[key].id, attempt)
                tick("")
    rows = _write_rows(samples, replies, asked, out, root)
    about = {"spec": spec, "out": str(out), "endpoint": known.url, "model": known.name, "prompt_version": VERSION}
    left_out = {"same_options": {"n": len(same), "ids": list(same)}}
    summary = {**about, "settings": asked.to_json(), **_counts(rows, keys, replies), "left_out": left_out}
    write_json(_summary_file(out), summary)
    return summary


def _summary_file(out: Path) -> Path:
    return out.with_suffix(".summary.json")


class Replies:
    """The lines of FILE.jsonl.replies: for each key the last attempt, and all of them for what they cost."""

    def __init__(self, out: Path) -> None:
        """Errors: RunError where `out` is no JSONL file, it or its summary is there without replies, or a line is damaged."""
        self.file = out.with_name(f"{out.name}.replies")
        if out.suffix != ".jsonl" or out.is_dir() or (out.exists() and not self.file.exists()):
            what = "is no name of a .jsonl file" if out.suffix != ".jsonl" else "exists"
            raise RunError(f"{out} {what}. Name another file with --out, as rationales.jsonl.")
        if _summary_file(out).exists() and not self.file.exists():
            raise RunError(f"{_summary_file(out)} exists, and would be overwritten. Name another file with --out.")
        self.last: dict[str, Attempt] = {}
        self.all: list[Attempt] = []
        if self.file.exists():
            content = self.file.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:  # a crash cuts the last line short
                write_whole(self.file, whole)
            for number, line in enumerate(whole.splitlines(), 1):
                self._read(number, line)

    def begin(self) -> None:
        """Make the file, by which FILE.jsonl is known as one to go on with."""
        self.file.touch()

    def _read(self, number: int, line: bytes) -> None:
        try:
            fields = json.loads(line.decode())
            key = str(fields.pop("key"))
            del fields["id"]
            attempt = Attempt(**{**fields, "refused": tuple(fields["refused"])})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{self.file}, line {number} is damaged ({error}). Remove the line; it is asked again.") from error
        self.last[key] = attempt
        self.all.append(attempt)

    def lacks(self, key: str) -> bool:
        """Whether there is no rationale under `key`."""
        return key not in self.last or self.last[key].rationale is None

    def add(self, key: str, id: str, attempt: Attempt) -> None:
        """Append a line, unless nothing was asked: only what was spent is worth keeping."""
        self.last[key] = attempt
        self.all.append(attempt)
        if not attempt.requests:
            return
        with self.file.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(json.dumps({"id": id, "key": key, **attempt.to_json()}, ensure_ascii=False) + "\n")


def _lacks(sample: Sample) -> bool:
    return not (sample.rationale or "").strip()


def _require_images(samples: Iterable[Sample], sees_images: bool) -> None:
    for sample in samples if sees_images else ():
        if not sample.images and _lacks(sample):
            where = sample.origin or f"sample {sample.id!r}"
            raise DataError(f"{where}: it has no image to show. Give the images' root, NAME:PATH?images=ROOT, or leave out "
                            "--see-images.")  # fmt: skip


def _key(sample: Sample, sees_images: bool) -> str:
    """What tells the asking for the rationale of `sample` from others, whoever is asked. Errors: DataError."""
    images = list(map(_image_key, sample.images)) if sees_images else []
    asked = [sample.id, rules(sees_images), request_text(sample), images]
    return sha256(json.dumps(asked).encode()).hexdigest()


@lru_cache(maxsize=65536)
def _image_key(reference: str) -> str:
    """A hash of the file that the image is, or is made from, wherever it lies. Errors: DataError."""
    inner = underlying(reference)
    try:
        content = inner.encode() if inner.startswith(PHANTOM) else Path(inner).read_bytes()
    except OSError as error:
        raise DataError.at(
            inner, None, f"the image cannot be read ({error.strerror}).", "Check its path and rights."
        ) from error
    return sha256(reference.removesuffix(inner).encode() + content).hexdigest()


def _write_rows(samples: Samples, replies: Replies, asked: Settings, out: Path, root: str | None) -> Samples:
    """The rows with the rationales that there are, which are in `out` now. Errors: RunError where it cannot be written."""
    rows = Samples.of(_explained(sample, replies, asked.see_images) for sample in samples)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(rows, out, root)
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error.strerror}). Name another file with --out.") from error
    return rows


def _explained(sample: Sample, replies: Replies, sees_images: bool) -> Sample:
    found = replies.last.get(_key(sample, sees_images)) if _lacks(sample) else None
    if found is None or found.rationale is None:
        return sample
    return replace(sample, rationale=found.rationale, extra={**sample.extra, BY: found.by})


def _counts(rows: Samples, keys: dict[str, Sample], replies: Replies) -> dict[str, Any]:
    """How many rows have a rationale and how many lack one by reason; what was refused on the way, and what it all cost."""
    last = [replies.last[key] for key in keys]
    taken = [(sample, one.rationale) for sample, one in zip(keys.values(), last, strict=True) if one.rationale is not None]
    refused = Counter(reason for one in replies.all for reason in one.refused)
    return {
        "rows": len(rows),
        "had_one": len(rows) - len(keys),
        "written": len(taken),
        "without": dict(sorted(Counter(one.reason for one in last if one.reason is not None).items())),
        "without_conclusion": sum(concludes_gold(sample, text) is None for sample, text in taken),
        "written_by": dict(sorted(Counter(f"{one.by['endpoint']}#{one.by['model']}" for one in last if one.by).items())),
        "refused_replies": dict(sorted(refused.items())),
        "requests": sum(one.requests for one in replies.all),
        "tokens_in": added(*(one.tokens_in for one in replies.all)),
        "tokens_out": added(*(one.tokens_out for one in replies.all)),
        "seconds": round(sum(one.seconds for one in replies.all), 3),
    }
