"""Where the parts of a published data set lie: files that no adapter of text reads, and the folder of the images.

People name the folder that they unzipped, the archive itself, or the folder of a Hugging Face data set. What cannot be read so
is an error that says what to write instead.
"""

from pathlib import Path

from osler.errors import DataError
from osler.progress import console

_HUB = "it holds a Hugging Face data set"
_SAVED = (("dataset_dict.json",), ("state.json", "dataset_info.json"))
_ARCHIVE = ("it is an archive.", "Unzip it, and name the folder.")
_PICKLE = (
    "it is pickled, which is never read, as it could run anything.",
    "Name the data set's JSON, or its copy on the hub, which osler data list names: hub:OWNER/NAME.",
)
_SHEET = ("it is a spreadsheet or document.", "Name the data set's JSON, or save it as CSV: csv:FILE.csv.")
_UNREAD = {
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"), _ARCHIVE),
    **dict.fromkeys((".pkl", ".pickle", ".npy"), _PICKLE),
    **dict.fromkeys((".xlsx", ".xls", ".xml", ".docx"), _SHEET),
}
"""What is wrong with a file of that suffix, and what to do about it."""


def require_text(path: Path) -> None:
    """Errors: DataError where `path` is a file or folder of another form than text, which says how it is read."""
    suffix = path.suffix.lower()
    if path.is_file() and suffix in _UNREAD:
        raise DataError.at(path, None, *_UNREAD[suffix])
    saved = any(all((path / name).is_file() for name in names) for names in _SAVED)
    if saved or (path.is_file() and suffix in (".parquet", ".arrow")):
        raise DataError.at(path, None, f"{_HUB}.", f"Read it as hub:{path}.")


def no_file(folder: Path, suffix: str) -> DataError:
    """What to say of a `folder` that holds no file that ends in `suffix`: what there is instead, and what to do about it."""
    there = {file.suffix.lower(): file for file in sorted(folder.rglob("*"), reverse=True) if file.is_file()}
    what = f"the folder holds no {suffix} file"
    if there.keys() & {".parquet", ".arrow"}:
        return DataError.at(folder, None, f"{what}, but {_HUB.removeprefix('it holds ')}.", f"Read it as hub:{folder}.")
    if odd := next((end for end in _UNREAD if end in there), None):
        why, do = _UNREAD[odd]
        return DataError.at(folder, None, f"{what}, but {there[odd].relative_to(folder)}: {why}", do)
    return DataError.at(folder, None, f"{what}.", "Name the file, or the folder above it.")


def image_root(name: str, path: str | None, images: str | None, folders: tuple[str, ...]) -> str | None:
    """The folder of the images of the data set `name` at `path`: `images`, or one of `folders`, as published, inside of it.

    None where `images` is: rows are then read without, and stderr says where the images seem to lie, if they do.
    Errors: DataError where `images` is an archive.
    """
    if images is None:
        if found := _beside(Path(path or ""), folders):
            tell_images(name, path, found)
        return None
    place = Path(images)
    if place.is_file() and place.suffix.lower() in _UNREAD:
        raise DataError.at(place, None, *_UNREAD[place.suffix.lower()])
    while inner := next((place / folder for folder in folders if (place / folder).is_dir()), None):
        place = inner
    return str(place)


def tell_images(name: str, path: str | None, root: Path | str | None) -> None:
    """Say on stderr that the data set `name` at `path` is read without images, and that they seem to be below `root`."""
    said = f"{name}:{path} is read without images. They seem to be in {root}: write {name}:{path}?images={root}."
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def above(images: str | None, folder: str) -> str | None:
    """`images`, or where that is itself called `folder`, with which the paths of the rows begin, the folder above it."""
    place = Path(images or "")
    inside = images is not None and place.absolute().name == folder and not (place / folder).is_dir()
    return str(place.parent) if inside else images


def _beside(path: Path, folders: tuple[str, ...]) -> Path | None:
    """The first of `folders` in, below or above the folder `path`, or beside the file; None where there is none."""
    places = [path.parent]
    if path.is_dir():
        places = [path, *sorted(place for place in path.iterdir() if place.is_dir()), path.absolute().parent]
    return next((place / folder for place in places for folder in folders if (place / folder).is_dir()), None)
