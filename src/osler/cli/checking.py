"""`osler data check` and `osler data show`: what a data set holds, and what is wrong with it, before any GPU."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from osler.cli.output import Json, calm, plain, print_json, print_table

if TYPE_CHECKING:
    from osler.checking.rows import Asking
    from osler.checking.tally import Kind

Spec = Annotated[str, typer.Argument(help="NAME, NAME:PATH?images=ROOT, or {name: ..., where: ...}.")]

UNSOUND = 3
"""The exit code of --strict where there are problems."""

_REPEATS = {
    "repeated": "repeat an earlier one, with its images, question, options and gold",
    "contradictory": "contradict an earlier one, with its images, question and options but another gold",
}
"""What is counted by `osler.checking.repeats`, in words."""

_TOTALS = ("n", "n_images", "n_multi_image", "n_open_ended", "n_without_images", "n_options_twice")


def show(spec: Spec, as_json: Json = False) -> None:
    """How many rows a data set has, and of what."""
    from osler.checking.counts import Counts
    from osler.datasets.load import load_data

    samples, counts = load_data(spec), Counts()
    for sample in samples:
        counts.add(sample)
    numbers = samples.counts()
    found = counts.to_json(len(samples), numbers["images"], []) | {"groups": numbers["groups"]}
    if as_json:
        print_json(found)
        return
    _print_counts(spec, found, "groups")


def check(
    spec: Spec,
    split: Annotated[str | None, typer.Option(help="Only rows of this split: train, val or test.")] = None,
    model: Annotated[str | None, typer.Option(help="Whose processor: a folder, hub name, run:DIR or tiny.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Ask rows as this recipe does, with its limits.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 where there are problems.")] = False,
    write: Annotated[Path | None, typer.Option(help="Write the rows without problems to this new manifest.")] = None,
    as_json: Json = False,
) -> None:
    """Look through every row and image, as training will: what cannot be used, where, why, and what to do about it."""
    from osler.datasets.load import parse_spec
    from osler.errors import DataError, unknown
    from osler.schema import SPLITS

    if split is not None and split not in SPLITS:
        raise DataError(unknown("split", split, SPLITS))
    if write is not None and write.exists():
        raise DataError(f"{write} is there already, and nothing is written over. Name a new file.")
    known = parse_spec(spec)
    asking = _asking(model, recipe)
    from osler.checking.data_set import check_data, write_clean

    checked = check_data(known, asking, split)
    numbers = checked.numbers
    if write is not None and numbers["n_sound"]:
        numbers = numbers | {"clean": {"file": str(write), **write_clean(known, checked, write, split)}}
    if as_json:
        print_json(numbers)
    else:
        _print_counts(spec, numbers, "n_sound", "n_problems")
        _print_problems(checked.kinds)
        _print_notes(numbers, named=bool(model or recipe))
    if not numbers["n"] or not sum(numbers["by_split"].values()):
        first = f" {checked.kinds[0].first}" if checked.kinds else ""
        raise DataError(f"no row of {spec} could be read.{first}")
    if strict and checked.n_problems:
        raise typer.Exit(UNSOUND)


def _asking(model: str | None, recipe: str | None) -> "Asking":
    """How rows are asked: as the recipe does; without one in every form, and without a model of any length."""
    from dataclasses import replace

    from osler.config import Recipe
    from osler.recipe_files import load_recipe

    loaded = load_recipe(recipe, []) if recipe else Recipe(model=model or "tiny")
    stages = list(loaded.stages.values()) if not isinstance(loaded, Recipe) else [loaded]
    chosen = stages[-1].model_copy(update={"model": model, "init": None}) if model else stages[-1]
    calm()
    from osler.checking.training import asking_of

    asking = asking_of(chosen, with_budget=bool(model or recipe), needs_images=False)
    return asking if recipe else replace(asking, forms=("letter", "text"))


def _print_counts(spec: str, numbers: dict[str, Any], *further: str) -> None:
    names = [*_TOTALS, *further]
    print_table(spec, names, [[f"{numbers[name]:,}" for name in names]])
    for name, parts in numbers.items():
        if name.startswith("by_") or name == "option_counts":
            print_table("", (name, "rows"), [[str(label) or "-", f"{count:,}"] for label, count in parts.items()])


def _print_problems(kinds: "list[Kind]") -> None:
    """A line for each kind of problem: how often it is there, the first time, and what to do."""
    if not kinds:
        typer.echo("No problem was found.")
        return
    rows = [
        [plain(one.first.what), f"{one.n:,}", plain(_written(one.first.file, one.first.row)), plain(one.first.fix)]
        for one in kinds
    ]
    print_table("", ("problem, as the first row has it", "rows", "first", "what to do"), rows)


def _written(file: str | None, row: int | None) -> str:
    return f"{file or '-'}" + (f", row {row}" if row is not None else "")


def _print_notes(numbers: dict[str, Any], named: bool) -> None:
    """What was not looked at, and what is no problem but worth knowing."""
    if numbers["n_without_images"]:
        typer.echo(f"{numbers['n_without_images']:,} rows were read without images; ?images=ROOT names their folder.")
    if numbers["n_options_twice"]:
        typer.echo(f"{numbers['n_options_twice']:,} rows offer an option twice: no manifest can hold them.")
    if not named:
        typer.echo("No model was named, so that the length of prompts was not judged: see --model and --recipe.")
    for name, what in _REPEATS.items():
        if numbers[f"n_{name}"]:
            earlier, place = (plain(_written(one["file"], one["row"])) for one in numbers[name])
            typer.echo(f"{numbers[f'n_{name}']:,} rows {what}: first {place} (the earlier: {earlier}).")
    if not numbers.get("limit_heeded", True):
        typer.echo("The spec's limit was not heeded: any row may be drawn.")
    if clean := numbers.get("clean"):
        left = f", without {clean['options_twice']:,} that offer an option twice" if clean["options_twice"] else ""
        typer.echo(f"{clean['written']:,} rows were written to {clean['file']}{left}.")
