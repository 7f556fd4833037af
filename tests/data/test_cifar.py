import gzip
import pickle
import re
import tarfile
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jnn.data import CIFAR10_NAMES, cifar10, cifar100, read_cifar

AGAIN = "fetch it again"


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)


def records(pictures: np.ndarray, labels: list[tuple[int, ...]]) -> bytes:
    return b"".join(
        bytes(ys) + b"".join(x[:, :, channel].tobytes() for channel in range(3))
        for x, ys in zip(pictures, labels, strict=True)
    )


VALID = records(images(3), [(3,), (0,), (9,)])


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    path = tmp_path_factory.mktemp("cifar") / "data_batch_1.bin"

    def read(content: bytes, classes=(10,)):
        path.write_bytes(content)
        return read_cifar(path, classes)

    return read


@pytest.mark.parametrize("n", [1, 3, 1000, 1001])  # a thousand are read at a time
def test_round_trip(read, n):
    pictures, labels = images(n), np.arange(n) % 10
    x, y = read(records(pictures, [(label,) for label in labels]))
    np.testing.assert_array_equal(x, pictures, strict=True)
    np.testing.assert_array_equal(y, labels[:, None].astype(np.int32), strict=True)
    assert x.flags.writeable and x.flags.c_contiguous and y.flags.writeable


def test_two_labels(read):
    x, y = read(records(images(2), [(19, 99), (0, 7)]), (20, 100))
    np.testing.assert_array_equal(x, images(2))
    assert y.tolist() == [[19, 99], [0, 7]]


@settings(deadline=None)
@given(cut=st.integers(0, len(VALID) - 1))
def test_no_truncation_within_a_record_passes(read, cut):
    if cut % 3073 or not cut:
        with pytest.raises(ValueError, match=AGAIN):
            read(VALID[:cut])
    else:
        assert len(read(VALID[:cut])[0]) == cut // 3073


MALFORMED = {
    "empty": (b"", f": is empty; {AGAIN}"),
    "a byte": (b"\x03", f": holds 1 bytes, which are no whole number of records of 3073.*{AGAIN}"),
    "truncated": (VALID[:-1], f": holds 9218 bytes, .*truncated or of another format, {AGAIN}"),
    "surplus": (VALID + b"\0", ": holds 9220 bytes"),
    "CIFAR-100": (
        records(images(2), [(1, 2)] * 2),
        r": .* records of 3073 \(a label, then 3 x 32 x 32",
    ),
    "label 10": (
        VALID + records(images(1), [(10,)]),
        f": the label of record 3 is 10 but labels lie in 0..9; .*{AGAIN}",
    ),
    "shifted": (VALID[1:] + b"\0", ": the label of record 0 is "),
    "gzip": (gzip.compress(VALID), ": is gzipped; unpack it, or give cifar10 or cifar100 the .tar"),
    "pickle": (pickle.dumps({"data": b""}), ": is a pickle, of the Python version of the set; fet"),
}


@pytest.mark.parametrize("content, message", MALFORMED.values(), ids=MALFORMED)
def test_malformed(tmp_path, content, message):
    path = tmp_path / "test_batch.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^" + re.escape(str(path)) + message):
        read_cifar(path)


def test_a_label_beyond_the_first_thousand_is_named(read):
    labels = [(0,)] * 1001 + [(77,)]
    with pytest.raises(ValueError, match="label of record 1001 is 77"):
        read(records(images(1002), labels))


@pytest.mark.parametrize("labels, name", [((20, 99), "coarse"), ((19, 100), "fine")])
def test_which_of_two_labels_is_out_of_range(read, labels, name):
    with pytest.raises(ValueError, match=f"the {name} label of record 1 is"):
        read(records(images(2), [(0, 0), labels]), (20, 100))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: no such file; check the path"):
        read_cifar(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match="is a directory; give the path of a file in it"):
        read_cifar(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="absent: no such folder or file; check the path"):
        cifar10(tmp_path / "absent")


# The set: a folder, or an archive of one


FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def batch(i: int) -> bytes:
    return records(images(i + 1, seed=i), [((i + k) % 10,) for k in range(i + 1)])


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "cifar-10-batches-bin"
    path.mkdir()
    for i, name in enumerate(FILES):
        (path / name).write_bytes(batch(i))
    (path / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES))
    return path


def archived(folder: Path, mode: Literal["w:", "w:gz"] = "w:gz") -> Path:
    path = folder.parent / "cifar-10-binary.tar.gz"
    with tarfile.open(path, mode) as archive:
        archive.add(folder, folder.name)
    return path


@pytest.mark.parametrize(
    "pack",
    [lambda p: p, str, archived, lambda p: archived(p, "w:")],
    ids=["folder", "str", "tar.gz", "tar"],
)
def test_cifar10(folder, pack):
    data = cifar10(pack(folder))
    assert (data.name, data.classes) == ("cifar10", 10) and len(CIFAR10_NAMES) == 10
    parts = [(images(i + 1, seed=i), np.arange(i, 2 * i + 1) % 10) for i in range(6)]
    x, y = (np.concatenate(v) for v in zip(*parts[:5], strict=True))
    np.testing.assert_array_equal(data.train.x, x, strict=True)
    np.testing.assert_array_equal(data.train.y, y.astype(np.int32), strict=True)
    np.testing.assert_array_equal(data.test.x, parts[5][0], strict=True)
    np.testing.assert_array_equal(data.test.y, np.int32(parts[5][1]), strict=True)


