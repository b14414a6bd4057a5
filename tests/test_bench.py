"""Counting by hand, lengths that are kept, a clock that adds up, parity that can fail; and all of `osler bench`, small."""

import json
import subprocess
import sys

import pytest
import torch

from osler import memory
from osler.bench import compare, rounds, worker
from osler.bench.engines import ForcedEnds, Packed, Phases, Trl
from osler.bench.limits import Size, decode_bytes, packed_tokens, size_of, update_flops
from osler.bench.parity import parity
from osler.bench.rounds import Rounds, cuts, enough_memory, rows_a_forward, worth_trying
from osler.bench.worker import OUT_OF_MEMORY, OutOfMemory, run_job, work
from osler.bench.workload import Lengths, Workload, build, models, random_policy, raw_config, script, settings_of
from osler.cli import app
from osler.cli.output import print_table
from osler.errors import OslerError, RecipeError
from osler.model.features import FeatureStore
from osler.model.prompts import Encoded

SMALL = {"image_px": 112, "prompt_tokens": 90, "completion": "2..6", "G": 2, "groups": 2, "rounds": 1}
LENGTHS = [[3, 1], [2, 6]]


@pytest.fixture
def small(tmp_path):
    return Workload(settings_of(**SMALL), tmp_path)


# counting


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("qwen2-vl-2b", 2_208_985_600),
        ("qwen2-vl-7b", 8_291_375_616),
        ("qwen2.5-vl-3b", 3_754_622_976),
        ("qwen2.5-vl-7b", 8_292_166_656),
    ],
)
def test_shipped_configurations_have_the_published_number_of_parameters(name, total):
    assert parameters(name)[0] == total


def parameters(name):
    """How many there are in all, and in the vision tower and its merger."""
    with torch.device("meta"):
        model = build(raw_config(name), torch.bfloat16)
    return [sum(weight.numel() for weight in part.parameters()) for part in (model, model.model.visual)]


def test_the_parts_of_a_2b_counted_by_hand():
    D, kv, mlp, vocabulary, layers = 1536, 2 * 128, 8960, 151_936, 28
    attention = (D * D + D) + 2 * (D * kv + kv) + D * D
    size = size_of("qwen2-vl-2b")
    assert size.layers == layers * (attention + 3 * D * mlp + 2 * D) + D
    assert size.head == vocabulary * D
    assert size.kv == layers * 2 * kv
    total, vision = parameters("qwen2-vl-2b")
    assert vision == 665_271_296
    assert total == size.layers + size.head + vision  # the head is tied: its weights are the embeddings


def test_an_untied_head_is_read_as_well():
    size, (total, vision) = size_of("qwen2-vl-7b"), parameters("qwen2-vl-7b")
    assert total == size.layers + 2 * size.head + vision


SIZE = Size(layers=10, head=3, kv=2)


def test_decode_reads_the_weights_once_a_step_and_each_rows_cache():
    """Prompt 10, lengths 1 and 3: two decode steps, in which one row sees 11 and then 12 places."""
    assert decode_bytes(SIZE, 10, [1, 3], element_bytes=2) == 2 * (2 * 13 + 2 * (11 + 12))
    assert decode_bytes(SIZE, 10, [1, 1], element_bytes=2) == 0


def test_flops_of_an_update():
    assert packed_tokens(10, [[1, 3], [2, 2]]) == 28
    assert update_flops(SIZE, packed_tokens=7, scored_tokens=2) == 4 * 7 * 10 + 4 * 2 * 3


# what is asked for


def test_lengths_are_fixed_or_drawn_again_the_same():
    assert Lengths.parse("64").draw(2, 3, seed=0) == [[64] * 3] * 2
    drawn = Lengths.parse("80..256").draw(50, 40, seed=1)
    flat = [length for lengths_G in drawn for length in lengths_G]
    assert drawn == Lengths.parse("80..256").draw(50, 40, seed=1) != Lengths.parse("80..256").draw(50, 40, seed=2)
    assert min(flat) >= 1
    assert max(flat) == 256
    assert sum(flat) / len(flat) == pytest.approx(
        80 * (1 - 2.718281828 ** (-256 / 80)), rel=0.06
    )  # the mean of what is cut off


