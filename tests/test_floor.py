"""The floor of rows: the best of the attackers on them, clustered as the accuracy beside it."""

import json
from dataclasses import replace

from osler.floor import Floor, Floors, best
from osler.schema import Kind, Sample
from osler.stats import proportion

SAMPLE = Sample(id="s", images=("a.png",), question="What?", golds=("cyst",), options=("cyst", "air"), gold_index=0)
OPEN = replace(SAMPLE, options=(), gold_index=None, kind=Kind.OPEN)


def test_the_best_attacker_is_best_on_the_rows_at_hand():
    rows = [{"option_prior": 1.0, "stem_table": 0.5}, {}, {"option_prior": 0.0, "stem_table": 0.75}]
    assert best(rows) == ("stem_table", proportion([0.5, 0.75]))
    assert best(rows[:1])[0] == "option_prior"
    assert best([{}, {}]) is None


def test_the_floor_is_clustered():
    rows = [{"option_prior": float(k % 2)} for k in range(20)]
    together, apart = best(rows, [str(k // 10) for k in range(20)])[1], best(rows, list(map(str, range(20))))[1]
    assert together.value == apart.value == 0.5
    assert together == proportion([k % 2 for k in range(20)], [str(k // 10) for k in range(20)])


def test_an_open_question_has_no_floor_and_teaches_nothing():
    floor = Floor.fit([SAMPLE])
    assert floor.credits(OPEN) == {}
    assert Floor.fit([SAMPLE, OPEN]) == floor
    assert floor.credits(SAMPLE) == dict.fromkeys(("option_prior", "gold_frequency", "stem_table", "bag_of_words"), 1.0)


def test_a_floor_survives_json():
    floor = Floor.fit([SAMPLE, replace(SAMPLE, question="Where?", golds=("air",), gold_index=1)])
    assert Floor.from_json(json.loads(json.dumps(floor.to_json()))) == floor


def test_a_cluster_is_the_group_else_the_image_else_the_sample():
    patient, alone = replace(SAMPLE, group="patient 1"), replace(SAMPLE, images=())
    assert [sample.cluster for sample in (patient, SAMPLE, alone)] == ["patient 1", "a.png", "s"]


def test_a_model_is_read_against_all_that_its_stages_taught():
    early, late = Floor.fit([SAMPLE]), Floor.fit([replace(SAMPLE, options=("sand", "snow"), golds=("sand",))])
    floors = Floors((late, early))
    credits = floors.credits(SAMPLE)
    assert (credits["option_prior"], credits["option_prior@1"]) == (0.5, 1.0)
    assert best([credits])[0].endswith("@1")
    assert floors.credits(OPEN) == {}
    assert Floors.from_json(json.loads(json.dumps(floors.to_json()))) == floors
