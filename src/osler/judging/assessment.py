"""What `osler judge` does: judges and measures of texts over the records of a run, and the summary in judge.json."""

from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

from osler.errors import RecipeError
from osler.judging.client import Settings
from osler.judging.judges import Spec, judge_of, parse_judge
from osler.judging.parts import OF_RECORDS, merged
from osler.judging.prompts import VERSION
from osler.judging.replies import Judgement
from osler.judging.stored import alone, judge_records, path_of, records_of, require_own
from osler.judging.summaries import agreed_of, judged_of
from osler.judging.texts import check_text_models, texts_by
from osler.judging.trained import trained_with
from osler.runs import Run, read_json, write_json
from osler.schema import Record


def assess(
    path: Path,
    judge: str | None,
    second: str | None = None,
    repeat: int = 1,
    rows: int | None = None,
    see_images: bool = False,
    max_seconds: float | None = None,
    out: Path | None = None,
    embedder: str | None = None,
    bertscore: str | None = None,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """The summary of what `judge` (and `second`), each a spec of `osler.judging.judges`, say of the evaluation at `path`.

    `judge` is asked `repeat` times, `second` once. Beside what they say stand the measures of texts (osler.judging.texts), by
    the models `embedder` and `bertscore` where they are named, and what earlier commands asked for (osler.judging.parts).
    `max_tokens` are those that a judge may say, its thought with it. Files go to the run, or to the folder `out`.
    Errors: RunError, also where `out` is another evaluation's; RecipeError; ModelError where a judge or a model is not fit for
    use before the first record is sent.
    """
    specs = _specs(judge, second)
    run = Run.open(path, kind="eval")
    records, total = records_of(run, rows)
    folder = out or run.path
    check_text_models(embedder, bertscore)
    settings = Settings(see_images=see_images, **({} if max_tokens is None else {"max_tokens": max_tokens}))
    require_own(run, folder)
    with alone(folder):
        require_own(run, folder)  # another command may have begun there meanwhile
        judged, asked = _judged(run, records, specs, settings, repeat, folder, max_seconds)
        found = {
            "run": str(run.path),
            "path": path_of(run),
            "folder": str(folder),
            "rows": len(records),
            "rows_of_run": total,
            OF_RECORDS: sha256((run.path / "records.jsonl").read_bytes()).hexdigest(),
            "prompt_version": VERSION,
            "asked": asked,
            "texts": texts_by(records, embedder, bertscore).to_json(),
            **_summary(records, list(map(str, specs)), judged[:repeat], judged[repeat:]),
        }
        return _written(run, folder, found)


def _judged(
    run: Run,
    records: Sequence[Record],
    specs: Sequence[Spec],
    settings: Settings,
    repeat: int,
    folder: Path,
    max_seconds: float | None,
) -> tuple[list[list[Judgement]], dict[str, Any]]:
    """What each asking says of `records`, the first judge's `repeat` times first; and how each judge was asked."""
    with ExitStack() as stack:
        judges = [stack.enter_context(judge_of(str(spec), settings)) for spec in specs]
        askings = [(one, number) for one in judges[:1] for number in range(repeat)] + [(one, 0) for one in judges[1:]]
        judged = judge_records(run, records, askings, folder, max_seconds) if judges else []
        return judged, {one.name: one.asked() for one in judges}


def _written(run: Run, folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """What is in judge.json of `folder` now: `found`, and what stood there before and was not asked for again."""
    file = folder / "judge.json"
    summary = merged(read_json(file) if file.is_file() else None, found)
    flag = trained_with(run, [one["judge"] for one in summary["judges"]])
    summary = {**summary, "trained_with": flag.to_json() if flag else None}
    write_json(file, summary)
    return summary


def _specs(judge: str | None, second: str | None) -> list[Spec]:
    """Errors: RecipeError where a spec names no judge, or both name the same."""
    if second and not judge:
        raise RecipeError("--second is another judge beside --judge, and none is named there. Name it with --judge.")
    specs = [parse_judge(spec) for spec in (judge, second) if spec is not None]
    if len(set(specs)) < len(specs):
        raise RecipeError("--second names the same judge as --judge. Name another, or ask this one again with --repeat 2.")
    return specs


def _summary(
    records: Sequence[Record], names: Sequence[str], first: Sequence[Sequence[Judgement]], second: Sequence[Sequence[Judgement]]
) -> dict[str, Any]:
    """The numbers; each judge's are those of its first asking, but `unjudged` counts all lines without scores."""
    judged = [judged_of(name, records, one) for name, one in zip(names, (*first[:1], *second), strict=True)]
    between = agreed_of(records, first[0], second[0]) if second else {}
    retests = [agreed_of(records, first[0], again) for again in first[1:]]
    return {
        "judges": [one.to_json() for one in judged],
        "between": {name: one.to_json() for name, one in between.items()} or None,
        "retests": [{name: one.to_json() for name, one in retest.items()} for retest in retests],
        "unjudged": sum(one.unscored is not None for row in (*first, *second) for one in row),
    }
