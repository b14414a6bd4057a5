"""The command line: parsing and printing only. Everything heavy is imported inside the command that needs it.

Tables and words for people go to stdout, progress and logs to stderr; with --json stdout holds exactly one JSON object.
An error that the user can put right is one line on stderr and exit code 2.
"""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from osler import __version__
from osler.errors import OslerError

app = typer.Typer(
    name="osler",
    help="Fine-tune medical vision-language models with reinforcement learning, and measure whether they looked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data sets.")
app.add_typer(data_app, name="data")

Out = Annotated[Path | None, typer.Option(help="Run folder to make; default runs/NAME-TIMESTAMP.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]


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


@app.command()
def quickstart(out: Out = None, seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0, as_json: Json = False) -> None:
    """Train and compare base, SFT and GRPO on drawn images, in minutes, on a CPU."""
    _calm()
    from osler import quickstart as job

    summary = job.quickstart(out, seed)
    if as_json:
        _print_json(summary)
        return
    _print_table(f"Unseen images, seed {seed}; 95 % intervals by image", job.COLUMNS, job.table(summary))
    for line in job.notes(summary)["headline"]:
        typer.echo(line)
    typer.echo(
        f"{summary['wall_s']:.0f} s, {summary['peak_mb']:.0f} MB at most. What this can and cannot show: see the report."
    )
    typer.echo(summary["report"])


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (medr1/think).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys: lora.r=8.")] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out, from its last checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe: one stage, or a chain of stages with the base and each stage evaluated."""
    from osler.config import Chain, load_recipe
    from osler.errors import RecipeError

    if resume and out is None:
        raise RecipeError("--resume goes on with a run: name its folder with --out.")

    loaded = load_recipe(recipe, overrides or [])
    from osler import check, pipeline

    if not isinstance(loaded, Chain):
        check.check(loaded)
        _calm()
        run = pipeline.train(loaded, out, resume=resume)
        _print_json({"run": str(run.path), **run.summary}) if as_json else _print_training(run.path, run.summary)
        return
    if resume:
        raise RecipeError(
            "a chain cannot be resumed as a whole so far. Resume the stage that was cut off by a recipe of its own."
        )
    check.check_stages(loaded)
    _calm()
    result = pipeline.run_chain(loaded, out)
    if as_json:
        _print_json(result.run.summary)
        return
    _print_evaluations({name: run.summary for name, run in result.evaluated.items()})
    typer.echo(result.run.summary["report"])


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Option(help="tiny, a folder, a hub name, run:DIR[@last|best|STEP], or peft:DIR.")],
    data: Annotated[str, typer.Option(help="NAME, NAME:PATH or NAME:PATH?images=ROOT.")],
    split: str = "test",
    strategy: Annotated[str | None, typer.Option(help="think, nothink, nothink_raw, think_after; default as trained.")] = None,
    answer_form: Annotated[str | None, typer.Option(help="letter or text; default as trained.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts at a time; lower it where memory runs out.")] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Go on with the evaluation in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a split: records, accuracy with interval and floor."""
    _calm()
    from osler import pipeline

    asked = {"strategy": strategy, "answer_form": answer_form, "max_tokens": max_tokens, "batch_size": batch_size}
    trial = pipeline.Trial.of_model(model).with_changes(**asked)
    run = pipeline.evaluate(model, data, trial, split, out, resume=resume)
    if as_json:
        _print_json({"run": str(run.path), **run.summary})
        return
    _print_evaluations({run.manifest["model"]["label"]: run.summary})
    for axis in ("modality", "question_type", "source"):
        _print_evaluations(run.summary[f"by_{axis}"], title=f"by {axis.replace('_', ' ')}")
    typer.echo(str(run.path))


@app.command()
def matrix(
    runs: Annotated[list[Path], typer.Argument(help="Evaluation runs.")],
    axis: Annotated[str, typer.Option(help="modality, question_type or source.")] = "modality",
    csv: Annotated[Path | None, typer.Option(help="Also write the cells here.")] = None,
    as_json: Json = False,
) -> None:
    """The source x target table of evaluation runs."""
    from osler.matrix import build_matrix
    from osler.runs import Run

    built = build_matrix([Run.open(path) for path in runs], axis)
    if csv:
        csv.write_text(built.to_csv(), encoding="utf-8")
    if as_json:
        _print_json(built.to_json())
        return
    rows = [
        [line.label, *(_cell(line.cells[column]) for column in built.columns), _cell(line.overall, counts=True)]
        for line in built.lines
    ]
    title = f"Accuracy in % [95 % interval] (n), floor; by {axis}"
    _print_table(title, ("trained on", *built.columns, "all rows"), rows)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Train and evaluation runs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """One self-contained HTML file about any runs."""
    from osler.report import write_report
    from osler.runs import Run

    written = str(write_report([Run.open(path) for path in runs], output))
    _print_json({"report": written}) if as_json else typer.echo(written)


@data_app.command("show")
def show(spec: Annotated[str, typer.Argument(help="NAME, NAME:PATH or NAME:PATH?images=ROOT.")], as_json: Json = False) -> None:
    """How many rows a data set has, and of what."""
    from osler.datasets.load import load_data

    counts = load_data(spec).counts()
    if as_json:
        _print_json(counts)
        return
    totals = {name: value for name, value in counts.items() if not isinstance(value, dict)}
    _print_table(spec, tuple(totals), [[str(value) for value in totals.values()]])
    for name, parts in counts.items():
        if isinstance(parts, dict):
            _print_table("", (name, "rows"), [[str(label), str(count)] for label, count in parts.items()])


cache_app = typer.Typer(no_args_is_help=True, help="Vision features that are kept, so that an image is computed once.")
app.add_typer(cache_app, name="cache")

CacheFolder = Annotated[Path | None, typer.Option(help="Default: OSLER_CACHE, else ~/.cache/osler/features.")]


@cache_app.command("build")
def cache_build(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (medr1/think).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys: data.val=...")] = None,
    as_json: Json = False,
) -> None:
    """Compute the features of every image of a recipe's rows; what is there already is left."""
    from osler.config import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    _calm()
    from osler import caching

    built = [one.to_json() for one in caching.build(loaded)]
    if as_json:
        counts = {key: sum(one[key] for one in built) for key in ("images", "computed", "found", "mb")}
        _print_json({**counts, "folders": [one["folder"] for one in built], "towers": built})
        return
    columns = ("model", "images", "computed", "found", "mb")
    _print_table("Vision features", columns, [[str(one[column]) for column in columns] for one in built])
    for one in built:
        typer.echo(one["folder"])


@cache_app.command("info")
def cache_info(folder: CacheFolder = None, as_json: Json = False) -> None:
    """What is kept, of which models, and how much of the disk it takes."""
    from osler import caching

    found = caching.info(folder)
    if as_json:
        _print_json(found)
        return
    columns = ("folder", "model", "dtype", "device", "images", "mb")
    if found["towers"]:
        _print_table("Vision features", columns, [[str(one[column]) for column in columns] for one in found["towers"]])
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
        _print_json(cleared)
        return
    typer.echo(f"{cleared['mb']:g} MB freed, {cleared['images']} images, in {cleared['folder']}")
    for path in cleared["left"]:
        typer.echo(f"{path} is left, as it holds files that the cache did not make.")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, device, memory, and what is missing; exit code 2 where a GPU is there that torch cannot see."""
    from osler.doctor import examine

    findings = examine()
    if as_json:
        _print_json(findings)
    else:
        _print_table("osler doctor", ("what", "found"), [[k, str(v)] for k, v in findings.items() if k != "problems"])
        for problem in findings["problems"]:
            typer.secho(problem, fg="red", err=True)
    if findings["problems"]:
        raise typer.Exit(2)


@app.command()
def bench(
    engines: Annotated[str, typer.Option(help="packed, trl, trl-vllm, unsloth; with commas.")] = "packed,trl",
    model: Annotated[str, typer.Option("--model-config", help="tiny, or a real size: qwen2-vl-2b, ...")] = "tiny",
    image_px: Annotated[int | None, typer.Option(help="Side of the images, 448 unless given.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of a prompt, its image's included; 390.")] = None,
    completion: Annotated[str | None, typer.Option(help="Tokens of a completion: 64, or MEAN..LONGEST.")] = None,
    group_size: Annotated[int | None, typer.Option("--group-size", "-G", help="Completions a prompt; 8.")] = None,
    groups: Annotated[int | None, typer.Option(help="Prompts a step; 4.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the KL; 0.04. 0 needs no reference.")] = None,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="In all engines.")] = False,
    rounds: Annotated[int | None, typer.Option(help="Steps of each engine, in turn; 5.")] = None,
    lora_r: Annotated[int | None, typer.Option(help="Rank of the LoRA; 16.")] = None,
    seed: int | None = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; 1.")] = None,
    as_json: Json = False,
) -> None:
    """One recipe on each engine, side by side: seconds, memory, parity, and on a GPU the share of its limit."""
    _calm()
    from osler.bench import compare
    from osler.bench.workload import settings_of

    named = tuple(name.strip() for name in engines.split(","))
    asked: dict[str, Any] = {
        "image_px": image_px,
        "prompt_tokens": prompt_tokens,
        "completion": completion,
        "G": group_size,
        "groups": groups,
    }
    asked |= {"dtype": dtype, "beta": beta, "rounds": rounds, "lora_r": lora_r, "seed": seed, "threads": threads}
    result = compare.bench(settings_of(engines=named, model=model, checkpointing=checkpointing, **asked))
    if as_json:
        _print_json(result)
        return
    _print_table(f"One step on {result['device']}; medians, and shares of the step", compare.COLUMNS, compare.table(result))
    for line in compare.notes(result):
        typer.echo(line)


def _calm() -> None:
    """Keep libraries' bars and notices off the terminal; osler shows its own."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _print_training(path: Path, summary: dict[str, Any]) -> None:
    rows = [[key, f"{v['first']:.3f} -> {v['last']:.3f}" if isinstance(v, dict) else str(v)] for key, v in summary.items()]
    _print_table("Trained", ("what", "value"), rows)
    typer.echo(str(path))


def _print_evaluations(summaries: dict[str, dict[str, Any]], title: str = "Evaluated") -> None:
    columns = (title, "accuracy", "lenient", "floor", "unparseable", "unjudged", "truncated")
    rows = [
        [name, *(_estimate(s[key]) for key in ("accuracy", "lenient", "floor")), *(str(s[key]) for key in columns[4:])]
        for name, s in summaries.items()
    ]
    _print_table("", columns, rows)


def _estimate(value: dict[str, Any] | None) -> str:
    from osler.stats import Estimate

    return str(Estimate(**value)) if value else "-"


def _cell(cell: Any, counts: bool = False) -> str:
    if not cell.n:
        return ""
    a, floor = cell.accuracy, cell.floor
    text = f"{100 * a.value:.1f} [{100 * a.ci_low:.1f}, {100 * a.ci_high:.1f}] ({a.n})"
    text += (f", floor {100 * floor.value:.1f}" if floor and floor.n else "") + (" n<100" if cell.small else "")
    return text + (f"; {cell.unparseable} unparseable, {cell.unjudged} unjudged" if counts else "")
