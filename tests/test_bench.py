"""Counting by hand, lengths that are kept, a clock that adds up, parity that can fail; and all of `osler bench`, small."""

import json
import subprocess
import sys

import pytest
import torch

from osler.bench import compare, worker
from osler.bench.engines import ForcedEnds, Packed, Trl
from osler.bench.limits import Size, decode_bytes, packed_tokens, size_of, update_flops
from osler.bench.parity import parity
from osler.bench.worker import OutOfMemory, run_job, work
from osler.bench.workload import Lengths, Workload, models, raw_config, script, settings_of
from osler.cli import app
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
    assert size_of(name).total == total


def test_the_parts_of_a_2b_counted_by_hand():
    D, kv, mlp, vocabulary, layers = 1536, 2 * 128, 8960, 151_936, 28
    attention = (D * D + D) + 2 * (D * kv + kv) + D * D
    size = size_of("qwen2-vl-2b")
    assert size.layers == layers * (attention + 3 * D * mlp + 2 * D) + D
    assert size.head == vocabulary * D
    assert size.kv == layers * 2 * kv
    assert size.vision == 665_271_296
    assert size.total == size.layers + size.head + size.vision  # the head is tied: its weights are the embeddings


def test_an_untied_head_is_read_as_well():
    size = size_of("qwen2-vl-7b")
    assert size.total == size.layers + 2 * size.head + size.vision


SIZE = Size(total=0, vision=0, layers=10, head=3, kv=2)


def test_decode_reads_the_weights_once_a_step_and_each_rows_cache():
    """Prompt 10, lengths 1 and 3: two decode steps, in which one row sees 11 and then 12 places."""
    assert decode_bytes(SIZE, 10, [1, 3], element_bytes=2) == 2 * (2 * 13 + 2 * (11 + 12))
    assert decode_bytes(SIZE, 10, [1, 1], element_bytes=2) == 0


def test_flops_of_an_update():
    assert packed_tokens(10, [[1, 3], [2, 2]]) == 28
    assert update_flops(SIZE, packed_tokens=7, scored_tokens=2) == 4 * 7 * 10 + 4 * 2 * 3
    assert update_flops(SIZE, packed_tokens=7, scored_tokens=2, full=True) == 6 * 7 * 10 + 6 * 2 * 3


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
        assert min(phases.reference_s, phases.update_s) > 0


@pytest.mark.parametrize(("rows", "by_group"), [(4, False), (2, True)])
def test_trls_completions_end_at_the_same_lengths(small, rows, by_group):
    lengths = []
    with Trl(small, rows, by_group) as trl:
        own = trl.trainer._compute_loss

        def spying(model, inputs):
            lengths.extend(inputs["completion_mask"].sum(1).tolist())
            return own(model, inputs)

        trl.trainer._compute_loss = spying
        for step in (LENGTHS, [[6, 6], [1, 1]]):
            lengths.clear()
            phases = trl.step(step)
            assert sorted(lengths) == sorted(length for lengths_G in step for length in lengths_G)
            assert phases.rollout_s + phases.reference_s + phases.update_s + phases.other_s == pytest.approx(phases.step_s)
            assert min(phases.rollout_s, phases.reference_s, phases.update_s, phases.other_s) > 0
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
        monkeypatch.setattr(worker, "_reset_mark", lambda: False)
    with worker._peak("cpu") as found:
        block = bytearray(96 << 20)
        block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
        if not mark:
            import time

            time.sleep(0.1)
        del block
    assert 90 < found["peak_mb"] < 130


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


def test_the_least_memory_of_trl_counts_and_what_does_not_fit_is_said():
    found = compare._memory(settings_of(), "trl", jobs(trl=[None, 300.0, 200.0]))
    assert found["peak_mb"] == 200.0
    assert list(found["peaks_mb"].values()) == ["out of memory", 300.0, 200.0]
    with pytest.raises(OslerError, match="ran out of memory in every setting"):
        compare._memory(settings_of(), "packed", jobs(packed=[None] * 3))


# the whole


@pytest.fixture(scope="module")
def result():
    memory = jobs(packed=[70.0, 60.0, 50.0], trl=[210.0, 180.0, 100.0])

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
    assert result["ratio"]["memory"] == 2.0
    assert list(result["ratio_of_memory"].values()) == [3.0, 3.0, 2.0]
    worse = result["ratio_of_the_step_if"]
    uncached = packed["tower_every_step"]["step_s"]
    assert worse["packed ran the vision tower every step"] == pytest.approx(trl["step_s"] / uncached)
    assert worse["both"] == pytest.approx(trl["head_on_completions_only"]["step_s"] / uncached)


def test_the_engines_agree(result):
    assert max(result["parity"][name] for name in compare.PARITY) < 1e-4


def test_people_are_told_what_the_numbers_mean(result):
    lines = compare.table(result)
    assert [line[0] for line in lines] == ["packed", "trl", "trl / packed"]
    assert {len(line) for line in lines} == {len(compare.COLUMNS)}
    said = "\n".join(compare.notes(result))
    for word in (
        "decode floor: ",
        "update MFU: ",
        "LM head on every position",
        "vllm is not installed",
        "vision features are warm",
    ):
        assert word in said


def test_one_engine_alone_has_no_ratio():
    alone = compare.bench(settings_of(**SMALL | {"beta": 0.0}, engines=("packed", "unsloth")), jobs(packed=[50.0, 40.0, 30.0]))
    assert set(alone["ratio"].values()) == {None}
    assert alone["engines"]["packed"]["reference_s"] < 1e-3
    assert [line[0] for line in compare.table(alone)] == ["packed"]
    assert any("unsloth" in note for note in compare.notes(alone))


def test_models_are_shipped():
    assert models() == ["tiny", "qwen2-vl-2b", "qwen2-vl-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b"]
