import gzip
import math
import re
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from jnn.data import mnist, read_idx


def header(*shape: int, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape)


def idx(array: np.ndarray) -> bytes:
    return header(*array.shape) + array.tobytes()


SIX = np.arange(6, dtype=np.uint8).reshape(2, 3)
VALID = idx(SIX)
PACKED = gzip.compress(VALID, mtime=0)
ARRAYS = arrays(np.uint8, array_shapes(max_dims=4, max_side=5))


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    path = tmp_path_factory.mktemp("idx") / "file"

    def read(content: bytes) -> np.ndarray:
        path.write_bytes(content)
        return read_idx(path)

    return read


@settings(deadline=None)  # the disk's time is not ours
@given(array=ARRAYS, pack=st.sampled_from([bytes, gzip.compress]))
def test_round_trip(read, array, pack):
    result = read(pack(idx(array)))
    assert result.dtype == np.uint8 and result.flags.writeable
    np.testing.assert_array_equal(result, array, strict=True)


@settings(deadline=None)
@given(array=ARRAYS, pack=st.sampled_from([bytes, gzip.compress]), cut=st.floats(0, 1))
def test_no_truncation_passes(read, array, pack, cut):
    content = pack(idx(array))
    with pytest.raises(ValueError):
        read(content[: min(int(cut * len(content)), len(content) - 1)])


@pytest.mark.parametrize("content", [VALID, PACKED], ids=["plain", "gzip"])
def test_every_truncation_of_one_file(read, content):
    for end in range(len(content)):
        with pytest.raises(ValueError, match="fetch it again"):
            read(content[:end])


