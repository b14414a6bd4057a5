"""The model card of an export: facts of its run and nothing else. Whatever is not known is said to be unknown."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from osler.config import Recipe
from osler.provenance import FLOOR, Provenance
from osler.schema import Kind, Sample
from osler.stats import Estimate
from osler.trial import Trial

NOT_A_DEVICE = (
    "For research only. This is not a medical device: it must not be used for the diagnosis or the treatment of people, and "
    "what it says of an image may be wrong however sure it sounds."
)
UNKNOWN_LICENCE = (
    "Not known to osler. Weights made from a checkpoint are bound by the licence of that checkpoint, and perhaps by that of "
    "the data: look both up before you share this."
)
_KINDS = {Kind.CHOICE: "Multiple choice", Kind.YESNO: "Yes or no", Kind.OPEN: "An open question"}
_EXAMPLES = (
    Sample("1", ("image",), "QUESTION", ("FIRST OPTION",), ("FIRST OPTION", "SECOND OPTION"), 0, Kind.CHOICE),
    Sample("2", ("image",), "QUESTION", ("yes",), kind=Kind.YESNO),
    Sample("3", ("image",), "QUESTION", ("ANSWER",), kind=Kind.OPEN),
)


def card(about: Provenance, base: str) -> str:
    """README.md of the export: YAML for the hub, then what a reader must know. `base` is the checkpoint it goes back to."""
    parts = [
        _head(about, base),
        f"# {about.run}",
        NOT_A_DEVICE,
        _what(about, base),
        "## How to ask it\n\n" + _asking(about),
        "## How to load it\n\n" + _loading(about),
        "## What it was trained on\n\n" + _training(about),
        "## Evaluations\n\n" + _evaluations(about),
        "## Licence\n\n" + UNKNOWN_LICENCE,
        "## Recipe\n\n```json\n" + json.dumps(about.recipe, indent=1, ensure_ascii=False) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _head(about: Provenance, base: str) -> str:
    library = "peft" if about.kind == "adapter" else "transformers"
    facts = {"library_name": library, "pipeline_tag": "image-text-to-text", "tags": ["osler", about.recipe["method"]]}
    if "/" in base and not base.startswith(("/", ".", "~")):  # a hub name
        facts["base_model"] = base
    return "---\n" + "".join(f"{name}: {json.dumps(value)}\n" for name, value in facts.items()) + "---"


def _what(about: Provenance, base: str) -> str:
    recipe = Recipe.model_validate(about.recipe)
    how = "all weights of the language model" if recipe.full else f"a LoRA of rank {recipe.lora.r}"
    chain = " -> ".join(f"{one['model']} (sha256 {_short(one['sha256'])})" for one in about.start)
    lines = [
        f"- {'The adapter' if about.kind == 'adapter' else 'The whole model'} of the run {about.run}, checkpoint "
        f"{about.step}, in {about.dtype}; the run is {about.state}.",
        f"- Trained with {recipe.method.upper()}: {how}, seed {recipe.seed}, at most {recipe.max_steps} steps, on "
        f"{about.device or 'a device that was not recorded'}.",
        f"- Started from: {chain}. Weights of the run itself: sha256 {_short(about.weights)}.",
        f"- Base checkpoint: {base}.",
        "- Written by osler " + ", ".join([about.osler, *(f"{k} {v}" for k, v in about.versions.items() if v)]) + ".",
    ]
    if about.judges:
        lines.append(
            f"- **Trained on the scores of a judge**: {', '.join(about.judges)}. What that judge says of this model is what it "
            "was trained to make it say: have another judge, or people, judge it."
        )
    return "\n".join(lines)


def _asking(about: Provenance) -> str:
    """The user's turn for each kind of question, as evaluated; the image stands before it."""
    recipe = Recipe.model_validate(about.recipe)
    trial = Trial.of(recipe)
    strategy = trial.envelope
    lines = [
        f"Strategy `{recipe.strategy}`; greedy, at most {trial.max_tokens} tokens, special tokens other than the end of a turn "
        f"suppressed; images of at most {trial.images.max_pixels} pixels, or the checkpoint's own limit where that is lower. "
        "The image first, then:"
    ]
    for part in strategy.each:
        title = f", prompt `{part.name}`" if len(strategy.each) > 1 else ""
        texts = {sample.kind: part.question(sample, trial.answer_form) for sample in _EXAMPLES}
        lines += [f"{_KINDS[kind]}{title}:\n\n```\n{text}\n```" for kind, text in texts.items()]
    return "\n\n".join(lines)


