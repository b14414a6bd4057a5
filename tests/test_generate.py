"""Completions against transformers' own: its greedy `generate`, and its forward of each sampled row alone, on a second copy of
the model. The model is the embedded tiny one: it is trained, so what it says depends on image, question and every token."""

import itertools
import random
from functools import partial

import pytest
import torch
from peft import get_peft_model
from transformers import GenerationConfig

from osler.config import FeatureSettings, LoraSettings
from osler.datasets.phantoms import samples
from osler.images import open_image
from osler.model import decoding, generate
from osler.model.adapters import lora_config
from osler.model.attention import NAME, language_model
from osler.model.decoding import Decoder, Slots
from osler.model.family import VLM
from osler.model.features import FeatureStore
from osler.model.generate import Generator, Request, greedy
from osler.model.load import load_policy
from osler.model.merged import SideCopy
from osler.model.packing import Group, PackedPolicy, pack
from osler.model.prompts import begun, encode, processor_inputs
from osler.model.sampling import Sampling
from osler.strategies import STRATEGIES

MAX_TOKENS = 24
TEMPERATURE = 0.8
SEEDS = 3  # completions a prompt


def prompts():
    """Eight prompts, the shortest first: bare questions and longer instructions, with one image, two or none."""
    rows = list(samples(0, {"train": 8}))[15:24]
    bare = [(row.question, [open_image(image) for image in row.images]) for row in rows]
    instructed = [(STRATEGIES["think"].question(row, "text"), bare[n][1]) for n, row in enumerate(rows)]
    text, images = bare[1]
    return [(text, []), *bare[3:6], bare[8], (text, images * 2), *instructed[6:8]]


PROMPTS = prompts()


@pytest.fixture(scope="module")
def vlm():
    """In float64: what differs is then more than noise."""
    return loaded(torch.float64)


@pytest.fixture(scope="module")
def oracle():
    """The same model, for transformers alone."""
    return loaded(torch.float64).model


@pytest.fixture(scope="module")
def requests(vlm):
    return requests_of(vlm)


def loaded(dtype):
    vlm = load_policy("tiny", dtype="float32")
    vlm.model.to(dtype)
    return vlm


def encoded(vlm, prompts):
    store = FeatureStore(vlm, FeatureSettings(disk_gb=0))
    return [encode(vlm, store, prompt) for prompt in prompts]


def requests_of(vlm):
    return [Request(one, tuple(range(10 * n, 10 * n + SEEDS))) for n, one in enumerate(encoded(vlm, PROMPTS))]


def sampling_of(vlm):
    return Sampling(TEMPERATURE, top_p=0.95, top_k=30, banned=tuple(vlm.banned_ids))


def rolled(vlm, requests, sampling=None, rows=64, max_tokens=MAX_TOKENS, captured=None):
    """{(request, completion): sampled}"""
    generator = Generator(vlm, sampling or sampling_of(vlm), max_tokens, rows, captured)
    return {(request, completion): sampled for request, completion, sampled in generator.run(requests)}


def ids_of(found):
    return {key: sampled.ids for key, sampled in found.items()}


def assert_same(found, expected, tolerance=1e-7):
    assert ids_of(found) == ids_of(expected)
    for key, sampled in expected.items():
        assert found[key].logps == pytest.approx(sampled.logps, rel=0, abs=tolerance)
        assert found[key].truncated == sampled.truncated


def counted(monkeypatch, owner, name, seen):
    """Let `owner.name` also call `seen` with its arguments."""
    original = getattr(owner, name)

    def call(*args):
        seen(*args)
        return original(*args)

    monkeypatch.setattr(owner, name, call)