@pytest.mark.parametrize("text", ["0", "-4", "80..", "..80", "300..256", "1.5", "64 ", ""])
def test_what_is_no_length_is_refused(text):
    with pytest.raises(RecipeError, match="no length"):
        Lengths.parse(text)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engines": ("packd",)}, "unknown engine 'packd'. Did you mean 'packed'"),
        ({"model": "qwen2-vl-3b"}, "unknown model configuration 'qwen2-vl-3b'. Did you mean 'qwen2.5-vl-3b'"),
        ({"G": 1}, "G=1"),
        ({"rounds": 0}, "rounds=0"),
        ({"image_px": 20}, "image_px=20"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"completion": "many"}, "completion='many'"),
        ({"beta": -0.1}, "beta=-0.1"),
        ({"prompt_tokens": 32_769}, "prompt_tokens=32769"),
    ],
)
def test_bad_settings_are_named(options, says):
    with pytest.raises(RecipeError, match=says.replace(".", r"\.").replace("?", r"\?")):
        settings_of(**options)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--engines", "trl,nothing"], "unknown engine 'nothing'"),
        (["--engines", "unsloth"], "nothing to measure"),
        (["--image-px", "448", "--prompt-tokens", "100"], "prompt_tokens=100 is too few: an image of 448 px"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(arguments, says, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["osler", "bench", "--json", *arguments])
    with pytest.raises(SystemExit) as end:
        app.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert says in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_has_the_tokens_asked_for_and_256_of_them_are_the_image(tmp_path):
    default = Workload(settings_of(), tmp_path)
    vlm = default.load()
    assert default.image_tokens(vlm) == 256
    assert 386 <= default.prompt_length(vlm) <= 390


def test_a_real_size_keeps_its_vocabulary_and_takes_the_embedded_tokenizers_ids(monkeypatch, tmp_path):
    """Random weights of the real layout, shrunk so that a test can hold them."""
    shrunk = raw_config("qwen2-vl-2b") | {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    shrunk |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    }
    shrunk["vision_config"] = shrunk["vision_config"] | {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64}
    monkeypatch.setattr("osler.bench.workload.raw_config", lambda name: shrunk)
    real = Workload(settings_of(**SMALL, model="qwen2-vl-2b"), tmp_path)
    packed = Packed(real, 4)
    packed.step(LENGTHS)
    model = packed.engine.learner.vlm.model
    assert model.get_input_embeddings().weight.shape[0] == 151_936
    assert model.config.image_token_id == packed.engine.learner.vlm.processor.image_token_id < 1000
    assert packed.engine.batch.lengths == [3, 1, 2, 6]
    assert packed.engine.batch.groups[0].spread


# the engines


def test_rewards_spread_in_every_group_even_if_all_completions_are_alike():
    made = script()
    groups = [[next(made) for _ in range(8)] for _ in range(1000)]
    assert all(len(set(group)) == 8 and min(group) >= 0 and max(group) < 1 for group in groups)


def test_packed_completions_end_where_they_are_told_to(small):
    packed = Packed(small, 4)
    for lengths in (LENGTHS, [[6, 6], [1, 1]]):
        phases = packed.step(lengths)
        batch = packed.engine.batch
        assert batch.lengths == [length for lengths_G in lengths for length in lengths_G]
        assert not {token for group in batch.groups for one in group.sampled for token in one.ids} & packed.generator.ends
        assert all(group.spread for group in batch.groups)
        assert phases.rollout_s + phases.reference_s + phases.update_s + phases.other_s == pytest.approx(phases.step_s)
        assert 0 <= phases.decode_s < phases.rollout_s
        assert 0 < phases.processor_s < 1.1 * phases.step_s  # one thread
        assert min(phases.reference_s, phases.update_s) > 0


@pytest.mark.parametrize(("rows", "by_group", "generated"), [(4, False, [4]), (2, True, [2, 2]), (1, True, [2, 2])])
def test_trls_completions_end_at_the_same_lengths(small, rows, by_group, generated):
    """A forward may take a part of a group; what is generated at a time is a whole one."""
    lengths, forwards, made = [], [], []
    with Trl(small, rows, by_group) as trl:
        own, generate = trl.trainer._compute_loss, trl.trainer._generate

        def spying(model, inputs):
            lengths.extend(inputs["completion_mask"].sum(1).tolist())
            forwards.append(len(inputs["completion_mask"]))
            return own(model, inputs)

        trl.trainer._compute_loss = spying
        trl.trainer._generate = lambda prompts: made.append(len(prompts)) or generate(prompts)
        for step in (LENGTHS, [[6, 6], [1, 1]]):
            for seen in (lengths, forwards, made):
                seen.clear()
            phases = trl.step(step)
            assert sorted(lengths) == sorted(length for lengths_G in step for length in lengths_G)
            assert (forwards, made) == ([rows] * (4 // rows), generated)
            assert phases.rollout_s + phases.reference_s + phases.update_s + phases.other_s == pytest.approx(phases.step_s)
            assert min(phases.rollout_s, phases.reference_s, phases.update_s, phases.other_s) > 0
            assert 0 < phases.processor_s < 1.1 * phases.step_s
            assert trl.trainer.state.log_history == [] or trl.trainer.state.log_history[-1]["frac_reward_zero_std"] == 0


def test_an_end_is_banned_before_its_time_and_forced_at_it():
    force, ids = ForcedEnds(torch.tensor([1, 2]), [5, 3]), torch.zeros(2, 4, dtype=torch.long)
    first = force(ids, torch.zeros(2, 8))
    assert first[0].argmax() == 5
    assert first[0].isinf().sum() == 7
    assert first[1].isinf().nonzero()[:, 0].tolist() == [3, 5]
    assert force(ids, torch.zeros(2, 8))[1].argmax() == 5


def test_rows_a_forward_are_kept_and_groups_are_generated_one_by_one(small, monkeypatch):
    forwards = []
    packed = Packed(small, 2, by_group=True)
    own = packed.engine._packed
    monkeypatch.setattr(packed.engine, "_packed", lambda batch, numbers: forwards.append(len(numbers)) or own(batch, numbers))
    packed.step([[6, 6], [6, 6]])
    assert forwards == [1, 1, 1, 1]  # two for the reference, two for the update
    assert packed.generator.rows == 2
    forwards.clear()
    packed = Packed(small, 4)
    own = packed.engine._packed
    monkeypatch.setattr(packed.engine, "_packed", lambda batch, numbers: forwards.append(len(numbers)) or own(batch, numbers))
    packed.step([[6, 6], [6, 6]])
    assert forwards == [2, 2]
    assert packed.generator.rows == 4


def test_without_the_cache_each_image_goes_through_the_tower_in_each_step(small, monkeypatch):
    computed = []
    own = FeatureStore._compute
    monkeypatch.setattr(FeatureStore, "_compute", lambda store, image: computed.append(image) or own(store, image))
    packed = Packed(small, 4)
    assert len(computed) == 2
    packed.step(LENGTHS)
    assert len(computed) == 2
    packed.step(LENGTHS, cached=False)
    assert len(computed) == 4
    packed.step(LENGTHS)
    assert len(computed) == 4


def test_trls_head_on_completions_only_is_the_same_loss(small):
    losses = []
    for scored_head in (False, True):
        with Trl(small, 4) as trl:
            trl.trainer.on_rollouts = lambda *_: None
            trl.step(LENGTHS, scored_head)
            trl.step(LENGTHS, scored_head)
            losses.append([trl.trainer.state.log_history[0][name] for name in ("loss", "grad_norm", "kl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-6)


def test_what_stops_trl_is_raised_and_nothing_hangs(small):
    def broken(prompts):
        raise ValueError("no prompts today")

    with Trl(small, 4) as trl:
        trl.trainer._tokenize_prompts = broken
        with pytest.raises(ValueError, match="no prompts today"):
            trl.step(LENGTHS)


# how much goes through a forward, and memory that does not suffice


def test_trl_may_cut_a_group_and_packed_may_not():
    settings = settings_of(G=6, groups=2)
    assert rows_a_forward(settings, "packed") == [12, 6]
    assert rows_a_forward(settings, "trl") == [12, 6, 3, 2, 1]
    assert [cuts(G) for G in (2, 7, 8)] == [[1], [1], [4, 2, 1]]
    whole = compare.variants(settings, "packed")
    assert [options["rows_a_forward"] for options in whole.values()] == [12, 6, 6]
    assert compare.variants(settings, "trl").items() > whole.items()
    least = [options for name, options in compare.variants(settings, "trl").items() if name not in whole]
    assert least == [{"rows_a_forward": rows, "by_group": True} for rows in (3, 2, 1)]


@pytest.mark.parametrize(
    ("tried", "rows", "wanted"),
    [
        ({}, 32, True),
        ({32: OUT_OF_MEMORY}, 16, True),
        ({32: 9.0}, 16, False),
        ({32: 9.0}, 8, True),
        ({32: 9.0, 8: 8.0}, 4, True),  # fewer were faster
        ({32: 8.0, 8: 9.0}, 4, False),
        ({32: 9.0, 8: 8.0, 4: 8.5}, 2, False),
        ({32: OUT_OF_MEMORY, 8: OUT_OF_MEMORY}, 4, True),  # nothing fits so far
        ({32: OUT_OF_MEMORY, 8: OUT_OF_MEMORY, 4: 7.0}, 2, True),
    ],
)
def test_rows_a_forward_are_tried_while_they_could_be_the_fastest(tried, rows, wanted):
    assert worth_trying(rows, tried, G=8) is wanted


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory.")


def failed_capture(*_, **__):
    """As a CUDA graph fails: memory runs out inside, and ending the capture fails once more."""
    try:
        out_of_memory()
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def in_another_thread(*_, **__):
    try:
        out_of_memory()
    except RuntimeError as error:
        raise RuntimeError("the worker failed") from error


@pytest.mark.parametrize("fails", [out_of_memory, failed_capture, in_another_thread])
def test_memory_that_runs_out_is_known_by_what_an_error_came_of(fails):
    with pytest.raises(OutOfMemory, match="lower groups"), enough_memory("lower groups"):
        fails()


def test_another_error_is_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="no such device"), enough_memory("lower groups"):
        raise RuntimeError("no such device")


class Stub:
    """An engine that fits with at most two rows a forward, else fails as `fails` does; `left` says whether it was left."""

    prepare_s = 0.0

    def __init__(self, fails, rows):
        self.fails, self.rows, self.left = fails, rows, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.left = True

    def step(self, lengths):
        if self.rows > 2:
            self.fails()
        return Phases(1.0 / self.rows, 0.0, 0.0, 0.0, 0.0, processor_s=0.25)


@pytest.fixture
def made_rounds(small):
    """Rounds of which none has been gone through."""
    made = Rounds.__new__(Rounds)
    made.work, made.settings, made.prompt_tokens, made.tick = small, small.settings, 90, lambda what: None
    made.engines, made.notes, made.lengths = {}, [], [LENGTHS]
    return made


@pytest.mark.parametrize("fails", [out_of_memory, failed_capture])
def test_a_setting_that_does_not_fit_is_no_end(made_rounds, fails, monkeypatch):
    monkeypatch.setattr(rounds, "made_engine", lambda name, work, rows: Stub(fails, rows))
    made_rounds.settings = made_rounds.settings.model_copy(update={"threads": 2})
    assert [made_rounds._fastest(name) for name in ("packed", "trl")] == [2, 2]
    tried = {name: found["step_s_by_rows_a_forward"] for name, found in made_rounds.engines.items()}
    assert tried == {"packed": {"4": "out of memory", "2": 0.5}, "trl": {"4": "out of memory", "2": 0.5, "1": 1.0}}


def test_what_else_runs_does_not_choose_the_setting():
    """The stub's step is a second by the clock, and a quarter of the processor's."""
    waiting = Stub(out_of_memory, 1)
    assert rounds.trial_seconds(waiting, LENGTHS, threads=1) == 0.25
    assert rounds.trial_seconds(waiting, LENGTHS, threads=2) == 1.0


def test_an_engine_that_fits_in_no_setting_says_so(made_rounds, monkeypatch):
    monkeypatch.setattr(rounds, "made_engine", out_of_memory)
    with pytest.raises(OutOfMemory, match="trl ran out of memory with 1 rows a forward"):
        made_rounds._fastest("trl")


@pytest.mark.parametrize(
    ("fastest", "says"),
    [
        ({"packed": 2, "trl": 2}, "both engines together do not fit. Name one with --engines"),
        ({"packed": 2}, "packed does not fit any more"),
    ],
)
def test_engines_that_do_not_fit_together_say_what_to_do(made_rounds, fastest, says, monkeypatch):
    for name in ("Packed", "Trl"):
        monkeypatch.setattr(rounds, name, lambda work, rows: Stub(out_of_memory, 4))
    made_rounds.engines = {name: {} for name in fastest}
    with pytest.raises(OutOfMemory, match=says):
        made_rounds._timed(fastest)


def test_limits_that_do_not_fit_are_none_with_a_note(made_rounds, monkeypatch):
    monkeypatch.setattr(rounds, "limits", out_of_memory)
    assert made_rounds._limits(None) is None
    assert "not measured: it ran out of memory" in made_rounds.notes[0]


def test_trl_is_gone_before_the_limits_are_measured(small, monkeypatch):
    packed, trl = Packed.__new__(Packed), Stub(out_of_memory, 2)
    monkeypatch.setattr(rounds, "Packed", lambda *_: packed)
    monkeypatch.setattr(rounds, "Trl", lambda *_: trl)
    monkeypatch.setattr(Rounds, "_fastest", lambda made, name: made.engines.update({name: {}}) or 2)
    monkeypatch.setattr(Rounds, "_warm", lambda *_: None)
    monkeypatch.setattr(Rounds, "_rounds", lambda *_: monkeypatch.setattr(rounds, "torch", FakeCuda))
    monkeypatch.setattr(rounds, "limits", lambda *_: {"trl was left": trl.left})
    made = Rounds(small, ["packed", "trl"], 90, lambda what: None)
    assert made.engines["packed"]["limits"] == {"trl was left": True}


class FakeCuda:
    """As much of torch as is asked once the rounds are over, on a machine with a GPU."""

    class cuda:
        is_available = staticmethod(lambda: True)
        empty_cache = staticmethod(lambda: None)


def test_several_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(compare, "visible_gpus", lambda: 2)
    with pytest.raises(RecipeError, match=r"2 GPUs are visible.* Set CUDA_VISIBLE_DEVICES=0"):
        compare.bench(settings_of(**SMALL))


def test_a_model_of_the_real_size_has_the_type_that_any_model_would_have(monkeypatch):
    asked = []
    monkeypatch.setattr("osler.bench.workload.dtype_of", lambda *given: asked.append(given) or torch.float16)
    monkeypatch.setattr("osler.bench.workload.build", lambda raw, dtype: torch.nn.Linear(1, 1, dtype=dtype))
    assert random_policy("qwen2-vl-2b", "auto", 0).model.weight.dtype == torch.float16
    assert asked == [("auto", "cpu")]


# parity


def test_parity_fails_where_positions_are_wrong(small, monkeypatch):
    right = parity(small)
    assert right["max_abs_dlogp"] < 1e-4
    assert right["max_abs_dlogp_reference"] < 1e-4
    assert right["lora_grad_rel_err"] < 1e-4
    assert right["loss_abs_diff"] < 1e-5
    own = Encoded.next_position.fget
    monkeypatch.setattr(Encoded, "next_position", property(lambda prompt: own(prompt) + 3))
    wrong = parity(small)
    assert wrong["max_abs_dlogp"] > 1e-2
    assert wrong["lora_grad_rel_err"] > 1e-2


# processes of their own


@pytest.mark.parametrize("mark", [True, False], ids=["the kernel's mark", "samples"])
def test_a_peak_is_seen_though_it_is_gone_at_the_end(mark, monkeypatch):
    if not mark:
        monkeypatch.setattr(memory, "_reset_mark", lambda: False)
    with memory.peak_memory("cpu") as found:
        block = bytearray(96 << 20)
        block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
        if not mark:
            import time

            time.sleep(0.1)
        del block
    assert 90 < found["peak_mb"] < 130


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    settings = settings_of(**SMALL).model_dump(mode="json")
    found = run_job({"job": "memory", "settings": settings, "engine": "packed", "options": {"rows_a_forward": 4}})
    assert found["peak_total_mb"] == pytest.approx(found["idle_mb"] + found["peak_mb"], abs=0.2)
    assert 1 < found["peak_mb"] < 200 < found["idle_mb"]


@pytest.mark.parametrize(
    ("code", "stderr", "error", "says"),
    [
        (1, "Traceback\nValueError: no such thing", OslerError, "memory of trl failed: ValueError: no such thing"),
        (1, "torch.OutOfMemoryError: CUDA out of memory.", OutOfMemory, "ran out of memory"),
        (1, "torch.OutOfMemoryError: no.\n\nDuring handling\n\nRuntimeError: CUDA error", OutOfMemory, "ran out of memory"),
        (-9, "", OutOfMemory, "ran out of memory"),
    ],
)
def test_a_process_that_fails_says_why(code, stderr, error, says, monkeypatch):
    ended = subprocess.CompletedProcess([], code, "", stderr)
    monkeypatch.setattr(worker.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(error, match=says):
        run_job({"job": "memory", "engine": "trl"})


def jobs(**peaks):
    """A stand-in for processes: fixed parity, and peaks by engine, in the order in which they are asked for."""

    def job(asked):
        if asked["job"] == "parity":
            return {"max_abs_dlogp": 0.0, "lora_grad_rel_err": 0.0, "loss_abs_diff": 0.0}
        peak = peaks[asked["engine"]].pop(0)
        if peak is None:
            raise OutOfMemory("too much")
        return {"peak_mb": peak}

    return job


def test_the_largest_batch_that_fits_counts_and_every_other_is_said():
    found = compare._memory(settings_of(), "trl", 8, jobs(trl=[None, 600.0, 300.0, 190.0, 200.0, 210.0]))
    assert found["peak_mb"] == 600.0
    assert list(found["peaks_mb"].values()) == ["out of memory", 600.0, 300.0, 190.0, 200.0, 210.0, 600.0, 190.0]
    assert found["peaks_mb"][compare.LEAST] == 190.0
    with pytest.raises(OslerError, match="ran out of memory in every setting"):
        compare._memory(settings_of(), "packed", 32, jobs(packed=[None] * 3))


def test_rows_that_were_timed_and_are_no_variant_are_measured_too():
    peaks = compare._memory(settings_of(), "packed", 16, jobs(packed=[900.0, 600.0, 300.0, 700.0]))["peaks_mb"]
    assert (peaks["all rows a forward"], peaks["as timed"]) == (900.0, 700.0)


def test_memory_is_compared_in_the_settings_that_both_have():
    assert compare._over(3.0, 2.0) == 1.5
    assert {compare._over(*pair) for pair in ((3.0, None), (None, 2.0), ("out of memory", 2.0), (3.0, 0.0))} == {None}


def test_parity_that_does_not_fit_stops_nothing():
    def job(asked):
        raise OutOfMemory("too much")

    found = compare._parity(settings_of(), ["packed", "trl"], job)
    assert {found[name] for name in compare.PARITY} == {None}
    assert "did not fit" in found["not_measured"]


# the whole


@pytest.fixture(scope="module")
def result():
    memory = jobs(packed=[70.0, 60.0, 50.0], trl=[210.0, 180.0, 150.0, 100.0, 190.0])

    def job(asked):
        return work(asked) if asked["job"] == "parity" else memory(asked)

    return compare.bench(settings_of(**SMALL | {"completion": "4"}), job)


def test_the_result_has_the_keys_that_were_promised(result):
    phases = {"step_s", "rollout_s", "reference_s", "update_s", "tokens_per_s", "peak_mb"}
    assert {"device", "config", "engines", "ratio", "parity"} <= result.keys()
    assert result["engines"].keys() == {"packed", "trl"}
    assert all(phases <= found.keys() for found in result["engines"].values())
    assert result["ratio"].keys() == {"step", "rollout", "update", "memory"}
    assert {"max_abs_dlogp", "lora_grad_rel_err", "loss_abs_diff"} <= result["parity"].keys()
    assert result["not_measured"].keys() == {"trl-vllm", "unsloth"}
    assert result["engines"]["packed"]["limits"] is None  # no GPU, no share of its limit
    assert json.loads(json.dumps(result)) == result


def test_ratios_are_trl_over_packed(result):
    packed, trl = result["engines"]["packed"], result["engines"]["trl"]
    for name, key in (("step", "step_s"), ("rollout", "rollout_s"), ("update", "update_s"), ("memory", "peak_mb")):
        assert result["ratio"][name] == pytest.approx(trl[key] / packed[key])
    assert result["ratio_spread"]["step"] == [pytest.approx(result["ratio"]["step"])] * 2  # of one round
    assert packed["tokens_per_s"] == pytest.approx(2 * 2 * 4 / packed["step_s"])
    assert packed["first_step_s"] > packed["step_s"] > 0
    assert result["ratio"]["memory"] == 3.0
    assert list(result["ratio_of_memory"].values())[:3] == [3.0, 3.0, 3.0]
    assert list(result["ratio_of_memory"])[3:] == ["as timed", compare.LEAST]  # no packed engine cuts a group
    assert result["ratio_of_memory"][compare.LEAST] == 2.0
    worse = result["ratio_of_the_step_if"]
    uncached = packed["tower_every_step"]["step_s"]
    assert worse["packed ran the vision tower every step"] == pytest.approx(trl["step_s"] / uncached)
    assert worse["both"] == pytest.approx(trl["head_on_completions_only"]["step_s"] / uncached)
    one_group = [found["step_s_by_rows_a_forward"]["2"] for found in (trl, packed)]
    assert worse["seconds are processor time"] == pytest.approx(trl["processor_s"] / packed["processor_s"])
    assert list(worse.values())[4:] == [pytest.approx(one_group[0] / one_group[1])]


def test_as_timed_is_the_peak_at_the_rows_of_the_rounds(result):
    names = {4: "all rows a forward", 2: "one group a forward"}
    packed, trl = result["engines"]["packed"], result["engines"]["trl"]
    for found in (packed, trl):
        same = names.get(found["rows_a_forward"], "as timed")  # a part of a group is a measurement more
        assert found["peaks_mb"]["as timed"] == found["peaks_mb"][same]
    assert result["ratio_of_memory"]["as timed"] == pytest.approx(trl["peaks_mb"]["as timed"] / packed["peaks_mb"]["as timed"])


def test_the_engines_agree(result):
    assert max(result["parity"][name] for name in compare.PARITY) < 1e-4


def test_people_are_told_what_the_numbers_mean(result):
    lines = compare.table(result)
    assert [line[0] for line in lines] == ["packed", "trl", "ratio"]
    assert {len(line) for line in lines} == {len(compare.COLUMNS)}
    said = "\n".join(compare.notes(result))
    for word in (
        "decode floor: ",
        "update MFU: ",
        "LM head on every position",
        "vllm is not installed",
        "vision features are warm",
        "decode_share: ",
        "memory ratio, as timed: ",
        "parity: max_abs_dlogp ",
    ):
        assert word in said


def test_no_word_of_the_tables_head_is_broken_at_80_columns(result, monkeypatch, capsys):
    slow = {**result["engines"]["trl"], "step_s": 1234.5, "tokens_per_s": 12345.6, "peak_mb": 78901.2}
    monkeypatch.setenv("COLUMNS", "80")
    print_table("", compare.COLUMNS, compare.table(result | {"engines": result["engines"] | {"trl": slow}}))
    head = capsys.readouterr().out.splitlines()[1]
    assert [cell.strip() for cell in head.strip("┃").split("┃")] == list(compare.COLUMNS)


LIMITS = {
    "decode_share": 0.4,
    "update_mfu": 0.37,
    "captured_equals_eager": {"equal": False, "rows_alike": 510, "rows": 512},
}


def test_the_share_of_the_limits_is_said_the_right_way_round():
    assert compare._limits_line(LIMITS) == (
        "packed: decode takes 2.5 x its floor, update MFU 37%; captured decode equals eager: False, in 510 of 512 rows"
    )
    assert "nothing was decoded" in compare._limits_line(LIMITS | {"decode_share": None})


def test_one_engine_alone_has_no_ratio():
    alone = compare.bench(settings_of(**SMALL | {"beta": 0.0}, engines=("packed", "unsloth")), jobs(packed=[50.0, 40.0, 30.0]))
    assert set(alone["ratio"].values()) == {None}
    assert alone["engines"]["packed"]["reference_s"] < 1e-3
    assert [line[0] for line in compare.table(alone)] == ["packed"]
    assert any("unsloth" in note for note in compare.notes(alone))
    assert "parity: not measured: it takes packed and trl" in compare.notes(alone)


def test_models_are_shipped():
    assert models() == ["tiny", "qwen2-vl-2b", "qwen2-vl-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b"]
