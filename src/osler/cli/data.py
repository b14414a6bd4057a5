"""`osler data`: data sets, before any model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from osler.cli import checking
from osler.cli.asking import ask, shares_in
from osler.cli.output import Json, print_json, print_table
from osler.cli.preparing import prepare, rationalise

if TYPE_CHECKING:
    from osler.datasets.dividing import Dropped, Prints
    from osler.datasets.samples import Samples

data_app = typer.Typer(no_args_is_help=True, help="Look at data sets, divide them, take the hints out of their options.")

Folder = Annotated[Path, typer.Option("--out", help="Folder to make; it must be new or empty.")]
Root = Annotated[str | None, typer.Option("--images", help="Write image paths below this folder, not absolute ones.")]
Seed = Annotated[int, typer.Option(min=0)]


@data_app.command("list")
def list_data_sets(as_json: Json = False) -> None:
    """What osler reads: data sets with licence, size and where to get them, and forms for rows of your own."""
    from osler.datasets.catalogue import CATALOGUE, to_json

    if as_json:
        print_json(to_json())
        return
    columns = ("name", "what", "rows", "images", "licence", "where to get it", "spec", "citation", "note")
    sizes = {name: ["-" if n is None else f"{n:,}" for n in (one.rows, one.images)] for name, one in CATALOGUE.items()}
    rows = [
        [name, one.what, *sizes[name], one.licence, one.where, one.spec, one.citation, one.note or "-"]
        for name, one in sorted(CATALOGUE.items())
    ]
    print_table("", columns, rows)
    typer.echo("SPEC is NAME:PATH?images=ROOT; a function of your own is package.module:function.")


data_app.command("check")(checking.check)
data_app.command("show")(checking.show)


@data_app.command("split")
def split(
    out: Folder,
    spec: Annotated[str | None, typer.Argument(help="The data set to divide anew; its own splits do not count.")] = None,
    fractions: Annotated[str, typer.Option(help="Shares of train, val and test.")] = "0.8,0.1,0.1",
    leave_out: Annotated[str | None, typer.Option(help="Test on one value, train on the rest: source=NAME.")] = None,
    train: Annotated[str | None, typer.Option(help="With --drop-leaks: the training rows.")] = None,
    test: Annotated[str | None, typer.Option(help="With --drop-leaks: the test rows.")] = None,
    drop_leaks: Annotated[bool, typer.Option("--drop-leaks", help="Keep a published split, drop test rows that leak.")] = False,
    near: Annotated[bool, typer.Option(help="Keep images that look nearly the same on one side.")] = True,
    images: Root = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Sides that share no image, patient, pixels or near-duplicate, as manifests with counts and hashes."""
    from osler.datasets import dividing
    from osler.datasets.load import load_data
    from osler.datasets.splits import load_part
    from osler.errors import RecipeError
    from osler.fingerprints import NEAR
    from osler.runs import require_free
    from osler.schema import SPLITS

    require_free(out)
    distance = NEAR if near else None
    dropped: Dropped = {}
    how: dict[str, Any]
    if drop_leaks and train and test and not (spec or leave_out):
        old, new = load_part(train, "train"), load_part(test, "test")
        prints = _prints(old, new)
        new, dropped = dividing.drop_leaks(old, new, prints, distance)
        parts, how = {"train": old, "test": new}, {"spec": {"train": train, "test": test}}
    elif spec and not (train or test or drop_leaks):
        rows, shares = load_data(spec), dividing.checked_shares(shares_in(fractions))
        prints = _prints(rows)
        if leave_out:
            axis, _, value = leave_out.partition("=")
            rows, dropped = dividing.leave_one_out(rows, axis, value, prints, distance)
            how = {"spec": spec, "leave_out": {axis: value}}
        else:
            rows = dividing.divide(rows, shares, seed, prints, distance)
            how = {"spec": spec, "fractions": shares, "seed": seed}
        parts = {name: part for name in SPLITS if len(part := rows.where(split=name))}
    else:
        raise RecipeError("name SPEC to divide it, or --train SPEC --test SPEC --drop-leaks to keep a published split.")
    _write_split(out, parts, how | {"near_duplicate_distance": distance}, dropped, prints, images, as_json)


