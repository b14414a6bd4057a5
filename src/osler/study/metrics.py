"""What a study can print of a run: each metric's heading, and how it is read off an evaluation's summary."""

from collections.abc import Callable
from typing import Any

from osler.runs import Run, read_json
from osler.shortcuts import shortcut_reliance
from osler.stats import Estimate
from osler.study.exports import export_of
from osler.study.running import Done
from osler.summary import read_records

Read = Callable[[Done, Run], Estimate | None]


def _at(*path: str) -> Read:
    """What an evaluation's summary holds at `path`; None where it has no such thing."""

    def read(done: Done, run: Run) -> Estimate | None:
        value: Any = run.summary
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return None
        return (
            Estimate(value["value"], value["ci_low"], value["ci_high"], value["n"])
            if isinstance(value, dict)
            else _plain(value)
        )

    return read


def _plain(value: float | None, n: int = 1) -> Estimate | None:
    return None if value is None else Estimate(float(value), None, None, n)


METRICS: dict[str, tuple[str, float, Read]] = {
    "accuracy": ("accuracy %", 100, _at("accuracy")),
    "lenient": ("lenient %", 100, _at("lenient")),
    "floor": ("floor %", 100, _at("floor")),
    "blank": ("blank image %", 100, _at("controls", "blank", "accuracy")),
    "reliance": ("visual reliance, points", 100, _at("controls", "blank", "difference")),
    "follow": ("follows another image %", 100, _at("controls", "shuffled", "follow", "shown")),
    "debiased": ("options debiased %", 100, _at("controls", "options-debiased", "accuracy")),
    "format": ("format %", 100, _at("format_rate")),
    "tokens": ("tokens", 1, _at("reasoning", "tokens", "all")),
    "tokens_right": ("tokens of right answers", 1, _at("reasoning", "tokens", "right")),
    "tokens_wrong": ("tokens of wrong answers", 1, _at("reasoning", "tokens", "wrong")),
    "repetition": ("repetition %", 100, _at("reasoning", "repetition", "all")),
    "repetition_wrong": ("repetition of wrong answers %", 100, _at("reasoning", "repetition", "wrong")),
    "reasoning": ("reasons %", 100, _at("reasoning", "reasoning_rate")),
    "consistent": ("thought agrees with answer %", 100, _at("reasoning", "consistency")),
    "unsupported": ("thoughts with an unsupported finding %", 100, _at("reasoning", "unsupported", "thoughts")),
    "unsupported_findings": ("unsupported findings %", 100, _at("reasoning", "unsupported", "findings")),
    "asserted": ("findings a thought", 1, _at("reasoning", "unsupported", "asserted")),
    "post_hoc": ("post-hoc rate %", 100, _at("reasoning", "post_hoc", "rate")),
    "post_hoc_base": ("its base rate %", 100, _at("reasoning", "post_hoc", "base")),
    "post_hoc_moved": ("moved by forcing, points", 100, _at("reasoning", "post_hoc", "moved")),
    "post_hoc_nothing": ("forced, nothing concluded %", 100, _at("reasoning", "post_hoc", "nothing")),
    "mark_drop": ("lost where the mark is against, points", 100, lambda done, run: _planted(done, run, "drop")),
    "mark_follow": ("follows the mark %", 100, lambda done, run: _planted(done, run, "follow")),
    "mark_moved": ("follows it more than unmarked, points", 100, lambda done, run: _planted(done, run, "moved")),
    "judged_answer": ("judge: answer right %", 100, lambda done, run: _judged(run, "answer")),
    "judged_reasoning": ("judge: reasoning sound %", 100, lambda done, run: _judged(run, "reasoning")),
    "judge_unscored": ("judge: records without scores", 1, lambda done, run: _unscored(run)),
    "token_f1": ("token F1 %", 100, lambda done, run: _text(run, "token_f1")),
    "answer_similarity": ("answer similarity", 1, lambda done, run: _text(run, "answer_similarity")),
    "rationale_similarity": ("thought similarity", 1, lambda done, run: _text(run, "rationale_similarity")),
    "bertscore": ("BERTScore F1 of the answer", 1, lambda done, run: _text(run, "bertscore", "f1")),
    "keyword_recall": ("keywords named %", 100, lambda done, run: _text(run, "keyword_recall")),
    "perplexity": ("perplexity of thoughts", 1, _at("reasoning", "perplexity")),
    "eval_s": ("seconds a row, evaluation", 1, lambda done, run: _plain(_seconds(run), run.summary["n"])),
    "train_s": ("seconds of training", 1, lambda done, run: _plain(done.train_s)),
    "train_mb": ("memory of training, MB", 1, lambda done, run: _plain(done.train_mb)),
    "eval_mb": (
        "memory of evaluation, MB",
        1,
        lambda done, run: _plain((run.manifest.get("memory") or {}).get("peak_total_mb")),
    ),
    "export_s": ("seconds a row, export", 1, lambda done, run: _exported(run, "seconds")),
    "export_mb": ("memory of answering, export, MB", 1, lambda done, run: _exported(run, "peak_mb")),
    "export_disk_mb": ("size of the export, MB", 1, lambda done, run: _exported(run, "disk_mb")),
    "train_rows": ("training rows", 1, lambda done, run: _plain(done.train_rows)),
}
"""Each metric: its heading, what it is multiplied by in tables, and how it is read."""


def _seconds(run: Run) -> float | None:
    spent = [row["seconds"] for row in run.rows("records") if row["seconds"] is not None]
    return sum(spent) / len(spent) if spent else None


def _exported(run: Run, what: str) -> Estimate | None:
    """What the export of a row took (osler.study.exports); None where it was not measured."""
    value = (export_of(run) or {}).get(what)
    return Estimate(**value) if isinstance(value, dict) else _plain(value)


def _unscored(run: Run) -> Estimate | None:
    """How many records of `run` the first judge gave no scores; None where none was asked."""
    judges = _judges(run)
    return _plain(sum(judges[0]["unscored"].values()), judges[0]["rows"]) if judges else None


def _judges(run: Run) -> list[Any]:
    return list(read_json(run.path / "judge.json")["judges"]) if (run.path / "judge.json").is_file() else []


def _judged(run: Run, what: str) -> Estimate | None:
    """What the first judge of `run` says (osler.judging.summaries); None where none was asked."""
    judges = _judges(run)
    return Estimate(**judges[0][what]) if judges else None


def _text(run: Run, *path: str) -> Estimate | None:
    """A similarity of the texts of `run` (osler.judging.texts); None where it was not computed."""
    value: Any = read_json(run.path / "judge.json").get("texts") if (run.path / "judge.json").is_file() else None
    for key in path:
        value = value.get(key) if value else None
    return Estimate(**value) if value else None


def _planted(done: Done, run: Run, what: str) -> Estimate | None:
    """How far a model relies on planted marks; only of the test rows `against`, where those `with` are there too."""
    sides = [done.evaluated.get(name) for name in ("with", "against", "none")]
    if run is not sides[1] or sides[0] is None:
        return None
    records = [read_records(side) if side else None for side in sides]
    found = shortcut_reliance(records[0] or [], records[1] or [], records[2], done.entry.trial.answer_form)
    estimate: Estimate | None = getattr(found, what)
    return estimate


def bounds_of(metric: str) -> tuple[float, float]:
    """Between which values a metric lies: shares, differences of shares (points), or anything from 0 on."""
    heading, times, _ = METRICS[metric]
    return (0.0, float("inf")) if times != 100 else (-1.0, 1.0) if "points" in heading else (0.0, 1.0)
