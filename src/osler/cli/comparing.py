"""The command that shows the same questions answered by several models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from osler.cli.output import Json, plain, print_json, print_table

if TYPE_CHECKING:
    from osler.comparing.page import Comparison

LONGEST = 60
"""Characters of a question that the terminal shows."""


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluation runs of the same rows.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Rows to show, at most.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Draws the rows.")] = 0,
    by: Annotated[
        str,
        typer.Option(
            help="Strata to draw from: agreement (who is right), modality, question_type, source, language, extra:KEY "
            "(extra:age@18,40,65)."
        ),
    ] = "agreement",
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")] = Path("compare.html"),
    as_json: Json = False,
) -> None:
    """The same questions answered by several models, side by side; rows are drawn by a seed, never picked."""
    from osler.comparing.page import side_by_side, write_comparison
    from osler.runs import Run

    comparison = side_by_side([Run.open(path) for path in runs], n, seed, by)
    page = str(write_comparison(comparison, output))
    if as_json:
        print_json({**comparison.to_json(), "page": page})
        return
    _print_strata(comparison)
    _print_rows(comparison)
    typer.echo(page)


def _print_strata(comparison: "Comparison") -> None:
    chosen = comparison.selection
    rows = [[plain(one.name), f"{one.rows:,} of {chosen.total:,}", str(one.shown)] for one in chosen.strata]
    print_table(f"Strata by {plain(chosen.by)}, seed {chosen.seed}", ("stratum", "rows", "shown"), rows)


def _print_rows(comparison: "Comparison") -> None:
    labels = [plain(model.label) for model in comparison.models]
    rows = [
        [
            str(number),
            _short(row.sample.question),
            _short(", ".join(row.sample.golds)),
            *(a.outcome for a in row.answers),
        ]
        for number, row in enumerate(comparison.rows, 1)
    ]
    print_table(f"{len(rows)} rows", ("row", "question", "gold", *labels), rows)
    typer.echo("Unparseable: no answer could be read, which counts as wrong. What each model wrote is on the page:")


def _short(text: str) -> str:
    return plain(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")
