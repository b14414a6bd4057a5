"""`osler cache`: vision features on disk."""

from pathlib import Path
from typing import Annotated

import typer

from osler.cli.output import Json, calm, print_json, print_table

cache_app = typer.Typer(no_args_is_help=True, help="Vision features that are kept, so that an image is computed once.")

CacheFolder = Annotated[Path | None, typer.Option(help="Default: OSLER_CACHE, else ~/.cache/osler/features.")]


@cache_app.command("build")
def cache_build(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (medr1/think).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys: data.val=...")] = None,
    as_json: Json = False,
) -> None:
    """Compute the features of every image of a recipe's rows; what is there already is left."""
    from osler.recipe_files import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    calm()
    from osler import caching

    built = [one.to_json() for one in caching.build(loaded)]
    if as_json:
        counts = {key: sum(one[key] for one in built) for key in ("images", "computed", "found", "mb")}
        print_json({**counts, "folders": [one["folder"] for one in built], "towers": built})
        return
    columns = ("model", "images", "computed", "found", "mb")
    print_table("Vision features", columns, [[str(one[column]) for column in columns] for one in built])
    for one in built:
        typer.echo(one["folder"])


@cache_app.command("info")
def cache_info(folder: CacheFolder = None, as_json: Json = False) -> None:
    """What is kept, of which models, and how much of the disk it takes."""
    from osler import caching

    found = caching.info(folder)
    if as_json:
        print_json(found)
        return
    columns = ("folder", "model", "dtype", "device", "images", "mb")
    if found["towers"]:
        print_table("Vision features", columns, [[str(one[column]) for column in columns] for one in found["towers"]])
    else:
        typer.echo("No vision features are kept.")
    typer.echo(
        f"{found['mb']:g} of {found['limit_mb']:g} MB (features.disk_gb, where a recipe says nothing) in {found['folder']}"
    )


@cache_app.command("clear")
def cache_clear(folder: CacheFolder = None, as_json: Json = False) -> None:
    """Remove every kept feature, and nothing that the cache did not make."""
    from osler import caching

    cleared = caching.clear_all(folder)
    if as_json:
        print_json(cleared)
        return
    typer.echo(f"{cleared['mb']:g} MB freed, {cleared['images']} images, in {cleared['folder']}")
    for path in cleared["left"]:
        typer.echo(f"{path} is left, as it holds files that the cache did not make.")
