"""What `osler judge` does: one or two judges over the records of a run, and the summary in judge.json."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from osler.errors import RecipeError
from osler.judging.client import Judge, Settings
from osler.judging.prompts import VERSION
from osler.judging.replies import Judgement
from osler.judging.stored import judge_records, records_of
from osler.judging.summaries import agreed_of, judged_of
from osler.model.endpoint import Endpoint, parse_endpoint
from osler.runs import Run, write_json
from osler.schema import Record


def assess(
    path: Path,
    judge: str,
    second: str | None = None,
    repeat: int = 1,
    rows: int | None = None,
    see_images: bool = False,
    max_seconds: float | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """The summary of what `judge` (and `second`), each an `openai:URL#NAME`, say of the evaluation at `path`.

    `judge` is asked `repeat` times, `second` once. Files go to the run, or to the folder `out`. Errors: RunError, RecipeError;
    ModelError where a judge is not fit for use before the first record is sent.
    """
    endpoints = _endpoints(judge, second)
    run = Run.open(path, kind="eval")
    records, total = records_of(run, rows)
    folder = out or run.path
    with ExitStack() as stack:
        settings = Settings(see_images=see_images)
        judges = [stack.enter_context(Judge(endpoint, settings)) for endpoint in endpoints]
        askings = [(judges[0], number) for number in range(repeat)] + [(one, 0) for one in judges[1:]]
        judged = judge_records(run.name, records, askings, folder, max_seconds)
        asked = {str(one.endpoint): {"json_schema": one.by_schema, **settings.to_json()} for one in judges}
    summary = {
        "run": str(run.path),
        "folder": str(folder),
        "rows": len(records),
        "rows_of_run": total,
        "prompt_version": VERSION,
        "asked": asked,
        **_summary(records, list(map(str, endpoints)), judged[:repeat], judged[repeat:]),
    }
    write_json(folder / "judge.json", summary)
    return summary


def _endpoints(judge: str, second: str | None) -> list[Endpoint]:
    """Errors: RecipeError where a spec names no endpoint, or both name the same."""
    endpoints = [parse_endpoint(spec) for spec in (judge, second) if spec is not None]
    if len(set(endpoints)) < len(endpoints):
        raise RecipeError("--second names the same judge as --judge. Name another, or ask this one again with --repeat 2.")
    return endpoints


def _summary(
    records: Sequence[Record], names: Sequence[str], first: Sequence[Sequence[Judgement]], second: Sequence[Sequence[Judgement]]
) -> dict[str, Any]:
    """The numbers; each judge's are those of its first asking, but `unjudged` counts all lines without scores."""
    judged = [judged_of(name, records, one) for name, one in zip(names, (first[0], *second), strict=True)]
    between = agreed_of(records, first[0], second[0]) if second else {}
    retests = [agreed_of(records, first[0], again) for again in first[1:]]
    return {
        "judges": [one.to_json() for one in judged],
        "between": {name: one.to_json() for name, one in between.items()} or None,
        "retests": [{name: one.to_json() for name, one in retest.items()} for retest in retests],
        "unjudged": sum(one.unscored is not None for row in (*first, *second) for one in row),
    }
