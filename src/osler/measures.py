"""What an evaluation's summary says beyond its accuracy, as lines of text: for the terminal and the report alike."""

from collections.abc import Iterator, Mapping
from typing import Any

from osler.stats import Estimate

Line = tuple[str, str]
"""What is measured, and its value with interval and n."""


def measures(summary: Mapping[str, Any]) -> dict[str, list[Line]]:
    """The lines of each part of an evaluation's summary.json that has any: reasoning, several completions a row, classes."""
    parts = {
        "Reasoning": list(_reasoning(summary.get("reasoning") or {})),
        "Several completions a row": list(_samples(summary.get("samples") or {})),
        "Yes/no questions, as a classifier's": list(_classes(summary.get("yesno") or {})),
        "Choices, as a classifier's": list(_classes(summary.get("letters") or {})),
    }
    return {name: lines for name, lines in parts.items() if lines}


def _reasoning(found: Mapping[str, Any]) -> Iterator[Line]:
    """Lines of `osler.reasoning.quality.Reasoning`; what has no thought to be measured on is left out."""
    shares = {
        "reasoning_rate": "has a thought that says more than the answer",
        "conclusive": "thoughts whose conclusion can be read",
        "consistency": "thought agrees with answer",
    }
    yield from ((what, _share(found[key])) for key, what in shares.items() if found.get(key))
    if unsupported := found.get("unsupported"):
        yield "thoughts with a finding that the image does not have", _share(unsupported["thoughts"])
        yield "of the findings that thoughts assert, such ones", _share(unsupported["findings"])
    if post_hoc := found.get("post_hoc"):
        yield "rationale defends an answer that was forced on it", _share(post_hoc["rate"])
        yield "rationale concludes that answer when nothing is forced", _share(post_hoc["base"])
        yield "the difference that forcing makes", Estimate(**post_hoc["moved"]).points
        yield "nothing can be concluded behind a forced answer", _share(post_hoc["nothing"])
    for key, what, times in (("repetition", "repeated word triples, %", 100), ("tokens", "tokens", 1)):
        if key in found:
            for side, of in (("all", ""), ("right", " of right answers"), ("wrong", " of wrong answers")):
                yield f"{what}{of}", _plain(found[key][side], times)
    if perplexity := found.get("perplexity"):
        yield f"perplexity of thoughts under {perplexity['model']}", _plain(perplexity, 1)


def _samples(found: Mapping[str, Any]) -> Iterator[Line]:
    """Lines of `osler.repeated.Repeated`."""
    if found:
        k = found["k"]
        names = {"acc_at_1": "accuracy of one", "pass_at_k": f"any of {k} is right", "majority": "majority is right"}
        yield from ((what, _share(found[key])) for key, what in names.items())
        yield from (
            (what, _plain(found[key], 1, 3)) for key, what in (("brier", "Brier score"), ("aurc", "area under risk-coverage"))
        )
        yield "expected calibration error", "-" if found["ece"] is None else f"{100 * found['ece']:.1f} %"


def _classes(found: Mapping[str, Any]) -> Iterator[Line]:
    """Lines of `osler.classification.Classification`."""
    if found:
        for key in ("balanced_accuracy", "macro_f1", "sensitivity", "specificity"):
            if found[key]:
                yield key.replace("_", " ").replace("f1", "F1"), _share(found[key])


def _share(value: Mapping[str, Any]) -> str:
    return str(Estimate(value["value"], value["ci_low"], value["ci_high"], value["n"]))


def _plain(value: Mapping[str, Any], times: float, digits: int = 1) -> str:
    """A mean that is no share; without an interval where there is none."""
    if value["value"] is None:
        return "no rows"
    low, high = value["ci_low"], value["ci_high"]
    interval = "" if low is None else f" [{times * low:.{digits}f}, {times * high:.{digits}f}]"
    return f"{times * value['value']:.{digits}f}{interval}, n = {value['n']}"
