"""Commands that look at the machine and measure the engines."""

from typing import Annotated, Any

import typer

from osler.cli.output import Json, calm, print_json, print_table


def doctor(as_json: Json = False) -> None:
    """Versions, device, memory, and what is missing; exit code 2 where a GPU is there that torch cannot see."""
    from osler.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        print_table("osler doctor", ("what", "found"), [[k, str(v)] for k, v in findings.items() if k != "problems"])
        for problem in findings["problems"]:
            typer.secho(problem, fg="red", err=True)
    if findings["problems"]:
        raise typer.Exit(2)


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
    calm()
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
        print_json(result)
        return
    print_table(f"One step on {result['device']}; medians, and shares of the step", compare.COLUMNS, compare.table(result))
    for line in compare.notes(result):
        typer.echo(line)
