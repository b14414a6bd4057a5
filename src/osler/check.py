"""What can go wrong, asked before a run begins: names, combinations, rows, images, model files.

So that a broken file is found now and not at step 3000, and nothing is half-written where something is wrong.
"""

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain as joined

from osler.config import Chain, DpoSettings, LoraSettings, ObjectiveSettings, Recipe
from osler.datasets.samples import Samples
from osler.datasets.splits import Splits
from osler.errors import DataError, RecipeError
from osler.images import MOST_ELONGATED, PHANTOM, open_image, underlying
from osler.progress import bar
from osler.prompting import DIVERSE
from osler.reasoning.forcing import check_forcing
from osler.rewards.terms import check_rewards
from osler.schema import Sample
from osler.wordings import asked_by, strategy_for

STAGE = re.compile(r"stage:(?P<name>.+)")
"""A reference to an earlier stage of a chain."""


def check(recipe: Recipe) -> None:
    """Errors: RecipeError for a name that nothing answers to, or a combination that cannot work. Loads nothing heavy."""
    strategy_for(recipe.strategy, recipe.wording, "training")
    _check_prompts(recipe)
    check_rewards(recipe)
    asked = asked_by(recipe.strategy, recipe.wording, recipe.infer_prompt)
    if recipe.controls.forced_answer:
        check_forcing(asked)
    _check_engine(recipe)
    rollout = recipe.rollout
    completions = rollout.G * rollout.prompts_per_step
    if rollout.micro_batch and completions % rollout.micro_batch:
        raise RecipeError(f"rollout.micro_batch={rollout.micro_batch} does not divide G x prompts_per_step = {completions}.")
    if recipe.sft.batch_size % recipe.sft.micro_batch:
        raise RecipeError(f"sft.micro_batch={recipe.sft.micro_batch} does not divide sft.batch_size={recipe.sft.batch_size}.")
    _check_dpo(recipe)
    _check_shortcuts(recipe)
    if recipe.init and not recipe.init.startswith(("run:", "stage:")):
        raise RecipeError(f"init {recipe.init!r} is no run: write run:DIR, or set model instead to start from a checkpoint.")
    longest = recipe.sft.max_seconds
    if (isinstance(longest, str) and not STAGE.fullmatch(longest)) or (isinstance(longest, float) and not longest >= 0):
        raise RecipeError(f"sft.max_seconds is {longest!r}: give seconds, or stage:NAME.")
    for name, heeding in (("max_seconds", ("sft", "dpo")), ("patience", ("sft",))):
        if getattr(recipe.sft, name) is not None and recipe.method not in heeding:
            raise RecipeError(f"sft.{name} does nothing for method={recipe.method}. Leave it out, or see max_steps.")
    if recipe.controls.blind_twin and recipe.method == "grpo" and any(one.name == "visual_reliance" for one in recipe.rewards):
        raise RecipeError("the reward visual_reliance is always 0 on blank images, so that a blind twin would not be of the "
                          "same recipe. Leave out controls.blind_twin, or the reward.")  # fmt: skip


def _check_prompts(recipe: Recipe) -> None:
    """Errors: RecipeError for a reward that knows one form of answers, where `diverse` asks for several."""
    paid = {reward.name for reward in recipe.rewards if reward.weight} if recipe.method == "grpo" else set()
    for reward, instead, why in (
        ("letter", "accuracy", "asks a part of the choices without their options, and those rows have no letter to pay for"),
        ("medr1_format", "format", "asks for another form on a part of the rows"),
    ):
        if recipe.strategy == DIVERSE and reward in paid:
            raise RecipeError(f"the reward {reward} does not go with strategy=diverse, which {why}. Use {instead}.")


def _check_dpo(recipe: Recipe) -> None:
    """Errors: RecipeError for dpo settings that do not go together, or that the recipe's method would not heed."""
    changed = [name for name, value in recipe.dpo if value != getattr(DpoSettings(), name)]
    if recipe.method != "dpo" and changed:
        raise RecipeError(f"dpo.{changed[0]} is a setting of method=dpo; method={recipe.method} would not heed it. "
                          "Leave it out.")  # fmt: skip
    if recipe.dpo.batch_size % recipe.dpo.micro_batch:
        raise RecipeError(f"dpo.micro_batch={recipe.dpo.micro_batch} does not divide dpo.batch_size={recipe.dpo.batch_size}.")


