"""`osler export`: a run as a checkpoint that needs no osler, or as a PEFT adapter on a checkpoint that anybody has.

    DIR/config.json, model*.safetensors, generation_config.json, preprocessor_config.json, tokenizer*.json,
        chat_template.jinja            the merged model, in transformers' layout
    DIR/adapter_config.json, adapter_model.safetensors    instead of these with `adapter`, in PEFT's
    DIR/README.md                      the model card (osler.exporting.cards)
    DIR/osler.json, floor.json         where it comes from (osler.provenance)

The weights are those that `run:DIR@STEP` is evaluated with at the same type, to the bit. The preprocessor has the pixel budget
of the recipe, and generation is greedy, as long as in evaluation and without special tokens, so that whoever loads the folder
with transformers alone gets the completions that were evaluated.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from osler import __version__
from osler.config import Recipe
from osler.errors import RecipeError, RunError, unknown
from osler.exporting.adapters import stack_of, write_adapter
from osler.exporting.cards import card
from osler.exporting.checkpoints import DTYPES, SHARD, loaded, write_model
from osler.exporting.evaluations import evaluations_of
from osler.exporting.folders import require_place, require_room, whole_folder
from osler.exporting.sharing import shared, shown_judge, shown_model
from osler.lineage import floor_of, judges_of, model_hash, trainings_of
from osler.memory import MB
from osler.model.adapters import weights_of
from osler.provenance import FILE, FLOOR, Provenance
from osler.runs import Run, write_json, write_whole
from osler.trial import Trial


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, what is in it (model or adapter), on which base, in which type, files and MB."""

    path: Path
    about: Provenance
    base: str
    files: tuple[str, ...]
    mb: float

    def to_json(self) -> dict[str, Any]:
        """path, kind, run, step, dtype, base, sha256 of the written weights, files, mb, evaluations (how many), judges."""
        about = self.about
        facts = {name: getattr(about, name) for name in ("kind", "run", "step", "dtype", "judges")}
        written = model_hash(f"peft:{self.path}" if about.kind == "adapter" else str(self.path))
        more = {"base": self.base, "sha256": written, "files": list(self.files), "mb": self.mb}
        return {"path": str(self.path), **facts, **more, "evaluations": len(about.evaluations)}


def export(
    run: str | Path,
    out: str | Path | None = None,
    step: str | None = None,
    dtype: str | None = None,
    adapter: bool = False,
    evaluations: Iterable[Path] = (),
    max_shard_size: str = SHARD,
) -> Exported:
    """The run at `run` (a folder) as it was written to `out`, by default exports/NAME.

    `step` is last, best or a number; without it what the run ended with, as in an evaluation. `dtype` is bf16, fp16 or fp32;
    without it that of the recipe, else fp32 where the run was trained on a CPU and bf16 where on a GPU; an adapter keeps its
    own. `evaluations` are named besides those that lie near the run. Errors: any OslerError where the run cannot be loaded,
    before anything is written; RunError where `out` is taken or cannot be written.
    """
    trained = _train_run(run)
    if trained.manifest.get("blind"):
        raise RunError(f"{run} is a blind twin, which learnt from blank images: it is of no use elsewhere. Export its run.")
    spec = f"run:{trained.path}{_at(step)}"
    weights, name = weights_of(trained.path, step), _dtype(trained, dtype)
    path = require_place(out or _default(trained, step, adapter))
    stack = stack_of(spec)
    if adapter and not stack.adapters:
        raise RunError(f"{trained.path} tuned all weights, and has no adapter. Leave out --adapter.")
    facts = {"kind": "adapter" if adapter else "model", "dtype": "as trained" if adapter and dtype is None else name}
    found = evaluations_of(trained.path, model_hash(spec), evaluations)
    about = _provenance(trained, spec, step=_label(weights, step), evaluations=found, **facts)
    base, floors = shown_model(stack.base) if adapter else about.start[0]["model"], floor_of(spec)
    write = partial(write_adapter, stack, dtype=DTYPES[name] if dtype else None)
    if not adapter:
        vlm = loaded(spec, _recipe(trained).images, name)
        require_room(path, sum(weight.numel() * weight.element_size() for weight in vlm.model.parameters()))
        write = partial(write_model, vlm, max_tokens=Trial.of(_recipe(trained)).max_tokens, max_shard_size=max_shard_size)
    with whole_folder(path) as part:
        write(part)
        write_json(part / FLOOR, floors.to_json() if floors else None)
        write_whole(part / "README.md", card(about, base))
        write_json(part / FILE, about.to_json())
        for file in part.iterdir():
            file.chmod((part / FILE).stat().st_mode)  # safetensors writes for its owner alone
    files = {file.name: file.stat().st_size for file in sorted(path.iterdir())}
    return Exported(path, about, base, tuple(files), round(sum(files.values()) / MB, 2))


def _train_run(path: str | Path) -> Run:
    """The train run at `path`. Errors: RunError; for a chain or a study it names the train runs in there."""
    found = Run.open(path)
    if found.manifest.get("kind") != "study":
        return Run.open(path, "train")
    inside = [Run.open(file.parent) for depth in ("*", "*/*") for file in found.path.glob(f"{depth}/manifest.json")]
    stages = [one for one in inside if one.manifest.get("kind") == "train" and not one.manifest.get("blind")]
    names = [str(one.path) for one in sorted(stages, key=lambda one: (one.manifest.get("started", ""), one.name))]
    next_step = f"Name a stage: {', '.join(names)}." if names else "Nothing in it was trained: train it again."
    raise RunError(f"{path} is a chain or a study of several runs, and no train run itself. {next_step}")


def _at(step: str | None) -> str:
    if step is not None and step not in ("last", "best") and not step.isdigit():
        raise RunError(f"there is no step {step!r}. Write last, best or the number of a checkpoint.")
    return f"@{step}" if step else ""


def _label(weights: Path, step: str | None) -> str:
    """Which checkpoint the `weights` are: its number, or final where they are what the run ended with."""
    number = weights.name if weights.name.isdigit() else "final"
    return f"best ({number})" if step == "best" else number


def _default(trained: Run, step: str | None, adapter: bool) -> Path:
    return Path("exports") / "-".join([trained.name, *([step] if step else []), *(["adapter"] if adapter else [])])


def _recipe(trained: Run) -> Recipe:
    return Recipe.model_validate(trained.manifest["recipe"])


def _dtype(trained: Run, given: str | None) -> str:
    """The name of the type to write. Errors: RecipeError for one that is none."""
    if given is not None and given not in DTYPES:
        raise RecipeError(unknown("dtype", given, DTYPES))
    own = {"float32": "fp32", "bfloat16": "bf16"}.get(_recipe(trained).dtype)
    return given or own or ("fp32" if trained.manifest.get("device") == "cpu" else "bf16")


def _provenance(trained: Run, spec: str, **facts: Any) -> Provenance:
    """What goes along with the weights. The `recipe` is without paths, as the folder may be shared."""
    manifest = trained.manifest
    start = [{"model": shown_model(str(one["model"])), "sha256": one["sha256"]} for one in manifest["start"]]
    return Provenance(
        osler=__version__,
        run=trained.name,
        state=manifest["state"],
        weights=model_hash(spec),
        device=manifest.get("device"),
        versions={name: manifest["versions"].get(name) for name in ("torch", "transformers", "peft")},
        recipe=shared(_recipe(trained)),
        start=start,
        trained_on=manifest["trained_on"],
        judges=list(map(shown_judge, judges_of(spec))),
        trainings=trainings_of(spec),
        **facts,
    )
