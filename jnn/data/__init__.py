"""Data to learn from, as numpy arrays in host memory.

    digits    1797 small handwritten digits, in the package
    spiral    points drawn along spiral arms in the plane
    mnist     MNIST and its like, from a directory of four IDX files
    read_idx  any IDX file of unsigned bytes
    split     holds out a part of some examples

The first three return a `Dataset` of two `Examples`. None of them needs JAX, and nothing is
downloaded. (`checking` and `shuffle` are what a run does with its data.)
"""

from jnn.data.dataset import Dataset, Examples, split
from jnn.data.digits import digits
from jnn.data.idx import mnist, read_idx
from jnn.data.spiral import spiral

__all__ = ["Dataset", "Examples", "digits", "mnist", "read_idx", "spiral", "split"]
