"""A study: what runs it takes, what they share, what is found again, and the numbers that it prints."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from osler.cli.app import app
from osler.datasets.manifests import row_hash
from osler.errors import DataError, RecipeError, RunError
from osler.grading import grader
from osler.runs import Run
from osler.schema import Parsed, Record
from osler.significance import hierarchical_mean
from osler.stats import Estimate
from osler.study import running
from osler.study.files import load_study
from osler.study.grid import check_tests, digest_of, entries_of, rates, with_rate
from osler.study.job import run_study
from osler.study.results import _over_seeds, mean_over_seeds
from osler.study.running import Runner
from osler.summary import Passes, summarise

RECIPE = """
model: tiny
strategy: nothink
answer_form: text
data:
  train: {name: phantoms, seed: 7, train: 6, val: 2}
  test: {name: phantoms, seed: 7, train: 0, val: 0, test: 4}
controls: {names: none}
rollout: {G: 2, prompts_per_step: 2, max_tokens: 8}
stages:
  form: {method: sft, lr: 3.0e-3, max_steps: 3, sft: {batch_size: 4, micro_batch: 4, eval_steps: 3}}
  grpo: {method: grpo, init: stage:form, lr: 1.0e-3, max_steps: 2}
"""
STUDY = """
name: small
seeds: [0, 1]
reference: GRPO
metrics: [accuracy, floor, format, tokens, train_s]
rows:
  - {name: zero-shot, recipe: chain.yaml, model: base}
  - {name: start, recipe: chain.yaml, model: start}
  - {name: GRPO, recipe: chain.yaml}
  - {name: Dr. GRPO, recipe: chain.yaml, set: {objective.std_norm: none, objective.length_norm: constant}}
