"""Conversations as TRL and ms-swift document them; rows written after their guides, and real questions put into that form."""

import base64
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from trl.data_utils import prepare_multimodal_messages

from osler.datasets.load import load_data
from osler.datasets.questions import options_in
from osler.schema import LETTERS, Kind, Sample
from osler.taxonomy import Modality
from row_files import failure

CHOICE = "<image>Which organ is enlarged?\nA) Liver\nB) Spleen"


def user(content) -> list[dict]:
    return [{"role": "user", "content": content}]


def assistant(content) -> list[dict]:
    return [{"role": "assistant", "content": content}]


def picture_uri() -> str:
    data = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes rows, dictionaries or raw lines, beside the images 0.png to 3.png; returns the path."""
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        Image.new("RGB", (4, 3)).save(tmp_path / f"{number}.png")

    def rows_file(*rows, name="rows.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return rows_file


# --- forms ---


def test_every_field_of_a_row(write, tmp_path):
    row = {
        "id": 7,
        "messages": [
            {"role": "system", "content": "You are a radiologist."},
            *user(CHOICE),
            *assistant("<think>It is large.</think>\n<answer> B </answer>"),
        ],
        "images": ["0.png"],
        "solution": "<answer> B </answer>",
        "modality": "CT",
        "split": "train",
        "patient_or_group_id": "p1",
        "group_is_patient": True,
        "licence": "MIT",
    }
    file = write(row)
    (found,) = load_data(f"conversations:{file}")
    assert found == Sample(
        id="7",
        images=(str(tmp_path / "0.png"),),
        question="Which organ is enlarged?",
        golds=("Spleen",),
        options=("Liver", "Spleen"),
        gold_index=1,
        kind=Kind.CHOICE,
        rationale="It is large.",
        modality=Modality.CT,
        split="train",
        group="p1",
        group_is_patient=True,
        extra={"licence": "MIT", "system": "You are a radiologist."},
    )
    assert found.origin == f"{file}, row 1"


SAME = [
    {"messages": user("<image>Is it large?") + assistant("yes"), "images": ["0.png"]},
    {"messages": user("<image>\nIs it large?"), "images": [{"path": "0.png", "bytes": None}],
     "solution": "<answer>yes</answer>"},
    {"messages": user("Is it large?"), "images": ["0.png"], "solution": "yes"},
    {"prompt": user("Is it large?"), "images": ["0.png"], "solution": "yes"},
    {"prompt": user("Is it large?"), "image": "0.png", "completion": assistant("<answer>yes</answer>")},
    {"prompt": "Is it large?", "image": "0.png", "completion": "yes"},
    {"prompt": user([{"type": "image"}, {"type": "text", "text": "Is it large?"}]), "images": ["0.png"], "answer": "yes"},
    {"prompt": user([{"type": "text", "text": "Is it large?"}, {"type": "image", "image": "0.png"}]), "solution": "yes"},
    {"messages": user([{"type": "image_url", "image_url": {"url": "0.png"}}, {"type": "text", "text": "Is it large?"}])
     + assistant([{"type": "text", "text": "yes"}])},
    {"conversations": [{"from": "human", "value": "Is it large?\n<image>"}, {"from": "gpt", "value": "yes"}], "image": "0.png"},
]  # fmt: skip


@pytest.mark.parametrize("row", SAME)
def test_forms_that_say_the_same(write, tmp_path, row):
    (found,) = load_data(f"conversations:{write(row)}")
    assert (found.question, found.images, found.kind) == ("Is it large?", (str(tmp_path / "0.png"),), Kind.YESNO)
    assert (found.golds, found.rationale, found.extra, found.id) == (("yes",), None, {}, "rows/1")


@pytest.mark.parametrize("row", [row for row in SAME if isinstance(row.get("prompt", ""), list) and "images" in row])
def test_trl_itself_takes_these_prompts(row):
    """The rows that the test above calls TRL's are TRL's: its own function finds as many places as images."""
    messages = prepare_multimodal_messages(row["prompt"], images=row["images"])
    assert [part["image"] for part in messages[0]["content"] if part["type"] == "image"] == row["images"]


def test_a_json_array_is_read_too(write):
    file = write(json.dumps(SAME[:3]), name="rows.json")
    assert [row.id for row in load_data(f"conversations:{file}")] == ["rows/1", "rows/2", "rows/3"]


def test_the_thought_of_an_assistant_is_the_rationale(write):
    told = "<think>\nDark.\n</think>\nB"
    (found,) = load_data(f"conversations:{write({'messages': user(CHOICE) + assistant(told), 'images': ['0.png']})}")
    assert (found.rationale, found.gold_index) == ("Dark.", 1)


def test_a_solution_counts_before_what_the_assistant_says(write):
    row = {"messages": user(CHOICE) + assistant("<think>Large.</think>I think it is the spleen."), "images": ["0.png"]}
    (found,) = load_data(f"conversations:{write(row | {'solution': 'B'})}")
    assert (found.gold_index, found.rationale) == (1, "Large.")
    assert "is not among the options" in failure(f"conversations:{write(row)}")


# --- images ---


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("<image><image>What?", "What?"),
        ("<image>\n<image>\nWhat?", "What?"),
        ("What?\n<image> <image>", "What?"),
        ("<image>Compare <image> with the first.", "Compare image 2 with the first."),
        ("Compare the two.", "Compare the two."),
    ],
)
def test_several_images_and_their_marks(write, tmp_path, text, question):
    row = {"messages": user(text), "images": ["1.png", "0.png"], "solution": "both"}
    (found,) = load_data(f"conversations:{write(row)}")
    assert (found.question, found.images) == (question, (str(tmp_path / "1.png"), str(tmp_path / "0.png")))


def test_images_of_the_content_and_of_the_list_keep_their_order(write, tmp_path):
    parts = [{"type": "image"}, {"type": "image", "image": "2.png"}, {"type": "text", "text": "<image>What?"}]
    (found,) = load_data(f"conversations:{write({'prompt': user(parts), 'images': ['0.png', '1.png'], 'solution': 'x'})}")
    assert found.images == tuple(str(tmp_path / f"{n}.png") for n in (0, 2, 1))


def test_24_slices_and_a_root(write, tmp_path):
    row = {"messages": user("<image>" * 24 + "What?"), "images": [f"{n % 4}.png" for n in range(24)], "solution": "x"}
    file = write(row)
    (tmp_path / "away").mkdir()
    moved = file.rename(tmp_path / "away" / "rows.jsonl")
    assert len(load_data(f"conversations:{moved}?images={tmp_path}")[0].images) == 24
    assert f"there is no image {tmp_path}/away/0.png" in failure(f"conversations:{moved}")


def test_an_image_in_base64_is_kept_as_a_file(write, tmp_path):
    (found,) = load_data(f"conversations:{write({'messages': user('What?'), 'images': [picture_uri()], 'solution': 'x'})}")
    assert found.images[0].startswith(str(tmp_path / "cache" / "images"))


# --- options ---


@pytest.mark.parametrize(
    ("text", "question", "options"),
    [
        ("Which? A)l, B)r", "Which?", ["l", "r"]),
        ("Which? A) a, b, B) (r), C) c", "Which?", ["a, b", "(r)", "c"]),
        ("Which?\nA) l\nB) r", "Which?", ["l", "r"]),
        ("Which?\n\nOptions:\n (A) l\n\n (B) r\n", "Which?", ["l", "r"]),
        ("Which?\nA. l\nB. r\nC. c", "Which?", ["l", "r", "c"]),
        ("Which?\nchoices\nA: l\nB: r", "Which?", ["l", "r"]),
        ("Which?\nA) l\nB) r\n\nAnswer with a letter.", "Which?\n\nAnswer with a letter.", ["l", "r"]),
        ("Which?\nA. l\nB. r\nAnswer with the letter.", "Which?\nAnswer with the letter.", ["l", "r"]),
        ("Which?\nA. l\nB. r\nPlease answer.\n\nHint", "Which?\nPlease answer.\n\nHint", ["l", "r"]),
        ("Which?\nA. l\nB. r\n请直接回答。", "Which?\n请直接回答。", ["l", "r"]),
        *[(text, text, []) for text in (
            "Which?\nA) l\nB) biopsy of\nselect nodes",
            "Which?\nA) l\nB) r\nAnswer so:\nC) x and more",
            "Which?\nA) l\nB) r\nAnswer.\nor both",
            "Which?",
            "Compare A) and B) of the figure.",
            "Which? A) l B) r",
            "Which?\nA) l\nC) r",
            "Which?\nB) l\nA) r",
            "Which?\nA) l",
            "A) l\nB) r",
            "Which?\nA) l\nB) r\nor both",
            "Which?\nA) l\nthat is left\nB) r",
            "Vitamin A. and B. are",
        )],
    ],
)  # fmt: skip
def test_options_are_read_where_they_are_certain(text, question, options):
    assert options_in(text) == (question, tuple(options))


WORDS = st.text(st.characters(categories=["L", "N"]), min_size=2).map(lambda text: f"w {text}")


@given(WORDS, st.lists(WORDS, min_size=2, max_size=10), st.sampled_from(["{}) ", "({}) ", "{}. ", "{}: "]))
def test_options_on_lines_come_back(question, options, mark):
    lines = [mark.format(letter) + option for letter, option in zip(LETTERS, options, strict=False)]
    assert options_in("\n".join([question, *lines])) == (question, tuple(options))


@given(st.text())
def test_any_text_is_a_question_or_has_two_options(text):
    question, options = options_in(text)
    assert len(options) != 1
    assert question == text or (len(options) >= 2 and question.strip())


def test_real_questions_as_conversations(write, shared_data):
    """Med-R1's problems, put into this form, give the options and golds that its own adapter reads."""
    file = shared_data / "original/medr1_splits/X-Ray_test.json"
    file = file if file.is_file() else next((shared_data / "original/medr1_splits").rglob("X-Ray_test.json"))
    wanted = load_data(f"medr1:{file}")
    rows = [
        {"messages": user(row["problem"]), "text_only": True, "solution": row["solution"]}
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]
    found = load_data(f"conversations:{write(*rows)}")
    pairs = list(zip(found, wanted, strict=True))
    assert len(pairs) > 1000
    assert all((a.question, a.options, a.gold_index) == (b.question, b.options, b.gold_index) for a, b in pairs)


