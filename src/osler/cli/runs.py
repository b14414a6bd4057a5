"""Commands that train, evaluate and show runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from osler.cli.output import (
    Json,
    Out,
    calm,
    print_controls,
    print_evaluations,
    print_json,
    print_measures,
    print_table,
    print_training,
)


def quickstart(out: Out = None, seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0, as_json: Json = False) -> None:
    """Train and compare base, SFT and GRPO on drawn images, in minutes, on a CPU."""
    calm()
    from osler import quickstart as job

    summary = job.quickstart(out, seed)
    if as_json:
        print_json(summary)
        return
    print_table(f"Unseen images, seed {seed}; 95 % intervals by image", job.COLUMNS, job.table(summary))
    for line in job.notes(summary)["headline"]:
        typer.echo(line)
    typer.echo(
        f"{summary['wall_s']:.0f} s, {summary['peak_mb']:.0f} MB at most. What this can and cannot show: see the report."
    )
    typer.echo(summary["report"])


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (medr1/think).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys: lora.r=8.")] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out, from its last checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe: one stage, or a chain of stages with the base and each stage evaluated."""
    from osler.config import Chain
    from osler.errors import RecipeError
    from osler.recipe_files import load_recipe

    if resume and out is None:
        raise RecipeError("--resume goes on with a run: name its folder with --out.")

    loaded = load_recipe(recipe, overrides or [])
    from osler import chains, check, pipeline

    if not isinstance(loaded, Chain):
        check.check(loaded)
        calm()
        run = pipeline.train(loaded, out, resume=resume)
        print_json({"run": str(run.path), **run.summary}) if as_json else print_training(run.path, run.summary)
        return
    if resume:
        raise RecipeError(
            "a chain cannot be resumed as a whole so far. Resume the stage that was cut off by a recipe of its own."
        )
    check.check_stages(loaded)
    calm()
    result = chains.run_chain(loaded, out)
    if as_json:
        print_json(result.run.summary)
        return
    print_evaluations({name: run.summary for name, run in result.evaluated.items()})
    typer.echo(result.run.summary["report"])


def evaluate(
    model: Annotated[
        str, typer.Option(help="tiny, a folder, a hub name, run:DIR[@last|best|STEP], peft:DIR, openai:URL#NAME.")
    ],
    data: Annotated[str, typer.Option(help="NAME, NAME:PATH?images=ROOT, or {name: ..., where: ...}.")],
    split: str = "test",
    strategy: Annotated[str | None, typer.Option(help="think, nothink, nothink_raw, think_after; default as trained.")] = None,
    answer_form: Annotated[str | None, typer.Option(help="letter or text; default as trained.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts at a time; lower it where memory runs out.")] = None,
    controls: Annotated[str | None, typer.Option(help="default, all, none, or names with commas: blank,shuffled.")] = None,
    max_rows_per_cell: Annotated[int | None, typer.Option(min=1, help="Rows a control: of each modality x type.")] = None,
    samples: Annotated[int | None, typer.Option(min=0, help="Completions a row, for Pass@K and calibration.")] = None,
    temperature: Annotated[float | None, typer.Option(help="At which those are sampled; 1.0.")] = None,
    wording: Annotated[str | None, typer.Option(help="same, or medr1; default as trained.")] = None,
    infer_prompt: Annotated[
        str | None, typer.Option(help="plain, reasoning, or dynamic: by question type; default as trained.")
    ] = None,
    forced_answer: Annotated[
        bool | None, typer.Option("--forced-answer/--no-forced-answer", help="think_after: is the rationale post hoc?")
    ] = None,
    perplexity: Annotated[str | None, typer.Option(help="Causal text model that thoughts are scored under.")] = None,
    scorer: Annotated[str, typer.Option(help="osler, or medr1: as its released evaluation reads.")] = "osler",
    train: Annotated[str | None, typer.Option(help="Training rows for the floor, where osler did not train.")] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Go on with the evaluation in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a split: accuracy with interval and floor, and the same rows with something taken away."""
    calm()
    from osler import pipeline
    from osler.trial import Trial

    asked: dict[str, Any] = {"strategy": strategy, "answer_form": answer_form, "max_tokens": max_tokens}
    asked |= {"batch_size": batch_size, "scorer": scorer, "wording": wording, "infer_prompt": infer_prompt}
    trial = Trial.of_model(model).with_changes(**asked)
    more = {"max_rows_per_cell": max_rows_per_cell, "samples": samples, "temperature": temperature}
    trial = trial.with_controls(controls, **more, forced_answer=forced_answer, perplexity=perplexity)
    run = pipeline.evaluate(model, data, trial, split, out, resume=resume, train=train)
    if as_json:
        print_json({"run": str(run.path), **run.summary})
        return
    print_evaluations({run.manifest["model"]["label"]: run.summary})
    print_controls(run.summary)
    print_measures(run.summary)
    for axis in ("modality", "question_type", "source", *(["language"] if len(run.summary.get("by_language", ())) > 1 else [])):
        print_evaluations(run.summary[f"by_{axis}"], title=f"by {axis.replace('_', ' ')}")
    typer.echo(str(run.path))


def score(
    completions: Annotated[Path, typer.Argument(help='JSONL: {"id": ... or "row": ..., "completion": ...} a line.')],
    data: Annotated[str, typer.Option(help="NAME, NAME:PATH?images=ROOT, or {name: ..., where: ...}; no image is opened.")],
    scorer: Annotated[str, typer.Option(help="osler, or medr1: as its released evaluation reads.")] = "osler",
    strategy: Annotated[str | None, typer.Option(help="How they were asked for; default: what reads most of them.")] = None,
    answer_form: Annotated[str | None, typer.Option(help="letter or text; default: what reads most of them.")] = None,
    train: Annotated[str | None, typer.Option(help="Training rows for the floor; default: those of --data.")] = None,
    label: Annotated[str | None, typer.Option(help="What to call the model in tables; default: the file's name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the records as an evaluation run, for matrix and report.")] = None,
    as_json: Json = False,
) -> None:
    """Score completions that another system made."""
    from osler import interop
    from osler.runs import require_free
    from osler.strategies import answer_form_of

    path = require_free(out) if out else None
    scored = interop.score(completions, data, scorer, strategy, answer_form_of(answer_form), train)
    name = label or completions.stem
    if path:
        interop.keep(scored, path, completions, data, name)
    if as_json:
        print_json(scored.to_json() | ({"run": str(path)} if path else {}))
        return
    print_evaluations({name: scored.summary})
    typer.echo(
        f"Read as {scored.strategy}, answers as {scored.answer_form}, by the scorer {scored.scorer}: {scored.readable} of "
        f"{len(scored.records)} completions can be read strictly. {scored.missing} rows of the data have no completion."
    )
    if scored.summary["floor"] is None:
        typer.echo("No floor: name the training rows with --train.")


def report(
    runs: Annotated[list[Path], typer.Argument(help="Train and evaluation runs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """One self-contained HTML file about any runs."""
    from osler.report import write_report
    from osler.runs import Run

    written = str(write_report([Run.open(path) for path in runs], output))
    print_json({"report": written}) if as_json else typer.echo(written)


def export(
    run: Annotated[Path, typer.Argument(help="An evaluation run.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The log to write, a .json file.")],
    as_json: Json = False,
) -> None:
    """An evaluation as a log of inspect_ai (pip install osler[inspect]); no path and no image is in it."""
    from osler.inspect_logs import export_log
    from osler.runs import Run

    written = str(export_log(Run.open(run), output))
    print_json({"log": written}) if as_json else typer.echo(written)