def test_some_of_its_batches(folder):
    (folder / FILES[1]).unlink()
    data = cifar10(folder, batches=(3, 1))
    np.testing.assert_array_equal(
        data.train.x, np.concatenate([images(3, seed=2), images(1, seed=0)])
    )
    wrongs: list[Any] = [(), (0,), (6,), (1, 1), ("1",)]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"batches is .* it must be numbers from 1 to 5, once"):
            cifar10(folder, batches=wrong)


@pytest.mark.parametrize("pack", [lambda p: p, archived], ids=["folder", "tar.gz"])
def test_missing_files_are_named(folder, pack):
    (folder / FILES[1]).unlink()
    (folder / FILES[5]).unlink()
    path = pack(folder)
    message = f"{path}: holds no data_batch_2.bin, test_batch.bin; give the folder or the archive"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        cifar10(path)


def test_what_is_wrong_with_a_file_is_passed_on(folder):
    (folder / FILES[2]).write_bytes(VALID[:-1])
    with pytest.raises(ValueError, match=r"batches-bin/data_batch_3.bin: holds 9218 bytes"):
        cifar10(folder)
    message = r"tar.gz: cifar-10-batches-bin/data_batch_3.bin: holds 9218 bytes"
    with pytest.raises(ValueError, match=message):
        cifar10(archived(folder))


def test_an_archive_for_a_file_and_a_file_for_an_archive(folder):
    with pytest.raises(ValueError, match="is a tar archive; give it to cifar10"):
        read_cifar(archived(folder, "w:"))
    with pytest.raises(ValueError, match="is gzipped; unpack it, or give cifar10"):
        read_cifar(archived(folder))
    with pytest.raises(ValueError, match=r"is no sound tar archive .*; give the folder that holds"):
        cifar10(folder / FILES[0])


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_no_truncated_archive_passes(folder, mode):
    path = archived(folder, mode)
    content = path.read_bytes()
    # What follows the last record of an archive is padding.
    end = len(content) if mode == "w:gz" else content.rfind(batch(5)[-16:])
    for cut in range(0, end, max(1, end // 40)):
        path.write_bytes(content[:cut])
        with pytest.raises((ValueError, FileNotFoundError)):
            cifar10(path)


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_a_damaged_archive_is_read_or_is_a_named_error(folder, mode):
    path = archived(folder, mode)
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        for at in random.integers(0, 2000, 3):
            damaged[at] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        with suppress(ValueError, FileNotFoundError):
            cifar10(path)


def test_a_flipped_bit_of_a_gzipped_archive_changes_nothing_unnoticed(folder):
    path = archived(folder)
    content, right = path.read_bytes(), cifar10(path)
    for at in range(0, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[at] ^= 16
        path.write_bytes(damaged)
        with suppress(ValueError):
            np.testing.assert_array_equal(cifar10(path).train.x, right.train.x)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


HOSTILE = {
    "a claim": header("data_batch_1.bin", 3073 * 10**9) + VALID,
    "a claim of a long name": header("a", 1 << 40, tarfile.GNUTYPE_LONGNAME) + bytes(1 << 24),
    "a claim of a long header": header("a", 1 << 30, tarfile.XHDTYPE) + bytes(1 << 24),
    "a file of nothing": header("data_batch_1.bin", 1 << 40) + bytes(1 << 24),
    "a file of something else": header("other", 1 << 40) + bytes(1 << 24),
    "no archive": bytes(1 << 24),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_takes_no_memory(tmp_path, pack, content):
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(pack(content))
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, FileNotFoundError)):
            cifar10(path)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


def test_a_plain_file_is_held_twice_at_most(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(VALID * 2000)
    tracemalloc.start()
    try:
        read_cifar(path)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_a_link_in_an_archive_leads_nowhere(tmp_path):
    path, secret = tmp_path / "cifar.tar", tmp_path / "secret"
    secret.write_bytes(VALID)
    link = tarfile.TarInfo("data_batch_1.bin")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    with tarfile.open(path, "w:") as archive:
        archive.addfile(link)
    with pytest.raises(FileNotFoundError, match=r"holds no data_batch_1\.bin, test_batch\.bin"):
        cifar10(path, batches=(1,))


@pytest.mark.parametrize("coarse, classes, labels", [(False, 100, [99, 5]), (True, 20, [19, 0])])
def test_cifar100(tmp_path, coarse, classes, labels):
    for i, name in enumerate(("train.bin", "test.bin")):
        content = records(images(2, seed=i), [(19, 99), (0, 5)])
        (tmp_path / name).write_bytes(content)
    data = cifar100(tmp_path, coarse)
    assert (data.name, data.classes) == ("cifar100", classes)
    for i, (x, y) in enumerate((data.train, data.test)):
        np.testing.assert_array_equal(x, images(2, seed=i), strict=True)
        np.testing.assert_array_equal(y, np.int32(labels), strict=True)
