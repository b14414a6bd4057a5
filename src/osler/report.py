"""Runs -> one HTML file that can be mailed: how accurate, where, how it was trained, and what the model really wrote.

The page loads nothing: plotly.js, styles and images are inside it, and a policy in its head forbids any request. It is the
same, byte for byte, for the same runs. References of images are never on it, as they may hold the label: a rollout or a
record is named by its line in the run's files instead. Examples are picked by even spacing, never by how they look.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from plotly.offline import get_plotlyjs

from osler.charts import COLOURS, Chart, accuracy_chart, curves, heat_map, scale_stops
from osler.controls import CONTROLS, TWIN
from osler.errors import RunError
from osler.examples import GROUPS, Evaluation, Group, answers, disagreement, groups, thumbnail
from osler.looking import known_blind
from osler.matrix import build_matrix
from osler.measures import measures
from osler.runs import Run, write_named
from osler.summary import AXES, Passes

METHODS = {"grpo": "Reinforcement learning (GRPO)", "sft": "Supervised fine-tuning (SFT)"}
STATES = {"running": "had not finished when this page was written", "interrupted": "was interrupted", "failed": "failed"}
ABOVE = "The accuracy lies above that floor, beyond both intervals."
OVERLAP = "The accuracy is not clearly above that floor: this does not show that the model looked at the image."
APART = "Open questions have no floor, so the accuracy over all rows is not to be compared with it."


def write_report(runs: Sequence[Run], file: Path, notes: Mapping[str, Any] | None = None) -> Path:
    """`file`, written whole or not at all: one HTML page about any mix of train and eval `runs`, in the order given.

    A study stands for the runs inside it (`expand`).
    `notes` may hold `title` (text), `headline` and `caveats` (lists of sentences) and `table` ({"columns": [...], "rows":
    [[...]]}, its first column naming the rows). An evaluation that has not finished is named, and counted nowhere.
    Errors: RunError for a run of another kind, one that is damaged, an evaluation given twice, or a `file` that cannot be
    written.
    """
    runs = expand(runs)
    wrong = next((run for run in runs if run.manifest["kind"] not in ("train", "eval")), None)
    if wrong:
        raise RunError(
            f"{wrong.path} is of kind {wrong.manifest['kind']!r}: a report is about train and eval runs, and studies."
        )
    trained, evaluating = _labelled(runs, "train"), _labelled(runs, "eval")
    evaluated = [Evaluation.read(label, run) for label, run in evaluating.items() if (run.path / "summary.json").is_file()]
    page = _template().render(
        notes={"title": "osler report", "headline": [], "table": None, "caveats": [], **(notes or {})},
        plotly_js=get_plotlyjs(),
        summary=in_words(trained, evaluated),
        unfinished=_unfinished([*trained.items(), *evaluating.items()]),
        evaluated=evaluated,
        chart=accuracy_chart({e.label: e.accuracy for e in evaluated}, {e.label: e.floor for e in evaluated if e.floor}),
        controls=[(e.label, [looking.row() for looking in e.controls.values()]) for e in evaluated if e.controls],
        measures=[(e.label, measures(e.run.summary)) for e in evaluated],
        about_controls={name: control.takes_away for name, control in CONTROLS.items()},
        matrices=_matrices(evaluated),
        scale_stops=scale_stops(),
        training=_training(trained),
        rollouts=_rollouts(trained),
        answers=answers(evaluated[-1]) if evaluated else [],
        disagreement=disagreement(evaluated[0], evaluated[-1]) if len(evaluated) > 1 else None,
        provenance=[(label, run, facts(run), _recipe(run)) for label, run in (*trained.items(), *evaluating.items())],
    )
    return write_named(file, page)


def expand(runs: Sequence[Run]) -> list[Run]:
    """`runs`, each study replaced by the train and eval runs in its direct subfolders, in the order in which they started."""
    return [one for run in runs for one in (_children(run) if run.manifest["kind"] == "study" else [run])]


def _children(study: Run) -> list[Run]:
    inside = [Run.open(manifest.parent) for manifest in study.path.glob("*/manifest.json")]
    runs = [run for run in inside if run.manifest.get("kind") in ("train", "eval")]
    return sorted(runs, key=lambda run: (run.manifest.get("started", ""), run.name))


def in_words(trained: Mapping[str, Run], evaluated: Sequence[Evaluation]) -> list[str]:
    """What the page comes to, in a few plain sentences."""
    words = [f"This page is about {_count(len(trained), 'training run')} and {_count(len(evaluated), 'finished evaluation')}."]
    if not evaluated:
        return [*words, "Without a finished evaluation it says nothing about accuracy."]
    last, seen = evaluated[-1], [f"{one.label}: {said}" for one in evaluated for said in known_sources(one)]
    words.append(f"{last.label}, evaluated last, is right on {last.accuracy} (95 % interval in brackets).")
    if not last.floor or not last.floor.n:
        unknown = "No floor is known for it: how much of that the questions give away by themselves is open."
        return [*words, unknown, *looked(last), *seen]
    blind = "the best of four blind attackers, which read the texts but never see the image,"
    if last.floor.n != last.accuracy.n:
        some = f"On the {last.floor.n} of those {last.accuracy.n} rows that have a floor"
        return [*words, f"{some} {blind} scores {last.floor}.", APART, *looked(last), *seen]
    words.append(f"On the same rows {blind} scores {last.floor}.")
    above = (last.accuracy.ci_low or 0.0) > (last.floor.ci_high or 1.0)
    return [*words, ABOVE if above else OVERLAP, *looked(last), *seen]


def looked(evaluation: Evaluation) -> list[str]:
    """What taking the image away did to `evaluation`, in words; nothing where that was not tried."""
    words = []
    if (twin := evaluation.controls.get(TWIN)) and twin.n:
        words.append(f"Its blind twin, the same recipe on blank images, is right on {twin.accuracy}: the model is "
                     f"{twin.difference.points} above it.")  # fmt: skip
    if (blank := evaluation.controls.get("blank")) and blank.n:
        words.append(f"With a blank image it is right on {blank.accuracy}; its visual reliance is {blank.difference.points}.")
    shuffled = evaluation.controls.get("shuffled")
    if shuffled and shuffled.follow and shuffled.follow.shown.n:
        follow = shuffled.follow
        words.append(f"Shown another image, it gives the answer that is right there on {follow.shown}, against {follow.base} "
                     "when shown its own.")  # fmt: skip
    return words


def known_sources(evaluation: Evaluation) -> list[str]:
    """The sources that a model which osler did not train answers above the floor without seeing the image."""
    if evaluation.run.manifest.get("trained_on"):
        return []
    found = []
    for source, part in Passes.read(evaluation.run).along("source").items():
        blind = known_blind(part.real, part.controls.get("blank", []))
        if blind and (blind[0].ci_low or 0.0) > (blind[1].ci_high or 1.0):
            found.append(source)
    return [f"it may have seen {source} before, as it scores above the floor there without the image." for source in found]


def facts(run: Run) -> list[tuple[str, str]]:
    """What a reader needs to repeat `run`: everything in its manifest but the recipe, which has a place of its own."""
    rest = {key: value for key, value in run.manifest.items() if key not in ("kind", "recipe", "command")}
    command = shlex.join(run.manifest.get("command", []))
    seed = run.manifest.get("recipe", {}).get("seed")
    known = {"command": command} | ({} if seed is None else {"seed": seed}) | rest
    return [(key.replace("_", " "), _plain(value)) for key, value in known.items()]


def _plain(value: Any) -> str:
    """`value` on one line."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} ({_plain(one)})" if isinstance(one, dict) else f"{key}: {_plain(one)}" for key, one in value.items()
        )
    if isinstance(value, list):
        return " + ".join(_plain(one) for one in value[:12]) + (f" and {len(value) - 12} more" if len(value) > 12 else "")
    return "none" if value is None else str(value)