def test_greedy_completions_are_those_of_transformers(vlm, oracle, monkeypatch):
    """Three slots for eight prompts, and slots that must grow while rows live in them, as later prompts are longer."""
    growths = []
    monkeypatch.setattr(generate, "STRIDE", 1)
    counted(monkeypatch, Slots, "grown", lambda slots, *_: growths.append(int(slots.filled_B.max())))
    found = rolled(vlm, (Request(one, (0,)) for one in encoded(vlm, PROMPTS)), greedy(vlm), rows=3)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_TOKENS,
        suppress_tokens=vlm.banned_ids,
        eos_token_id=vlm.end_ids,
        pad_token_id=vlm.processor.tokenizer.pad_token_id,
    )
    for number, prompt in enumerate(PROMPTS):
        inputs = processor_inputs(vlm, [prompt])
        assert language_model(oracle).config._attn_implementation != NAME
        expected = oracle.generate(**inputs, generation_config=config)[0, inputs["input_ids"].shape[1] :].tolist()
        assert found[number, 0].ids == expected
        assert found[number, 0].truncated == (expected[-1] not in vlm.end_ids)
    assert len({len(one.ids) for one in found.values()}) > 2  # slots fell free at different times
    assert growths
    assert min(growths) > 0


def teacher_forced(oracle, vlm, prompt, ids):
    """transformers' log-probs of the tokens `ids` behind `prompt`, that row alone."""
    inputs = processor_inputs(vlm, [prompt])
    images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
    row = torch.cat([inputs["input_ids"][0], torch.tensor(ids)])[None]
    oracle.model.rope_deltas = None  # of the row before
    types = (row == vlm.processor.image_token_id).int()
    with torch.no_grad():
        logits = oracle(input_ids=row, mm_token_type_ids=types, use_cache=False, **images).logits[0, -len(ids) - 1 : -1]
    return (logits / TEMPERATURE).log_softmax(-1).gather(-1, row[0, -len(ids) :, None])[:, 0].tolist()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-7)], ids=["fp32", "fp64"])
def test_log_probs_of_samples_are_those_of_teacher_forcing(dtype, tolerance):
    vlm, oracle = loaded(dtype), loaded(dtype).model
    found = rolled(vlm, requests_of(vlm), rows=5)
    close = partial(pytest.approx, rel=tolerance, abs=tolerance)
    for number, request in enumerate(requests_of(vlm)):
        sampled = [found[number, completion] for completion in range(SEEDS)]
        packed = pack([Group(request.prompt, [torch.tensor(one.ids) for one in sampled])], vlm.processor.image_token_id)
        with torch.no_grad():
            logps_RT, _ = PackedPolicy(vlm.model, TEMPERATURE)(packed)
        for one, logps_T in zip(sampled, logps_RT.tolist(), strict=True):
            assert logps_T[: len(one.ids)] == close(one.logps)
            assert teacher_forced(oracle, vlm, PROMPTS[number], one.ids) == close(one.logps)
    assert min(min(one.logps) for one in found.values()) < -2  # some were unlikely: the filters took nothing from log-probs


def test_a_rollout_depends_on_its_prompt_and_seed_alone(vlm, requests):
    together = rolled(vlm, requests)
    for rows in (1, 3):
        assert_same(rolled(vlm, requests, rows=rows), together)
    order = random.Random(0).sample(range(len(requests)), len(requests))
    shuffled = rolled(vlm, [requests[number] for number in order], rows=3)
    assert_same({(order[place], completion): one for (place, completion), one in shuffled.items()}, together)
    alone = rolled(vlm, [Request(requests[2].prompt, requests[2].seeds[1:2])])
    assert_same({(2, 1): alone[0, 0]}, {(2, 1): together[2, 1]})
    other = rolled(vlm, [Request(requests[2].prompt, (1000, 1001, 1002))])
    assert len({tuple(one.ids) for one in other.values()} | {tuple(together[2, n].ids) for n in range(3)}) == 6