DIRECTLY = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize("gold", ["B. Spleen", "B", "Spleen", "(B) spleen", "<think>Large.</think><answer>B. Spleen</answer>"])
def test_the_usual_instruction_behind_the_options(write, gold):
    """ms-swift's layout: the instruction stands directly behind the last option."""
    asked = user(f"<image>Which organ?\nA. Liver\nB. Spleen\nC. Kidney\n{DIRECTLY}")
    (found,) = load_data(f"conversations:{write({'messages': asked + assistant(gold), 'images': ['0.png']})}")
    assert (found.question, found.options) == (f"Which organ?\n{DIRECTLY}", ("Liver", "Spleen", "Kidney"))
    assert (found.kind, found.gold_index) == (Kind.CHOICE, 1)


@pytest.mark.parametrize("gold", ["B", "Spleen", "B. Spleen"])
@pytest.mark.parametrize("text", ["Which organ?", CHOICE, "Which organ? A) Liver B) Spleen"])
def test_the_options_of_the_row(write, text, gold):
    row = {"messages": user(text), "images": ["0.png"], "options": ["Liver", "Spleen"], "solution": gold}
    (found,) = load_data(f"conversations:{write(row)}")
    assert (found.options, found.gold_index, found.extra) == (("Liver", "Spleen"), 1, {})
    assert found.question == ("Which organ is enlarged?" if text == CHOICE else text)


