"""Visual reliance against a plain forward of each row alone, image and blank image through the model's own processor, on a
second copy of the model; and what must give exactly 0, or nothing."""

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from osler.config import FeatureSettings, Recipe
from osler.datasets.phantoms import samples as phantoms
from osler.grading import grader
from osler.images import blank_of, open_image
from osler.model.attention import base_model
from osler.model.features import Features, FeatureStore
from osler.model.generate import Sampled, completion_of
from osler.model.load import load_policy
from osler.model.prompts import encode, processor_inputs
from osler.rl.engine import Engine
from osler.rl.reliance import VISUAL_RELIANCE, Reliance, answer_span, answer_tokens, reliance
from osler.strategies import STRATEGIES

TEMPERATURE = 0.8
NOTHINK, THINK, RAW, AFTER = (STRATEGIES[name] for name in ("nothink", "think", "nothink_raw", "think_after"))
ASKED = ("Disease diagnosis", "Disease diagnosis", "Other biological attributes", "Anatomy identification")
ROWS = [
    row
    for row in phantoms(0, {"train": 4})
    for n, asked in enumerate(ASKED)
    if (row.images, row.question_type) == ((f"phantom:train/0/{n}",), asked)
]
"""A question about each of four images. The tiny model answers those for the diagnosis by looking, others less."""


def loaded():
    """In float64: what differs is then more than noise."""
    vlm = load_policy("tiny", dtype="float32")
    vlm.model.to(torch.float64)
    return vlm


@pytest.fixture(scope="module")
def vlm():
    return loaded()


@pytest.fixture(scope="module")
def oracle():
    """The same model, for transformers alone."""
    return loaded().model


def sampled_of(vlm, text, ends=True):
    """`text` as if it had been sampled."""
    ids = vlm.processor.tokenizer(text)["input_ids"]
    return Sampled([*ids, vlm.end_ids[0]] if ends else ids, [0.0] * (len(ids) + ends), not ends)


def scored(vlm, texts, rows=ROWS, strategy=NOTHINK, micro_tokens=4096, store=None):
    """The scores of `texts`, a list for each row."""
    store = store or FeatureStore(vlm, FeatureSettings(disk_gb=0))
    prompts = [encode(vlm, store, (strategy.question(row, "text"), row.images)) for row in rows]
    sampled = [[one if isinstance(one, Sampled) else sampled_of(vlm, one) for one in group] for group in texts]
    found = Reliance(vlm, store, strategy, TEMPERATURE, micro_tokens)(rows, prompts, sampled)
    return [[one[VISUAL_RELIANCE] for one in group] for group in found]


def answered(row):
    """The gold, each other option, and a completion without an answer."""
    return [f"<answer>{option}</answer>" for option in (*row.golds, *row.options)] + ["nothing"]


def expected(vlm, oracle, row, text, strategy):
    """The score of one completion, by transformers' own forward of the whole row: once with the image, once with its blank."""
    encoding = vlm.processor.tokenizer(text, return_offsets_mapping=True)
    ids, logps = torch.tensor(encoding["input_ids"]), []
    opened = text.index("<answer>") if strategy.tagged else 0
    start = text.index(strategy.parse(text).answer, opened)
    end = start + len(strategy.parse(text).answer)
    counted = [k for k, (first, last) in enumerate(encoding["offset_mapping"]) if first < end and last > start]
    for images in (row.images, tuple(map(blank_of, row.images))):
        prompt = (strategy.question(row, "text"), [open_image(image) for image in images])
        inputs = processor_inputs(vlm, [prompt])
        whole = torch.cat([inputs["input_ids"][0], ids])[None]
        types = (whole == vlm.processor.image_token_id).int()
        base_model(oracle).model.rope_deltas = None  # of the row before
        pixels = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
        logits = oracle(input_ids=whole, mm_token_type_ids=types, use_cache=False, **pixels).logits[0, -len(ids) - 1 : -1]
        every = (logits / TEMPERATURE).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        logps.append(every[counted].mean().item())
    return 1 - math.exp(-max(0.0, logps[0] - logps[1]))


@pytest.mark.parametrize(
    ("strategy", "form"),
    [
        (NOTHINK, "<answer>{}</answer>"),
        (THINK, "<think>the {} is small</think><answer> {}</answer>"),
        (AFTER, "<answer>{}</answer><think>as the rim is bright</think>"),
        (RAW, "{}"),
    ],
)
def test_it_is_what_a_plain_forward_of_each_row_says(vlm, oracle, strategy, form):
    texts = [[form.format(option, option) for option in row.options] for row in ROWS]
    found = scored(vlm, texts, strategy=strategy)
    for row, group, scores in zip(ROWS, texts, found, strict=True):
        for text, score in zip(group, scores, strict=True):
            assert score == pytest.approx(expected(vlm, oracle, row, text, strategy), abs=1e-5)
    flat = [score for scores in found for score in scores]
    assert len({round(score, 6) for score in flat}) > 6  # the oracle has something to tell apart
    assert max(flat) > 0.2


