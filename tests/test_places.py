"""What people name first: the unzipped folder, the archive, a Hugging Face folder; and where the images of rows lie."""

from pathlib import Path

import pytest

from osler.datasets.load import load_data
from osler.datasets.places import above, image_root, no_file, require_text
from osler.datasets.problems import problem_of
from osler.errors import DataError


@pytest.fixture
def tree(tmp_path):
    """Makes files and (where they end in a slash) folders below a folder of its own; returns that."""

    def made(*names):
        for name in names:
            path = tmp_path / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_bytes(b"x")
        return tmp_path

    return made


# --- what is not read ---


@pytest.mark.parametrize(
    ("file", "what", "fix"),
    [
        ("Slake1.0.zip", "archive", "Unzip it, and name the folder."),
        ("images.TAR", "archive", "Unzip it, and name the folder."),
        ("train_qa.pkl", "pickled, which is never read", "hub:OWNER/NAME."),
        ("VQA_RAD Dataset Public.xlsx", "spreadsheet", "save it as CSV"),
        ("train-00000-of-00001.parquet", "Hugging Face", "Read it as hub:"),
    ],
)
def test_a_file_of_another_form_says_what_to_give(tree, file, what, fix):
    path = tree(file) / file
    for spec in (f"slake:{path}", f"jsonl:{path}", f"tsv:{path}"):
        with pytest.raises(DataError) as error:
            load_data(spec)
        problem = problem_of(error.value)
        assert problem.file == str(path)
        assert what in problem.what
        assert fix in problem.fix


def test_text_is_not_refused(tree):
    folder = tree("a.json", "b.jsonl", "c.txt", "d", "state.json")
    for path in (folder, *folder.iterdir()):
        require_text(path)


@pytest.mark.parametrize("files", [("dataset_dict.json",), ("state.json", "dataset_info.json")])
def test_a_saved_data_set_is_read_as_hub(tree, files):
    folder = tree(*files)
    with pytest.raises(DataError, match="Read it as hub:"):
        load_data(f"medr1:{folder}")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("data/train-0.parquet", "README.md"), "holds no .json file, but a Hugging Face data set. Read it as hub:"),
        (("qas/train_qa.pkl", "images/a.jpg"), "but qas/train_qa.pkl: it is pickled"),
        (("imgs.zip",), "but imgs.zip: it is an archive. Unzip it"),
        (("a.jpg",), "holds no .json file. Name the file, or the folder above it."),
    ],
)
def test_a_folder_without_such_files_says_what_it_holds(tree, files, said):
    assert said in str(no_file(tree(*files), ".json"))


# --- where images are ---


@pytest.mark.parametrize("named", ["", "imgs", "deep/imgs"])
def test_the_folder_of_the_images_or_the_one_that_holds_it(tree, named, capsys):
    folder = tree(f"{named}/xmlab1/a.jpg" if named else "xmlab1/a.jpg")
    root = folder / named if named != "deep/imgs" else folder / "deep"
    assert image_root("slake", str(folder), str(root), ("imgs",)) == str(folder / named)
    assert capsys.readouterr().err == ""


def test_a_folder_that_was_unzipped_into_one_of_its_own_name(tree):
    folder = tree("images/images/a.jpg")
    assert image_root("pmc_vqa", str(folder), str(folder), ("images",)) == str(folder / "images/images")


def test_the_first_of_several_folders(tree):
    folder = tree("images/", "figures/")
    assert image_root("pmc_vqa", "x", str(folder), ("figures", "images")) == str(folder / "figures")


@pytest.mark.parametrize(
    ("path", "images"), [("slake", "slake/imgs"), (".", "slake/imgs"), ("slake/train.json", "slake/imgs"), ("qas", "imgs")]
)
def test_without_a_root_the_images_are_told(tree, path, images, capsys):
    folder = tree("slake/train.json", "slake/other/", f"{images}/a.jpg", "qas/train.json")
    assert image_root("slake", str(folder / path), None, ("imgs",)) is None
    said = " ".join(capsys.readouterr().err.split())
    assert said.endswith(f"write slake:{folder / path}?images={folder / images}.")


def test_where_there_are_no_images_nothing_is_told(tree, capsys):
    folder = tree("slake/train.json", "other/imgs/", "imgs.zip")
    for path in (folder / "slake/train.json", folder / "slake"):
        assert image_root("slake", str(path), None, ("imgs",)) is None
    assert capsys.readouterr().err == ""


def test_an_archive_is_no_folder_of_images(tree):
    with pytest.raises(DataError, match="Unzip it, and name the folder"):
        image_root("slake", "x", str(tree("imgs.zip") / "imgs.zip"), ("imgs",))


def test_the_folder_that_paths_begin_with(tree, monkeypatch):
    folder = tree("Images/ACRIMA/a.png", "b/Images/Images/")
    assert above(str(folder / "Images"), "Images") == str(folder)
    assert above(str(folder), "Images") == str(folder)
    assert above(str(folder / "b/Images"), "Images") == str(folder / "b/Images")
    assert above(None, "Images") is None
    monkeypatch.chdir(folder)
    assert above("Images", "Images") == str(Path("Images").parent)
