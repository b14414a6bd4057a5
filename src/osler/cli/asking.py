"""`osler data ask`: questions out of images and labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from osler.cli.output import Json, estimate, print_json, print_table

_MOST_LABELS = 30
"""So many labels of a column are printed; the JSON has all."""


def ask(
    labels: Annotated[Path | None, typer.Argument(metavar="[LABELS.csv]", help="Columns image, label, patient, ...")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder that image paths start from; default: that of the CSV.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make; it must be new or empty.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="A column of labels; may be repeated.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COLUMN", help="What a column is: image=file, patient=case, ...")
    ] = None,
    templates: Annotated[Path | None, typer.Option(help="Words of the questions, in YAML.")] = None,
    write_templates: Annotated[Path | None, typer.Option(help="Write osler's own words to edit, and stop.")] = None,
    kinds: Annotated[str, typer.Option(help="What is asked: choice, yesno, open.")] = "choice,yesno,open",
    fractions: Annotated[str | None, typer.Option(help="Shares of train, val and test; 0.8,0.1,0.1.")] = None,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Leave empty labels out, and count them.")] = False,
    near: Annotated[bool, typer.Option(help="Keep images that look nearly the same on one side.")] = True,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Images with labels -> choices, yes/no and open questions that text alone does not answer, divided by patient."""
    from osler.errors import RecipeError

    if write_templates:
        _write(write_templates)
        print_json({"templates": str(write_templates)}) if as_json else typer.echo(str(write_templates))
        return
    if labels is None or out is None:
        raise RecipeError("name the table and a folder to make: osler data ask LABELS.csv --images DIR --out DIR.")
    from osler.asking.folder import make_folder
    from osler.asking.labels import read_table
    from osler.asking.making import kinds_in
    from osler.asking.templates import read_templates

    asked, shares = kinds_in(kinds), shares_in(fractions) if fractions else None
    table = read_table(labels, images or labels.parent, label or (), _named(column or ()), skip_empty)
    told = make_folder(out, table, read_templates(templates, table.header), asked, seed, shares, near)
    if as_json:
        print_json({"out": str(out)} | {name: value for name, value in told.items() if name != "image_hashes"})
        return
    _print(out, told)


def shares_in(text: str) -> dict[str, float]:
    """Shares of train, val and test out of "0.8,0.1,0.1". Errors: RecipeError."""
    from osler.errors import RecipeError
    from osler.schema import SPLITS

    try:
        return dict(zip(SPLITS, map(float, text.split(",")), strict=True))
    except ValueError as error:
        raise RecipeError(f"--fractions {text!r} are not understood. Write train,val,test as 0.8,0.1,0.1.") from error


def _write(file: Path) -> None:
    """Write our templates to `file`. Errors: RecipeError where it is there already, or cannot be written."""
    from osler.asking.templates import OURS
    from osler.errors import RecipeError

    try:
        with file.open("x", encoding="utf-8") as text:
            text.write(OURS)
    except OSError as error:
        raise RecipeError(f"{file} cannot be written ({error.strerror}). Name another file.") from error


def _named(texts: Sequence[str]) -> dict[str, str]:
    """NAME=COLUMN by name. Errors: RecipeError."""
    from osler.errors import RecipeError

    found = {}
    for text in texts:
        name, equals, column = text.partition("=")
        if not (name and equals and column):
            raise RecipeError(f"--column {text!r} is not of the form NAME=COLUMN, as in image=file.")
        found[name] = column
    return found


def _print(out: Path, told: Mapping[str, Any]) -> None:
    """What was made, left out and found, and what to do next."""
    from osler.asking.rounds import REASONS

    kinds = list(dict.fromkeys(kind for counts in told["counts"].values() for kind in counts["by_kind"]))
    rows = [
        [split, str(counts["images"]), str(counts["n"]), *(str(counts["by_kind"].get(kind, 0)) for kind in kinds)]
        for split, counts in told["counts"].items()
    ]
    print_table("", ("split", "images", "questions", *kinds), rows)
    splits = list(told["parts"])
    for column, labels in told["labels"].items():
        counted = [[label, *(str(times.get(split, 0)) for split in splits)] for label, times in labels.items()]
        print_table("", (f"images by {column}", *splits), counted[:_MOST_LABELS])
        if counted[_MOST_LABELS:]:
            typer.echo(f"and {len(counted) - _MOST_LABELS} more labels")
    left_out = [[one["column"] or "any", one["kind"] or "any", one["reason"], str(one["n"])] for one in told["left_out"]]
    if left_out:
        print_table("", ("left out: column", "kind", "reason", "n"), left_out)
        for reason in dict.fromkeys(one["reason"] for one in told["left_out"]):
            typer.echo(f"{reason}: {REASONS[reason]}")
    for note in told["notes"]:
        typer.echo(f"note: {note}")
    _print_floors(told)
    typer.echo(f"Next: osler train real_images data.train=jsonl:{out} --out runs/NAME")
    typer.echo(str(out))


def _print_floors(told: Mapping[str, Any]) -> None:
    """What the blind attackers of the audit score, and its findings."""
    if told["audit"] is None:
        typer.echo("No audit: there are no train or no test rows.")
        return
    rows = [
        [kind, estimate(one["floor"]), "-" if one["chance"] is None else f"{100 * one['chance']:.1f} %", one["attacker"] or "-"]
        for kind, one in told["floors"].items()
    ]
    print_table("", ("floor", "test [95 % interval]", "chance", "by"), rows)
    for one in told["audit"]["findings"]:
        typer.echo(f"{'INVALID' if one['invalidates'] else 'note'}: {one['n']} {one['what']}. {one['fix']}")
