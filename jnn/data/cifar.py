"""CIFAR in its binary version: records of one or two label bytes, then 3 x 32 x 32 pixel bytes."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from jnn.data.dataset import Dataset, Examples
from jnn.data.idx import CHUNK, GZIP_MAGIC

CIFAR10_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
PLANES = (3, 32, 32)  # red, green, blue; each row by row
PIXELS = 3 * 32 * 32
RECORDS = 1000  # read at a time
MOST_AT_ONCE = 1 << 22  # bytes, more than those: what else is read of an archive is its headers
FOREIGN = {
    GZIP_MAGIC: "is gzipped; unpack it, or give cifar10 or cifar100 the .tar.gz as it was fetched",
    b"\x80": "is a pickle, of the Python version of the set; fetch the binary version",
}


def read_cifar(
    path: str | os.PathLike[str], classes: Sequence[int] = (10,)
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Read one file of records, such as data_batch_1.bin: the images and their labels.

    `classes` says how many each label byte of a record tells apart: (10,) for CIFAR-10, and
    (20, 100), coarse and fine, for CIFAR-100.

    Shapes: images uint8 (n, 32, 32, 3), channels last; labels int32 (n, len(classes)). Both are
    writable. Memory is taken for what the file holds, never for what an archive claims.

    Raises FileNotFoundError or IsADirectoryError where `path` is no file; ValueError where the
    file is empty, gzipped, a tar archive or a pickle, no whole number of records, or a label is
    out of range.

    Source: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009; the format
    at https://www.cs.toronto.edu/~kriz/cifar.html.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     path = Path(directory, "data_batch_1.bin")
    ...     _ = path.write_bytes(bytes([7]) + bytes([200] * 1024 + [100] * 1024 + [50] * 1024))
    ...     images, labels = read_cifar(path)
    >>> images.shape, images[0, 0, 0], labels
    ((1, 32, 32, 3), array([200, 100,  50], dtype=uint8), array([[7]], dtype=int32))
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory; give the path of a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    with path.open("rb") as file:
        return _records(str(path), file, os.fstat(file.fileno()).st_size, classes)


def cifar10(path: str | os.PathLike[str], batches: Iterable[int] = (1, 2, 3, 4, 5)) -> Dataset:
    """Read CIFAR-10, binary version, from the folder of its files or the .tar.gz that it comes in.

    The files are data_batch_1.bin to data_batch_5.bin, of which `batches` says which to read, and
    test_batch.bin. `CIFAR10_NAMES` names the classes. Nothing is downloaded or unpacked to disk.

    Shapes: x uint8 (n, 32, 32, 3), channels last; y int32 (n,) in 0..9; 10000 examples a batch and
    10000 to test. They stay bytes, a quarter of the memory, for a transform to scale in the step:
    `jnn.run(..., transform=jnn.preprocessing.Standardize.fit(train.x, channels=True))`.

    Raises FileNotFoundError, naming them, where files are missing; ValueError where `read_cifar`
    does, `batches` are not numbers from 1 to 5, once each, or the archive is damaged.

    Source: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    chosen = tuple(batches)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(1, 6)):
        raise ValueError(f"batches is {batches!r}; it must be numbers from 1 to 5, once each")
    names = [f"data_batch_{i}.bin" for i in chosen]
    parts = _all(Path(path), [*names, "test_batch.bin"], (10,), "batches=(1,) reads the first only")
    images, labels = zip(*((x, y[:, 0]) for x, y in parts), strict=True)
    train = Examples(np.concatenate(images[:-1]), np.concatenate(labels[:-1]))
    return Dataset("cifar10", train, Examples(images[-1], labels[-1]), classes=10)


def cifar100(path: str | os.PathLike[str], coarse: bool = False) -> Dataset:
    """Read CIFAR-100, binary version: as `cifar10`, from train.bin and test.bin.

    y is the fine label, in 0..99, or with `coarse` the coarse one, in 0..19. The classes are named
    in fine_label_names.txt and coarse_label_names.txt, which come with the set.
    """
    parts = _all(Path(path), ["train.bin", "test.bin"], (20, 100), "")
    train, test = (Examples(x, y[:, 0 if coarse else 1].copy()) for x, y in parts)
    return Dataset("cifar100", train, test, classes=20 if coarse else 100)


