"""The UCI handwritten digits, small enough to travel with the package."""

from importlib.resources import files

import numpy as np

from jnn.data.dataset import Dataset, Examples


def digits() -> Dataset:
    """Return 1797 handwritten digits of 8 x 8 pixels, read from the package itself.

    Shapes: x float32 (n, 8, 8, 1) in [0, 1], y int32 (n,) in 0..9; 1438 examples train and
    359 test. Each pixel counts the ink in a 4 x 4 block of a 32 x 32 bitmap, 0 to 16; x is
    that count over 16, which float32 holds exactly. Every call returns fresh arrays.

    The split: every fifth example (index % 5 == 4) is test. It is easier than UCI's own,
    where no writer of the test part is in the training part: these 1797 are UCI's test part
    alone, and its 13 writers are in both parts here. Nor is it balanced: the test part has
    from 21 (digit 1) to 52 (digit 3) of a class.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998, UCI
    Machine Learning Repository, https://doi.org/10.24432/C50P49, under CC BY 4.0,
    https://creativecommons.org/licenses/by/4.0/. The counts are unchanged; the scale and the
    split are ours.

    >>> train, test = digits()[1:3]
    >>> train.x.shape, test.x.shape
    ((1438, 8, 8, 1), (359, 8, 8, 1))
    """
    source = files("jnn.data").joinpath("digits.npz")
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        x = np.divide(arrays["x"], 16, dtype=np.float32)[..., None]
        y = arrays["y"].astype(np.int32)
    test = np.arange(len(y)) % 5 == 4
    return Dataset("digits", Examples(x[~test], y[~test]), Examples(x[test], y[test]), classes=10)