"""


@pytest.fixture
def write(tmp_path):
    """Writes a study beside its recipe; returns its path."""

    def study_file(study=STUDY, recipe=RECIPE):
        (tmp_path / "chain.yaml").write_text(recipe)
        (tmp_path / "small.yaml").write_text(study)
        return tmp_path / "small.yaml"

    return study_file


def entries(file, *overrides):
    return entries_of(*load_study(file, overrides))


# --- the grid


def test_rows_share_what_decides_the_same_weights(write):
    found = {(one.name, one.seed): one for one in entries(write())}
    forms = {seed: {one.stages[0].digest for one in found.values() if one.stages and one.seed == seed} for seed in (0, 1)}
    assert [len(one) for one in forms.values()] == [1, 1]
    assert forms[0] != forms[1]
    assert found["GRPO", 0].stages[-1].digest != found["Dr. GRPO", 0].stages[-1].digest
    assert [stage.name for stage in found["start", 0].stages] == ["form"]


def test_a_model_that_is_not_trained_has_one_seed(write):
    found = entries(write())
    assert [(one.name, one.seed) for one in found if one.name == "zero-shot"] == [("zero-shot", 0)]
    assert len(found) == 7
    assert found[0].model == "tiny"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"lr": 2e-3}, False),
        ({"seed": 5}, False),
        ({"eval_batch_size": 3}, True),
        ({"objective": {"std_norm": "none"}}, False),
        ({"sft": {"patience": 1}}, True),  # GRPO does not heed it
        ({"strategy": "think"}, False),
    ],
)
def test_a_digest_changes_with_what_decides_the_weights(write, change, same):
    recipe = entries(write())[-1].stages[-1].recipe
    changed = type(recipe).model_validate({**recipe.model_dump(), **change})
    needs = {"form": "a"}
    assert (digest_of(recipe, needs) == digest_of(changed, needs)) is same
    assert digest_of(recipe, needs) != digest_of(recipe, {"form": "b"})


def test_each_fills_settings_and_names(write):
    study = STUDY + "  - {name: one, recipe: chain.yaml, each: {seeds: [3, 4]}, set: {data.train.seed: '{seeds}'}}\n"
    found = [one for one in entries(write(study)) if one.group == "one" and one.seed == 0]
    assert [(one.name, one.values) for one in found] == [("one · 3", {"seeds": 3}), ("one · 4", {"seeds": 4})]
    assert [one.recipe.data.train["seed"] for one in found] == [3, 4]


def test_learning_rates_are_tried_around_the_recipes_own(write):
    entry = entries(write())[-1]
    assert rates(entry.recipe, 3) == pytest.approx([1e-3 / 3, 1e-3, 3e-3])
    assert rates(entry.recipe, 2) == pytest.approx([1e-3, 3e-3])
    tried = with_rate(entry, 3e-3)
    assert tried.stages[-1].recipe.lr == 3e-3
    assert tried.stages[-1].digest != entry.stages[-1].digest
    assert tried.stages[0] == entry.stages[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("reference: GRPO", "reference: GRP", "Did you mean 'GRPO'"),
        ("name: start,", "name: GRPO,", "two rows have the same name"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "different whole numbers"),
        ("metrics: [accuracy,", "metrics: [accurcy,", "Did you mean 'accuracy'"),
        ("model: start}", "stage: frm}", "no stage 'frm'"),
        ("model: start}", "ask: {stratgy: think}}", "Did you mean 'rows.1.ask.strategy'"),
        ("model: start}", "ask: {strategy: thnk}}", "Did you mean 'think'"),
        ("recipe: chain.yaml, model: base", "recipe: chian.yaml, model: base", "no recipe at chian.yaml"),
        ("{objective.std_norm: none,", "{objective.std_nrm: none,", "std_nrm"),
        ("rows:", "row:", "is no study"),
        (
            "{objective.std_norm: none,",
            "{data.test: {name: phantoms, seed: 8, test: 4}, objective.std_norm: none,",
            "different rows",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_model_is_loaded(write, old, new, said, monkeypatch):
    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("a run was begun"))
    assert old in STUDY
    with pytest.raises(RecipeError, match=said):
        run_study(write(STUDY.replace(old, new)))


def test_equal_rows_under_other_specs_can_be_compared(write):
    study = STUDY.replace("set: {", "set: {data.test: {seed: 7, name: phantoms, train: 0, val: 1, test: 4}, ")
    loaded, file = load_study(write(study))
    check_tests(loaded, entries_of(loaded, file))


def test_a_study_is_no_recipe(write):
    from osler.recipe_files import load_recipe

    with pytest.raises(RecipeError, match="run it by osler study"):
        load_recipe(write())


# --- the runs: what trains and answers is faked, everything around it is real


class Machine:
    """Stands for the GPU: "trains" by writing a run, and answers a share of the rows right that the recipe's lr decides.

    Errors that it should make are listed by (lr, seed) in `broken`.
    """

    def __init__(self):
        self.trained, self.evaluated, self.broken = [], [], set()

    def train(self, recipe, path, splits, resume=False):
        if (recipe.lr, recipe.seed) in self.broken:
            raise RunError("the gradient's norm is nan")
        self.trained.append(path.name)
        about = {"row_hash": row_hash(splits.train), "modality": ["CT"], "question_type": [], "source": []}
        run = Run.create(path, "train", recipe=recipe.model_dump(mode="json"), trained_on=about)
        run.finish({"seconds": 10.0 if recipe.method == "grpo" else 1.0})
        run.save(state="done")
        return run

    def evaluate_rows(self, model, samples, trial, path, data, label=None, seen=None, resume=False):
        self.evaluated.append(path.name)
        recipe = Run.open(model.removeprefix("run:")).manifest["recipe"] if model.startswith("run:") else {"lr": 0, "seed": 0}
        run = Run.create(
            path, "eval", model={"label": label}, trial=trial.to_json(), device="none", trained_on=None,
            data={**data, "row_hash": row_hash(samples)},
        )  # fmt: skip
        share = min(1.0, 300 * recipe["lr"]) if recipe["lr"] < 2e-3 else 0.1
        for number, sample in enumerate(samples):
            run.append("records", answered(sample, (number * 7 + recipe["seed"]) % 10 < 10 * share).to_json())
        run.finish(summarise(Passes.read(run)))
        run.save(state="done")
        return run


def answered(sample, right):
    text = sample.golds[0] if right else "nothing of it"
    parsed = Parsed(text, text, None, True)
    verdict = grader("text")(sample, parsed)
    return Record(sample, "?", text, parsed, verdict, "nothink", 3, False, 0.1)


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(running, "train", made.train)
    monkeypatch.setattr(running, "evaluate_rows", made.evaluate_rows)
    monkeypatch.setattr(running, "check_machine", lambda recipe: None)
    monkeypatch.setattr(running, "check_model", lambda model, with_images: None)
    return made


@pytest.fixture
def ran(write, machine, tmp_path):
    """The small study, run in two goes."""
    file, out = write(), tmp_path / "out"
    first = run_study(file, out=out, max_runs=2)
    kept = list(machine.evaluated)
    second = run_study(file, out=out)
    return SimpleNamespace(file=file, out=out, first=first, second=second, kept=kept)


def test_what_is_done_is_kept_and_the_rest_is_made(ran, machine):
    assert [(one.name, one.seed) for one in ran.first.results] == [("zero-shot", 0), ("start", 0)]
    assert len(ran.second.results) == 7
    assert machine.evaluated[: len(ran.kept)] == ran.kept
    assert len(machine.evaluated) == len(set(machine.evaluated)) == 7
    assert len(machine.trained) == len(set(machine.trained)) == 6  # form, GRPO and Dr. GRPO of two seeds
    assert Run.open(ran.out).manifest["state"] == "done"


def test_a_study_that_waits_is_not_done(write, machine, tmp_path):
    run_study(write(), out=tmp_path / "out", max_runs=1)
    assert Run.open(tmp_path / "out").manifest["state"] == "interrupted"


def test_the_json_has_every_run_with_its_metrics_and_tests(ran):
    found = json.loads(json.dumps(ran.second.to_json()))
    assert found["study"] == "small"
    assert [(row["name"], row["seed"]) for row in found["rows"]].count(("GRPO", 1)) == 1
    assert all({"value", "ci_low", "ci_high", "n"} <= row["metrics"]["accuracy"].keys() for row in found["rows"])
    tests = [one for one in found["tests"] if one["metric"] == "accuracy"]
    assert {(one["a"], one["b"]) for one in tests} == {(name, "GRPO") for name in ("zero-shot", "start", "Dr. GRPO")}
    assert all(one["seeds"] == (1 if one["a"] == "zero-shot" else 2) for one in tests)
    waiting = ran.first.to_json()["rows"][2:]
    assert len(waiting) == 5
    assert not any("metrics" in row for row in waiting)


def test_a_difference_is_that_of_the_rows_metrics(ran):
    mean = {one.name: one.metrics["accuracy"].value for one in ran.second.means}
    for test in (one for one in ran.second.tests if one.metric == "accuracy"):
        assert test.delta == pytest.approx(mean[test.a] - mean["GRPO"])
        assert test.ci_low <= test.delta <= test.ci_high


def test_a_mean_lies_within_its_interval_and_that_within_0_and_1(ran):
    for one in ran.second.means:
        for metric in ("accuracy", "floor", "format"):
            value = one.metrics.get(metric)
            if value and value.ci_low is not None:
                assert 0 <= value.ci_low <= value.value <= value.ci_high <= 1


def test_the_seconds_are_those_of_the_way_to_the_stage(write, machine, tmp_path):
    recipe = RECIPE + "  late: {method: sft, init: stage:form, max_steps: 2, sft: {max_seconds: stage:grpo, batch_size: 4}}\n"
    study = "name: small\nmetrics: [accuracy, train_s]\nrows: [{name: late, recipe: chain.yaml}]\n"
    (one,) = run_study(write(study, recipe), out=tmp_path / "out").results
    assert len(machine.trained) == 3
    assert one.metrics["train_s"].value == 2.0  # form and late, not the GRPO whose clock was needed


def test_a_stage_that_was_cut_off_is_put_aside(ran, machine):
    (form,) = (path for path in (ran.out / "train").iterdir() if path.name.startswith("form-1"))
    Run.open(form).save(state="interrupted")
    for path in (ran.out / "eval").glob("start-1-*"):
        shutil.rmtree(path)
    again = run_study(ran.file, out=ran.out)
    assert (form.parent / f"{form.name}.cut-off-1").is_dir()
    assert len(again.results) == 7


@pytest.mark.parametrize("folder", ["train", "eval"])
def test_rows_that_changed_behind_a_study_are_noticed(ran, folder):
    for path in (ran.out / folder).iterdir():
        manifest = Run.open(path).manifest
        Run.open(path).save(
            **{key: {**manifest[key], "row_hash": "other"} for key in ("data", "trained_on") if manifest.get(key)}
        )
    again = run_study(ran.file, out=ran.out)
    assert again.failed
    assert all("made with other rows" in told for told in again.failed.values())


def test_a_blind_twin_that_is_missing_is_made(write, machine, tmp_path):
    recipe = RECIPE.replace("controls: {names: none}", "controls: {names: none, blind_twin: true}")
    file, out = write(recipe=recipe), tmp_path / "out"
    run_study(file, out=out, max_runs=2)
    for path in (out / "eval").iterdir():
        shutil.rmtree(path)
    count = len(machine.trained)
    run_study(file, out=out, max_runs=2)
    assert len(machine.trained) > count  # the fake trains no twin, so that its run is never whole


def test_another_study_does_not_mix_in(ran):
    other = ran.file.with_name("other.yaml")
    other.write_text(STUDY.replace("name: small", "name: other"))
    with pytest.raises(RunError, match="is no run of the study 'other'"):
        run_study(other, out=ran.out)
    with pytest.raises(RunError, match="is no run folder"):
        run_study(ran.file, out=ran.file)


def test_the_page_has_table_tests_and_command(ran):
    page = (ran.out / "table.md").read_text()
    for said in ("| Dr. GRPO | 2 |", "points over GRPO", "7 of 7 runs are done", "- Command:", "Every metric against GRPO"):
        assert said in page
    assert "Holm over 3 comparisons" in page
    lines = (ran.out / "table.csv").read_text().splitlines()
    assert lines[0] == "name,recipe,seed,test,metric,value,ci_low,ci_high,n,trained_by_judge"
    assert sum(",accuracy," in line for line in lines) == 7


def test_a_row_that_fails_is_named_and_the_others_go_on(write, machine, tmp_path):
    machine.broken = {(1e-3, 1)}
    found = CliRunner().invoke(app, ["study", str(write()), "--out", str(tmp_path / "failing"), "--json"])
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert {(one["name"], one["seed"], one["error"]) for one in told["failed"]} == {
        (name, 1, "the gradient's norm is nan") for name in ("GRPO", "Dr. GRPO")
    }
    assert sum("metrics" in row for row in told["rows"]) == 5


# --- learning rates


def test_the_learning_rate_is_the_best_on_validation_rows_and_the_same_for_all_seeds(write, machine, tmp_path):
    result = run_study(write(), ["tune=3", "set.grpo.lr=5e-4"], out=tmp_path / "out")
    (kept,) = {one["lr"] for one in result.tuned.values()}
    assert kept == pytest.approx(1.5e-3)  # of 1.67e-4, 5e-4 and 1.5e-3 the fake answers best at the last
    rates_of = {Run.open(path).manifest["recipe"]["lr"] for path in (tmp_path / "out" / "train").glob("grpo-1-*")}
    assert rates_of == {kept}
    assert {one["row"] for one in result.tuned.values()} == {"GRPO", "Dr. GRPO"}  # a start is not tuned, and no zero-shot row
    assert {one.metrics["accuracy"].n for one in result.results} == {
        len(result.results) and result.results[0].metrics["accuracy"].n
    }
    assert "best of 3 on validation rows" in (tmp_path / "out" / "table.md").read_text()


def test_a_rate_at_which_training_fails_is_not_chosen(write, machine, tmp_path):
    machine.broken = {(5e-4 * 3, 0)}
    result = run_study(write(), ["tune=3", "set.grpo.lr=5e-4"], out=tmp_path / "out")
    assert not result.failed
    assert {one["lr"] for one in result.tuned.values()} == {5e-4}
    assert all(None in one["tried"].values() for one in result.tuned.values())


def test_rows_that_only_ask_otherwise_share_the_learning_rate(write, machine, tmp_path):
    study = STUDY + "  - {name: asked, recipe: chain.yaml, ask: {max_tokens: 4}}\n"
    found = {one.name: one.tuning for one in entries(write(study), "tune=3")}
    assert found["asked"] == found["GRPO"] != found["Dr. GRPO"]
    assert found["start"] is found["zero-shot"] is None


def test_learning_rates_need_validation_rows_and_seconds_of_its_own(write, machine, tmp_path):
    with pytest.raises(RecipeError, match=r"there are none\. Give data\.val"):
        run_study(write(), ["tune=2", "set.data.train.val=0", "set.data.val_share=0"], out=tmp_path / "out")
    recipe = RECIPE + "  late: {method: sft, init: stage:form, sft: {max_seconds: stage:grpo, batch_size: 4}}\n"
    with pytest.raises(RecipeError, match="whose seconds are another's"):
        run_study(write(recipe=recipe), ["tune=2"])


# --- matrices and several tests


MATRIX = """
name: small
seeds: [0, 1]
matrix: [modality]
minus: [[GRPO, zero-shot], [GRPO, SFT]]
reference: SFT
rows:
  - {name: zero-shot, recipe: chain.yaml, model: base}
  - {name: SFT, recipe: chain.yaml, stage: form, each: {modality: [CT, OCT]}, set: {data.train.where: {modality: "{modality}"}}}
  - {name: GRPO, recipe: chain.yaml, each: {modality: [CT, OCT]}, set: {data.train.where: {modality: "{modality}"}}}
