"""The command line: parsing and printing only. Everything heavy is imported inside the command that needs it.

Tables and words for people go to stdout, progress and logs to stderr; with --json stdout holds exactly one JSON object.
An error that the user can put right is one line on stderr and exit code 2.
"""

import sys
from typing import Annotated

import typer

from osler import __version__
from osler.cli import audit, cache, comparing, data, exporting, judging, matrix, measuring, rating, runs, studies
from osler.errors import OslerError

app = typer.Typer(
    name="osler",
    help="Fine-tune medical vision-language models with reinforcement learning, and measure whether they looked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The entry point: `app`, with osler's own errors as one line and exit code 2."""
    sys.path.append("")  # a user's own package.module:function beside the recipe
    try:
        app()
    except OslerError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise SystemExit(2) from None
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            typer.secho("interrupted; what was written is in the run folder.", err=True)
        raise


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Start with `osler quickstart`, then `osler doctor`."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.command()(runs.quickstart)
app.command()(runs.train)
app.command("eval")(runs.evaluate)
app.command()(studies.study)
app.command()(runs.score)
app.command()(matrix.matrix)
app.command()(runs.report)
app.command()(exporting.export)
app.command()(comparing.compare)
app.command()(judging.judge)
app.command("inspect-log")(runs.export)
app.command()(audit.audit)
app.command()(measuring.doctor)
app.command()(measuring.bench)
app.add_typer(data.data_app, name="data")
app.add_typer(rating.rate_app, name="rate")
app.add_typer(cache.cache_app, name="cache")