def test_a_run_that_was_left_has_no_effect_on_the_next(vlm, requests):
    generator = Generator(vlm, sampling_of(vlm), MAX_TOKENS, rows=4)
    assert len(list(itertools.islice(generator.run(requests), 3))) == 3
    again = list(generator.run(requests[4:]))
    assert len(again) == 4 * SEEDS
    assert_same({(request, completion): sampled for request, completion, sampled in again}, rolled(vlm, requests[4:]))


def test_a_prompt_is_prefilled_once_for_all_its_completions(vlm, requests):
    shapes = []

    def hook(module, args, kwargs):
        shapes.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    handle = language_model(vlm.model).register_forward_pre_hook(hook, with_kwargs=True)
    rolled(vlm, requests, rows=2)  # fewer slots than completions of a prompt
    handle.remove()
    assert sum(S for _, S in shapes if S > 1) == sum(request.prompt.length for request in requests)
    assert {(B, S) for B, S in shapes if S == 1} == {(1, 1), (2, 1)}


def with_lora(vlm):
    """`vlm` with a LoRA that changes what it says."""
    model = get_peft_model(vlm.model, lora_config(vlm, LoraSettings(r=4, alpha=8))).eval()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return VLM(vlm.name, model, vlm.processor, vlm.family)


def bits(model):
    return {name: weight.detach().clone().view(torch.uint8) for name, weight in model.named_parameters()}


def test_the_side_copy_says_what_the_adapted_model_says(requests, vlm):
    adapted = with_lora(loaded(torch.float64))
    before = bits(adapted.model)
    trainable = [name for name, weight in adapted.model.named_parameters() if weight.requires_grad]
    expected = rolled(adapted, requests)
    side = SideCopy(adapted.model)
    side.refresh()
    with side.worn():
        assert not [name for name, weight in adapted.model.named_parameters() if weight.requires_grad]
        assert_same(rolled(adapted, requests), expected)
    assert ids_of(expected) != ids_of(rolled(vlm, requests))  # the adapter matters
    after = bits(adapted.model)
    assert all(torch.equal(after[name], stored) for name, stored in before.items())
    assert [name for name, weight in adapted.model.named_parameters() if weight.requires_grad] == trainable != []
    assert_same(rolled(adapted, requests), expected, tolerance=0)


def test_the_base_in_bf16_never_drifts():
    adapted = with_lora(loaded(torch.bfloat16))
    frozen = {name: stored for name, stored in bits(adapted.model).items() if "lora_" not in name}
    side = SideCopy(adapted.model)
    for step in range(30):
        for name, weight in adapted.model.named_parameters():
            weight.data += 0.01 * step * ("lora_B" in name)
        side.refresh()
        with side.worn():
            pass
    after = bits(adapted.model)
    assert all(torch.equal(after[name], stored) for name, stored in frozen.items())
    for linear, copy in zip(side.linears, side.copies, strict=True):
        A, B = (part["default"].weight.detach().float() for part in (linear.lora_A, linear.lora_B))
        exact = linear.base_layer.weight.float() + linear.scaling["default"] * B @ A
        assert (copy - exact).abs().max() <= exact.abs().max() * 2**-8  # rounded once
        assert not torch.equal(copy, linear.base_layer.weight)


def test_banned_tokens_never_come_and_ends_do(vlm, requests):
    asked = [Request(request.prompt, tuple(range(40))) for request in requests[:2]]
    wild = partial(rolled, vlm, asked, max_tokens=30)
    found = list(wild(Sampling(temperature=30.0, banned=tuple(vlm.banned_ids))).values())
    said = {token for one in found for token in one.ids}
    assert said.isdisjoint(vlm.banned_ids)
    for one in found:
        assert one.truncated == (one.ids[-1] not in vlm.end_ids)
        assert not set(one.ids[:-1]) & set(vlm.end_ids)
        assert len(one.ids) == len(one.logps) == 30 if one.truncated else len(one.ids) <= 30
    assert {one.truncated for one in found} == {True, False}
    free = wild(Sampling(temperature=30.0))
    assert {token for one in free.values() for token in one.ids} & set(vlm.banned_ids)  # so the ban is what keeps them away