"""


def test_a_matrix_has_a_line_a_domain_and_a_difference_of_each(write, machine, tmp_path):
    big = ["set.data.train.train=32", "set.data.train.val=16", "set.data.test.test=16"]
    result = run_study(write(MATRIX), big, out=tmp_path / "out")
    built = {(one.group, one.minus): one for one in result.matrices}
    assert {*built} == {("zero-shot", None), ("SFT", None), ("GRPO", None), ("GRPO", "zero-shot"), ("GRPO", "SFT")}
    assert list(built["GRPO", "SFT"].cells) == ["CT", "OCT"]
    for line in ("CT", "OCT"):
        for column in built["GRPO", None].columns:
            one, other = (built[group, None].cells[line][column].value for group in ("GRPO", "SFT"))
            assert built["GRPO", "SFT"].cells[line][column].value == pytest.approx(one - other)
    cells = [cell for line in built["GRPO", None].cells.values() for cell in line.values()]
    assert all(0 <= cell.ci_low <= cell.value <= cell.ci_high <= 1 for cell in cells)
    assert (tmp_path / "out" / "modality-grpo-less-sft.svg").is_file()
    assert {(one.a, one.b) for one in result.tests} == {(f"GRPO · {name}", f"SFT · {name}") for name in ("CT", "OCT")}


def test_each_test_set_has_its_table_and_its_own_family_of_tests(write, machine, tmp_path):
    tests = "{one: {name: phantoms, seed: 7, test: 4}, two: {name: phantoms, seed: 8, test: 4}}"
    result = run_study(write(), [f"tests={tests}"], out=tmp_path / "out")
    assert {one.test for one in result.means} == {"one", "two"}
    page = (tmp_path / "out" / "table.md").read_text()
    assert "## Test rows: one" in page
    assert "Holm over 3 comparisons" in page


def test_test_rows_are_never_those_that_were_trained_on(write, machine, tmp_path):
    rows = tmp_path / "rows.jsonl"
    row = {"question": "?", "options": ["a", "b"], "answer": "a"}
    lines = [{**row, "id": str(k), "group": str(k), "image": f"phantom:train/0/{k}"} for k in range(20)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match="has no test rows"):
        run_study(write(), [f"set.data.train=jsonl:{rows}", "set.data.test=null"], out=tmp_path / "out")
    assert not machine.trained


# --- numbers


def test_the_mean_over_seeds_has_students_interval():
    from scipy import stats

    values = [0.5, 0.6, 0.75, 0.4]
    found = mean_over_seeds([Estimate(value, 0.0, 1.0, 50) for value in values])
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((np.mean(values), low, high))
    assert found.n == 50
    alone = Estimate(0.5, 0.4, 0.6, 9)
    assert mean_over_seeds([alone]) == alone
    assert mean_over_seeds([Estimate(0.9, 0.8, 1.0, 9)] * 3) == Estimate(pytest.approx(0.9), None, None, 9)
    assert mean_over_seeds([Estimate(one, None, None, 9) for one in (0.9, 1.0)], (0.0, 1.0)).ci_high == 1.0


def test_the_mean_of_a_method_is_that_of_its_runs_within_0_and_1():
    rng = np.random.default_rng(0)
    by_seed = (rng.random((4, 60)) < np.array([[0.4], [0.6], [0.5], [0.7]])).tolist()
    clusters = [str(k // 3) for k in range(60)]
    found = hierarchical_mean(by_seed, clusters)
    assert found.value == pytest.approx(np.mean(by_seed))
    assert 0 < found.ci_low < found.value < found.ci_high < 1
    alike = hierarchical_mean([by_seed[0]] * 4, clusters)
    assert alike.ci_high - alike.ci_low < found.ci_high - found.ci_low  # seeds that agree add nothing
    wrong = hierarchical_mean([[False] * 10] * 5)
    assert (wrong.value, wrong.ci_low) == (0.0, 0.0)
    assert 0.2 < wrong.ci_high < 0.35  # Wilson's, of ten rows
    with pytest.raises(ValueError, match="one seed"):
        hierarchical_mean(by_seed[:1])


def entry(name, trained):
    return SimpleNamespace(name=name, stages=("x",) if trained else ())


def test_a_model_that_is_not_trained_stands_beside_every_seed():
    from scipy import stats

    its = {0: 20.0, 1: 40.0, 2: 60.0}
    found = _over_seeds("tokens", "test", entry("base", False), entry("GRPO", True), {0: 10.0}, its)
    known = stats.ttest_1samp([10.0 - value for value in its.values()], 0)
    assert (found.delta, found.n, found.p) == (-30.0, 3, pytest.approx(known.pvalue))
    back = _over_seeds("tokens", "test", entry("GRPO", True), entry("base", False), its, {0: 10.0})
    assert (back.delta, back.p) == (30.0, found.p)


def test_one_seed_of_a_method_says_nothing_about_it():
    found = _over_seeds("tokens", "test", entry("a", True), entry("GRPO", True), {0: 10.0, 1: 12.0}, {0: 20.0})
    assert (found.delta, found.ci_low, found.p, found.n) == (-10.0, None, None, 1)