def _recipe(run: Run) -> str:
    recipe = run.manifest.get("recipe")
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else ""


def _labelled(runs: Sequence[Run], kind: str) -> dict[str, Run]:
    """The runs of `kind` by a model's label or a run's name; where several share that, with the folder behind it."""
    chosen = [run for run in runs if run.manifest["kind"] == kind]
    plain = [run.manifest["model"]["label"] if kind == "eval" else run.name for run in chosen]
    named = [f"{label} ({run.name})" for label, run in zip(plain, chosen, strict=True)]
    placed = [f"{label} ({run.path.resolve().parent.name}/{run.name})" for label, run in zip(plain, chosen, strict=True)]
    numbered = [f"{label} #{k}" for k, label in enumerate(placed, 1)]
    choices = (plain, named, placed, numbered)
    return {next(names[k] for names in choices if names.count(names[k]) == 1): run for k, run in enumerate(chosen)}


def _unfinished(runs: Iterable[tuple[str, Run]]) -> list[str]:
    """A sentence for each of `runs` that is not done, and what follows from it."""
    states = [(label, run, run.manifest["state"]) for label, run in runs if run.manifest["state"] != "done"]
    return [f"The {run.manifest['kind']} run {label} {STATES[state]}: {_consequence(run)}." for label, run, state in states]


def _consequence(run: Run) -> str:
    if run.manifest["kind"] == "train":
        return "what it wrote until then is shown"
    if (run.path / "summary.json").is_file():
        return "its numbers are complete"
    return f"the {_count(len(run.rows('records')), 'record')} that it wrote until then are counted nowhere"


def _matrices(evaluated: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """The matrix of each axis; those of sources and languages only where there are several."""
    built = [build_matrix([e.run for e in evaluated], axis) for axis in AXES] if evaluated else []
    shown = [matrix for matrix in built if matrix.axis not in ("source", "language") or len(matrix.columns) > 1]
    return [{"axis": m.axis.replace("_", " "), "columns": m.columns, "lines": heat_map(m)} for m in shown]


def _training(trained: Mapping[str, Run]) -> list[tuple[str, list[tuple[str, str]], list[Chart]]]:
    """For each method: its name, its runs with their colours, and its charts. Methods count steps and losses differently."""
    sections = []
    for method in METHODS:
        runs = {label: run for label, run in trained.items() if run.manifest["recipe"]["method"] == method}
        if runs:
            legend = [(label, COLOURS[k % len(COLOURS)]) for k, label in enumerate(runs)]
            sections.append((METHODS[method], legend, curves(runs, f"curve-{method}")))
    return sections


def _rollouts(trained: Mapping[str, Run]) -> dict[str, list[Group]]:
    """Groups of each run that samples completions: the page's share of each, but never fewer than one a phase."""
    sampling = {label: run for label, run in trained.items() if run.manifest["recipe"]["method"] != "sft"}
    return {label: groups(run, max(3, GROUPS // len(sampling))) for label, run in sampling.items()}


def _template() -> Template:
    loader = PackageLoader("osler")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["thumbnail"] = thumbnail
    environment.filters["percent"] = _percent
    return environment.get_template("report.html.jinja")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number or 'no'} {noun}s"
