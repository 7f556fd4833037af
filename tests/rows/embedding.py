"""Rows of embeddings and positions."""

import numpy as np
from row import FLOAT32, Below, Row

import jnn


def embedding(params, x, dy, y, u):
    """The sums of dy are taken in float32 and rounded once."""
    hits = np.arange(len(params["w"]))[:, None] == x.ravel()
    return np.zeros_like(y), {"w": summed(hits, dy, u)}, None


def summed(hits, dy, u):
    rows = dy.reshape(-1, dy.shape[-1])
    terms = hits.sum(1, keepdims=True)
    return u * np.abs(hits @ rows) + (1 + u) * terms * FLOAT32 * (hits @ np.abs(rows))


def unembed(params, x, dy, y, u):
    """Every number is a sum in float32, rounded once."""
    w, rows, drows = params["w"], x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])

    def product(a, b):
        return u * np.abs(a @ b) + (1 + u) * (len(b) + 1) * FLOAT32 * (np.abs(a) @ np.abs(b))

    return product(x, w.T), {"w": product(drows.T, rows)}, product(dy, w)


def positions(params, x, dy, y, u):
    hits = np.tile(np.arange(len(params["w"]))[:, None] == np.arange(x.shape[1]), len(x))
    return u * np.abs(y), {"w": summed(hits, dy, u)}, np.zeros_like(x)


def rotary(params, x, dy, y, u):
    """Angles, up to 2, and their sines are good to some roundings of float32; pairs keep length."""

    def turned(v):
        a, b = np.split(v, 2, axis=-1)
        error = u * np.hypot(a, b) + (1 + u) * 12 * FLOAT32 * (np.abs(a) + np.abs(b))
        return np.concatenate([error, error], axis=-1)

    return turned(x), {}, turned(dy)


TIED = jnn.Shared(
    jnn.Serial(jnn.Embedding(5, 4), jnn.Positions(3), jnn.Unembed(5)),
    {"unembed1.w": "embedding1.w"},
)

ROWS = [
    Row("embedding", jnn.Embedding(5, 3), Below(5, (4, 2)), rounding=embedding),
    Row("unembed", jnn.Unembed(5), (2, 3, 4), rounding=unembed),
    Row("cross-entropy head", jnn.CrossEntropyHead(5, chunk=4), ((2, 3, 4), Below(5, (2, 3)))),
    Row("positions", jnn.Positions(4), (2, 3, 5), rounding=positions),
    Row("rotary", jnn.Rotary(10.0), (2, 3, 2, 4), rounding=rotary),
    Row("tied embeddings", TIED, Below(5, (2, 3))),
]
