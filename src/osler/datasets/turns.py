"""A turn of a conversation: who speaks, what, and with which images, as TRL, ms-swift and LLaVA write it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osler.datasets.embedded import keep_base64, keep_bytes
from osler.errors import DataError

_ROLES = {"human": "user", "gpt": "assistant"}
MARK = "<image>"
"""Where an image stands in a text."""

_PLACED = re.compile(r"[ \t]*<image \d+>[ \t]*")
_TOKENS = ("<|image_pad|>", "<|vision_start|>", "<|im_start|>")


@dataclass(frozen=True)
class Turn:
    """Who speaks, the text with `<image>` for every image, and the images that came with it; None where a list holds them."""

    role: str
    text: str
    images: tuple[Any, ...]


def turn_of(turn: Mapping[str, Any]) -> Turn:
    """The turn that a row holds, by `role` and `content` or `from` and `value`. Errors: DataError where it is none."""
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    role = _ROLES.get(str(role), role)
    if role not in ("system", "user", "assistant"):
        raise DataError(f"it has a turn of {role!r}. A turn is of the system, the user or the assistant.")
    if isinstance(content, str):
        return Turn(role, content, (None,) * content.count(MARK))
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise DataError(f"the content of its {role}'s turn should be a text, or a list of parts, not {str(content)[:60]!r}.")
    texts, images = "", list[Any]()
    for part in content:
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            texts += part["text"]
            images += [None] * part["text"].count(MARK)
        elif kind in ("image", "image_url"):
            texts += MARK
            url = part.get("image_url")
            found = (part.get("image"), part.get("path"), part.get("url"), url.get("url") if isinstance(url, dict) else url)
            images.append(next((one for one in found if one is not None), None))
        else:
            raise DataError(f"its {role}'s turn has a part of the type {kind!r}. Read are text and image.")
    return Turn(role, texts, tuple(images))


def question_and_images(asked: Turn, listed: Sequence[Any]) -> tuple[str, list[str]]:
    """The question without marks, and its images in the order of their marks. Errors: DataError where they do not match."""
    if token := next((token for token in _TOKENS if token in asked.text), None):
        raise DataError(f"its question holds {token}, a model's own mark. Write {MARK}, and leave the template to the model.")
    images = list(asked.images) or [None] * len(listed)
    if (marks := images.count(None)) != len(listed):
        raise DataError(f"it has {marks} image marks without a path, but {len(listed)} images in its list.")
    rest = iter(listed)
    filled = [next(rest) if image is None else image for image in images]
    names = [f"its image {n} of {len(filled)}" if len(filled) > 1 else "its image" for n in range(1, len(filled) + 1)]
    return _unmarked(asked.text), [_reference(image, name) for image, name in zip(filled, names, strict=True)]


def _unmarked(text: str) -> str:
    """`text` without the marks that begin or end a line; one inside a line reads "image 2"."""
    parts = text.split(MARK)
    numbered = parts[0] + "".join(f"<image {n}>{part}" for n, part in enumerate(parts[1:], 1))
    lines = numbered.split("\n")
    stripped = [re.sub(rf"^(?:{_PLACED.pattern})+|(?:{_PLACED.pattern})+$", "", line) for line in lines]
    kept = [new for old, new in zip(lines, stripped, strict=True) if new.strip() or not _PLACED.search(old)]
    return re.sub(r"<(image \d+)>", r"\1", "\n".join(kept)).strip() if len(parts) > 1 else text.strip()


def _reference(image: Any, name: str) -> str:
    """The path of one image, or where it is kept. Errors: DataError."""
    if isinstance(image, dict):
        if found := image.get("bytes"):
            return keep_bytes(found, name) if isinstance(found, bytes) else keep_base64(str(found), name)
        image = next((image[key] for key in ("path", "url", "image") if image.get(key)), None)
    if isinstance(image, bytes):
        return keep_bytes(image, name)
    if not isinstance(image, str) or not image:
        raise DataError(f"{name} should be a path, not {str(image)[:60]!r}.")
    if image.startswith("data:"):
        return keep_base64(image, name)
    if image.startswith(("http://", "https://")):
        raise DataError(f"{name} is an address, {image[:80]}. Download it, and name its path.")
    return image.removeprefix("file://")