def _loading(about: Provenance) -> str:
    if about.kind == "adapter":
        return (
            "A LoRA in PEFT's layout: `PeftModel.from_pretrained(base, FOLDER)` on the base that adapter_config.json names; "
            "`osler eval --model peft:FOLDER`. Its rank is in adapter_config.json; a server may have to be told (vLLM: "
            "--max-lora-rank)."
        )
    return _SNIPPET + "\n\n`osler eval --model FOLDER` asks it as it was asked in training."


_SNIPPET = """\
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained(FOLDER, use_fast=False)  # needs torchvision
model = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype="auto")
turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
inputs = processor(images=[Image.open(IMAGE).convert("RGB")], text=[text], return_tensors="pt")
ids = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
print(processor.tokenizer.decode(ids[0], skip_special_tokens=True))
```"""


def _training(about: Provenance) -> str:
    seen, data = about.trained_on, about.recipe["data"]
    lines = [f"- Training rows: {data['train']}; n = {seen['n']}, row hash {seen['row_hash']}."]
    lines += [f"- {name}: {', '.join(seen[key])}." for key, name in _AXES.items() if seen.get(key)]
    lines.append(
        f"- {FLOOR} beside the weights is what blind attackers learn from these rows. It holds the words of their questions "
        "and answers: delete it before you share the folder if these are private."
    )
    return "\n".join(lines)


_AXES = {"modality": "Modalities", "question_type": "Question types", "source": "Sources", "language": "Languages"}


def _evaluations(about: Provenance) -> str:
    found = about.evaluations
    if not found:
        return "None of the run at this checkpoint was found. Nothing is known of how well it answers."
    columns = (
        "test rows",
        "evaluated in",
        "strategy",
        "accuracy, strict",
        "lenient",
        "floor (blind)",
        "unparseable",
        "unjudged",
        "row hash",
    )
    rows = [
        (
            f"{one['data']}, {one['split']}",
            _computed(one),
            str(one["strategy"]),
            *(_estimate(one[name]) for name in ("accuracy", "lenient", "floor")),
            *(str(one[name]) for name in ("unparseable", "unjudged")),
            _short(one["row_hash"]),
        )
        for one in found
    ]
    table = [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]
    return (
        "\n".join(table)
        + _other_types(about)
        + "\n\n95 % intervals, by image or patient. The floor is what the best of the blind attackers scores on the same rows: "
        "an accuracy that is not above it shows nothing about vision."
    )


def _computed(one: Mapping[str, Any]) -> str:
    return f"{one.get('dtype') or 'a type that was not recorded'}, {one.get('device') or 'device not recorded'}"


def _other_types(about: Provenance) -> str:
    """That the run was evaluated in another type than this folder has, where it was; nothing for an adapter as trained."""
    types = {one.get("dtype") for one in about.evaluations}
    if about.dtype == "as trained" or types == {about.dtype}:
        return ""
    if about.dtype in types:
        return f"\n\nThis folder is in {about.dtype}: rows evaluated in another type are of the run, and not of this folder."
    told = ", ".join(sorted(one for one in types if one)) or "a type that was not recorded"
    return f"\n\n**Evaluated in {told}; this folder is in {about.dtype} and was not evaluated itself.** Its answers may differ."


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _estimate(value: Mapping[str, Any] | None) -> str:
    return str(Estimate(**value)) if value else "-"


def _short(digest: str | None) -> str:
    return digest[:16] if digest else "unknown"
