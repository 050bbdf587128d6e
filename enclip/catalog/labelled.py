"""Pictures in sub-folders called by their label, `LABEL/picture.jpg` → rows; no table is needed."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from enclip.catalog.columns import MAX_ID, RawRow
from enclip.records import Product, Rejection

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
TABLE_PICTURES = "images"  # beside a table; alone, it is that layout with the table forgotten
# What cameras and exports call their files.
NO_WORDS = frozenset({"img", "image", "images", "dsc", "dscn", "photo", "pic", "picture", "scan", "screenshot", "copy"})
SHORTEST_WORD = 3  # letters, in the Latin script
DIGEST = 16  # characters that stand for the end of an id that is too long


def labels_of(root: Path) -> list[str]:
    """The sub-folders that hold pictures themselves, in order; none where there is but `images`.

    Raises:
        OSError: the folder cannot be read.
    """
    labels = [
        name
        for name in _names(root)
        if not _is_hidden(name) and (root / name).is_dir() and any(map(_is_picture, _names(root / name)))
    ]
    return [] if labels == [TABLE_PICTURES] else labels


def labelled_rows(root: Path, labels: Sequence[str]) -> Iterator[RawRow | Rejection]:
    """A row per picture, by label and file name; what lies deeper, or beside the labels, is set aside.

    The articleType is the label. The name is made of the words of the file's name and stays empty where it
    has none (`IMG_0042.jpg`): products that are called alike belong to one group, and so to one split. The
    id is the path, so that a file that stays where it is stays the product it was.
    """
    number = 0
    for label in ("", *labels):
        for file in _names(root / label):
            path = root / label / file
            if _is_hidden(file) or (not label and path.is_dir()):
                continue
            if path.is_dir():
                number += 1
                yield Rejection(number, *_refused(f"{label}/{file}", "lies deeper than LABEL/picture"))
            elif _is_picture(file):
                number += 1
                yield _row(number, label, file)


def _row(number: int, label: str, file: str) -> RawRow | Rejection:
    place = f"{label}/{file}" if label else file
    if not place.isprintable():  # bytes that are no UTF-8 arrive as surrogates, which no database takes
        return Rejection(number, *_refused(place, "has a name with characters that cannot be shown"))
    if not label:
        return Rejection(number, *_refused(place, "lies in no sub-folder that would be its label"))
    article_type = _readable(label)
    return RawRow(number, Product(_id(place), _name(article_type, file), "", article_type=article_type), place)


def _readable(label: str) -> str:
    """`casual_shoes` → casual shoes."""
    return " ".join(re.split(r"[\s_+]+", label)).strip() or label


def _name(label: str, file: str) -> str:
    """The label and the words of the file's name, each once."""
    tokens = re.split(r"[\W_]+", Path(file).stem)
    found = [match[1] for token in tokens if (match := re.fullmatch(r"([^\W\d_]+)\d*", token))]
    words = [word for word in found if _says_something(word)]
    own = label.casefold().split()
    if not {word.casefold() for word in words} - set(own):
        return ""
    has_label = set(own) <= {word.casefold() for word in words}
    return " ".join(words if has_label else [label, *words])


def _says_something(word: str) -> bool:
    return word.casefold() not in NO_WORDS and (len(word) >= SHORTEST_WORD or not word.isascii())


def _id(place: str) -> str:
    """The path as an id: without white space, and not too long."""
    safe = re.sub(r"[%\s]", lambda match: quote(match[0], safe=""), place)
    if len(safe) <= MAX_ID:
        return safe
    return f"{safe[: MAX_ID - DIGEST - 1]}~{hashlib.sha256(safe.encode()).hexdigest()[:DIGEST]}"


def _refused(place: str, why: str) -> tuple[str, str]:
    """Id and reason of what is set aside, in characters that a terminal shows."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in place)[:MAX_ID]
    return shown, f"{shown} {why}"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _is_picture(name: str) -> bool:
    return not _is_hidden(name) and Path(name).suffix.lower() in ENDINGS
