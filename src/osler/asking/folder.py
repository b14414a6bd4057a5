"""A folder of questions about labelled images, as `osler data split` writes one, with what was left out and its audit.

DIR/train.jsonl, DIR/val.jsonl, DIR/test.jsonl     the questions, a split each
DIR/manifest.json                                  how they were made, counts, what was left out, floors, hashes
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osler.asking.floors import floors
from osler.asking.labels import Table
from osler.asking.making import FRACTIONS, ask
from osler.asking.templates import Templates
from osler.auditing import audit
from osler.datasets.dividing import checked_shares
from osler.datasets.manifests import write_parts
from osler.errors import RecipeError
from osler.fingerprints import NEAR, fingerprints
from osler.runs import require_free
from osler.schema import Kind


def make_folder(
    out: str | Path,
    table: Table,
    templates: Templates,
    kinds: Sequence[Kind],
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    near: bool = True,
) -> dict[str, Any]:
    """What `out`/manifest.json says once it is written, and the `audit` of train against test, None where one is absent.

    Every image is read once, for copies of a picture; with `near` those that look nearly the same stay on one side. The audit
    reads none: no picture is on two sides. Errors: any OslerError, before the folder is made.
    """
    require_free(out)
    if fractions and table.is_split:
        raise RecipeError(
            f"{table.file} says itself which split a row is of. Leave out --fractions, or rename its column split."
        )
    shares, distance = checked_shares(fractions or FRACTIONS), NEAR if near else None
    for column in table.columns:
        templates.of(column, kinds)  # words that cannot be asked are told before an image is read
    where = {image.path: image.where for image in table.images}
    prints = fingerprints(where, where)
    asked = ask(table, templates, kinds, seed, shares, prints, distance)
    train, test = (asked.parts.get(name) for name in ("train", "test"))
    about = {
        "kind": "ask",
        "table": table.file,
        "templates": templates.where,
        "columns": list(table.columns),
        "kinds": list(kinds),
        "fractions": None if table.is_split else shares,
        "seed": seed,
        "near_duplicate_distance": distance,
        **asked.to_json(),
        "counts": {name: part.counts() for name, part in asked.parts.items()},
        "floors": floors(train or (), test or ()),
    }
    pixels = {image: prints[image].pixels for part in asked.parts.values() for row in part for image in row.images}
    manifest = write_parts(out, asked.parts, about, pixels=pixels)
    return {**manifest, "audit": audit(train, test, images=False).to_json() if train and test else None}
