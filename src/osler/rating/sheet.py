"""The files that raters get, and the key that they do not.

DIR/rater-1.html   all items with their images, in this rater's order; answers are saved as a CSV file from the page
DIR/rater-1.csv    the same items in the same order, for a spreadsheet
DIR/key.json       which code is which run and row, with the grader's verdicts; never for a rater
"""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from osler.comparing.marking import take_apart
from osler.examples import thumbnail
from osler.rating.items import Item, Selection, ordered
from osler.runs import require_free, write_json, write_named
from osler.schema import LETTERS

KEY = "key.json"
KIND = "osler rating key"
WARNING = "Keep this file away from raters: it says which code is which model, and what the grader thought."
COLUMNS = ("code", "rater", "question", "options", "reference", "completion", "correct", "sound", "note")
"""The columns of a rater's CSV file; the first two and the last three are what comes back."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would run as a formula."""


def write_sheets(selection: Selection, folder: Path, raters: int = 2, gold: bool = True) -> list[Path]:
    """The files of `raters` raters and, last, the key, written to the fresh `folder`.

    Without `gold` a rater is not told the reference answer. The same bytes for the same selection.
    Errors: RunError where the folder holds something already, or cannot be written.
    """
    require_free(folder)
    files = []
    for rater in range(1, raters + 1):
        items = ordered(selection.items, selection.seed, rater)
        files += [
            write_named(folder / f"rater-{rater}.html", _page(items, rater, gold)),
            write_named(folder / f"rater-{rater}.csv", _table(items, rater, gold)),
        ]
    write_json(folder / KEY, key_of(selection, raters, gold))
    return [*files, folder / KEY]


def key_of(selection: Selection, raters: int, gold: bool) -> dict[str, Any]:
    """What key.json holds. Clusters are numbered: what names them, an image's path or a patient, stays out."""
    clusters = list(dict.fromkeys(item.sample.cluster for item in selection.items))
    return {
        "kind": KIND,
        "warning": WARNING,
        "seed": selection.seed,
        "raters": raters,
        "gold_shown": gold,
        "runs": [{"label": label, "name": name} for label, name in selection.runs.items()],
        "shares": [asdict(share) for share in selection.shares],
        "items": [item.to_key(str(clusters.index(item.sample.cluster) + 1)) for item in selection.items],
    }


def _page(items: Sequence[Item], rater: int, gold: bool) -> str:
    loader = PackageLoader("osler")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"thumbnail": thumbnail, "take_apart": take_apart, "reference": reference}
    script = environment.get_template("rating.js").render()
    return environment.get_template("rating.html.jinja").render(
        items=items,
        rater=rater,
        gold=gold,
        letters=LETTERS,
        sheet=_digest(f"{rater}\n{gold}\n" + "\n".join(f"{item.code}\n{item.completion}" for item in items)),
        script=script,
        script_hash=base64.b64encode(sha256(script.encode()).digest()).decode(),
    )


def _table(items: Sequence[Item], rater: int, gold: bool) -> str:
    """The items as CSV, with a byte order mark so that every spreadsheet reads UTF-8, and the answers left empty."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for item in items:
        sample = item.sample
        options = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, sample.options, strict=False))
        texts = (sample.question, options, reference(item) if gold else "", item.completion)
        writer.writerow([item.code, rater, *map(_harmless, texts), "", "", ""])
    return "\ufeff" + out.getvalue()


def reference(item: Item) -> str:
    """The gold as a rater reads it: with its letter where there are options."""
    sample = item.sample
    if sample.gold_index is None:
        return " / ".join(sample.golds)
    return f"{sample.gold_letter}) {sample.options[sample.gold_index]}"


def _harmless(text: str) -> str:
    """`text` for a cell, behind an apostrophe where it would be run as a formula; a NUL, which CSV cannot hold, is U+FFFD."""
    text = text.replace("\0", "\ufffd")
    return f"'{text}" if text.startswith(FORMULA) else text


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
