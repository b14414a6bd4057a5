"""`osler audit`: what is wrong with a data set, before any model."""

from typing import Annotated, Any

import typer

from osler.cli.output import Json, estimate, print_json, print_table

INVALID = 3
"""The exit code with --strict where something was found for which a test score cannot be taken at its word."""


def audit(
    train: Annotated[str, typer.Option(help="What is trained on: NAME, NAME:PATH or NAME:PATH?images=ROOT.")],
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
    from osler.findings import DEFINITIONS

    numbers = [name for name in DEFINITIONS if not isinstance(found[name], dict)]
    print_table("", ("what", "value [95 % interval]"), [[name, _text(found, name)] for name in numbers])
    for axis in ("by_modality", "by_question_type", "by_source"):
        _print_parts(axis.replace("_", " "), found[axis])
    for one in found["findings"]:
        mark = typer.style("INVALID", fg="red") if one["invalidates"] else "note"
        typer.echo(f"{mark}: {one['n']} {one['what']}. {one['fix']}")
        if one["first"]:
            typer.echo(f"    first: {one['first'][0]}")


def _print_parts(title: str, parts: dict[str, Any]) -> None:
    rows = [
        [label, str(part["n_test"]), estimate(part["floor"]), part["floor_attacker"] or "-", _percent(part["chance"])]
        for label, part in parts.items()
    ]
    print_table("", (title, "n", "floor [95 % interval]", "attacker", "chance"), rows)


def _text(found: dict[str, Any], name: str) -> str:
    """A number as people read it: with its interval where it has one, a share in per cent, "-" where there is none."""
    value = found[name]
    if name in found["intervals"]:
        return estimate(found["intervals"][name])
    return _percent(value) if isinstance(value, float) or value is None else str(value)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