data_app.command("ask")(ask)
data_app.command("prepare")(prepare)
data_app.command("rationalise")(rationalise)


@data_app.command("debias")
def debias(
    train: Annotated[str, typer.Option(help="The training rows.")],
    test: Annotated[str, typer.Option(help="The test rows.")],
    out: Folder,
    images: Root = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Both files with options that say nothing about the answer: every blind attacker is at chance on them."""
    from osler import debiasing
    from osler.datasets.manifests import write_parts
    from osler.datasets.splits import load_part
    from osler.runs import require_free

    require_free(out)
    found = {name: debiasing.debias(load_part(spec, name), seed) for name, spec in (("train", train), ("test", test))}
    about = {"kind": "debias", "spec": {"train": train, "test": test}, "seed": seed}
    about |= {"debiased": {name: one.to_json() for name, one in found.items()}}
    manifest = write_parts(out, {name: one.samples for name, one in found.items()}, about, root=images)
    if as_json:
        print_json({"out": str(out), **_short(manifest)})
        return
    kept = [["kept", *(str(len(one.samples)) for one in found.values())]]
    chance = [["chance %", *("-" if one.chance is None else f"{100 * one.chance:.1f}" for one in found.values())]]
    short = {name: f"left out: {name.replace('yes_no', 'yes/no').replace('_', ' ')}" for name in debiasing.REASONS}
    left_out = [[label, *(str(len(one.left_out[name])) for one in found.values())] for name, label in short.items()]
    print_table("", ("debiased", *found), [["rows", *(str(one.n) for one in found.values())], *kept, *chance, *left_out])
    for name, why in debiasing.REASONS.items():
        typer.echo(f"{short[name]}: {why}")
    typer.echo(str(out))


def _write_split(
    out: Path,
    parts: "Mapping[str, Samples]",
    how: dict[str, Any],
    dropped: "Dropped",
    prints: "Prints",
    root: str | None,
    as_json: bool,
) -> None:
    """Write and print a split; what no manifest can hold is dropped too, and counted."""
    from osler.datasets.manifests import distinct_options, write_parts

    told = {name: distinct_options(part) for name, part in parts.items()}
    dropped = dropped | {"same_options": tuple(id for _, ids in told.values() for id in ids)}
    counted = {reason: {"n": len(ids), "ids": list(ids)} for reason, ids in dropped.items()}
    pixels = {image: one.pixels for image, one in prints.items()}
    about = {"kind": "split", **how, "dropped": counted}
    manifest = write_parts(out, {name: part for name, (part, _) in told.items()}, about, root, pixels)
    if as_json:
        print_json({"out": str(out), **_short(manifest)})
        return
    rows = [[name, str(part["n"]), str(part["images"]), part["sha256"][:12]] for name, part in manifest["parts"].items()]
    print_table("", ("split", "rows", "images", "sha256"), rows)
    print_table("", ("rows dropped for", "n"), [[reason, str(len(ids))] for reason, ids in dropped.items()])
    typer.echo(str(out))


def _prints(*parts: "Samples") -> "Prints":
    """The fingerprints of all images; none of rows that were read without them."""
    from osler.fingerprints import fingerprints

    where = {image: row.origin or row.id for part in parts for row in part for image in row.images}
    return fingerprints(where, where) if where else {}


def _short(value: Any) -> Any:
    """A manifest for the terminal: without ids and the hashes of single images, which the file has."""
    if not isinstance(value, dict):
        return value
    return {name: _short(part) for name, part in value.items() if name not in ("ids", "image_hashes")}
