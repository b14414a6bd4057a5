"""The command that writes a run as a checkpoint for anybody."""

from pathlib import Path
from typing import Annotated

import typer

from osler.cli.output import Json, calm, print_json, print_table


def export(
    run: Annotated[Path, typer.Argument(help="A train run.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make; default exports/NAME.")] = None,
    step: Annotated[
        str | None, typer.Option(help="last, best or a checkpoint's number; default: what the run ended with.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32; default as trained.")] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="The LoRA alone, for PEFT and vLLM.")] = False,
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="An evaluation for the model card that is not beside the run; can be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The merged model in transformers' layout, with a model card: loads without osler, also as --model FOLDER."""
    calm()
    from osler.exporting import writing

    done = writing.export(run, out, step, dtype, adapter, evaluation or [])
    if as_json:
        print_json(done.to_json())
        return
    shown = done.to_json()
    names = ("kind", "run", "step", "dtype", "base", "sha256", "mb", "evaluations")
    rows = [[name, str(shown[name])] for name in names]
    print_table("Exported", ("what", "value"), [*rows, ["judges it was trained with", ", ".join(shown["judges"]) or "none"]])
    typer.echo(shown["path"])