def test_no_flipped_bit_of_a_gzip_file_changes_the_array(read):
    for bit in range(8 * len(PACKED)):
        content = bytearray(PACKED)
        content[bit // 8] ^= 1 << bit % 8
        with suppress(ValueError):
            np.testing.assert_array_equal(read(content), SIX)


@settings(deadline=None)
@given(
    start=st.sampled_from([b"", b"\0\0", b"\0\0\x08", b"\0\0\x08\x01\0\0\0", PACKED[:10]]),
    rest=st.binary(max_size=40),
    pack=st.sampled_from([bytes, gzip.compress]),
)
def test_garbage_is_read_right_or_is_a_value_error(read, start, rest, pack):
    try:
        result = read(pack(start + rest))
    except ValueError:
        return
    assert idx(result) == start + rest


AGAIN = "fetch it again"
MALFORMED = {
    "empty": (b"", f": is empty; {AGAIN}"),
    "web page": (b"<!DOCTYPE html>", f": begins with b'<!DO' but .* {AGAIN}"),
    "short magic": (b"\0\0\x08", rf": begins with b'\\x00\\x00\\x08' but .* {AGAIN}"),
    "float32": (header(2, kind=0x0D) + bytes(8), ": has element type 0x0d but only 0x08.*convert"),
    "type 0": (bytes(9), ": has element type 0x00 but only 0x08"),
    "no dimensions": (header() + b"\7", f": declares 0 dimensions but must have 1 to 64.*{AGAIN}"),
    "65 dimensions": (header(*[1] * 65) + b"\7", ": declares 65 dimensions but must have 1 to 64"),
    "255 dimensions": (header(*[2**32 - 1] * 255), ": declares 255 dimensions but must have 1 to"),
    "cut header": (header(2, 3)[:-1], f": ends within its header; .* {AGAIN}"),
    "no elements": (header(0, 28, 28), rf": declares \(0, 28, 28\), no elements at all; {AGAIN}"),
    "cut body": (VALID[:-1], rf": declares \(2, 3\), 6 bytes, but holds 5; .*truncated, {AGAIN}"),
    "surplus": (VALID + b"\0", rf": declares \(2, 3\), 6 bytes, but holds more; .* {AGAIN}"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("content, message", MALFORMED.values(), ids=MALFORMED)
def test_malformed(tmp_path, pack, content, message):
    path = tmp_path / "file"
    path.write_bytes(pack(content))
    with pytest.raises(ValueError, match=re.escape(str(path)) + message):
        read_idx(path)


DAMAGED = {
    "gzip in gzip": (gzip.compress(PACKED), "gzipped twice, so still gzipped.*; unpack it once"),
    "bad crc": (PACKED[:-8] + bytes(4) + PACKED[-4:], "damaged gzip file .*CRC"),
    "bad length": (PACKED[:-4] + bytes(4), "damaged gzip file .*length"),
    "cut": (PACKED[:-1], "damaged gzip file .*ended"),
    "bad deflate": (PACKED[:10] + b"\xff" * 20, "damaged gzip file"),
    "bad method": (PACKED[:2] + b"\x07" + PACKED[3:], "damaged gzip file"),
    "junk behind": (PACKED + b"junk", "damaged gzip file"),
    "magic alone": (PACKED[:2], "damaged gzip file"),
}


@pytest.mark.parametrize("content, message", DAMAGED.values(), ids=DAMAGED)
def test_damaged_gzip(read, content, message):
    with pytest.raises(ValueError, match=message):
        read(content)


@pytest.mark.parametrize(
    "pack, message",
    [
        (bytes, f"{2**96} bytes, but holds 1; the file is truncated"),
        (gzip.compress, f"{2**96} bytes, but a gzipped file is read up to {2**30}; .*unpack it"),
    ],
)
def test_a_header_that_claims_2_to_the_96_bytes(read, pack, message):
    with pytest.raises(ValueError, match=message):
        read(pack(header(2**31, 2**31, 2**31, 8) + b"\7"))


def test_a_gzip_file_in_two_members(read):
    np.testing.assert_array_equal(read(gzip.compress(VALID[:9]) + gzip.compress(VALID[9:])), SIX)


HOSTILE = {
    "plain claim": header(2**31) + b"\7",
    "plain claim, cut late": header(2**31) + bytes(1 << 25),
    "plain surplus": VALID + bytes(1 << 25),
    "gzip claim": gzip.compress(header(2**30) + b"\7"),
    "gzip claim over the cap": gzip.compress(header(2**30 + 1) + b"\7"),
    "gzip bomb": gzip.compress(VALID + bytes(1 << 25)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_takes_no_memory(read, content):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: no such file; check the path"):
        read_idx(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match="is a directory; give the path of a file in it"):
        read_idx(str(tmp_path))


IMAGES = {"train": (5, 4, 3), "t10k": (2, 4, 3)}


def images(part: str) -> np.ndarray:
    return np.arange(math.prod(IMAGES[part]), dtype=np.uint8).reshape(IMAGES[part]) * 4


def labels(part: str) -> np.ndarray:
    return np.arange(len(images(part)), dtype=np.uint8) * 2


@pytest.fixture
def four(tmp_path) -> Path:
    for part in IMAGES:
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images(part)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels(part)))
    return tmp_path


@pytest.mark.parametrize("dash", "-.")
@pytest.mark.parametrize("pack, end", [(bytes, ""), (gzip.compress, ".gz")])
def test_mnist(four, dash, pack, end):
    for path in list(four.iterdir()):
        content = path.read_bytes()
        path.unlink()
        (four / (path.name.replace("-idx", f"{dash}idx") + end)).write_bytes(pack(content))
    data = mnist(str(four))
    assert (data.name, data.classes) == ("mnist", 10)
    for part, (x, y) in {"train": data.train, "t10k": data.test}.items():
        expected = images(part)[..., None].astype(np.float32) / 255
        np.testing.assert_array_equal(x, expected, strict=True)
        np.testing.assert_array_equal(y, labels(part).astype(np.int32), strict=True)


def test_mnist_takes_the_plain_file_of_two(four):
    (four / "train-labels-idx1-ubyte.gz").write_bytes(b"not read")
    assert len(mnist(four).train.y) == 5


@pytest.mark.parametrize("name", ["train-images-idx3", "t10k-labels-idx1"])
def test_mnist_with_a_file_missing(four, name):
    (four / f"{name}-ubyte").unlink()
    dash, dot = f"{name}-ubyte", f"{name}-ubyte".replace("-idx", ".idx")
    message = f"{four}: holds none of {dash}, {dot}, {dash}.gz, {dot}.gz; give the folder"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        mnist(four)


@pytest.mark.parametrize(
    "name, array, message",
    [
        ("train-images-idx3-ubyte", images("train")[0], r"declares \(4, 3\), rank 2, .* says 3"),
        ("t10k-labels-idx1-ubyte", SIX, r"declares \(2, 3\), rank 2, but its name says 1"),
        ("train-labels-idx1-ubyte", labels("t10k"), "5 train images but 2 train labels"),
        ("t10k-images-idx3-ubyte", images("train"), "5 t10k images but 2 t10k labels"),
        ("train-labels-idx1-ubyte", labels("train") + 2, "train label 4 is 10 but .* 0..9"),
        ("t10k-labels-idx1-ubyte", labels("t10k") - 1, "t10k label 0 is 255 but .* 0..9"),
        (
            "t10k-images-idx3-ubyte",
            images("t10k").reshape(2, 3, 4),
            r"train images are \(4, 3\) but t10k images are \(3, 4\); take all four",
        ),
    ],
)
def test_mnist_with_a_wrong_file(four, name, array, message):
    (four / name).write_bytes(idx(array))
    with pytest.raises(ValueError, match=re.escape(str(four)) + ".*" + message):
        mnist(four)


def test_mnist_passes_on_what_is_wrong_with_a_file(four):
    (four / "train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte: is empty"):
        mnist(four)