def _check_shortcuts(recipe: Recipe) -> None:
    """Errors: RecipeError for settings against shortcuts that keep no row, or that would not be heeded."""
    against = recipe.against_shortcuts
    if against.curriculum != "none" and (recipe.method, recipe.engine) != ("grpo", "packed"):
        raise RecipeError("against_shortcuts.curriculum orders the rows of method=grpo on engine=packed; TRL's trainers "
                          "shuffle their own. Leave it out.")  # fmt: skip
    if against.curriculum != "none" and against.debias:
        raise RecipeError("against_shortcuts.debias leaves choices only, so that curriculum would do nothing. Leave out one.")
    if (rate := against.pass_rate) and not any(rate.low <= k / rate.samples <= rate.high for k in range(rate.samples + 1)):
        raise RecipeError(f"against_shortcuts.pass_rate keeps no row: no count of {rate.samples} completions is a share from "
                          f"{rate.low:g} to {rate.high:g}. Widen them, or raise samples.")  # fmt: skip


def _check_engine(recipe: Recipe) -> None:
    """Errors: RecipeError for a setting that the recipe's engine cannot keep, or would not heed."""
    rollout, packed = recipe.rollout, recipe.method == "grpo" and recipe.engine == "packed"
    if recipe.full and recipe.method == "grpo" and not packed:
        raise RecipeError("method=grpo with full=true needs engine=packed so far. Leave full out to train a LoRA.")
    if recipe.full and recipe.lora != LoraSettings():
        raise RecipeError("full=true trains no LoRA, so that its settings would do nothing. Leave lora out.")
    if recipe.objective.sampler_cap != ObjectiveSettings().sampler_cap and recipe.objective.sampler_correction == "none":
        raise RecipeError("objective.sampler_cap does nothing without objective.sampler_correction=truncated.")
    if recipe.train_vision != "none" and not recipe.full:
        raise RecipeError(f"train_vision={recipe.train_vision} needs full=true: a LoRA leaves the vision tower as it is.")
    if recipe.train_vision != "none" and recipe.features.cache:
        raise RecipeError(f"features.cache=true keeps features that train_vision={recipe.train_vision} changes every step. "
                          "Leave features.cache out, or train_vision.")  # fmt: skip
    if packed:
        _check_packed(recipe)
    elif recipe.method == "grpo":
        own = {"micro_tokens": recipe.micro_tokens, "rollout.rows": rollout.rows, "rollout.resample": rollout.resample}
        own["features.cache"] = recipe.features.cache
        own["objective.sampler_correction"] = recipe.objective.sampler_correction == "truncated"
        if heedless := [name for name, value in own.items() if value]:
            raise RecipeError(f"{heedless[0]} is a setting of engine=packed; engine=trl would not heed it. Leave it out.")


def _check_packed(recipe: Recipe) -> None:
    if recipe.lora.dropout:
        raise RecipeError(f"lora.dropout={recipe.lora.dropout} would draw one mask for a prompt that G completions share, "
                          "where rows draw G. Set lora.dropout=0, or engine=trl.")  # fmt: skip
    micro, G = recipe.rollout.micro_batch, recipe.rollout.G
    if micro and micro < G:
        raise RecipeError(f"rollout.micro_batch={micro} is smaller than a group (G={G}), which engine=packed never cuts. "
                          "Bound a forward by micro_tokens instead, or use engine=trl.")  # fmt: skip
    if micro:
        raise RecipeError("rollout.micro_batch counts rows, which engine=packed has none of. Bound a forward by micro_tokens.")
    if recipe.trl:
        raise RecipeError(f"trl.{sorted(recipe.trl)[0]} is for TRL, and this stage runs on engine=packed. Set engine=trl.")


def check_stages(chain: Chain) -> None:
    """Errors: RecipeError for a stage that `check` refuses, or that needs one that does not come before it."""
    earlier: list[str] = []
    for name, recipe in chain.stages.items():
        try:
            check(recipe)
        except RecipeError as error:
            raise RecipeError(f"stage {name}: {error}") from error
        start = STAGE.fullmatch(recipe.init or "")
        sighted = start and start["name"] in earlier and not chain.stages[start["name"]].controls.blind_twin
        if recipe.controls.blind_twin and start and sighted:
            raise RecipeError(f"stage {name}: a blind twin needs a start that is blind. Set controls.blind_twin for stage "
                              f"{start['name']} too.")  # fmt: skip
        for reference in stage_references(recipe):
            if reference not in earlier:
                raise RecipeError(f"stage {name}: stage:{reference} is no earlier stage; there are {earlier or 'none'}.")
        earlier.append(name)


