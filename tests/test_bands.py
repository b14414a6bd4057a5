"""Numbers in bands: every number in exactly one, by its edges, however it was written."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.bands import EACH, MANY, MANY_TEXTS, Bands, banded, number_in, parted, require_few
from osler.errors import RecipeError
from osler.schema import Sample
from osler.summary import axis_of, in_order

EDGES = st.lists(st.integers(-50, 150), min_size=1, max_size=6, unique=True).map(sorted)


def sample(**extra):
    return Sample(id="s", images=("a.png",), question="What?", golds=("yes",), kind="yesno", extra=extra)


def label(axis, **extra):
    label_of, _ = axis_of(axis)
    return label_of(sample(**extra))


# --- edges


@pytest.mark.parametrize(
    ("age", "band"),
    [
        *((one, "<18") for one in (-1, 17, 17.99)),
        *((one, "18-39") for one in (18, 39, 39.99)),
        *((one, "40-64") for one in (40, 64)),
        *((one, ">=65") for one in (65, 120)),
    ],
)
def test_a_band_begins_with_its_edge_and_ends_before_the_next(age, band):
    assert label("extra:age@18,40,65", age=age) == band


@given(EDGES, st.floats(-100, 200))
def test_every_number_is_in_the_one_band_that_its_edges_say(edges, number):
    bands = Bands(tuple(map(float, edges)))
    assert len(set(bands.labels)) == len(bands.labels) == len(edges) + 1
    at = bands.labels.index(bands.of(number))
    assert at == sum(edge <= number for edge in edges)
    assert (at == 0) == (number < edges[0])


@given(EDGES.filter(lambda edges: edges[0] >= 0), st.integers(0, 200))
def test_a_band_of_whole_numbers_is_named_by_the_first_and_last_number_in_it(edges, number):
    name = Bands(tuple(map(float, edges))).of(number)
    if name.startswith("<"):
        assert number < int(name[1:])
    elif name.startswith(">="):
        assert number >= int(name[2:])
    else:
        first, _, last = name.partition("-")
        assert int(first) <= number <= int(last or first)


@pytest.mark.parametrize(
    ("edges", "labels"),
    [
        ((18.5, 25.0, 30.0), ("<18.5", "18.5 to <25", "25-29", ">=30")),
        ((0.0, 1.0, 2.0), ("<0", "0", "1", ">=2")),
        ((-5.0, 0.0), ("<-5", "-5 to <0", ">=0")),
        ((1e6, 1e6 + 1), ("<1000000", "1000000", ">=1000001")),
    ],
)
def test_bands_have_names_that_say_their_edges(edges, labels):
    assert Bands(edges).labels == labels


@pytest.mark.parametrize("edges", [(), (40.0, 18.0), (18.0, 18.0), (math.nan,), (18.0, math.inf)])
def test_edges_that_do_not_ascend_are_refused(edges):
    with pytest.raises(RecipeError, match="do not ascend"):
        Bands(edges)


# --- numbers as they are written


@pytest.mark.parametrize(
    ("written", "number"),
    [
        *((one, 63) for one in (63, "63", " 63 ", 63.0, "63.0", "063Y", "63Y")),
        *(("006M", 0.5), ("026W", 26 * 7 / 365.25), ("365D", 365 / 365.25)),
        *(("-2.5", -2.5), ("1e2", 100), (".5", 0.5)),
        *(("20,5", 20.5), ("63,0", 63), ("-2,25", -2.25), ("063y", 63), ("20y", 20), ("006m", 0.5)),
    ],
)
def test_a_number_is_read_however_it_was_written(written, number):
    assert number_in(written) == pytest.approx(number)


@pytest.mark.parametrize(
    "text", ["", "90+", ">89", "1,234", "63,5,1", "63,", ",5", "sixty", "6 3", "2D", "nan", "inf", "1e999", "٣", True, None]
)
def test_what_is_no_number_is_none(text):
    assert number_in(text) is None


@given(st.integers(0, 120), EDGES)
def test_one_age_is_in_one_band_however_it_was_written(age, edges):
    axis = f"extra:age@{','.join(map(str, edges))}"
    assert len({label(axis, age=one) for one in (age, str(age), float(age), f"{age}.0", f" {age} ", f"{age:03}Y")}) == 1


@pytest.mark.parametrize("absent", [None, "", " ", "NA", "n/a", "nan", "null"])
@pytest.mark.parametrize("axis", ["extra:age", "extra:age@18,40", "extra:age@each"])
def test_who_does_not_say_is_unknown(axis, absent):
    assert label(axis, age=absent) == label(axis) == "unknown"


def test_without_bands_a_whole_number_has_one_slice_and_a_code_stays_as_it_is():
    assert {label("extra:site", site=one) for one in (3, 3.0, "3", "3.0", " 3")} == {"3"}
    for code in ("007", "1.10", "v2.0", "0.5", "-1.5", "10", "3.0.0"):
        assert label("extra:site", site=code) == code


def test_text_among_numbers_keeps_a_slice_of_its_own():
    assert label("extra:age@18,40", age="90+") == "90+"


# --- the axis


@pytest.mark.parametrize(
    ("field", "key", "edges", "each"),
    [
        *((one, one, None, False) for one in ("age", "a@b", "@18", "age@", "age@18,")),
        *(("age@18,40", "age", (18, 40), False), ("age@18", "age", (18,), False), ("a@b@5", "a@b", (5,), False)),
        ("site@each", "site", None, True),
    ],
)
def test_bands_stand_behind_the_last_at(field, key, edges, each):
    found, bands, by_itself = parted(field)
    assert (found, bands and bands.edges, by_itself) == (key, edges, each)


def test_bands_are_written_behind_an_axis():
    assert banded("extra:age", "18, 40") == "extra:age@18,40"
    assert banded("extra:site", EACH) == "extra:site@each"


@pytest.mark.parametrize(
    ("axis", "bands", "said"),
    [
        *((one, "18", f"which {one!r} is not") for one in ("modality", "extra:")),
        *(("extra:age", one, "are not understood") for one in ("", "a", "18,", "18;40", "18-40")),
        *(("extra:age", "40,18", "do not ascend"), ("extra:age@18", "40", "has bands already")),
    ],
)
def test_bands_that_an_axis_cannot_take_are_refused(axis, bands, said):
    with pytest.raises(RecipeError, match=said):
        banded(axis, bands)


@pytest.mark.parametrize("axis", ["extra:", "sites", "extras:site"])
def test_an_axis_without_a_name_is_none(axis):
    with pytest.raises(RecipeError, match="unknown axis"):
        axis_of(axis)


# --- too many, and their order


def test_more_numbers_than_can_be_slices_are_one_error_that_says_how_to_give_bands():
    labels = [str(age) for age in range(20, 20 + MANY)]
    assert len(in_order([*labels, "unknown", "90+"], "extra:age")) == MANY + 2
    with pytest.raises(RecipeError, match=rf"'age' has {MANY + 1} different numbers, from 5 to 31.*--bands 18,40,65") as error:
        in_order([*labels, "005Y"], "extra:age")
    assert "--bands each" in str(error.value)
    assert len(in_order([*labels, "5"], "extra:age@each")) == MANY + 1


def test_decimal_commas_and_small_letters_are_in_the_bands_of_their_numbers():
    assert {label("extra:age@18,40", age=one) for one in ("20,5", "20.5", "20y", "39,99")} == {"18-39"}
    with pytest.raises(RecipeError, match=r"has 60 different numbers, from 20.5 to 79.5"):
        in_order([f"{age},5" for age in range(20, 80)], "extra:age")


def test_more_texts_than_can_be_slices_are_one_error_unless_each_is_asked_for():
    texts = {f"hospital {k:02}" for k in range(MANY_TEXTS)}
    require_few("site", texts | {"unknown"})
    with pytest.raises(RecipeError, match=r"'site' has 51 different values, as 'hospital 00'.*--bands each"):
        require_few("site", texts | {"unknown", "mine"})
    require_few("site@each", texts | {"mine"})


def test_more_texts_than_can_be_slices_beside_bands_are_one_error():
    texts = {f"about {k:02}" for k in range(MANY_TEXTS + 1)}
    with pytest.raises(RecipeError, match=r"'age' has 51 different values that are no numbers, as 'about 00'.*as numbers"):
        require_few("age@18,40", texts | {"<18"})
    require_few("age@18,40", set(list(texts)[1:]) | {"<18", "18-39", ">=40"})


def test_bands_of_what_holds_no_number_are_refused():
    require_few("age@18", {"unknown"})
    with pytest.raises(RecipeError, match=r"no value of 'sex' is a number: there is 'F'.* Write numbers as 20.5 or 20,5"):
        require_few("sex@18", {"M", "F", "unknown"})


@given(st.permutations(["<18", "18-39", "40-64", ">=65", "90+", "old", "unknown"]))
def test_bands_stand_in_order_then_text_then_unknown(labels):
    assert in_order(labels, "extra:age@18,40,65") == ["<18", "18-39", "40-64", ">=65", "90+", "old", "unknown"]


@given(st.permutations(["2", "3", "10", "A", "unknown"]))
def test_numbers_stand_by_size_then_names_then_unknown(labels):
    assert in_order(labels, "extra:site") == ["2", "3", "10", "A", "unknown"]
