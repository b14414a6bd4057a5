"""The command that has the records of an evaluation judged."""

from pathlib import Path
from typing import Annotated

import typer

from osler.cli.output import Json, print_json, print_table


def judge(
    run: Annotated[Path, typer.Argument(help="An evaluation run.")],
    judge: Annotated[
        str | None, typer.Option(help="openai:URL#NAME (its key in OPENAI_API_KEY), chat:MODEL, causal:MODEL, or phantoms.")
    ] = None,
    second: Annotated[
        str | None, typer.Option(help="Another judge of the same records, for agreement; OPENAI_API_KEY goes to a server too.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="How often the first judge is asked, for test-retest.")] = 1,
    rows: Annotated[int | None, typer.Option(min=1, help="Records to judge, drawn the same way each time; all.")] = None,
    see_images: Annotated[bool, typer.Option("--see-images", help="Show it the images too.")] = False,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Then end with what there is; the same command goes on.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="What a judge may say, in tokens; more for one that thinks first. 300.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="A sentence-transformers model, folder or hub name, for similarities of texts.")
    ] = None,
    bertscore: Annotated[str | None, typer.Option(help="A text encoder (BERT and the like) for BERTScore.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for judged.jsonl and judge.json, of this run alone; the run's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer correctness and reasoning soundness of stored records by a judge, and how far to trust it; texts against golds."""
    from rich.markup import escape

    from osler.errors import RecipeError
    from osler.judging.assessment import assess
    from osler.judging.summaries import lines_of

    if not (judge or embedder or bertscore):
        raise RecipeError("osler judge needs somebody who judges: --judge, or a model of texts with --embedder or --bertscore.")
    summary = assess(run, judge, second, repeat, rows, see_images, max_seconds, out, embedder, bertscore, max_tokens)
    if as_json:
        print_json(summary)
    else:
        for title, lines in lines_of(summary).items():
            print_table(escape(title), ("what", "value"), [list(line) for line in lines])
        typer.echo(str(Path(summary["folder"]) / "judge.json"))
    if judge and summary["unjudged"]:
        typer.secho(f"{summary['unjudged']} judgements have no scores. The same command asks for them again.", err=True)
