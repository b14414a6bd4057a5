"""Recipes: the shipped ones load, overrides reach their place, and what is wrong is named by file and key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from osler.chains import load_chain
from osler.check import check, check_stages
from osler.config import Chain, Recipe
from osler.errors import OslerError, RecipeError
from osler.recipe_files import load_recipe

SHIPPED = Path(__file__).parents[1] / "recipes"
CHAIN = """
name: two
lr: 1e-3
data: {train: phantoms:1, val_share: 0.5}
lora: {r: 4}
stages:
  first: {method: sft, lora: {alpha: 8}}
  second: {init: "stage:first", data: {train: {name: phantoms, seed: 2}}}
"""


@pytest.fixture
def recipe_file(tmp_path):
    """Writes a recipe and returns its path."""

    def write(text):
        file = tmp_path / "mine.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


STUDIES = {file for file in SHIPPED.rglob("*.yaml") if "\nrows:" in file.read_text()}
RECIPES = sorted({*SHIPPED.rglob("*.yaml")} - STUDIES)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(SHIPPED)))
def test_a_shipped_recipe_loads_by_path_and_by_name_and_its_names_are_known(file):
    recipe = load_recipe(file)
    assert recipe == load_recipe(str(file.relative_to(SHIPPED).with_suffix("")))
    for stage in recipe.stages.values() if isinstance(recipe, Chain) else [recipe]:
        check(stage)


def test_a_recipe_keeps_the_defaults_of_what_it_does_not_say(recipe_file):
    recipe = load_recipe(recipe_file("lr: 1e-4\nlora: {r: 8}\nrewards: [{name: accuracy}]\n"))
    assert (recipe.lr, recipe.lora.r, recipe.lora.alpha, recipe.rewards[0].weight) == (1e-4, 8, Recipe().lora.alpha, 1.0)
    assert load_recipe(recipe_file("{}")) == Recipe()


def test_a_recipe_survives_json(recipe_file):
    chain = load_recipe(recipe_file(CHAIN))
    assert Chain.model_validate(chain.model_dump(mode="json")) == chain


def test_a_recipe_is_frozen():
    recipe = Recipe()
    for settings, key in ((recipe, "lr"), (recipe.lora, "r"), (recipe.rewards[0], "weight")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, key, 1)


def test_a_stage_is_laid_over_what_the_stages_share(recipe_file):
    chain = load_recipe(recipe_file(CHAIN))
    first, second = chain.stages.values()
    assert (chain.name, list(chain.stages)) == ("two", ["first", "second"])
    assert (first.lr, first.lora.r, first.lora.alpha, first.data.train) == (1e-3, 4, 8, "phantoms:1")
    assert (second.lora.alpha, second.data.val_share) == (Recipe().lora.alpha, 0.5)
    assert second.data.train == {"name": "phantoms", "seed": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1", "unknown key 'learning_rate'"),
        ("stratgy: think", "unknown key 'stratgy'. Did you mean 'strategy'?"),
        ("lora: {rank: 8}", "unknown key 'lora.rank'. Did you mean 'lora.r'?"),
        ("data: {trian: x}", "unknown key 'data.trian'. Did you mean 'data.train'?"),
        ("rewards: [{name: format, wieght: 1}]", "unknown key 'rewards.0.wieght'. Did you mean 'rewards.0.weight'?"),
        ("stages: {a: {lrr: 1}}", ", stage a: unknown key 'lrr'. Did you mean 'lr'?"),
        ("stages: {a: {}, b: {rollout: {g: 1}}}", ", stage b: unknown key 'rollout.g'. Did you mean 'rollout.G'?"),
        ("lora: {rr: 1}\nstages: {a: {}}", ", stage a: unknown key 'lora.rr'."),
        ("stages: {a: {stages: {b: {}}}}", ", stage a: unknown key 'stages'"),
        ("lr: fast", ": lr: "),
        ("lr: -1", ": lr: "),
        ("lr:", ": lr: "),
        ("max_steps: 1.5", ": max_steps: "),
        ("method: ppo", ": method: Input should be 'grpo', 'sft' or 'dpo' (got 'ppo')"),
        ("lora: 8", ": lora: "),
        ("data: phantoms", ": data: "),
        ("data: {train: 3}", ": data.train"),
        ("rewards: accuracy", ": rewards: "),
        ("rollout: {G: 1}", ": rollout.G: "),
        ("1: 2", ": 1: "),
        ("name: [a]\nstages: {a: {}}", ": name: "),
        ("stages: {1: {}}", ": stages.1"),
        ("stages:", "stages must be a mapping"),
        ("stages: {}", "stages must be a mapping"),
        ("stages: [{lr: 1}]", "stages must be a mapping"),
        ("stages: {a: [1]}", "stages must be a mapping"),
        ("lr: [", "is no YAML"),
        ("\tlr: 1", "is no YAML"),
        ("", "is no recipe"),
        ("- lr: 1", "is no recipe"),
        ("lr", "is no recipe"),
    ],
)
def test_a_bad_recipe_is_named_by_file_and_key(recipe_file, text, message):
    file = recipe_file(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(file)
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)


def test_every_mistake_of_a_recipe_is_told_at_once(recipe_file):
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe_file("lrr: 1\nlora: {r: x}"))
    assert len(str(error.value).splitlines()) == 2


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"lr: \xff")
    with pytest.raises(RecipeError, match=r"mine\.yaml is no YAML"):
        load_recipe(tmp_path / "mine.yaml")


def test_a_missing_recipe_suggests_the_shipped_ones(tmp_path):
    with pytest.raises(RecipeError, match=r"no recipe at .*none\.yaml.* Known: .*quickstart"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="Did you mean 'quickstart'"):
        load_recipe("quikstart")
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe(tmp_path)


# --- overrides ---


@pytest.mark.parametrize(
    ("override", "keys", "value"),
    [
        ("lr=1e-3", ("lr",), 1e-3),
        ("seed=7", ("seed",), 7),
        ("lora.r=8", ("lora", "r"), 8),
        ("init=null", ("init",), None),
        ("init=run:a b=c", ("init",), "run:a b=c"),
        ("images={min_pixels: 4, max_pixels: 9}", ("images", "max_pixels"), 9),
        ("trl.loss.kind=x", ("trl",), {"loss": {"kind": "x"}}),
        ("model='a b'", ("model",), "a b"),
        ('model="123"', ("model",), "123"),
    ],
)
def test_an_override_reaches_its_place(recipe_file, override, keys, value):
    file = recipe_file("lr: 1\nlora: {r: 2, alpha: 3}\ninit: run:x")
    found = load_recipe(file, [override])
    for key in keys:
        found = getattr(found, key)
    assert found == value


def test_an_override_leaves_its_neighbours_and_the_last_one_counts(recipe_file):
    recipe = load_recipe(recipe_file("lora: {r: 2, alpha: 3}"), ["lora.r=5", "lora.r=6"])
    assert (recipe.lora.r, recipe.lora.alpha) == (6, 3)


PATH = st.lists(st.sampled_from([*"abc /%&#=?@!(),.\u00e9", "[x]", "{y}", ": ", " #", "?images=", "'", '"']), min_size=1)


@given(path=PATH.map("".join))
def test_an_override_takes_any_data_spec_literally(path):
    spec = f"medr1:{path}"
    assert load_recipe(SHIPPED / "quickstart.yaml", [f"grpo.data.train={spec}"]).stages["grpo"].data.train == spec


@pytest.mark.parametrize("override", ["lr", "=3", "", "lora.r 3"])
def test_an_override_without_key_or_value(recipe_file, override):
    with pytest.raises(RecipeError, match="not of the form key=value"):
        load_recipe(recipe_file("{}"), [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lorra.r=3", "unknown key 'lorra'. Did you mean 'lora'?"),
        ("lora.rr=3", "unknown key 'lora.rr'. Did you mean 'lora.r'?"),
        ("lr.x=3", ": lr: "),
        ("lr=", ": lr: "),
        ("rewards.0.weight=3", ": rewards: "),
        ("lora..r=3", "unknown key 'lora.'"),
    ],
)
def test_an_override_of_what_there_is_not(recipe_file, override, message):
    file = recipe_file("lr: 1")
    with pytest.raises(RecipeError) as error:
        load_recipe(file, [override])
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_an_override_goes_to_every_stage_or_to_one(recipe_file):
    file = recipe_file(CHAIN)
    for overrides, rates in (
        (["lr=0.5"], [0.5, 0.5]),
        (["second.lr=0.5"], [1e-3, 0.5]),
        (["first.lr=0.25", "lr=0.5"], [0.5, 0.5]),
        (["lr=0.5", "first.lr=0.25"], [0.25, 0.5]),
    ):
        assert [stage.lr for stage in load_recipe(file, overrides).stages.values()] == rates
    alone = load_recipe(file, ["first.lora.r=9"]).stages
    assert (alone["first"].lora.r, alone["first"].lora.alpha, alone["second"].lora.r) == (9, 8, 4)
    with pytest.raises(RecipeError, match="unknown key 'third'"):
        load_recipe(file, ["third.lr=1"])


# --- what a recipe names ---


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("strategy=thnk", "Did you mean 'think'"),
        ("rewards=[{name: acuracy}]", "Did you mean 'accuracy'"),
        ("strategy=nothink_raw", "no tags, so a format reward has nothing to pay for"),
        ("rollout.micro_batch=9", "micro_batch counts rows, which engine=packed has none of"),
        ("sft.micro_batch=7", "sft.micro_batch=7 does not divide"),
        ("objective.sampler_cap=9", "sampler_cap does nothing without"),
        ("init=somewhere", "init 'somewhere' is no run"),
        ("sft.max_seconds=long", "sft.max_seconds is 'long'"),
    ],
)
def test_a_name_or_a_combination_that_cannot_work(recipe_file, override, message):
    recipe = load_recipe(recipe_file("lr: 1"), [override])
    with pytest.raises(RecipeError) as error:
        check(recipe)
    assert message in str(error.value)


def test_trls_forwards_divide_a_step(recipe_file):
    recipe = load_recipe(recipe_file("lr: 1"), ["engine=trl", "rollout.micro_batch=7"])
    with pytest.raises(RecipeError, match=r"rollout\.micro_batch=7 does not divide"):
        check(recipe)


def test_what_full_tuning_or_trl_would_not_heed_is_refused(recipe_file):
    for overrides, message in (
        (["full=true", "lora.r=8"], "full=true trains no LoRA"),
        (["full=true", "lora.dropout=0.1"], "full=true trains no LoRA"),
        (["engine=trl", "features.cache=true"], "features.cache is a setting of engine=packed"),
    ):
        with pytest.raises(RecipeError, match=message):
            check(load_recipe(recipe_file("lr: 1"), overrides))


def test_a_bare_answer_needs_no_format_reward(recipe_file):
    for rewards in ("[{name: accuracy}]", "[{name: accuracy}, {name: format, weight: 0}]"):
        check(load_recipe(recipe_file("lr: 1"), ["strategy=nothink_raw", f"rewards={rewards}"]))


SMALL = "{name: phantoms, train: 2, val: 1, test: 1}"


def test_a_stage_that_is_called_like_a_setting_says_so(recipe_file):
    text = CHAIN.replace("first:", "sft:").replace("stage:first", "stage:sft")
    with pytest.raises(RecipeError, match=r"write sft\.sft\.batch_size"):
        load_recipe(recipe_file(text), ["sft.batch_size=8"])
    assert load_recipe(recipe_file(text), ["sft.sft.batch_size=8"]).stages["sft"].sft.batch_size == 8


def test_numbers_that_yaml_takes_for_text_are_numbers(recipe_file):
    assert load_recipe(recipe_file("trl: {adam_epsilon: 1e-6}"), ["trl.adam_beta2=9.5e-1"]).trl == {
        "adam_epsilon": 1e-6,
        "adam_beta2": 0.95,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("first.init=stage:second", "stage first: stage:second is no earlier stage; there are none"),
        ("second.init=stage:second", "stage second: stage:second is no earlier stage; there are ['first']"),
        ("first.sft.max_seconds=stage:frist", "stage first: stage:frist is no earlier stage"),
        ("second.sft.max_seconds=stage:first", "stage second: sft.max_seconds does nothing for method=grpo"),
        ("second.strategy=thnk", "Did you mean 'think'"),
        ("second.data.train=jsonl:/no/such/file.jsonl", "/no/such/file.jsonl"),
        ("second.data.train={name: phantoms, train: 0, val: 0, test: 1}", "no training rows"),
        ("second.data.train={name: phantoms, train: 2, val: 1, test: 2}", "different test rows"),
        ("data.train={name: phantoms, train: 2, val: 1, test: 0}", "no test rows"),
        ("second.rollout.prompts_per_step=99", "not one step could be made"),
    ],
)
def test_a_chain_is_looked_through_before_it_starts(recipe_file, override, message):
    good = [f"data.train={SMALL}", "second.init=stage:first"]

    def look_through(overrides):
        chain = load_recipe(recipe_file(CHAIN), overrides)
        check_stages(chain)
        load_chain(chain)

    look_through(good)
    with pytest.raises(OslerError) as error:
        look_through([*good, override])
    assert message in str(error.value)
