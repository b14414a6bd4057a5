"""`osler data`: data sets, before any model."""

from typing import Annotated

import typer

from osler.cli.output import Json, print_json, print_table

data_app = typer.Typer(no_args_is_help=True, help="Look at data sets.")


@data_app.command("show")
def show(spec: Annotated[str, typer.Argument(help="NAME, NAME:PATH or NAME:PATH?images=ROOT.")], as_json: Json = False) -> None:
    """How many rows a data set has, and of what."""
    from osler.datasets.load import load_data

    counts = load_data(spec).counts()
    if as_json:
        print_json(counts)
        return
    totals = {name: value for name, value in counts.items() if not isinstance(value, dict)}
    print_table(spec, tuple(totals), [[str(value) for value in totals.values()]])
    for name, parts in counts.items():
        if isinstance(parts, dict):
            print_table("", (name, "rows"), [[str(label), str(count)] for label, count in parts.items()])
