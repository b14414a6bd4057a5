"""An evaluation's records as a log of inspect_ai (https://inspect.aisi.org.uk), for its viewer and its analyses.

What leaves: the prompts, answers and verdicts, and the numbers of summary.json. What stays: images and where they lie, the
names of patients or cases (a cluster is a number), rows' further columns, the command, and paths to data and weights.

inspect_ai is no part of osler; `pip install osler[inspect]` brings it. It checks the log and computes its own accuracy and
clustered standard error, so that both read the same there as in any other log.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.datasets.load import parse_spec
from osler.errors import RunError
from osler.images import PHANTOM, underlying
from osler.looking import right
from osler.runs import Run
from osler.schema import Kind, Outcome, Record, Sample
from osler.summary import read_records

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

SCORER = "osler"
"""What the strict verdict is called in a log."""

_VALUES = {True: (Outcome.CORRECT, "C"), False: (Outcome.INCORRECT, "I"), None: (Outcome.UNJUDGED, None)}
_METRICS = [
    {"name": "inspect_ai/accuracy", "options": {}},
    {"name": "inspect_ai/stderr", "options": {"cluster": "cluster"}},
]
_COUNTED = ("lenient", "floor", "attacker", "format_rate", "unparseable", "unjudged", "truncated", "controls")


def export_log(run: Run, path: str | Path) -> Path:
    """`path`, to which the records of the finished evaluation `run` were written as inspect_ai's JSON log.

    A sample's score is its strict verdict, C or I; what was left unjudged has none. The standard error is clustered by image
    or patient (Miller, arXiv 2411.00640, appendix A); beside it stands osler's own accuracy, with its interval and n.
    Errors: RunError where `run` is no evaluation, has not finished, or inspect_ai is absent; where `path` does not end in
    .json or cannot be written.
    """
    path = Path(path)
    if run.manifest.get("kind") != "eval":
        raise RunError(f"{run.path} is no evaluation, but of kind {run.manifest.get('kind')!r}: it has no records to export.")
    if path.suffix != ".json":
        raise RunError(f"{path} would not be known as a log: name a file that ends in .json.")
    log = _checked(_log(run, read_records(run)), run.summary)
    from inspect_ai.log import write_eval_log

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_eval_log(log, str(path), format="json")
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}). Name another file.") from error
    return path


def _checked(log: dict[str, Any], summary: dict[str, Any]) -> "EvalLog":
    """`log` as inspect_ai reads it, with the results that it computes. Errors: RunError where it is not installed."""
    try:
        from inspect_ai.log import EvalLog, recompute_metrics
    except ModuleNotFoundError as error:
        raise RunError(
            f"a log needs a package that is absent ({error.name}). Install it: pip install osler[inspect]"
        ) from error
    checked = EvalLog.model_validate(log)
    recompute_metrics(checked)
    if checked.results is not None:
        checked.results.metadata = {key: summary.get(key) for key in _COUNTED}
        for score in checked.results.scores:
            score.metadata = {"accuracy": summary["accuracy"]}
            if not summary["accuracy"]["n"]:
                score.metrics = {}  # inspect_ai's accuracy of no rows is 0
    return checked


def _log(run: Run, records: Sequence[Record]) -> dict[str, Any]:
    """The log without its results, in inspect_ai's words."""
    manifest = run.manifest
    label, clusters = manifest["model"]["label"], {name: k for k, name in enumerate(_clusters(records), 1)}
    samples = [_sample(record, number, label, clusters[record.sample.cluster]) for number, record in enumerate(records, 1)]
    return {
        "status": "success",
        "eval": _spec(manifest, label, [sample["id"] for sample in samples]),
        "stats": {"started_at": manifest["started"], "completed_at": manifest.get("finished") or ""},
        "samples": samples,
    }


def _spec(manifest: dict[str, Any], label: str, ids: list[str]) -> dict[str, Any]:
    """What was evaluated, and how."""
    data, trial = manifest.get("data", {}), manifest.get("trial", {})
    known = json.dumps([manifest["started"], label, data.get("row_hash")])
    digest = hashlib.sha256(known.encode()).hexdigest()[:22]
    name = parse_spec(data["spec"]).name if "spec" in data else "unknown"
    return {
        "eval_id": digest,
        "run_id": digest,
        "task_id": digest,
        "created": manifest["started"],
        "task": f"osler/{name}",
        "task_args": {key: trial[key] for key in ("strategy", "infer_prompt", "answer_form", "max_tokens") if key in trial},
        "model": label,
        "model_generate_config": {"temperature": 0.0, "max_tokens": trial["max_tokens"]} if "max_tokens" in trial else {},
        "dataset": {"name": name, "samples": len(ids), "sample_ids": ids},
        "config": {"epochs": 1},
        "scorers": [{"name": SCORER, "metrics": _METRICS}],
        "packages": {name: number for name, number in manifest["versions"].items() if number and name != "python"},
        "metadata": {
            "split": data.get("split"),
            "row_hash": data.get("row_hash"),
            "model_sha256": manifest["model"].get("sha256"),
            "trained_on": _trained_on(manifest.get("trained_on")),
        },
    }


def _trained_on(seen: dict[str, Any] | None) -> dict[str, Any] | None:
    return {key: seen.get(key) for key in ("modality", "question_type", "source", "n", "row_hash")} if seen else None


def _sample(record: Record, number: int, label: str, cluster: int) -> dict[str, Any]:
    sample, verdict = record.sample, record.verdict
    strict, value = _VALUES[right(record)]
    lenient = Outcome.INCORRECT if record.parsed.lenient is None else verdict.lenient
    verdicts = {"strict": str(strict), "lenient": str(lenient)}
    score = {"value": value, "answer": verdict.compared, "metadata": verdicts}
    asked = {"role": "user", "content": record.prompt, "id": f"{number}-prompt"}
    answered = {"role": "assistant", "content": record.completion, "id": f"{number}-completion", "model": label}
    stopped = "max_tokens" if record.truncated else "stop"
    return {
        "id": _id(sample, number),
        "epoch": 1,
        "input": record.prompt,
        "choices": list(sample.options) or None,
        "target": verdict.gold if sample.kind is Kind.CHOICE else list(sample.golds),
        "messages": [asked, answered],
        "output": {"model": label, "choices": [{"message": answered, "stop_reason": stopped}], "completion": record.completion},
        "scores": {SCORER: score} if value else None,
        "metadata": {
            **verdicts,
            "cluster": cluster,
            "images": len(sample.images),
            "kind": str(sample.kind),
            "modality": str(sample.modality),
            "question_type": str(sample.question_type),
            "source": sample.source,
            "language": sample.language,
            "strategy": record.strategy,
            "tokens": record.tokens,
            "truncated": record.truncated,
            "well_formed": record.parsed.well_formed,
        },
    }


def _id(sample: Sample, number: int) -> str:
    """The sample's id; `row NUMBER` where the id, as some manifests have it, is the place of an image."""
    places = (underlying(image) for image in sample.images)
    shown = any(place in sample.id or Path(place).name in sample.id for place in places if not place.startswith(PHANTOM))
    return f"row {number}" if shown else sample.id


def _clusters(records: Sequence[Record]) -> list[str]:
    """The names of the clusters, each once, in the order in which they come."""
    return list(dict.fromkeys(record.sample.cluster for record in records))
