"""A judge and text metrics over the evaluations of a study, and which rows were trained on the scores of that very judge."""

from collections.abc import Iterable

from osler.errors import RecipeError
from osler.judging.assessment import assess
from osler.judging.judges import judge_of, parse_judge, same_judge
from osler.judging.texts import TEXTS, check_text_models
from osler.lineage import judges_of
from osler.model.endpoint import ENDPOINT
from osler.runs import Run
from osler.study.files import StudySettings
from osler.study.grid import Entry

OF_JUDGE = frozenset({"judged_answer", "judged_reasoning", "judge_unscored"})
"""The metrics that a judge gives."""

MARK = "†"
"""Stands behind the name of a row that was trained on the scores of the judge that judges it."""


def check_judging(study: StudySettings) -> None:
    """Errors: RecipeError for metrics that nobody gives, or a judge or model that none of them is of."""
    wanted = set(study.metrics)
    for key, metrics in (
        ("judge", OF_JUDGE),
        ("embedder", {"answer_similarity", "rationale_similarity"}),
        ("bertscore", {"bertscore"}),
    ):
        if getattr(study, key) and not wanted & metrics:
            raise RecipeError(f"the study's {key} does nothing, as no metric is of it: {', '.join(sorted(metrics))}.")
    if study.judge:
        parse_judge(study.judge)


def check_judges(study: StudySettings) -> None:
    """Nothing, where the judge and the text models of `study` are there: a server is asked, no weights are loaded.

    Errors: RecipeError; ModelError.
    """
    check_text_models(study.embedder, study.bertscore)
    if not study.judge:
        return
    from osler.judging.client import Settings

    judge = judge_of(study.judge, Settings(see_images=study.see_images))
    if study.judge.startswith(ENDPOINT):
        with judge:
            judge.check()


def assessed(study: StudySettings, run: Run) -> None:
    """Nothing; judge.json of the evaluation `run` is there, where a metric of the study needs it. Errors: ModelError."""
    if not set(study.metrics) & (OF_JUDGE | TEXTS):
        return
    judge = study.judge if set(study.metrics) & OF_JUDGE else None
    assess(
        run.path,
        judge,
        rows=study.judge_rows,
        see_images=study.see_images,
        embedder=study.embedder,
        bertscore=study.bertscore,
    )


def flagged(study: StudySettings, entries: Iterable[Entry]) -> frozenset[str]:
    """The names of rows that were trained on the scores of the judge that judges them."""
    judge = study.judge
    if not judge:
        return frozenset()
    return frozenset(entry.name for entry in entries if any(same_judge(one, judge) for one in _trained_by(entry)))


def _trained_by(entry: Entry) -> list[str]:
    """The judges of the stages of `entry`, and of the runs that it starts from or is."""
    own = [stage.recipe.judge.model for stage in entry.stages if stage.recipe.method == "grpo" and stage.recipe.judge]
    starts = [entry.model, *(stage.recipe.init or stage.recipe.model for stage in entry.stages)]
    return [*own, *(judge for start in starts if start and not start.startswith("stage:") for judge in judges_of(start))]


def marked(name: str, flags: frozenset[str]) -> str:
    """`name`, with MARK where it is among `flags`."""
    return f"{name} {MARK}" if name in flags else name


def note(study: StudySettings) -> str:
    """What MARK says."""
    return (
        f"{MARK} Trained on the scores of {study.judge}, which is the judge here as well: what it says of this row is what the "
        "row was trained to make it say. Judge with another, or have people rate (osler rate)."
    )
