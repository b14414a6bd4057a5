"""Whether the engines compute the same: log-probs, LoRA's gradient and the loss, on the same completions."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from osler.bench.engines import Packed, Trl
from osler.bench.workload import Workload
from osler.rl.rollout import Batch


def parity(work: Workload) -> dict[str, float | None]:
    """The largest differences between the engines in float32, on completions that the packed engine sampled.

    LoRA's matrices are random and of one size, or its A would have no gradient yet.
    """
    own = work.settings
    packed, lengths_PG = Packed(work, own.rows, dtype="float32"), own.lengths.draw(own.groups, own.G, own.seed)
    with Trl(work, own.rows, dtype="float32") as trl:
        _randomise(packed.engine.learner.vlm.model, own.seed)
        _copy_lora(packed.engine.learner.vlm.model, trl.trainer.model)
        ours, batch = _packed(packed, lengths_PG)
        theirs = _trl(trl, batch, work)
    difference_G = ours["gradient"] - theirs["gradient"]
    return {
        "max_abs_dlogp": float((ours["logps"] - theirs["logps"]).abs().max()),
        "max_abs_dlogp_reference": float((ours["ref_logps"] - theirs["ref_logps"]).abs().max()) if own.beta else None,
        "lora_grad_rel_err": float(difference_G.norm() / theirs["gradient"].norm()),
        "loss_abs_diff": float((ours["loss"] - theirs["loss"]).abs()),
    }


def _packed(packed: Packed, lengths_PG: list[list[int]]) -> tuple[dict[str, Tensor], Batch]:
    """What the packed engine computes of rollouts of its own, and these."""
    engine, sums = packed.engine, defaultdict[str, float](float)
    packed.generator.lengths_PG = lengths_PG
    with engine.learner.sampling():
        batch, _, _ = engine.roller.draw()
    engine.score_reference(batch)
    engine.learner.vlm.model.train()
    for numbers in engine._micro_batches(batch, range(len(batch.groups))):
        engine._backward(batch, numbers, sums)
    found = {"gradient": _gradient(engine.learner.vlm.model), "loss": torch.tensor(sums["loss"])}
    return {**found, "logps": _padded(batch.old_B), "ref_logps": _padded(batch.ref_B)}, batch


def _trl(trl: Trl, batch: Batch, work: Workload) -> dict[str, Tensor]:
    """What TRL computes of the same completions."""
    trainer: Any = trl.trainer
    given = [sampled.ids for group in batch.groups for sampled in group.sampled]
    rows = [int(group.sample.id) for group in batch.groups for _ in group.sampled]
    trainer.lengths_PG = [[len(ids)] for ids in given]
    trainer._generate_single_turn = lambda *_, **__: (given, None)
    trainer.current_gradient_accumulation_steps = 1
    trainer.begin()
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([trainer.train_dataset[row] for row in rows])
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    mask_BT, vision = inputs["completion_mask"].bool(), ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    with torch.no_grad():
        logps_BT, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            mask_BT.shape[1],
            **{name: inputs[name] for name in vision},
        )
    ref_BT = inputs.get("ref_per_token_logps")
    ref_BT = torch.zeros_like(logps_BT) if ref_BT is None else ref_BT
    return {
        "gradient": _gradient(trainer.model),
        "loss": loss.detach().cpu(),
        "logps": (logps_BT * mask_BT).cpu(),
        "ref_logps": (ref_BT * mask_BT).cpu(),
    }


def _lora(model: Any) -> dict[str, Any]:
    return {name: weight for name, weight in model.named_parameters() if "lora_" in name}


def _randomise(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in _lora(model).values():
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.05)


def _copy_lora(source: Any, target: Any) -> None:
    wanted = _lora(source)
    for name, weight in _lora(target).items():
        weight.data.copy_(wanted[name])


def _gradient(model: Any) -> Tensor:
    """LoRA's gradient as one vector, in float64."""
    return torch.cat([weight.grad.detach().double().flatten().cpu() for weight in _lora(model).values()])


def _padded(kept_B: list[Tensor | None]) -> Tensor:
    """Each completion's log-probs, shape (B, T), 0 beyond its end; all 0 where none were computed."""
    rows = [torch.zeros(1) if row is None else row for row in kept_B]
    return pad_sequence(rows, batch_first=True)