def test_an_image_that_is_blank_already_gives_exactly_0(vlm):
    blank = [replace(row, images=tuple(map(blank_of, row.images))) for row in ROWS]
    found = scored(vlm, [answered(row) for row in blank], blank)
    assert {score for scores in found for score in scores} == {0.0}


def test_a_model_that_does_not_see_gives_exactly_0():
    """Its merger says the same of every image."""
    blind = loaded()
    for weight in base_model(blind.model).model.visual.merger.parameters():
        weight.data.zero_()
    found = scored(blind, [answered(row) for row in ROWS])
    assert {score for scores in found for score in scores} == {0.0}


class Nothing(FeatureStore):
    """Features of zeros, whatever the image."""

    def of(self, image):
        features = super().of(image)
        return Features(features.grid, torch.zeros_like(features.values_ND))


def test_features_of_zeros_give_exactly_0(vlm):
    store = Nothing(vlm, FeatureSettings(disk_gb=0))
    assert {score for scores in scored(vlm, [answered(row) for row in ROWS], store=store) for score in scores} == {0.0}


def test_the_order_and_the_neighbours_of_completions_change_nothing(vlm):
    texts = [answered(row) for row in ROWS]
    found = scored(vlm, texts)
    assert found != [[0.0] * len(group) for group in texts]
    for micro_tokens in (1, 300):
        for ours, theirs in zip(found, scored(vlm, texts, micro_tokens=micro_tokens), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-9)
    places = [random.Random(number).sample(range(len(group)), len(group)) for number, group in enumerate(texts)]
    mixed = scored(vlm, [[group[k] for k in order] for group, order in zip(texts, places, strict=True)])
    for scores, others, order in zip(found, mixed, places, strict=True):
        assert [scores[k] for k in order] == pytest.approx(others, abs=1e-9)
    alone = scored(vlm, texts[2:3], ROWS[2:3])
    assert alone[0] == pytest.approx(found[2], abs=1e-9)


def test_completions_that_are_alike_score_exactly_alike(vlm):
    text = f"<answer>{ROWS[0].golds[0]}</answer>"
    (scores,) = scored(vlm, [[text, f"<answer>{ROWS[0].options[0]}</answer>", text, text]], ROWS[:1])
    assert scores[0] == scores[2] == scores[3] > 0


def test_what_stands_behind_the_answer_does_not_matter(vlm):
    """Think-after: a token sees only what stands before it."""
    short, long = "<answer>liver</answer><think>a</think>", "<answer>liver</answer><think>a bright rim of the liver</think>"
    (scores,) = scored(vlm, [[short, long]], ROWS[:1], AFTER)
    assert scores[0] == scores[1]


def test_without_an_answer_the_score_is_0_and_without_an_image_there_is_none(vlm):
    cut = sampled_of(vlm, "<answer>liver</ans", ends=False)
    texts = ["no tags", "<answer></answer>", "<answer>liver</answer> and more", cut, "<answer>liver</answer>"]
    with_image, without = scored(vlm, [texts, texts], [ROWS[0], replace(ROWS[0], id="text", images=())])
    assert with_image[:4] == [0.0] * 4  # None would take them out of their group, and leave their form unpunished
    assert with_image[4] is not None
    assert without == [None] * 5
    assert scored(vlm, [["no tags"]], ROWS[:1]) == [[0.0]]


def test_each_row_is_blanked_by_its_own_image(vlm):
    """A row that is left out moves no other's image."""
    good = f"<answer>{ROWS[1].golds[0]}</answer>"
    beside, alone = scored(vlm, [["no tags"], [good]], ROWS[:2])[1], scored(vlm, [[good]], ROWS[1:2])[0]
    assert ROWS[0].images != ROWS[1].images
    assert beside == pytest.approx(alone, abs=1e-9)
    assert beside[0] > 0


def test_weights_and_gradients_are_left_alone(vlm):
    vlm.model.requires_grad_(True)
    before = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    scored(vlm, [answered(ROWS[0])], ROWS[:1])
    assert all(torch.equal(weight, before[name]) for name, weight in vlm.model.state_dict().items())
    assert all(weight.grad is None for weight in vlm.model.parameters())


@given(gain=st.floats(-1e3, 1e3))
def test_the_scale_runs_from_0_to_1(gain):
    assert 0 <= reliance(gain) <= 1
    assert (reliance(gain) == 0) == (gain <= 0)
    assert reliance(math.log(2)) == pytest.approx(0.5)
    assert reliance(gain) <= reliance(gain + 1)


# --- which tokens are the answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "completion", "answer"),
    [
        (NOTHINK, "<answer> liver </answer>", "liver"),
        (THINK, "<think>liver or liver</think><answer>liver</answer>", "liver"),
        (THINK, "<think>a</think>\n<answer>\nanswer\n</answer>", "answer"),
        (AFTER, "<answer>B</answer><think>B it is</think>", "B"),
        (RAW, "  the liver. ", "the liver."),
    ],
)
def test_the_span_is_the_answers(strategy, completion, answer):
    start, end = answer_span(strategy, completion)
    assert completion[start:end] == answer
    assert completion[:start].count("<answer>") == strategy.tagged