def all_but(vlm, *tokens):
    """Sampling in which only `tokens` are open."""
    vocabulary = language_model(vlm.model).embed_tokens.weight.shape[0]
    return Sampling(temperature=50.0, banned=tuple(set(range(vocabulary)) - set(tokens)))


def test_completions_of_one_token(vlm, requests):
    cut = rolled(vlm, requests, max_tokens=1, rows=3)
    assert_same(cut, {key: cut_after_one(one, vlm) for key, one in rolled(vlm, requests).items()})
    assert len(cut) == 24
    ended = rolled(vlm, requests, all_but(vlm, *vlm.end_ids), rows=3)
    assert {(len(one.ids), one.truncated) for one in ended.values()} == {(1, False)}
    some = all_but(vlm, vlm.end_ids[0], 400)  # about half of them end at once, the others live on
    mixed = rolled(vlm, requests, some, rows=3)
    assert {len(one.ids) for one in mixed.values()} > {1, 2, 3}
    assert_same(mixed, rolled(vlm, requests, some))


def cut_after_one(sampled, vlm):
    return generate.Sampled(sampled.ids[:1], sampled.logps[:1], sampled.ids[0] not in vlm.end_ids)


@pytest.mark.parametrize("max_tokens", [MAX_TOKENS, 1])
def test_requests_are_read_as_they_are_needed(vlm, requests, max_tokens):
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield requests[number % len(requests)]

    run = Generator(vlm, sampling_of(vlm), max_tokens, rows=6).run(endless())
    assert len(list(itertools.islice(run, 30))) == 30
    assert len(read) <= (30 + 6) // 3 + 2


def test_completions_come_in_the_order_of_their_prompts(vlm):
    found = list(generate.generate(vlm, PROMPTS, MAX_TOKENS, rows=2))
    one_by_one = [next(generate.generate(vlm, [prompt], MAX_TOKENS)) for prompt in PROMPTS]
    assert found == one_by_one
    assert len({one.tokens for one in found}) > 1
    for one in found:
        assert "<|" not in one.text
        assert len(vlm.processor.tokenizer(one.text)["input_ids"]) == one.tokens - (not one.truncated)


def eager_capture(decoder, live, span):
    """What Decoder._capture does on a GPU, without one: a warm-up whose traces are set back, then the step itself."""
    kept = decoder.slots.state()
    decoder._step(live, span)
    decoder.slots.restore(kept)
    return lambda: decoder._step(live, span)


def test_the_captured_decode_says_the_same(vlm, requests, monkeypatch):
    """Bursts of eight steps, live rows rounded up to powers of two, rows that run on unread, and slots as short as can be."""
    asked = [*requests, *(Request(requests[-1].prompt, (seed,)) for seed in range(200, 206))]  # the last ones fill their slots
    said = partial(rolled, vlm, asked, rows=6, max_tokens=20)  # 20 is no whole number of bursts: rows overrun it
    expected = said()
    monkeypatch.setattr(generate, "STRIDE", 1)
    monkeypatch.setattr(decoding, "SPAN", 8)
    monkeypatch.setattr(Decoder, "_capture", eager_capture)
    steps, looks, beyond = [], [], []
    counted(monkeypatch, Decoder, "_step", lambda decoder, live, span: steps.append((live, span)))
    counted(monkeypatch, Generator, "_decode", lambda generator: looks.append(len(generator._live)))
    counted(
        monkeypatch, Slots, "advance", lambda slots, *_: beyond.append(int(slots.filled_B[: slots.live].max()) - slots.length)
    )
    assert_same(said(captured=True), expected)
    assert {4, 6} <= {live for live, _ in steps} <= {1, 2, 4, 6}
    assert len(set(steps)) > 8  # of several spans
    assert len(steps) > 4 * len(looks)
    assert (-1, -1) in itertools.pairwise(beyond)  # a row at the end of its slot went on, and on
    assert sum(looks) < sum(len(one.ids) for one in expected.values()) < sum(live for live, _ in steps)


