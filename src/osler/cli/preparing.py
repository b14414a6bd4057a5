"""`osler data prepare` and `osler data rationalise`: data sets made ready to train on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from osler.cli.output import Json, print_json, print_table

if TYPE_CHECKING:
    from osler.preparing.budget import Budget

Spec = Annotated[str, typer.Argument(help="NAME, NAME:PATH?images=ROOT, or {name: ..., where: ...}.")]


def prepare(
    spec: Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder to make; the same command goes on in it.")],
    recipe: Annotated[str | None, typer.Option(help="Scale to the budget of this recipe and its model.")] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Largest area; 401408, as in a recipe that says nothing.")
    ] = None,
    min_pixels: Annotated[int | None, typer.Option(min=1, help="Smallest area; 3136.")] = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out rows whose image cannot be opened.")] = False,
    as_json: Json = False,
) -> None:
    """Every image scaled once to what the model will see, equal ones kept once, and rows that name them with hashes."""
    budget = _budget(recipe, max_pixels, min_pixels)
    from osler.preparing.folder import prepare as prepared

    done = prepared(spec, out, budget, skip_broken).to_json()
    if as_json:
        print_json(done)
        return
    names = ("rows", "images", "mb", "made", "found", "written", "unscaled", "text_only")
    left_out = [[f"rows left out: {reason.replace('_', ' ')}", str(n)] for reason, n in done["left_out"].items()]
    print_table("", ("prepared", "n"), [*([name.replace("_", " "), str(done[name])] for name in names), *left_out])
    typer.echo(f"jsonl:{out}")


def rationalise(
    spec: Spec,
    endpoint: Annotated[str, typer.Option(help="Who writes: openai:URL#NAME, its key in OPENAI_API_KEY.")],
    out: Annotated[Path, typer.Option("--out", help="The .jsonl file to write; the same command goes on with it.")],
    see_images: Annotated[bool, typer.Option("--see-images", help="Show it the images too.")] = False,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Then end with what there is; the same command goes on.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest rationale.")] = 512,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the first try; a second one has the next.")] = 0,
    images: Annotated[str | None, typer.Option(help="Write image paths below this folder, not absolute ones.")] = None,
    as_json: Json = False,
) -> None:
    """Rationales for rows that have none, written by a model that you name, each with where it comes from."""
    from osler.rationales.author import FAILURES, Settings
    from osler.rationales.refusals import REFUSALS
    from osler.rationales.rows import rationalise as rationalised

    settings = Settings(see_images=see_images, seed=seed, max_tokens=max_tokens, concurrency=concurrency)
    summary = rationalised(spec, endpoint, out, settings, max_seconds, images)
    lacking = sum(summary["without"].values())
    if as_json:
        print_json(summary)
    else:
        names = ("rows", "had_one", "written", "without_conclusion", "requests", "tokens_in", "tokens_out", "seconds")
        counts = [[name.replace("_", " "), "-" if summary[name] is None else str(summary[name])] for name in names]
        why = {**FAILURES, **REFUSALS}
        reasons = [[f"without: {why[name]}", str(n)] for name, n in summary["without"].items()]
        refused = [[f"replies refused: {why[name]}", str(n)] for name, n in summary["refused_replies"].items()]
        same = [["rows left out: two options are the same", str(summary["left_out"]["same_options"]["n"])]]
        print_table("", ("rationales", "n"), [*counts, *reasons, *refused, *same])
        typer.echo(f"jsonl:{out}")
    if lacking:
        typer.secho(f"{lacking} rows have no rationale. The same command asks for them again.", err=True)


def _budget(recipe: str | None, max_pixels: int | None, min_pixels: int | None) -> "Budget":
    """The budget that the options name. Errors: RecipeError where they name two, or none that can be."""
    from osler.config import ImageSettings
    from osler.errors import RecipeError
    from osler.preparing.budget import Budget, recipe_budget
    from osler.recipe_files import load_recipe, validate

    given = {name: value for name, value in (("max_pixels", max_pixels), ("min_pixels", min_pixels)) if value is not None}
    if recipe is None:
        return Budget.of(validate(ImageSettings, given, "--max-pixels, --min-pixels"))
    if given:
        raise RecipeError("--recipe says how large images are, and so do --max-pixels and --min-pixels. Leave out one.")
    return recipe_budget(load_recipe(recipe, []))
