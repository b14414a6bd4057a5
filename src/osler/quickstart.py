"""The main job in minutes on a CPU: base -> SFT on few labels -> GRPO, on drawn images, against its SFT twin.

A chain as any other (recipes/quickstart.yaml); this file only turns what it left into the comparison to print.
"""

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osler.chains import ChainResult, run_chain
from osler.config import Chain
from osler.contrasts import contrast, family
from osler.errors import RecipeError
from osler.recipe_files import load_recipe
from osler.report import write_report
from osler.runs import default_path
from osler.schema import Record
from osler.stats import Estimate, proportion
from osler.summary import Passes

STAGES = ("base", "sft", "grpo", "sft_same_rows")
NAMES = {
    "base": "base, never asked",
    "sft": "SFT, few labels",
    "grpo": "GRPO from that SFT",
    "sft_same_rows": "SFT, GRPO's rows",
}
COLUMNS = ("model", "accuracy %", "blank image %", "format %", "thought names gold %", "unparseable", "unjudged", "n")


def quickstart(out: str | Path | None = None, seed: int = 0, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The summary that is printed; report.html and summary.json are written to the run folder.

    `overrides` are those of `osler train quickstart`. Errors: any OslerError.
    """
    started = time.perf_counter()
    chain = load_recipe("quickstart", [f"seed={seed}", f"data.train.seed={seed}", *overrides])
    if not isinstance(chain, Chain):
        raise RecipeError("recipes/quickstart.yaml is no chain: it has no stages.")

    def conclude(result: ChainResult) -> dict[str, Any]:
        summary = summarise_chain(result, seed, started)
        runs = [*result.trained.values(), *(result.evaluated[stage] for stage in STAGES)]
        write_report(runs, Path(summary["report"]), notes(summary))
        return {**summary, "wall_s": round(time.perf_counter() - started, 1)}

    return run_chain(chain, out or default_path("quickstart"), conclude).run.summary


def summarise_chain(result: ChainResult, seed: int, started: float) -> dict[str, Any]:
    """The numbers to quote, each with its interval and n; `gain` is GRPO minus its own start, paired on the same rows.

    `p_holm` are the p of both gains, adjusted for there being two; `reliance` is that of GRPO (a) and of its start (b).
    """
    passes = {stage: Passes.read(result.evaluated[stage]) for stage in STAGES}
    primary = family(
        {
            "gain": contrast(passes["grpo"], passes["sft"]),
            "gain_over_same_rows": contrast(passes["grpo"], passes["sft_same_rows"]),
        }
    )
    reliance = primary.contrasts["gain"].reliance
    evaluations = {stage: result.evaluated[stage].summary for stage in STAGES}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "accuracy": {stage: evaluations[stage]["accuracy"] for stage in STAGES},
        "floor": evaluations["grpo"]["floor"]["value"],
        "floor_estimate": evaluations["grpo"]["floor"],
        "format_rate": {stage: evaluations[stage]["format_rate"] for stage in STAGES},
        "thought_names_gold": {stage: _thought_names_gold(passes[stage].real).to_json() for stage in STAGES},
        "controls": {stage: evaluations[stage]["controls"] for stage in STAGES},
        "reliance": reliance.to_json() if reliance else None,
        "unparseable": {stage: evaluations[stage]["unparseable"] for stage in STAGES},
        "unjudged": {stage: evaluations[stage]["unjudged"] for stage in STAGES},
        "reward": result.trained["grpo"].summary["reward"],
        **{name: one.test.difference.to_json() for name, one in primary.contrasts.items()},
        "p_holm": dict(primary.adjusted),
        "train_s": {stage: run.summary["seconds"] for stage, run in result.trained.items()},
        "wall_s": round(time.perf_counter() - started, 1),
        "peak_mb": round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1),
        "seed": seed,
        "report": str(result.run.path / "report.html"),
    }


def notes(summary: dict[str, Any]) -> dict[str, Any]:
    """What the report says in words: the headline, the comparison, and what this scale can and cannot show."""
    accuracy = {stage: Estimate(**summary["accuracy"][stage]) for stage in STAGES}
    gain, versus = Estimate(**summary["gain"]), Estimate(**summary["gain_over_same_rows"])
    return {
        "title": f"osler quickstart, seed {summary['seed']}",
        "headline": [
            f"GRPO moved the model from {accuracy['sft']}, to {accuracy['grpo']}: {gain.points}, paired, on unseen images.",
            f"SFT on the same rows and for the same seconds reaches {accuracy['sft_same_rows']}; GRPO minus that is "
            f"{versus.points}.",
            f"The best of four blind attackers, which see no image, scores {Estimate(**summary['floor_estimate'])}.",
            *_reliance_in_words(summary["reliance"]),
        ],
        "table": {"columns": list(COLUMNS), "rows": table(summary)},
        "caveats": CAVEATS,
    }


def _reliance_in_words(reliance: dict[str, Any] | None) -> list[str]:
    """What is lost with a blank image; nothing where that was not tried."""
    if not reliance:
        return []
    grpo, sft, change = (Estimate(**one) for one in (reliance["a"], reliance["b"], reliance["change"]["difference"]))
    return [
        f"The image is worth {grpo.points}, to GRPO's model (accuracy less that with a blank image), {sft.points}, to its "
        f"start: a change of {change.points}."
    ]


def table(summary: dict[str, Any]) -> list[list[str]]:
    """One row a model, its cells as `COLUMNS` says: four estimates with their intervals, and counts."""
    estimates, counts = ("format_rate", "thought_names_gold"), ("unparseable", "unjudged")
    return [
        [
            NAMES[stage],
            brief(Estimate(**summary["accuracy"][stage])),
            _blank(summary["controls"][stage]),
            *(brief(Estimate(**summary[column][stage])) for column in estimates),
            *(str(summary[column][stage]) for column in counts),
            str(summary["accuracy"][stage]["n"]),
        ]
        for stage in STAGES
    ]


def _blank(controls: dict[str, Any]) -> str:
    """The accuracy on blank images with its own n, as controls are run on a part of the rows."""
    if "blank" not in controls:
        return "-"
    found = Estimate(**controls["blank"]["accuracy"])
    return f"{brief(found)} (n = {found.n})"


def brief(estimate: Estimate) -> str:
    """`71.2 [67.9, 74.3]`, in percent, for a table that has its n in a column."""
    value, low, high = (100 * float(x or 0) for x in (estimate.value, estimate.ci_low, estimate.ci_high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


CAVEATS = [
    "The images are drawn and the model has 1.5 million parameters: this shows that the system works, not what it does in a "
    "clinic.",
    "SFT had eight labelled images to learn from here, and 40 more to stop on. At this scale SFT on more labelled rows is "
    "cheaper and often better than RL, which is why it stands beside every gain. RL needs answers that can be checked, and no "
    "written reasoning.",
    "GRPO is rewarded for the answer and its form. Whether the thought names the right finding is measured apart, and need "
    "not rise.",
    "The base was taught to describe other drawn images and never saw a question: its accuracy says that it does not know "
    "the form, not that it cannot see.",
    "One seed is one draw; a result worth quoting needs several. Seed 0 is not blind: the recipe was designed on its images.",
]


def _thought_names_gold(records: Sequence[Record]) -> Estimate:
    """How often the thought holds the gold's text: whether the image was read, whatever was answered."""
    named = [record.sample.golds[0] in (record.parsed.thought or "") for record in records]
    return proportion(named, [record.sample.cluster for record in records])