def test_a_burst_stops_where_nothing_is_left_to_say(vlm, requests, monkeypatch):
    steps = []
    monkeypatch.setattr(Decoder, "_capture", eager_capture)
    counted(monkeypatch, Slots, "advance", lambda *_: steps.append(1))
    found = rolled(vlm, [Request(requests[0].prompt, (0,))], all_but(vlm, 400), max_tokens=11, captured=True)
    assert found[0, 0].ids == [400] * 11
    assert found[0, 0].truncated
    assert len(steps) == 10 + 1  # its first token is the prefill's; one step is the warm-up


def test_prompts_that_repeat_are_sampled_anew_and_prefilled_once(vlm, monkeypatch):
    seen = []
    counted(monkeypatch, generate, "encode", lambda *given: seen.append(given))
    asked = [prompt for prompt in PROMPTS[3:5] for _ in range(4)]

    def said(seed, rows):
        made = generate.generate(vlm, iter(asked), MAX_TOKENS, rows, temperature=TEMPERATURE, seed=seed)
        return [completion.text for completion in made]

    once = said(0, 64)
    assert len(seen) == 2
    assert said(0, 3) == once  # whoever decodes beside it
    assert said(1, 64) != once
    assert len(set(once[:4])) > 1
    assert len(once) == len(asked)


@pytest.mark.parametrize("said", [1, 5, MAX_TOKENS - 1])
def test_a_completion_that_is_begun_with_what_the_model_says_goes_on_as_it_would(vlm, requests, said):
    whole = rolled(vlm, [Request(one.prompt, (0,)) for one in requests], greedy(vlm))
    longer = {key: one for key, one in whole.items() if len(one.ids) > said}
    asked = [Request(begun(requests[number].prompt, longer[number, 0].ids[:said]), (0,)) for number, _ in sorted(longer)]
    rest = rolled(vlm, asked, greedy(vlm), rows=3, max_tokens=MAX_TOKENS - said)
    assert len(rest) == len(longer) > 1
    for at, key in enumerate(sorted(longer)):
        assert rest[at, 0].ids == longer[key].ids[said:]
        assert rest[at, 0].logps == pytest.approx(longer[key].logps[said:], rel=0, abs=1e-7)
        assert rest[at, 0].truncated == longer[key].truncated


def test_what_a_completion_begins_with_is_read_by_the_model_and_not_repeated(vlm):
    text, images = PROMPTS[1]
    plain, *forced = generate.generate(vlm, [(text, images), *((text, images, begin) for begin in STARTS)], MAX_TOKENS)
    assert len({plain.text, *(one.text for one in forced)}) == 1 + len(STARTS)
    for begin, one in zip(STARTS, forced, strict=True):
        assert begin not in one.text
        ids = vlm.processor.tokenizer(begin)["input_ids"]
        (alone,) = rolled(vlm, [Request(begun(*encoded(vlm, [PROMPTS[1]]), ids), (0,))], greedy(vlm)).values()
        assert one == generate.completion_of(vlm, alone)


STARTS = ("<answer>melanoma</answer><think>", "The modality is", "The anatomy is the")


@pytest.mark.parametrize("answer", ["B", "brain tumor", "yes", "upper left"])
@pytest.mark.parametrize("thought", ["The modality is CT.", "dark", " x", "\nno"])
def test_a_completion_is_begun_between_two_tokens(vlm, answer, thought):
    tokens = vlm.processor.tokenizer.tokenize
    begun_with = STRATEGIES["think_after"].begun(answer)
    assert tokens(begun_with + thought) == tokens(begun_with) + tokens(thought)
    assert tokens(begun_with)[-2:] == ["</answer>", "<think>"]
