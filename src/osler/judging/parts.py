"""judge.json from one command to the next: what a command does not ask about stays, if it was said of the same records.

Two parts stand in it, and each is what the last command that asked for it found:

    judges, between, retests, unjudged, asked, prompt_version     a command that names a judge replaces them together
    texts       one that names a model of texts replaces that model's measures, and all of them where it reads other rows

What judges said is in judged.jsonl, whoever was asked since: the same command takes it from there, and asks nothing again.
"""

from collections.abc import Mapping
from typing import Any

from osler.progress import console

Summary = Mapping[str, Any]

OF_JUDGES = ("judges", "between", "retests", "unjudged", "asked", "prompt_version")
"""The keys of what judges said."""

OF_RECORDS = "records_sha256"
"""The key of the hash of records.jsonl."""

_BY_MODEL = {
    "embedder": ("answer_similarity", "rationale_similarity"),
    "bertscore_model": ("bertscore", "rationale_bertscore"),
}


def merged(before: Summary | None, found: Summary) -> dict[str, Any]:
    """`found`, with the parts of the summary `before` that its command did not ask for."""
    if before is None:
        return dict(found)
    if not _of_the_same(before, found):
        _tell_of_loss(before, found)
        return dict(found)
    if found["judges"]:
        kept = {"asked": _asked(before.get("asked") or {}, found["asked"])}
    else:
        kept = {key: before[key] for key in OF_JUDGES if key in before}
    return {**found, **kept, "texts": _texts(before.get("texts"), found["texts"])}


def _of_the_same(before: Summary, found: Summary) -> bool:
    """Whether both are of the same records; an older version's summary does not say, but for how many there were."""
    return all(before.get(key) in (None, found[key]) for key in (OF_RECORDS, "rows_of_run"))


def _tell_of_loss(before: Summary, found: Summary) -> None:
    texts = before.get("texts") or {}
    lost = [str(texts[model]) for model in _BY_MODEL if texts.get(model) and not found["texts"][model]]
    lost += [] if found["judges"] else [str(one["judge"]) for one in before.get("judges", ())]
    if lost:
        where = f"{found['folder']}/judge.json: the records of the run have changed"
        what = f"what {', '.join(lost)} said of the older ones is left out. Name them again."
        console.print(f"{where}, and {what}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _asked(before: Summary, found: Summary) -> dict[str, Any]:
    """How each judge was asked; what only a check tells stays where nothing had to be asked again, and so none was made."""
    return {
        judge: {key: before.get(judge, {}).get(key) if value is None else value for key, value in asked.items()}
        for judge, asked in found.items()
    }


def _texts(before: Summary | None, found: Summary) -> dict[str, Any]:
    """The measures of texts, with those `before` by a model that the command did not name."""
    if before is None or not any(before.get(model) for model in _BY_MODEL):
        return dict(found)
    if not any(found[model] for model in _BY_MODEL):
        return dict(before)
    if before["rows"] != found["rows"]:
        return dict(found)
    stay = [model for model in _BY_MODEL if before.get(model) and not found[model]]
    measures = {key: before[key] for model in stay for key in (model, *_BY_MODEL[model])}
    cut = {model: before["cut"][model] for model in stay if model in before["cut"]}
    return {**found, **measures, "cut": {**found["cut"], **cut}}
