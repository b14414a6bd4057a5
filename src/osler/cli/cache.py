"""`osler cache`: what is kept on disk between runs, above all vision features."""

from pathlib import Path
from typing import Annotated, Any

import typer

from osler.cli.output import Json, calm, print_json, print_table

cache_app = typer.Typer(no_args_is_help=True, help="What is kept, so that it is computed, checked or paid for once.")

CacheFolder = Annotated[Path | None, typer.Option(help="Of features. Default: OSLER_CACHE, else ~/.cache/osler/features.")]


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
    """What is kept of each kind, features of which models, and how much of the disk it takes."""
    from osler import caching
    from osler.stores import stores

    found = {**caching.info(folder), "kinds": [one.to_json() for one in stores(folder)]}
    if as_json:
        print_json(found)
        return
    columns = ("folder", "model", "dtype", "device", "images", "mb")
    if found["towers"]:
        print_table("Vision features", columns, [[str(one[column]) for column in columns] for one in found["towers"]])
    else:
        typer.echo("No vision features are kept.")
    _print_kinds("Kept on disk", found["kinds"])
    typer.echo(
        f"{found['mb']:g} of {found['limit_mb']:g} MB (features.disk_gb, where a recipe says nothing) in {found['folder']}"
    )


@cache_app.command("clear")
def cache_clear(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KIND]...", help="features, images, checked, judge (what judges said, and was paid for)."),
    ] = None,
    folder: CacheFolder = None,
    as_json: Json = False,
) -> None:
    """Remove what is kept of each KIND, features if none is named, and nothing that osler did not make."""
    from osler import caching
    from osler.stores import clear_store

    wanted = _wanted(kinds, folder)
    found: dict[str, Any] = caching.clear_all(folder) if "features" in wanted else {}
    cleared = [clear_store(kind).to_json() for kind in wanted if kind != "features"]
    if as_json:
        print_json({**found, "kinds": cleared})
        return
    if found:
        typer.echo(f"{found['mb']:g} MB freed, {found['images']} images, in {found['folder']}")
        for path in found["left"]:
            typer.echo(f"{path} is left, as it holds files that the cache did not make.")
    if cleared:
        _print_kinds("Removed", cleared)
        _tell_of_damaged(wanted)
    if not kinds:
        _tell_of_others()


def _wanted(kinds: list[str] | None, folder: Path | None) -> list[str]:
    """The kinds to clear, each once. Errors: RecipeError."""
    from osler.errors import RecipeError, unknown
    from osler.stores import KINDS

    wanted = list(dict.fromkeys(kinds or ["features"]))
    for kind in wanted:
        if kind not in KINDS:
            raise RecipeError(f"{unknown('kind of cache', kind, KINDS)} A folder of features is named with --folder.")
    if folder is not None and wanted != ["features"]:
        raise RecipeError("--folder is of features alone: the other kinds lie in OSLER_CACHE, else in ~/.cache/osler.")
    return wanted


def _tell_of_damaged(wanted: list[str]) -> None:
    """Say which images are left where they were to be cleared."""
    from osler.stores import store

    left = store("images") if "images" in wanted else None
    if left and left.entries:
        typer.echo(f"{left.folder}: {left.entries} left, as the bytes are not those that the name tells. Remove them by hand.")


def _tell_of_others() -> None:
    """Say what else is kept, as it was not named."""
    from osler.stores import KINDS, store

    left = [one for one in map(store, KINDS[1:]) if one.mb or one.entries != 0]
    if left:
        kept = ", ".join(f"{one.kind} ({'?' if one.entries is None else one.entries} entries, {one.mb:g} MB)" for one in left)
        typer.echo(f"Kept as well: {kept}. Name a kind to remove it.")


def _print_kinds(title: str, kinds: list[dict[str, Any]]) -> None:
    rows = [
        [one["kind"], "?" if one["entries"] is None else str(one["entries"]), str(one["mb"]), one["folder"]] for one in kinds
    ]
    print_table(title, ("kind", "entries", "mb", "folder"), rows)
