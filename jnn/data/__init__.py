"""Data to learn from, as numpy arrays in host memory.

    digits    1797 small handwritten digits, in the package
    spiral    points drawn along spiral arms in the plane
    mnist     MNIST and its like, from a directory of four IDX files
    cifar10   CIFAR-10, from a directory or the archive of its binary version; cifar100 likewise
    read_idx  any IDX file of unsigned bytes
    read_cifar  one file of CIFAR's records
    read_text a text file as the ids of its characters; windows cuts examples out of them
    split     holds out a part of some examples

Those that name a set return a `Dataset` of two `Examples`. None of them needs JAX, and nothing is
downloaded. (`checking` and `shuffle` are what a run does with its data.)
"""

from jnn.data.cifar import CIFAR10_NAMES, cifar10, cifar100, read_cifar
from jnn.data.dataset import Dataset, Examples, split
from jnn.data.digits import digits
from jnn.data.idx import mnist, read_idx
from jnn.data.spiral import spiral
from jnn.data.text import Text, Vocabulary, read_text, windows

__all__ = [
    "CIFAR10_NAMES",
    "Dataset",
    "Examples",
    "Text",
    "Vocabulary",
    "cifar10",
    "cifar100",
    "digits",
    "mnist",
    "read_cifar",
    "read_idx",
    "read_text",
    "spiral",
    "split",
    "windows",
]