def _records(
    name: str, stream: IO[bytes], size: int, classes: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The records of a stream that holds, or is said to hold, `size` bytes."""
    length = len(classes) + PIXELS
    if not size:
        raise ValueError(f"{name}: is empty; fetch it again")
    head = stream.read(min(512, size))
    for magic, problem in FOREIGN.items():
        if head.startswith(magic):
            raise ValueError(f"{name}: {problem}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{name}: is a tar archive; give it to cifar10 or cifar100, or unpack it")
    if size % length:
        raise ValueError(
            f"{name}: holds {size} bytes, which are no whole number of records of {length} "
            f"({_labels(classes)}, then 3 x 32 x 32 pixels); the file is truncated or of another "
            "format, fetch it again"
        )
    images, labels = [], []
    for begin in range(0, size, RECORDS * length):
        wanted = min(RECORDS * length, size - begin)
        block, head = head + stream.read(wanted - len(head)), b""
        if len(block) < wanted:
            raise ValueError(
                f"{name}: declares {size} bytes but holds {begin + len(block)}; the file is "
                "truncated, fetch it again"
            )
        rows = np.frombuffer(block, np.uint8).reshape(-1, length)
        labels.append(rows[:, : len(classes)].astype(np.int32))
        _check_labels(name, labels[-1], begin // length, classes)
        planes = rows[:, len(classes) :].reshape(-1, *PLANES)
        images.append(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
    return np.concatenate(images), np.concatenate(labels)


def _check_labels(name: str, labels: NDArray[np.int32], begin: int, classes: Sequence[int]) -> None:
    bad = np.argwhere(labels >= np.array(classes))
    if len(bad):
        row, column = bad[0]
        which = ("coarse ", "fine ")[column] if len(classes) == 2 else ""
        raise ValueError(
            f"{name}: the {which}label of record {begin + row} is {labels[row, column]} but labels "
            f"lie in 0..{classes[column] - 1}; the file is damaged or of another format (a record "
            f"here is {_labels(classes)}, then 3 x 32 x 32 pixels), fetch it again"
        )


def _labels(classes: Sequence[int]) -> str:
    return "a label" if len(classes) == 1 else f"{len(classes)} labels"


def _all(
    path: Path, names: list[str], classes: Sequence[int], mend: str
) -> list[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """What the files `names` of a folder, or of a tar archive, hold, in this order."""
    if path.is_dir():
        _check_there(path, [name for name in names if not (path / name).is_file()], mend)
        return [read_cifar(path / name, classes) for name in names]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such folder or file; check the path")
    found = {}
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == GZIP_MAGIC
            stream = _Bounded(gzip.GzipFile(fileobj=file) if packed else file)
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as archive:
                for member in archive:
                    name = Path(member.name).name
                    if name in names and member.isfile():  # no link, which may lead anywhere
                        content = cast(IO[bytes], archive.extractfile(member))
                        label = f"{path}: {member.name}"
                        found[name] = _records(label, content, member.size, classes)
            while packed and stream.read(CHUNK):
                pass  # at its end gzip compares the CRC
    except (tarfile.TarError, EOFError, OverflowError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: is no sound tar archive ({error}); give the folder that holds the files, or "
            "fetch it again"
        ) from error
    _check_there(path, [name for name in names if name not in found], mend)
    return [found[name] for name in names]


class _Bounded:
    """A stream that gives a little at a time, however much the header of an archive declares."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile):
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


def _check_there(path: Path, missing: list[str], mend: str) -> None:
    if missing:
        raise FileNotFoundError(
            f"{path}: holds no {', '.join(missing)}; give the folder or the archive that holds all "
            f"files of the binary version{'; ' * bool(mend)}{mend}"
        )