@pytest.mark.parametrize("text", ["Which organ?", CHOICE])
def test_letters_of_the_options_of_the_row_are_taken_out(write, text):
    row = {"messages": user(text), "images": ["0.png"], "options": ["A) Liver", "B) Spleen"], "solution": "B) Spleen"}
    (found,) = load_data(f"conversations:{write(row)}")
    assert (found.options, found.gold_index) == (("Liver", "Spleen"), 1)


def test_the_patient_of_a_conversation_is_its_group(write):
    row = {"messages": user(CHOICE), "images": ["0.png"], "solution": "B", "patient_id": "p1"}
    (found,) = load_data(f"conversations:{write(row)}")
    assert (found.group, found.group_is_patient, found.extra) == ("p1", True, {})


def test_marks_in_the_stem_do_not_count_where_options_were_read(write):
    row = {"messages": user("Compare A) and B).\nA) One\nB) Two"), "images": ["0.png"], "solution": "B"}
    (found,) = load_data(f"conversations:{write(row)}")
    assert (found.question, found.gold_index) == ("Compare A) and B).", 1)


# --- faults ---


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "it is no JSON object"),
        ("[1]", "it is no JSON object"),
        ({}, "it has no messages"),
        ({"messages": []}, "no user asks anything"),
        ({"messages": user("What?")}, "it has no gold"),
        ({"messages": user("What?"), "solution": "<answer> </answer>"}, "it has no gold"),
        ({"messages": user("What?"), "prompt": user("What?"), "solution": "x"}, "it has messages and prompt"),
        ({"messages": user("What?") * 2, "solution": "x"}, "it has 2 turns of the user"),
        ({"messages": user("What?") + assistant("x") * 2}, "it has 2 turns of the assistant"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "it has a turn of 'tool'"),
        ({"messages": [{"role": "user"}]}, "the content of its user's turn should be a text"),
        ({"messages": user([{"type": "video", "video": "a.mp4"}])}, "a part of the type 'video'"),
        ({"messages": user("<image><image>What?"), "solution": "x"}, "it has 2 image marks without a path, but 1 images"),
        ({"messages": user("<image>What?"), "images": [], "solution": "x"}, "it has 1 image marks without a path, but 0"),
        ({"messages": user("What?"), "images": None, "solution": "x"}, "the field 'image' is missing or empty"),
        ({"messages": user("What?"), "image": "0.png", "solution": "x"}, "it has both 'image' and 'images'"),
        ({"messages": user("What?"), "images": ["9.png"], "solution": "x"}, "there is no image"),
        ({"messages": user("What?"), "images": [3], "solution": "x"}, "its image should be a path, not '3'"),
        ({"messages": user("What?"), "images": ["https://a/b.png"], "solution": "x"}, "its image is an address"),
        ({"messages": user("What?"), "images": ["data:image/png;base64,!!"], "solution": "x"}, "its image is no base64"),
        ({"messages": user("<|image_pad|>What?"), "solution": "x"}, "holds <|image_pad|>, a model's own mark"),
        ({"messages": user("<image>"), "solution": "x"}, "the field 'question' is empty"),
        ({"messages": user("What?") + assistant("<image>x")}, "its assistant's turn holds an image"),
        ({"messages": user("What?") + assistant("<answer>x</answer><answer>y</answer>")}, "answers more than once"),
        ({"messages": user(CHOICE), "solution": "C"}, "the gold letter C is not among the 2 options"),
        ({"messages": user(CHOICE), "solution": "Kidney"}, "the gold 'Kidney' is not among the options"),
        ({"messages": user(CHOICE), "solution": "A", "answer": "B"}, "its golds disagree"),
        *[
            ({"messages": user(text), "solution": gold}, f"its gold '{gold}' seems to be an option, but none can be read")
            for text, gold in (
                ("Which? A) l B) r", "B"),
                ("Which? A) l B) r", "B) r"),
                ("Which? A. l B. r", "B. r"),
                ("Which? A) l B) r", "r"),
                ("Which?\nA. l\nB. r\nor both", "B. r"),
                ("Which?", "B. Right"),
                ("Which?", "(B) right"),
                ("Which?", "B: right"),
            )
        ],
        ({"messages": user(CHOICE), "options": ["Spleen", "Liver"], "solution": "B"}, "its question lists ['Liver', 'Spleen']"),
        ({"messages": user("Which? A) l B) r"), "options": ["r", "l"], "solution": "B"}, "may list other options"),
        ({"messages": user("Which?"), "options": ["l", 3], "solution": "B"}, "the field 'options'"),
        ({"messages": user("Which?"), "options": "l, r", "solution": "B"}, "the field 'options'"),
        ({"messages": user("Which?"), "options": ["l", "r"], "solution": "C"}, "the gold letter C is not among the 2 options"),
        ({"messages": user("Which?"), "options": ["l"], "solution": "A"}, "it has only one option"),
        ({"messages": user(CHOICE), "solution": "B) Liver"}, "the gold 'B) Liver' is not among the options"),
        ({"messages": user("What?"), "solution": "x", "id": "rows/1"}, "the id 'rows/1' is taken by"),
        ({"messages": user("What?"), "solution": ["x"]}, "the field 'solution'"),
        ({"messages": "What?", "solution": "x"}, "the field 'messages'"),
    ],
)
def test_a_broken_row_is_named_by_file_and_row(write, row, message):
    good = {"messages": user("What?"), "images": ["0.png"], "solution": "x"}
    bad = {"images": ["0.png"]} | row if isinstance(row, dict) else row
    file = write(good, "", {name: value for name, value in bad.items() if value is not None} if isinstance(bad, dict) else bad)
    said = failure(f"conversations:{file}")
    assert said.startswith(f"{file}, row 3: ")
    assert message in said


