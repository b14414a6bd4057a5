"""What people rate: completions drawn by a seed from evaluations of the same rows, under codes that say nothing.

Every run gives as many items as the others. Within a run they are shared out over right, wrong and unjudged as its rows are,
so that a plain mean over the items estimates the mean over the run. Nobody picks, and nothing in an item tells a rater which
stratum it is of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from osler.comparing.same_rows import Evaluated, read_same
from osler.comparing.strata import draw
from osler.errors import RecipeError
from osler.images import MADE
from osler.looking import right
from osler.runs import Run
from osler.schema import Sample

SIGNS = "BCDFGHJKLMNPQRSTVWXZ"
"""The letters of codes: no vowel, so that no word or month comes out, and no digit, so that no spreadsheet sees a number."""
LENGTH = 6
"""Letters of a code."""
VERDICTS = {True: "right", False: "wrong", None: "unjudged"}


@dataclass(frozen=True)
class Item:
    """A completion to rate. What a rater sees: code, sample, images, completion. What the key alone holds: run, cluster, right.

    `run` is the label of the run, `right` the grader's strict verdict, None where it gave none.
    """

    code: str
    sample: Sample
    images: tuple[str, ...]
    completion: str
    run: str
    right: bool | None

    def to_key(self, cluster: str) -> dict[str, Any]:
        """The item as key.json holds it, without its text; `cluster` is what stands there for the row's image or patient."""
        return {"code": self.code, "run": self.run, "sample_id": self.sample.id, "cluster": cluster, "right": self.right}


@dataclass(frozen=True)
class Share:
    """How many of the `rows` of a run with this verdict were `drawn`."""

    run: str
    verdict: str
    rows: int
    drawn: int


@dataclass(frozen=True)
class Selection:
    """The items, in the order of their codes, what they were drawn from, and the folder name of each run by its label."""

    seed: int
    items: tuple[Item, ...]
    shares: tuple[Share, ...]
    runs: Mapping[str, str]


def draw_items(runs: Sequence[Run], n: int = 60, seed: int = 0) -> Selection:
    """`n` completions of `runs` to rate, fewer where a run has not enough rows; the same for the same seed.

    Errors: RunError where the runs are not of the same rows (`same_rows.read_same`); RecipeError where n is below their number.
    """
    evaluated = read_same(runs)
    if n < len(evaluated):
        raise RecipeError(f"{n} items cannot be shared by {len(evaluated)} runs. Ask for {len(evaluated)} or more (--n).")
    drawn = [(one, *_share_out(one, n // len(runs) + (k < n % len(runs)), seed)) for k, one in enumerate(evaluated)]
    named = [(one, row) for one, rows, _ in drawn for row in rows]
    codes = _codes([f"{seed}\n{one.label}\n{row}" for one, row in named])
    items = [_item(code, one, row, evaluated) for code, (one, row) in zip(codes, named, strict=True)]
    return Selection(
        seed=seed,
        items=tuple(sorted(items, key=lambda item: item.code)),
        shares=tuple(share for _, _, shares in drawn for share in shares),
        runs={one.label: one.run.name for one in evaluated},
    )


def ordered(items: Sequence[Item], seed: int, rater: int) -> list[Item]:
    """`items` in the order in which `rater` meets them: another one for each rater, the same for the same seed."""
    return sorted(items, key=lambda item: sha256(f"{seed}\n{rater}\n{item.code}".encode()).hexdigest())


def shares_of(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """`n` shared out in proportion to `sizes` (none is 0), the largest remainders first; at most as many as there are."""
    total = sum(sizes.values())
    n = min(n, total)
    shares = {name: n * size // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (-(n * sizes[name] % total), name))
    for name in by_remainder[: n - sum(shares.values())]:
        shares[name] += 1
    return shares


def _share_out(evaluated: Evaluated, n: int, seed: int) -> tuple[list[str], list[Share]]:
    """The ids of the rows of a run to rate, and how they were shared out over its verdicts."""
    strata: dict[str, list[str]] = {}
    for row, (_, record) in evaluated.rows.items():
        strata.setdefault(VERDICTS[right(record)], []).append(row)
    counts = shares_of({name: len(rows) for name, rows in strata.items()}, n)
    drawn = [row for name, rows in strata.items() for row in draw({name: rows}, counts[name], seed)[name]]
    return drawn, [Share(evaluated.label, name, len(rows), counts[name]) for name, rows in sorted(strata.items())]


def _codes(names: Sequence[str]) -> list[str]:
    """A code for each of `names`, no two alike."""
    taken: dict[str, None] = {}
    for name in names:
        attempts = (_code(f"{name}\n{k}") for k in range(len(names) + 1))
        taken[next(code for code in attempts if code not in taken)] = None
    return list(taken)


def _code(name: str) -> str:
    digest = sha256(name.encode()).digest()
    return "".join(SIGNS[byte % len(SIGNS)] for byte in digest[:LENGTH])


def _item(code: str, one: Evaluated, row: str, evaluated: Sequence[Evaluated]) -> Item:
    """The item, with the images of the row as they are, whatever a model was shown in their place."""
    record = one.rows[row][1]
    shown = [each.rows[row][1].sample.images for each in evaluated]
    images = next((images for images in shown if not any(image.startswith(MADE) for image in images)), shown[0])
    return Item(code, record.sample, images, record.completion, one.label, right(record))
