import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jnn
from jnn.data import Vocabulary, read_text, windows

WORDS = "to be, or not to be: that is the question\r\n\tünïcödé 😀\n"


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "text.txt"

    def write(content: str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@given(st.text())
def test_encode_and_decode_undo_each_other(text):
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32 and ids.shape == (len(text),)
    assert vocabulary.decode(ids) == text
    assert sorted(set(ids.tolist())) == list(range(len(vocabulary)))
    assert vocabulary == Vocabulary.of(text[::-1]) and len({vocabulary, Vocabulary.of(text)}) == 1


@given(st.text(), st.text())
def test_an_unknown_character_is_named_wherever_it_is(known, text):
    strangers = [(i, c) for i, c in enumerate(text) if c not in known]
    if not strangers:
        assert Vocabulary.of(known).encode(text).shape == (len(text),)
        return
    at, character = strangers[0]
    message = re.escape(f"the text has {character!r} at position {at}, which is not in the vocab")
    with pytest.raises(ValueError, match=message):
        Vocabulary.of(known).encode(text)


def test_a_lone_surrogate_is_an_unknown_character():
    with pytest.raises(ValueError, match="at position 1, which is not in the vocabulary of 2"):
        Vocabulary("ab").encode("a\ud800")


@pytest.mark.parametrize("characters", ["ba", "aab"])
def test_a_vocabulary_is_sorted(characters):
    with pytest.raises(ValueError, match="they must be sorted, each there once"):
        Vocabulary(characters)


@pytest.mark.parametrize(
    "ids, message",
    [
        ([0, 3, 1], r"id 1 is 3; ids of this vocabulary lie in 0\.\.2"),
        ([0, -1], "id 1 is -1"),
        ([0.0], r"ids is float64 \(1,\); it must be integers"),
        ([[0]], r"ids is int64 \(1, 1\)"),
        (0, r"ids is int64 \(\)"),
    ],
)
def test_ids_that_cannot_be_decoded(ids, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary("abc").decode(ids)
    assert Vocabulary("abc").decode([]) == "" and Vocabulary("abc").decode(jax.numpy.ones(1, int))


@pytest.mark.parametrize("held_out", [0.1, 0.5, 0.9])
def test_the_end_of_the_text_is_held_out(write, held_out):
    train, validation, vocabulary = read_text(write(WORDS), held_out)
    assert train.dtype == validation.dtype == np.int32
    assert len(validation) == round(held_out * len(WORDS))
    assert vocabulary.decode(np.concatenate([train, validation])) == WORDS  # line ends and all
    assert vocabulary == Vocabulary.of(WORDS)


def test_another_encoding(write):
    path = write("é".encode("latin-1") * 20)
    assert read_text(str(path), encoding="latin-1").vocabulary.characters == "é"
    message = f"{path}: byte 0 is 0xe9, which is no utf-8 (invalid continuation byte); name the enc"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_text(path)


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from([0x80, 0xFE, 0xFF]))
def test_the_byte_that_is_no_text_is_named(tmp_path_factory, text, byte):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(text.encode() + bytes([byte]) + b"more")
    with pytest.raises(ValueError, match=f": byte {len(text.encode())} is 0x{byte:02x}, which is"):
        read_text(path)


def test_no_text(write, tmp_path):
    with pytest.raises(ValueError, match=r"text\.txt: is empty; give a file with text in it"):
        read_text(write(""))
    with pytest.raises(FileNotFoundError, match="absent: no such file; check the path"):
        read_text(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match="is a directory; give the path of a file in it"):
        read_text(tmp_path)


@pytest.mark.parametrize("held_out", [0, 1, -0.5, 0.01, 0.99, float("nan")])
def test_neither_part_is_empty(write, held_out):
    with pytest.raises(ValueError, match=f"held_out is {held_out} of 4 characters; it must lie"):
        read_text(write("abcd"), held_out)


# Windows


@given(st.integers(2, 60), st.integers(1, 12), st.none() | st.integers(1, 15))
def test_windows_by_their_formula(m, length, stride):
    ids = np.random.default_rng(m).integers(0, 50, m)
    if m <= length:
        with pytest.raises(ValueError, match=f"ids are {m}, but a window of length {length} and"):
            windows(ids, length, stride)
        return
    x, y = windows(ids, length, stride)
    step = stride or length
    begins = range(0, m - length, step)
    assert len(x) == (m - 1 - length) // step + 1
    np.testing.assert_array_equal(x, [ids[i : i + length] for i in begins])
    np.testing.assert_array_equal(y, [ids[i + 1 : i + 1 + length] for i in begins])
    assert x.dtype == ids.dtype


def test_windows_are_views():
    ids = np.arange(100)
    x, y = windows(ids, 10, stride=1)
    assert np.shares_memory(x, ids) and np.shares_memory(y, ids) and not x.flags.writeable


def test_without_a_stride_every_id_but_the_first_is_a_target_once():
    _, y = windows(np.arange(31), 10)
    assert y.ravel().tolist() == list(range(1, 31))


@pytest.mark.parametrize(
    "ids, length, stride, message",
    [
        ([1, 2], 0, None, "length is 0; it must be a whole number from 1 on"),
        ([1, 2], 1.0, None, "length is 1.0"),
        ([1, 2], 1, 0, "stride is 0"),
        ([1, 2], 1, True, "stride is True"),
        ([1.0, 2.0], 1, None, r"ids is float64 \(2,\); it must be integers \(m,\)"),
        ([[1, 2]], 1, None, r"ids is int64 \(1, 2\)"),
        ([], 1, None, r"ids is float64 \(0,\)"),
        ([1, 2, 3], 3, None, "ids are 3, but a window of length 3 and the id after it need 4"),
    ],
)
def test_windows_of_something_else(ids, length, stride, message):
    with pytest.raises(ValueError, match="windows: " + message):
        windows(ids, length, stride)


def test_a_run_takes_windows(write):
    text = read_text(write("abcd" * 100))
    k = len(text.vocabulary)

    def follow(params, x):  # a table of what follows what
        return params["w"][x]

    net = jnn.lift(lambda key, x: {"w": jax.numpy.zeros((k, k))}, follow)
    fitted = jnn.fit(
        net,
        jnn.SoftmaxCrossEntropy(),
        jnn.optimizers.adam(0.1),
        windows(text.train, 8, stride=2),
        validation=windows(text.validation, 8),
        key=jax.random.key(0),
        epochs=20,
        batch_size=16,
        progress=False,
    )
    validation = fitted.history[-1].validation
    assert validation is not None and validation.accuracy == 1