def test_a_letter_is_an_answer_to_an_open_question(write):
    (found,) = load_data(f"conversations:{write({'messages': user('Which vitamin?'), 'images': ['0.png'], 'solution': 'A'})}")
    assert (found.kind, found.golds) == (Kind.OPEN, ("A",))


@pytest.mark.parametrize("gold", ["E. coli", "C. difficile", "Hepatitis B: chronic"])
def test_a_name_is_an_answer_to_an_open_question(write, gold):
    (found,) = load_data(f"conversations:{write({'messages': user('Which?'), 'images': ['0.png'], 'solution': gold})}")
    assert (found.kind, found.golds) == (Kind.OPEN, (gold,))


def test_a_row_that_calls_itself_open_is(write):
    row = {"messages": user("Read A) and B)."), "images": ["0.png"], "solution": "B) 5 mm"}
    assert "seems to be an option" in failure(f"conversations:{write(row)}")
    (found,) = load_data(f"conversations:{write(row | {'kind': 'open'})}")
    assert (found.kind, found.golds) == (Kind.OPEN, ("B) 5 mm",))


def test_bytes_that_are_no_utf_8(write):
    file = write(json.dumps(SAME[0]))
    file.write_bytes(file.read_bytes() + '{"prompt": "é"}\n'.encode("latin-1"))
    assert failure(f"conversations:{file}").startswith(f"{file}, row 2: it is no JSON object in UTF-8 (")


