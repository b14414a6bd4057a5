"""What training starts from: an instruct model, a base model, or a run, for every method, with a LoRA and in full."""

import json
from itertools import product

import pytest
import torch

from osler import pipeline
from osler.config import ImageSettings, Recipe
from osler.errors import ModelError
from osler.images import open_image
from osler.model.family import TURNS, chat
from osler.model.features import FeatureStore
from osler.model.load import load_policy, load_processor
from osler.model.preflight import check_policy
from osler.model.prompts import encode, processor_inputs
from real_layout import CHAT_TEMPLATE, save_real_layout

PHANTOMS = {"name": "phantoms", "seed": 0, "train": 2, "val": 1, "test": 2}

CONTENTS_ONLY = (
    "{% if messages is string %}{{ messages }}{% else %}{% for part in messages %}"
    "{% if part['type'] == 'image' or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
)
"""What Qwen2-VL's base does, in other words: it takes the parts of one message, and makes nothing of a list of turns."""


def as_base(folder, template=CONTENTS_ONLY):
    """The layout at `folder` as a base model is published: another template, and the end of a text as the only end."""
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    del tokenizer["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["eos_token_id"] = generation["pad_token_id"]
    (folder / "generation_config.json").write_text(json.dumps(generation))


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """An instruct model, and a base model of the same weights."""
    found = {}
    for kind in ("instruct", "base"):
        folder = tmp_path_factory.mktemp(kind)
        save_real_layout(folder)
        if kind == "base":
            as_base(folder)
        found[kind] = str(folder)
    return found


def recipe(start, **changes):
    settings = {
        "model": start,
        "strategy": "nothink_raw",
        "answer_form": "text",
        "data": {"train": PHANTOMS},
        "rewards": [{"name": "accuracy"}],
        "rollout": {"G": 2, "prompts_per_step": 2, "max_tokens": 6},
        "sft": {"batch_size": 4, "eval_steps": 1},
        "lora": {} if changes.get("full") else {"r": 2},
        "lr": 1e-3,
        "max_steps": 1,
        "save_steps": 1,
        "controls": {"names": "none"},
    }
    return Recipe.model_validate(settings | changes)


def test_a_base_model_is_asked_in_the_turns_of_an_instruct_model(starts):
    base, instruct = (load_policy(starts[kind], dtype="float32") for kind in ("base", "instruct"))
    assert base.processor.chat_template == base.processor.tokenizer.chat_template == TURNS
    assert instruct.processor.chat_template == CHAT_TEMPLATE
    prompt = ("What is shown?", ["phantom:train/0/0"])
    ids = [encode(vlm, FeatureStore(vlm), prompt).ids_S.tolist() for vlm in (base, instruct)]
    assert ids[0] == ids[1]
    assert processor_inputs(base, [(prompt[0], [open_image(prompt[1][0])])])["input_ids"][0].tolist() == ids[0]


def test_a_base_model_may_end_its_turn(starts):
    base, instruct = (load_policy(starts[kind], dtype="float32") for kind in ("base", "instruct"))
    ends = [base.processor.tokenizer.decode([token]) for token in base.end_ids]
    assert ends == ["<|im_end|>", "<|endoftext|>"]
    assert base.end_ids == instruct.end_ids
    assert not set(base.banned_ids) & set(base.end_ids)


def test_only_a_template_that_takes_no_turns_is_replaced_and_that_is_said(tmp_path, capsys):
    folder = tmp_path / "m"
    save_real_layout(folder)
    assert load_processor(str(folder), ImageSettings()).chat_template == CHAT_TEMPLATE
    assert "takes no turns" not in capsys.readouterr().err
    as_base(folder)
    for _ in range(2):
        assert load_processor(str(folder), ImageSettings()).chat_template == TURNS
    assert capsys.readouterr().err.count("its chat template takes no turns") == 1
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{% for x in %}"}))
    with pytest.raises(ModelError, match="its chat template cannot be used"):
        load_processor(str(folder), ImageSettings())


def test_the_turns_are_the_published_ones(starts):
    """On text, one image and several, with and without an answer: the same string as the layout's own template."""
    tokenizer = load_processor(starts["instruct"], ImageSettings()).tokenizer
    answer = {"role": "assistant", "content": "CT"}
    for turns in (chat("What?", []), chat("What?", ["a"]), chat("What?", ["a", "b"]), [*chat("What?", ["a"]), answer]):
        for prompting in (False, True):
            one, other = (
                tokenizer.apply_chat_template(turns, chat_template=template, add_generation_prompt=prompting, tokenize=False)
                for template in (TURNS, CHAT_TEMPLATE)
            )
            assert one == other


@pytest.fixture
def even(monkeypatch):
    """The pipeline's grader likes an even number of letters, so that a random model is right at times, and wrong at times."""
    from osler.schema import Outcome, Verdict

    def grade(sample, parsed):
        outcome = Outcome.INCORRECT if len(parsed.lenient or "") % 2 else Outcome.CORRECT
        return Verdict(outcome, outcome, parsed.answer, sample.golds[0])

    monkeypatch.setattr(pipeline, "grader", lambda form: grade)


METHODS = {
    "sft": {"method": "sft"},
    "dpo": {"method": "dpo", "dpo": {"samples": 8}, "rollout": {"max_tokens": 40}},
    "grpo": {"method": "grpo", "objective": {"beta": 0.0}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run to start from, with a LoRA and in full, that went a long way from its checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {"LoRA": {"lr": 1e-2, "max_steps": 2}, "full": {"full": True}}
    return {name: pipeline.train(recipe("tiny", method="sft", **kind), folder / name).path for name, kind in kinds.items()}


def weights(spec):
    return torch.cat(
        [w.detach().flatten() for n, w in load_policy(spec, dtype="float32").model.named_parameters() if "visual" not in n]
    )


PAIRWISE = {("LoRA", "sft", True), ("LoRA", "grpo", False), ("LoRA", "dpo", True),
            ("full", "sft", False), ("full", "grpo", True), ("full", "dpo", False)}  # fmt: skip
"""Of starts, methods and ends (full or not) every two meet; the other half runs with the slow tests."""
MET = [
    pytest.param(*case, id="-".join((*case[:2], ("LoRA", "full")[case[2]])), marks=() if case in PAIRWISE else pytest.mark.slow)
    for case in product(("LoRA", "full"), METHODS, (False, True))
]


@pytest.mark.parametrize(("start", "method", "full"), MET)
def test_every_method_starts_from_a_run(runs, tmp_path, even, start, method, full):
    """One step that is all but nothing leaves the run that it started from, and not the checkpoint below."""
    before = f"run:{runs[start]}"
    run = pipeline.train(recipe("tiny", init=before, full=full, lr=1e-9, **METHODS[method]), tmp_path / "r")
    assert [one["model"] for one in run.manifest["start"]] == ["tiny", before]
    assert (run.path / ("model" if full else "adapter")).is_dir()
    check_policy(f"run:{run.path}")
    after, started, below = (weights(spec) for spec in (f"run:{run.path}", before, "tiny"))
    assert float((after - started).abs().max()) < 1e-6
    assert float((started - below).abs().max()) > 1e-4


@pytest.mark.parametrize("method", ["sft", "grpo"])
@pytest.mark.parametrize("full", [False, True], ids=["LoRA", "full"])
def test_a_base_model_is_trained_and_evaluated(starts, tmp_path, method, full):
    run = pipeline.train(recipe(starts["base"], full=full, **METHODS[method]), tmp_path / "r")
    assert load_policy(f"run:{run.path}").processor.chat_template == TURNS
    assert pipeline.evaluate(f"run:{run.path}", PHANTOMS, out=tmp_path / "e").summary["n"] > 0
