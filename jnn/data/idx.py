"""IDX files, the format of MNIST: a magic number, the dimensions, then the bytes."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from jnn.data.dataset import Dataset, Examples

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08
MOST_DIMENSIONS = 64  # of a numpy array
MOST_UNPACKED = 1 << 30  # a gzip file of 1 MB can honestly hold 1 GB
CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzipped.

    The content decides whether it is gzipped, not the name. The result is a writable uint8
    array of the declared shape. Memory is taken for what the file holds, never for what its
    header claims: a plain file is measured first, a gzipped one is unpacked piece by piece,
    to at most 1 GiB.

    Raises FileNotFoundError or IsADirectoryError where `path` is no file; ValueError where the
    file is empty, no IDX file, not of unsigned bytes, without elements, shorter or longer than
    it declares, gzipped twice, or a damaged gzip.

    Source: the description of the format by Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST
    database of handwritten digits, 1998.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     path = Path(directory, "matrix-idx2-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(6)))
    ...     read_idx(path)
    array([[0, 1, 2],
           [3, 4, 5]], dtype=uint8)
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory; give the path of a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    with path.open("rb") as file:
        if file.peek(2)[:2] == GZIP_MAGIC:
            return _read_gzip(path, file)
        shape = _shape(path, file)
        _check_size(path, shape, held=os.fstat(file.fileno()).st_size - file.tell())
        return _elements(path, file, shape)


def mnist(directory: str | os.PathLike[str]) -> Dataset:
    """Read MNIST, or a set in its four files such as Fashion-MNIST, from a directory.

    The files are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
    t10k-labels-idx1-ubyte. Each may have a dot before `idx`, may end in .gz, and is taken plain
    where both are there. Nothing is downloaded.

    Shapes: x float32 (n, 28, 28, 1) in [0, 1], the bytes over 255; y int32 (n,) in 0..9.
    MNIST has 60000 examples to train and 10000 to test.

    Raises FileNotFoundError where a file is missing; ValueError where `read_idx` does, images
    are not of rank 3 or labels not of rank 1, their numbers differ, a label exceeds 9, or the
    images of the two parts differ in size.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to
    document recognition, Proceedings of the IEEE 86, 1998.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such folder; give the one with the four files")
    train, test = _examples(directory, "train"), _examples(directory, "t10k")
    if train.x.shape[1:] != test.x.shape[1:]:
        raise ValueError(
            f"{directory}: train images are {train.x.shape[1:3]} but t10k images are "
            f"{test.x.shape[1:3]}; take all four files from one set"
        )
    return Dataset("mnist", train, test, classes=10)


def _read_gzip(path: Path, file: BinaryIO) -> NDArray[np.uint8]:
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            shape = _shape(path, unpacked)
            if math.prod(shape) > MOST_UNPACKED:
                raise ValueError(
                    f"{path}: declares {shape}, {math.prod(shape)} bytes, but a gzipped file is "
                    f"read up to {MOST_UNPACKED}; if it is sound, unpack it first"
                )
            return _elements(path, unpacked, shape)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: is a damaged gzip file ({error}); fetch it again") from error


def _shape(path: Path, stream: BinaryIO | gzip.GzipFile) -> tuple[int, ...]:
    magic = stream.read(4)
    if not magic:
        raise ValueError(f"{path}: is empty; fetch it again")
    if magic[:2] == GZIP_MAGIC:
        raise ValueError(
            f"{path}: is gzipped twice, so still gzipped when unpacked; unpack it once"
        )
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise ValueError(
            f"{path}: begins with {magic} but an IDX file with two zeros, its element type and "
            "its rank; check that it is the right file, fetch it again"
        )
    kind, rank = magic[2:]
    if kind != UNSIGNED_BYTE:
        raise ValueError(
            f"{path}: has element type 0x{kind:02x} but only 0x08, the unsigned byte, is read; "
            "convert it"
        )
    if not 1 <= rank <= MOST_DIMENSIONS:
        raise ValueError(
            f"{path}: declares {rank} dimensions but must have 1 to {MOST_DIMENSIONS}; "
            "the header is damaged, fetch it again"
        )
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise ValueError(f"{path}: ends within its header; the file is truncated, fetch it again")
    shape = struct.unpack(f">{rank}I", sizes)
    if 0 in shape:
        raise ValueError(f"{path}: declares {shape}, no elements at all; fetch it again")
    return shape


def _elements(
    path: Path, stream: BinaryIO | gzip.GzipFile, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    # One byte past the declared end shows a surplus, and brings gzip to check its CRC.
    wanted = math.prod(shape) + 1
    data = bytearray()
    while piece := stream.read(min(CHUNK, wanted - len(data))):
        data += piece
    _check_size(path, shape, held=len(data))
    return np.frombuffer(data, np.uint8).reshape(shape)


def _check_size(path: Path, shape: tuple[int, ...], held: int) -> None:
    size = math.prod(shape)
    if held < size:
        raise ValueError(
            f"{path}: declares {shape}, {size} bytes, but holds {held}; "
            "the file is truncated, fetch it again"
        )
    if held > size:
        raise ValueError(
            f"{path}: declares {shape}, {size} bytes, but holds more; "
            "the file is damaged, fetch it again"
        )


def _examples(directory: Path, part: str) -> Examples:
    labels = _read_ranked(directory, f"{part}-labels", 1)
    images = _read_ranked(directory, f"{part}-images", 3)
    if len(images) != len(labels):
        raise ValueError(
            f"{directory}: holds {len(images)} {part} images but {len(labels)} {part} labels; "
            "take all four files from one set"
        )
    if labels.max() > 9:
        raise ValueError(
            f"{directory}: {part} label {labels.argmax()} is {labels.max()} but labels lie in "
            "0..9; check that the file is of ten classes counted from 0, fetch it again"
        )
    return Examples(np.divide(images, 255, dtype=np.float32)[..., None], labels.astype(np.int32))


def _read_ranked(directory: Path, stem: str, rank: int) -> NDArray[np.uint8]:
    names = [f"{stem}{dash}idx{rank}-ubyte{gz}" for gz in ("", ".gz") for dash in "-."]
    path = next((directory / name for name in names if (directory / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{directory}: holds none of {', '.join(names)}; give the folder that holds all four "
            "files of the set"
        )
    array = read_idx(path)
    if array.ndim != rank:
        raise ValueError(
            f"{path}: declares {array.shape}, rank {array.ndim}, but its name says {rank}; "
            "fetch it again"
        )
    return array