# --- forms of other programs ---

SAID = {"messages": [*user(CHOICE), *assistant("B")], "images": ["0.png"]}


@pytest.mark.parametrize(
    "row",
    [
        {"query": CHOICE, "response": "B", "images": ["0.png"]},
        {"query": CHOICE, "response": "B", "images": "0.png", "history": []},
        {"query": CHOICE, "solution": "B", "images": ["0.png"], "messages": None},
        {"problem": CHOICE, "solution": "<answer> B </answer>", "image": "0.png"},
        {"problem": CHOICE, "answer": "B", "images": ["0.png"]},
        {"conversatons": [{"from": "human", "value": CHOICE}, {"from": "gpt", "value": "B"}], "image": "0.png"},
        SAID | {"images": [{"path": "0.png", "bytes": None}]},
        SAID | {"images": [{"image": "0.png"}]},
        SAID | {"images": {"path": "0.png"}},
    ],
)
def test_forms_of_other_programs_say_the_same(write, row):
    assert load_data(f"conversations:{write(row)}") == load_data(f"conversations:{write(SAID)}")


def test_an_image_as_bytes_in_a_dictionary(write, tmp_path):
    coded = picture_uri().partition(",")[2]
    (found,) = load_data(f"conversations:{write(SAID | {'images': [{'path': 'gone.png', 'bytes': coded}]})}")
    with Image.open(found.images[0]) as image:
        assert (image.size, found.images[0].startswith(str(tmp_path / "cache"))) == ((4, 3), True)


def test_a_question_by_several_names(write):
    row = SAID | {"problem": "kept", "query": "kept too", "response": "x"}
    assert load_data(f"conversations:{write(row)}")[0].extra == {"problem": "kept", "query": "kept too", "response": "x"}
    row = {"query": CHOICE, "problem": "kept", "solution": "B", "images": ["0.png"]}
    assert load_data(f"conversations:{write(row)}")[0].extra == {"problem": "kept"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"query": CHOICE, "response": "B", "history": [["a", "b"]], "images": ["0.png"]},
            "it has earlier turns in 'history'.",
        ),
        ({"response": "B", "images": ["0.png"]}, "it has no messages."),
        ({"query": 3, "response": "B"}, "the field 'prompt'"),
        (SAID | {"images": [{"bytes": "no base64!"}]}, "its image is no base64"),
        (SAID | {"images": 3}, "its image should be a path, not '3'."),
    ],
)
def test_such_rows_that_cannot_be(write, row, message):
    file = write(row)
    assert f"{file}, row 1: {message}" in failure(f"conversations:{file}")
