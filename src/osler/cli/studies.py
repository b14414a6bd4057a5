"""The command that runs a grid of recipes and prints the table."""

from pathlib import Path
from typing import Annotated

import typer

from osler.cli.output import Json, Out, calm, print_json, print_table


def study(
    file: Annotated[str, typer.Argument(help="A study file, or the name of a shipped one (zhu-bias).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys: seeds=[0,1], scale=paper.")
    ] = None,
    out: Out = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and check that they can be compared.")] = False,
    max_runs: Annotated[int | None, typer.Option(min=0, help="Make at most so many runs now; the others wait.")] = None,
    as_json: Json = False,
) -> None:
    """Run a grid of recipes and seeds, resumable, and print the table with intervals and tests."""
    from osler.study import job, tables

    calm()
    result = job.run_study(file, overrides or [], out, max_runs, dry_run)
    if as_json:
        print_json(result.to_json())
    elif dry_run:
        rows = [[one.name, str(one.seed), one.source, " -> ".join(s.name for s in one.stages) or str(one.model)]
                for one in result.entries]  # fmt: skip
        print_table(result.study.title or result.study.name, ("row", "seed", "recipe", "stages"), rows)
    else:
        for test in dict.fromkeys(one.test for one in result.means):
            rows = tables.table(result.study, result.means, result.tests, test, result.flagged)
            print_table(f"{result.study.title or result.study.name}, test rows: {test}", tables.columns_of(result.study), rows)
        if result.overlaps:
            title = "Images of the training rows among the test rows"
            print_table(title, tables.OVERLAP_COLUMNS, tables.overlap_table(result.overlaps, result.flagged))
        for line in (*tables.how_to_read(result.study, result.tests, result.flagged), *result.study.notes):
            typer.echo(line)
        waiting = len(result.to_json()["rows"]) - len(result.results) - len(result.failed)
        if waiting:
            typer.echo(f"{waiting} runs have not been made. The same command goes on with them.")
        typer.echo(str((result.path or Path()) / "table.md"))
    if result.failed:
        typer.secho(f"{len(result.failed)} runs failed; the same command tries them again.", fg="red", err=True)
        raise typer.Exit(1)