@pytest.mark.parametrize(
    ("strategy", "completion"),
    [(NOTHINK, "liver"), (NOTHINK, "<answer> </answer>"), (THINK, "<answer>B</answer>"), (RAW, "  ")],
)
def test_no_strict_answer_has_no_span(strategy, completion):
    assert answer_span(strategy, completion) is None


class Bytes:
    """A tokenizer whose tokens are so many bytes of UTF-8 each; a character cut in two decodes to the replacement character."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids, skip_special_tokens):
        return b"".join(self.pieces[n] for n in ids).decode("utf-8", errors="replace")


@given(
    text=st.text(alphabet="ab é的🫀", min_size=1, max_size=12),
    sizes=st.lists(st.integers(1, 5), min_size=48, max_size=48),
    ends=st.tuples(st.integers(0, 11), st.integers(1, 12)),
)
def test_a_token_counts_where_one_of_its_bytes_is_the_answers(text, sizes, ends):
    """Tokens of single bytes up to several characters, against a table of whose byte is whose."""
    start = min(ends[0], len(text) - 1)
    end = min(start + ends[1], len(text))
    pieces, left = [], text.encode()
    for size in sizes:
        if left:
            # a token may hold a part of one character, or whole ones: tokenizers of bytes cut no otherwise
            whole = next(n for n in range(1, len(left) + 1) if (left[n : n + 1] or b"a")[0] & 0xC0 != 0x80)
            pieces.append(left[: min(size, whole) if size < whole else whole])
            left = left[len(pieces[-1]) :]
    owners = [at for at, character in enumerate(text) for _ in character.encode()]
    bounds = [sum(map(len, pieces[:n])) for n in range(len(pieces) + 1)]
    wanted = [n for n in range(len(pieces)) if any(start <= owner < end for owner in owners[bounds[n] : bounds[n + 1]])]
    found = answer_tokens(
        Bytes(pieces), list(range(len(pieces))), b"".join(pieces).decode("utf-8", errors="replace"), (start, end)
    )
    assert list(found) == wanted


def test_the_embedded_tokenizers_tokens_spell_the_answer(vlm):
    tokenizer = vlm.processor.tokenizer
    for answer in ("liver", "left upper", "Stage II.", "的", "naïve ☤"):
        sampled = sampled_of(vlm, f"<answer>{answer}</answer>")
        text = completion_of(vlm, sampled).text
        tokens = answer_tokens(tokenizer, sampled.ids, text, answer_span(NOTHINK, text))
        assert tokenizer.decode(sampled.ids[tokens.start : tokens.stop]).strip("<>/") == answer


# --- in the engine ---------------------------------------------------------------------------------------------------


def engine(weight=0.5):
    rewards = [{"name": "accuracy"}, {"name": "visual_reliance", "weight": weight}]
    settings = {"G": 2, "prompts_per_step": 2, "max_tokens": 12}
    recipe = Recipe.model_validate(
        {"model": "tiny", "answer_form": "text", "strategy": "nothink_raw", "rewards": rewards, "rollout": settings}
        | {"objective": {"beta": 0.0}, "lora": {"r": 2}, "lr": 1e-2, "max_steps": 2, "dtype": "float32"}
    )
    return Engine(recipe, load_policy("tiny", dtype="float32"), ROWS, RAW, grader("text"))


def test_the_engine_scores_with_the_weights_that_sample():
    """With the adapter moved, and folded in: as with the adapter beside the weights."""
    one = engine()
    for name, weight in one.learner.vlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
    with one.learner.sampling():
        batch, _, metrics = one.roller.draw()
    found = [row["rewards"]["visual_reliance"] for group in batch.groups for row in group.scored]
    groups = batch.groups
    parts = [group.sample for group in groups], [group.prompt for group in groups], [group.sampled for group in groups]
    again = [one[VISUAL_RELIANCE] for group in one.reliance(*parts) for one in group]
    assert found == pytest.approx(again, abs=1e-4)
    assert metrics["rewards/visual_reliance"] == pytest.approx(sum(found) / len(found))
    assert max(found) > 0
    with one.learner.vlm.model.disable_adapter():
        start = [one[VISUAL_RELIANCE] for group in one.reliance(*parts) for one in group]
    assert found != pytest.approx(start, abs=1e-3)


def test_a_step_is_made_and_blanks_go_through_the_tower_beforehand():
    one = engine()
    assert one.store.holds([blank_of(image) for row in ROWS for image in row.images])
    metrics, rows = one.step()
    assert {"rewards/visual_reliance", "reward_s"} <= set(metrics)
    for row in rows:
        assert row["reward"] == pytest.approx(row["rewards"]["accuracy"] + 0.5 * row["rewards"]["visual_reliance"], abs=1e-4)


def test_nothing_is_measured_where_no_reward_asks_for_it():
    plain = Recipe.model_validate(
        {"model": "tiny", "rollout": {"G": 2, "prompts_per_step": 2}, "max_steps": 1, "lora": {"r": 2}}
    )
    one = Engine(plain, load_policy("tiny", dtype="float32"), ROWS, THINK, grader("text"))
    assert one.reliance is None
    assert one.roller.measure is None
