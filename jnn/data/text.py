"""Text as characters: a vocabulary, ids, and windows whose targets are the next characters."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jnn.data.dataset import Examples


@dataclass(frozen=True)
class Vocabulary:
    """The characters that a model knows, each once, in the order of their code points.

    A character's id is its place among them. `Vocabulary.of(text)` has those of a text.
    Raises ValueError where characters repeat or are out of order; `encode` where a character is
    not among them, and `decode` where an id is out of range, naming the first and its position.

    >>> vocabulary = Vocabulary.of("hello")
    >>> vocabulary, len(vocabulary)
    (Vocabulary(characters='ehlo'), 4)
    >>> vocabulary.encode("hole").tolist(), vocabulary.decode(np.array([2, 3, 2]))
    ([1, 3, 2, 0], 'lol')
    """

    characters: str

    def __post_init__(self):
        if self.characters != "".join(sorted(set(self.characters))):
            raise ValueError(
                f"characters is {self.characters!r}; they must be sorted, each there once: "
                "Vocabulary.of(text) makes them of any text"
            )

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """The characters of `text`."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of the characters of `text`, int32 (len(text),)."""
        points, known = _points(text), _points(self.characters)
        ids = np.searchsorted(known, points)
        bad = ids == len(known)
        bad[~bad] = known[ids[~bad]] != points[~bad]
        if bad.any():
            at = int(bad.argmax())
            raise ValueError(
                f"the text has {text[at]!r} at position {at}, which is not in the vocabulary of "
                f"{len(self)} characters; take it out, or make the vocabulary of a text that has it"
            )
        return ids.astype(np.int32)

    def decode(self, ids: Any) -> str:
        """The text of integer ids (n,)."""
        ids = np.asarray(ids)
        if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or ids.size == 0):
            raise ValueError(f"ids is {ids.dtype} {ids.shape}; it must be integers (n,)")
        if (bad := (ids < 0) | (ids >= len(self))).any():
            at = int(bad.argmax())
            raise ValueError(
                f"id {at} is {ids[at]}; ids of this vocabulary lie in 0..{len(self) - 1}"
            )
        return "".join(self.characters[i] for i in ids.tolist())


class Text(NamedTuple):
    """A text as ids, in two parts that were one after the other, and its vocabulary.

    Shapes: train and validation int32 (n,), ids in 0..len(vocabulary) - 1.
    """

    train: NDArray[np.int32]
    validation: NDArray[np.int32]
    vocabulary: Vocabulary


def read_text(path: str | os.PathLike[str], held_out: float = 0.1, encoding: str = "utf-8") -> Text:
    """Read a text file as ids of its characters, the last part of it held out for validation.

    Characters are Unicode code points, every one as it stands in the file, line ends too. The
    vocabulary is that of the whole text. The split is by position: windows drawn from one part
    never see the other, whereas random windows would share characters with those held out.

    Raises FileNotFoundError or IsADirectoryError where `path` is no file; ValueError where the file
    is empty, a byte cannot be decoded, naming its position, or a part would be empty.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     path = Path(directory, "words.txt")
    ...     _ = path.write_text("abracadabra")
    ...     text = read_text(path, held_out=0.3)
    >>> text.train.tolist(), text.vocabulary.decode(text.validation)
    ([0, 1, 4, 0, 2, 0, 3, 0], 'bra')
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory; give the path of a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    content = path.read_bytes()
    if not content:
        raise ValueError(f"{path}: is empty; give a file with text in it")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is 0x{content[error.start]:02x}, which is no {encoding} "
            f"({error.reason}); name the encoding, as in encoding='latin-1', or check that the "
            "file is text"
        ) from None
    kept = len(text) - round(held_out * len(text)) if 0 < held_out < 1 else 0
    if not 0 < kept < len(text):
        raise ValueError(
            f"{path}: held_out is {held_out!r} of {len(text)} characters; it must lie between 0 "
            "and 1, so that neither part is empty"
        )
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    return Text(ids[:kept], ids[kept:], vocabulary)


def windows(ids: Any, length: int, stride: int | None = None) -> Examples:
    """Windows of a sequence, and for each position the id that comes next: data for `jnn.run`.

        x_i = ids[i s : i s + length]        y_i = ids[i s + 1 : i s + 1 + length]

    A window begins every `stride` ids, by default every `length`, so that all but the first are
    predicted once an epoch. With a stride of length / 4 they are met from four offsets, at four
    times the memory on the device. Here there is none to speak of: x and y are views of `ids`,
    and cannot be written to. What is left over at the end is no window.

    Shapes: ids integers (m,); x and y (n, length), n = (m - 1 - length) // stride + 1.
    Raises ValueError where ids are no integers (m,), or fewer than length + 1; or length or stride
    is no whole number of at least 1.

    >>> x, y = windows(np.arange(8), length=3)
    >>> x.tolist(), y.tolist()
    ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """
    ids = np.asarray(ids)
    stride = length if stride is None else stride
    for name, value in (("length", length), ("stride", stride)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"windows: {name} is {value!r}; it must be a whole number from 1 on")
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"windows: ids is {ids.dtype} {ids.shape}; it must be integers (m,)")
    if len(ids) <= length:
        raise ValueError(
            f"windows: ids are {len(ids)}, but a window of length {length} and the id after it "
            f"need {length + 1}; take a longer text, or a shorter window"
        )
    both = np.lib.stride_tricks.sliding_window_view(ids, length + 1)[::stride]
    return Examples(both[:, :-1], both[:, 1:])


def _points(text: str) -> NDArray[np.uint32]:
    # A lone surrogate is no text, but it can be told from what is known.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
