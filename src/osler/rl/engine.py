"""The packed engine: rollout, rewards, advantages, update, around groups that share their prompt. docs/engine.md explains it.

What it computes is what a row-based trainer computes, with each image and each prompt gone through once: TRL's trainer on the
same completions has the same loss, the same gradients and the same weights after any number of steps (tests/test_parity.py).
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from osler.config import Recipe
from osler.errors import JudgeError, RecipeError
from osler.images import blank_of
from osler.model.attention import base_model
from osler.model.family import VLM
from osler.model.features import FeatureStore
from osler.model.packing import Packed, micro_batches, pack
from osler.model.prompts import token_ids
from osler.progress import bar, console
from osler.rl.checkpoint import State, load_state, random_state, save_checkpoint, set_random_state
from osler.rl.learner import Learner
from osler.rl.objective import Objective, Totals, clipped, importance_weights, kl_k3, log_ratio, policy_loss
from osler.rl.reliance import VISUAL_RELIANCE, Reliance
from osler.rl.rollout import Batch, Roller
from osler.rl.scoring import Scorer
from osler.runs import Run
from osler.schema import Grader, Sample
from osler.strategies import Strategy

MICRO_TOKENS = 4096
"""Tokens a forward where the recipe says nothing; a larger group goes alone."""


class Engine:
    """One recipe in training. Everything that can be refused is refused when it is made, before anything is written."""

    def __init__(self, recipe: Recipe, vlm: VLM, samples: Sequence[Sample], strategy: Strategy, grader: Grader) -> None:
        self.recipe, objective = recipe, recipe.objective
        self.learner = Learner(recipe, vlm)
        self.store = FeatureStore(self.learner.vlm, recipe.features, trained=recipe.train_vision != "none")
        self.reliance = self._reliance(strategy) if VISUAL_RELIANCE in {reward.name for reward in recipe.rewards} else None
        scorer = Scorer(recipe, strategy, grader)
        self.roller = Roller(recipe, self.learner.vlm, samples, self.store, scorer, self.reliance)
        fields = ("std_norm", "length_norm", "clip_low", "clip_high", "beta", "ratio")
        self.objective = Objective(**{name: getattr(objective, name) for name in fields}, max_tokens=recipe.rollout.max_tokens)
        self.batch: Batch | None = None
        self.steps, self.tokens = 0, 0
        self._prepare()

    def train(self, run: Run) -> None:
        """Train to the last step, from wherever this engine stands; write metrics, rollouts and checkpoints to `run`."""
        with self.roller.scorer.experts, bar("GRPO", self.recipe.max_steps) as tick:
            for _ in range(self.steps):
                tick("")
            while self.steps < self.recipe.max_steps:
                metrics, rows = self._step_or_keep(run)
                run.append("rollouts", *rows)
                run.append("metrics", {"step": self.steps, **metrics})
                if self.steps % self.recipe.save_steps == 0 or self.steps == self.recipe.max_steps:
                    save_checkpoint(run, self.steps, self.learner.save, self.state_dict())
                tick(f"reward {metrics['reward']:.3f}" if "reward" in metrics else "")
        self.learner.save(run.path / ("model" if self.recipe.full else "adapter"))

    def _step_or_keep(self, run: Run) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """As `step`. Errors: JudgeError, once the state before the step is in a checkpoint, from where the run can go on."""
        steps, place = self.steps, self.roller.place
        try:
            return self.step()
        except JudgeError as error:
            self.steps, self.roller.place = steps, place
            save_checkpoint(run, steps, self.learner.save, self.state_dict())
            raise JudgeError(f"{error} Step {steps} is kept. A single recipe goes on with --resume, a study by the same "
                             "command; a chain trains its stage again.") from error  # fmt: skip

    def resume(self, run: Run) -> None:
        """Go on from the newest checkpoint of `run`, from the beginning where it has none; later lines of it are dropped."""
        state = load_state(run)
        if state:
            self.load_state_dict(state)
        run.rewind(self.steps)
        run.save(state="running")

    def step(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """One optimizer step, on fresh rollouts or on those of the step before (num_iterations).

        Returns metrics and the rows for rollouts.jsonl.
        """
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        self.steps += 1
        if self.batch is None or self.batch.used == self.recipe.objective.num_iterations:
            self.roller.scorer.begin(self.steps - 1)
            with self.learner.sampling():
                self.batch, dropped, metrics = self.roller.draw()
            rows = [{"step": self.steps, **row} for row in dropped] + self.batch.rows(self.steps)
            self.tokens += sum(self.batch.lengths) + sum(g.prompt.length * len(g.sampled) for g in self.batch.groups)
            metrics["reference_s"] = self.score_reference(self.batch)
        update_started = time.perf_counter()
        metrics |= self.update(self.batch)
        self._wait()
        ended = time.perf_counter()
        return {**metrics, "num_tokens": self.tokens, "update_s": ended - update_started, "step_time": ended - started}, rows

    def score_reference(self, batch: Batch) -> float:
        """Log-probs of `batch` under the reference, where the KL asks for them; the seconds that took."""
        started = time.perf_counter()
        if self.objective.beta:
            for numbers in self._micro_batches(batch, range(len(batch.groups))):
                packed = self._packed(batch, numbers)
                self._keep(batch.ref_B, numbers, packed, self.learner.reference_logps(packed))
            self._wait()
        return time.perf_counter() - started

    def update(self, batch: Batch) -> dict[str, float]:
        """One optimizer step on `batch`; metrics under TRL's names."""
        self.learner.vlm.model.train()
        sums: defaultdict[str, float] = defaultdict(float)
        for numbers in self._micro_batches(batch, self._teaching(batch)):
            self._backward(batch, numbers, sums)
        batch.used += 1
        norm, lr = self.learner.update()
        tokens = sums.pop("tokens", 0.0) or 1.0
        metrics = {"loss": sums.pop("loss", 0.0), "grad_norm": norm, "learning_rate": lr}
        metrics["clip_ratio/region_mean"] = sums.pop("clipped", 0.0) / (sums.pop("ratios", 0.0) or 1.0)
        return {**metrics, **{name: float(total / tokens) for name, total in sums.items()}}

    def _backward(self, batch: Batch, numbers: Sequence[int], sums: defaultdict[str, float]) -> None:
        """Gradients of one micro-batch, added to those before; `sums` takes what is reported."""
        packed, objective = self._packed(batch, numbers), self.objective
        logps_RT, entropy_RT = self.learner.policy(packed)
        now_RT, mask_RT = logps_RT.detach(), packed.mask_RT
        old_RT = self._padded(batch.old_B, numbers, now_RT)
        old_RT = now_RT if old_RT is None else old_RT
        ref_RT = self._padded(batch.ref_B, numbers, now_RT)
        sampled_RT = self._sampled(batch, numbers, now_RT)
        advantages_R = batch.advantages_PG[list(numbers)].flatten().to(now_RT)
        truncated = self.recipe.objective.sampler_correction == "truncated"
        weights_RT = importance_weights(old_RT, sampled_RT, self.recipe.objective.sampler_cap) if truncated else None
        totals = Totals(batch.advantages_PG.numel(), sum(batch.lengths))
        loss = policy_loss(objective, logps_RT, old_RT, ref_RT, advantages_R, mask_RT, totals, weights_RT)
        self.learner.accelerator.backward(loss)
        self._keep(batch.old_B, numbers, packed, old_RT)
        ratio_RT = log_ratio(now_RT, old_RT, mask_RT, objective.ratio)
        clip_RT = clipped(ratio_RT, advantages_R, objective.clip_low, objective.clip_high)  # (R, 1) for ratios of sequences
        clip_RT = clip_RT & mask_RT[:, : clip_RT.shape[1]]
        sums["clipped"] += int(clip_RT.sum())
        sums["ratios"] += int(mask_RT[:, : clip_RT.shape[1]].sum())
        report = {"entropy": entropy_RT, "sampler_kl": kl_k3(sampled_RT, old_RT)}
        if ref_RT is not None:
            report["kl"] = kl_k3(now_RT, ref_RT)
        for name, values_RT in report.items():
            sums[name] += values_RT[mask_RT].sum().item()
        sums["tokens"] += int(mask_RT.sum())
        sums["loss"] += loss.item()

    def _teaching(self, batch: Batch) -> list[int]:
        """The groups that need a backward. Without a KL one whose advantages are all 0 has no gradient; it still counts in the
        loss's denominators."""
        if self.objective.beta:
            return list(range(len(batch.groups)))
        return [number for number, advantages_G in enumerate(batch.advantages_PG) if bool(advantages_G.any())]

    def _micro_batches(self, batch: Batch, numbers: Sequence[int]) -> list[list[int]]:
        sizes = [batch.packable(number).tokens for number in numbers]
        return [[numbers[k] for k in part] for part in micro_batches(sizes, self.recipe.micro_tokens or MICRO_TOKENS)]

    def _packed(self, batch: Batch, numbers: Sequence[int]) -> Packed:
        vlm = self.learner.vlm
        return pack([batch.packable(number) for number in numbers], vlm.processor.image_token_id).to(vlm.device)

    def _keep(self, kept_B: list[Tensor | None], numbers: Sequence[int], packed: Packed, logps_RT: Tensor) -> None:
        """Put the log-probs of a micro-batch where each completion's belong."""
        G = self.recipe.rollout.G
        rows = zip(logps_RT.detach().cpu(), packed.mask_RT.sum(1).tolist(), strict=True)
        for place, (logps_T, length) in zip((n * G + g for n in numbers for g in range(G)), rows, strict=True):
            kept_B[place] = logps_T[:length].clone()

    def _padded(self, kept_B: list[Tensor | None], numbers: Sequence[int], like_RT: Tensor) -> Tensor | None:
        """The kept log-probs of a micro-batch, shape (R, T), 0 beyond a completion's end; None where none are kept."""
        G = self.recipe.rollout.G
        rows = [kept_B[n * G + g] for n in numbers for g in range(G)]
        found = [row for row in rows if row is not None]
        return pad_sequence(found, batch_first=True).to(like_RT) if len(found) == len(rows) else None

    def _sampled(self, batch: Batch, numbers: Sequence[int], like_RT: Tensor) -> Tensor:
        rows = [torch.tensor(one.logps, dtype=torch.float64) for n in numbers for one in batch.groups[n].sampled]
        return pad_sequence(rows, batch_first=True).to(like_RT)

    def _reliance(self, strategy: Strategy) -> Reliance:
        temperature, micro_tokens = self.recipe.rollout.temperature, self.recipe.micro_tokens or MICRO_TOKENS
        return Reliance(self.learner.vlm, self.store, strategy, temperature, micro_tokens)

    def _prepare(self) -> None:
        """Compute the features of all images that will be seen, look whether the largest group fits, and let the tower go."""
        recipe, roller = self.recipe, self.roller
        rollouts = -(-recipe.max_steps // recipe.objective.num_iterations)
        drawn = rollouts * recipe.rollout.prompts_per_step * (1 + recipe.rollout.resample)  # at most
        places = min(drawn, len(roller.samples))
        visited = [roller.sample_at(place) for place in range(places)]
        images = list(dict.fromkeys(image for sample in visited for image in sample.images))
        if self.reliance:
            images += [blank_of(image) for image in images]
        if recipe.micro_tokens:
            self._check_group(visited)
        if not self.store.cached:
            why = "the tower is trained" if self.store.trained else "features.cache is off"
            console.print(f"Vision features are not kept, as {why}: every image goes through the tower whenever it is used.")
        else:
            self.store.build(images)
        tower = base_model(self.learner.vlm.model).model.visual
        if tower.device.type == "cuda" and self.store.holds(images):
            tower.to("cpu")
            self.learner.let_reference_tower_go()
            torch.cuda.empty_cache()

    def _check_group(self, visited: Sequence[Sample]) -> None:
        """Errors: RecipeError where the group of a sample does not fit; no image goes through the tower for that."""
        grids = {image: self.store.grid(image) for image in dict.fromkeys(i for sample in visited for i in sample.images)}
        lengths = [self._prompt_length(sample, [grids[image] for image in sample.images]) for sample in visited]
        length, sample = max(zip(lengths, visited, strict=True), key=lambda pair: pair[0])
        added = self.recipe.rollout.G * self.recipe.rollout.max_tokens
        largest = length + added
        if largest > (self.recipe.micro_tokens or largest):
            raise RecipeError(
                f"micro_tokens={self.recipe.micro_tokens} is smaller than a group, which is never cut: sample {sample.id!r} "
                f"has {length} prompt tokens, and G x max_tokens adds {added}. Set "
                f"micro_tokens={largest}, or lower rollout.G, rollout.max_tokens or images.max_pixels; checkpointing=true "
                "saves memory."
            )

    def _prompt_length(self, sample: Sample, grids: list[tuple[int, int, int]]) -> int:
        return len(token_ids(self.roller.vlm, self.roller.prompt(sample)[0], grids))

    def _wait(self) -> None:
        if self.learner.vlm.device.type == "cuda":
            torch.cuda.synchronize()

    def state_dict(self) -> State:
        """Everything that the next step depends on. Rows and the seeds of completions follow from `place`."""
        weights, optimizer = self.learner.state_dict()
        randoms, random_rest = random_state()
        unused = self.batch is not None and self.batch.used < self.recipe.objective.num_iterations
        counts = {"steps": self.steps, "tokens": self.tokens, "place": self.roller.place}
        rest = {**counts, "optimizer": optimizer, "random": random_rest, "constant": dict(self.roller.scorer.constant)}
        return weights | randoms, {**rest, "batch": self.batch.to_json() if self.batch and unused else None}

    def load_state_dict(self, state: State) -> None:
        """Go on where `state_dict` was taken: on a CPU, bit for bit."""
        tensors, rest = state
        self.learner.load_state_dict(tensors, rest["optimizer"])
        self.steps, self.tokens, self.roller.place = (rest[key] for key in ("steps", "tokens", "place"))
        self.batch = self.roller.restore(rest["batch"]) if rest["batch"] else None
        self.roller.scorer.constant |= rest.get("constant", {})  # states written before it was kept lack it
        set_random_state(tensors, rest["random"])