def stage_references(recipe: Recipe) -> list[str]:
    """The names of the stages that `recipe` needs the results of."""
    found = [STAGE.fullmatch(value) for value in (recipe.init, recipe.sft.max_seconds) if isinstance(value, str)]
    return [match["name"] for match in found if match]


def check_rows(recipe: Recipe, splits: Splits) -> None:
    """Errors: RecipeError where `splits` hold too little for `recipe`, or nothing to teach its thoughts with."""
    if recipe.method == "grpo" and len(splits.train) < recipe.rollout.prompts_per_step:
        raise RecipeError(
            f"{len(splits.train)} training rows are fewer than rollout.prompts_per_step={recipe.rollout.prompts_per_step}: "
            "not one step could be made."
        )
    if recipe.against_shortcuts.debias:
        from osler.training.rows import select

        select(recipe, splits.train)
    if recipe.method == "sft":
        strategy = strategy_for(recipe.strategy, recipe.wording, "training")
        for sample in joined(_as_taught(recipe, splits.train), splits.val):
            strategy.completion(sample, recipe.answer_form)


def _as_taught(recipe: Recipe, samples: Samples) -> Samples:
    """`samples` under the prompts that they are taught by, where these are drawn."""
    if recipe.strategy != DIVERSE:
        return samples
    from osler.training.rows import drawn_once

    return drawn_once(recipe, samples)


def check_machine(recipe: Recipe) -> None:
    """Errors: RecipeError or ModelError for what only the heavy libraries can tell: `trl:`, the model's files, the GPUs."""
    from osler.model.preflight import check_policy, visible_gpus

    if recipe.method != "grpo" or recipe.engine == "trl":
        _check_trl(recipe)
    start = recipe.init or recipe.model
    check_policy(recipe.model if start.startswith("stage:") else start, recipe.lora)
    if recipe.method == "grpo":
        from osler.rl.experts import check_experts

        check_experts(recipe)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("this process is one of several, and a run is one process on one GPU so far. Start it alone.")
    if visible_gpus() > 1:
        raise RecipeError(f"{visible_gpus()} GPUs are visible, and a run uses one so far. Set CUDA_VISIBLE_DEVICES=0.")


def _check_trl(recipe: Recipe) -> None:
    from trl import DPOConfig, GRPOConfig, SFTConfig

    from osler.baselines.dpo import dpo_fields
    from osler.baselines.sft import sft_fields
    from osler.rl.trl_engine import grpo_fields
    from osler.rl.trl_trainer import check_config

    if recipe.method == "sft":
        check_config(recipe, SFTConfig, sft_fields(recipe, True))
    elif recipe.method == "dpo":
        check_config(recipe, DPOConfig, dpo_fields(recipe))
    else:
        check_config(recipe, GRPOConfig, grpo_fields(recipe))


def verify_images(samples: Iterable[Sample]) -> None:
    """Decode every image once.

    Errors: DataError that names the file and row of the sample whose image is broken, or says that it has none.
    """
    first: dict[str, Sample] = {}
    for sample in samples:
        if not sample.images:
            raise DataError(f"{_where(sample)}: it has no image. Give the images' root: NAME:PATH?images=ROOT.")
        for reference in sample.images:
            first.setdefault(underlying(reference), sample)
    files = [reference for reference in first if not reference.startswith(PHANTOM)]
    if not files:
        return

    def decode(reference: str) -> None:
        try:
            shape = sorted(open_image(reference).size)
            if shape[1] > MOST_ELONGATED * shape[0]:
                raise DataError(f"{reference} is {shape[1]} by {shape[0]} pixels, too narrow for the processor. Crop it.")
        except DataError as error:
            raise DataError(f"{_where(first[reference])}: {error}") from error

    with bar("Check images", len(files)) as tick, ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, files):
            tick("")


def _where(sample: Sample) -> str:
    return sample.origin or f"sample {sample.id!r}"
