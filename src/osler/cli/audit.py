"""`osler audit`: what is wrong with a data set, before any model."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from osler.cli.output import Json, estimate, print_json, print_table

INVALID = 3
"""The exit code with --strict where something was found for which a test score cannot be taken at its word."""

_BESIDE = {
    "floor": ["floor_attacker"],
    "near_duplicate_pairs": ["near_duplicate_rows", "near_duplicate_distance"],
    "stem_determined_rows": ["stem_taught_rows", "source_stem_determined_rows"],
    "answer_in_stem_rows": ["train_answer_in_stem_rows"],
}
"""What people look for beside a number, in the JSON further down."""

_OF_PIXELS = ["near_duplicate_pairs", "near_duplicate_rows"]
"""What is null where no pixels were read."""

_WHERE_READ = ["near_duplicate_distance", "images_read"]
"""What says nothing where no pixels were read."""


def audit(
    train: Annotated[str, typer.Option(help="What is trained on: NAME, NAME:PATH?images=ROOT, or {name: ..., where: ...}.")],
    test: Annotated[str, typer.Option(help="What is tested on. The same spec twice: its rows of either split.")],
    images: Annotated[bool | None, typer.Option(help="Compare pixels; default: if every row has an image.")] = None,
    distance: Annotated[int, typer.Option(min=0, max=16, help="Bits in which near-duplicates may differ, of 64.")] = 4,
    as_json: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 where a finding invalidates the test.")] = False,
) -> None:
    """Leaks between train and test, tells, and what blind attackers score: what a test is worth, before any model."""
    from osler.auditing import audit as look
    from osler.datasets.splits import load_part

    found = look(load_part(train, "train"), load_part(test, "test"), images, distance)
    print_json(found.to_json()) if as_json else _print(found.to_json())
    if strict and found.invalid:
        raise typer.Exit(INVALID)


def _print(found: dict[str, Any]) -> None:
    print_table("", ("what", "value [95 % interval]"), [[name, _text(found, name)] for name in _names(found)])
    _print_tells(found["tells"])
    for axis in ("by_modality", "by_question_type", "by_source"):
        _print_parts(axis.replace("_", " "), found[axis])
    _print_findings(found["findings"])


def _names(found: dict[str, Any]) -> list[str]:
    """The numbers that the first table shows, in its order."""
    from osler.definitions import DEFINITIONS

    hidden = {name for name in DEFINITIONS if isinstance(found[name], dict)}
    hidden |= set() if found["images_read"] else set(_WHERE_READ)
    moved = {name for names in _BESIDE.values() for name in names}
    order = [name for first in DEFINITIONS if first not in moved for name in (first, *_BESIDE.get(first, ()))]
    return [name for name in order if name not in hidden]


def _print_tells(tells: dict[str, Any]) -> None:
    """The looks that one option alone has in some rows; nothing where there are none."""
    rows = [[name, estimate(tell["gold_rate"]), _percent(tell["chance"])] for name, tell in tells.items() if tell["rows"]]
    if rows:
        print_table("", ("tells", "it is the gold [95 % interval]", "chance"), rows)


def _print_parts(title: str, parts: dict[str, Any]) -> None:
    rows = [[label, estimate(part["floor"]), _percent(part["chance"])] for label, part in parts.items()]
    print_table("", (title, "floor [95 % interval]", "chance"), rows)


def _print_findings(findings: Sequence[dict[str, Any]]) -> None:
    """Each finding with its first row, whose file is named unless it was named last."""
    named = ""
    for one in findings:
        mark = typer.style("INVALID", fg="red") if one["invalidates"] else "note"
        typer.echo(f"{mark}: {one['n']} {one['what']}. {one['fix']}")
        for place in one["first"][:1]:
            file, has_row, rest = place.partition(", row ")
            shown = file if not has_row or file != named else ""
            row = f"row {rest.replace(f'{file}, row ', 'row ')}" if has_row else ""
            typer.echo(f"    first: {', '.join(filter(None, (shown, row)))}")
            named = file


def _text(found: dict[str, Any], name: str) -> str:
    """A number as people read it: with its interval where it has one, a share in per cent, "-" where there is none."""
    value = found[name]
    if name in found["intervals"]:
        return estimate(found["intervals"][name])
    if name in _OF_PIXELS and value is None:
        return "not read"
    return _percent(value) if isinstance(value, float) or value is None else str(value)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
