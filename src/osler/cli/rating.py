"""`osler rate`: a blinded rating sheet for people, and what they said."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from osler.cli.output import Json, plain, print_json, print_table

if TYPE_CHECKING:
    from osler.rating.items import Selection
    from osler.rating.results import Results

rate_app = typer.Typer(no_args_is_help=True, help="A blinded rating sheet for people: make it, and read it back.")


@rate_app.command("export")
def rate_export(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluation runs of the same rows.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Completions to rate, over all runs.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Draws the completions, their codes and their orders.")] = 0,
    raters: Annotated[int, typer.Option(min=1, help="Sheets to make: each rater rates every item.")] = 2,
    gold: Annotated[bool, typer.Option(help="Show raters the reference answer.")] = True,
    as_json: Json = False,
) -> None:
    """One sheet a rater (HTML, and CSV for a spreadsheet) that names no model and no verdict, and the key to them."""
    from osler.rating.items import draw_items
    from osler.rating.sheet import key_of, write_sheets
    from osler.runs import Run

    selection = draw_items([Run.open(path) for path in runs], n, seed)
    files = write_sheets(selection, output, raters, gold)
    if as_json:
        facts = {name: value for name, value in key_of(selection, raters, gold).items() if name not in ("items", "warning")}
        print_json({**facts, "n": len(selection.items), "files": list(map(str, files))})
        return
    _print_selection(selection)
    for file in files:
        typer.echo(str(file))
    typer.echo("Give each rater one sheet. Keep key.json to yourself: it says which code is which model.")


@rate_app.command("import")
def rate_import(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that osler rate export made.")],
    ratings: Annotated[list[Path], typer.Argument(metavar="RATINGS.csv...", help="One CSV file a rater.")],
    judged: Annotated[list[Path] | None, typer.Option(help="RUN/judged.jsonl of osler judge; may be given again.")] = None,
    as_json: Json = False,
) -> None:
    """What people said of each model, and how far they agree with each other, with the grader and with a judge.

    Answers may be yes, y, ja, j, oui, si, true, 1; no, n, nein, nee, non, false, 0; cannot say, cannot tell, unsure, "?".
    """
    from osler.rating.results import read_results

    results = read_results(folder, ratings, judged or ())
    if as_json:
        print_json(results.to_json())
        return
    _print_models(results)
    _print_agreements(results)


def _print_selection(selection: "Selection") -> None:
    rows = [[plain(one.run), one.verdict, f"{one.rows:,}", f"{one.drawn:,}"] for one in selection.shares]
    print_table(f"{len(selection.items)} items, seed {selection.seed}", ("run", "strict verdict", "rows", "items"), rows)


def _print_models(results: "Results") -> None:
    rows = [
        [
            plain(one.run),
            str(one.items),
            str(one.correct),
            str(one.cannot_say["correct"]),
            str(one.sound),
            str(one.cannot_say["sound"]),
        ]
        for one in results.models
    ]
    columns = ("run", "items", "answer correct", "cannot say", "reasoning sound", "cannot say")
    print_table(f"{results.items} items, raters: {plain(', '.join(results.raters))}", columns, rows)
    typer.echo("n counts ratings; intervals are 95 % by image or patient. Cannot say has no part in a mean or a kappa.")


def _print_agreements(results: "Results") -> None:
    rows = [
        [
            f"{plain(one.a)} - {plain(one.b)}",
            {"correct": "answer correct", "sound": "reasoning sound"}[one.question],
            str(one.kappa),
            str(one.kappa.agreement),
            str(one.left_out),
        ]
        for one in results.agreements
    ]
    print_table("Agreement", ("who", "question", "Cohen's kappa", "same answer", "left out"), rows)
    typer.echo("Left out: one of the two, or both, gave neither yes nor no. No kappa: both said the same one thing throughout.")
    for judge, left in results.judges.items():
        typer.echo(
            f"{judge}: {left['others']:,} lines are on completions that nobody rated, {left['repeats']:,} are repeats of one "
            "that was judged before; the first counts."
        )
