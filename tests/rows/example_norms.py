"""Rows of the layers that standardise every example by itself."""

import numpy as np
from row import FLOAT32, Row

import jnn


def standardised(layer):
    """All is in float32 but for the last rounding; the sums over a group have m terms."""

    def rounding(params, x, dy, y, u):
        (x, axes), (dy, _) = layer.grouped(x), layer.grouped(dy)
        scale, shift = (
            layer.grouped(np.broadcast_to(params.get(name, 0), y.shape))[0]
            for name in ("scale", "shift")
        )
        m = np.prod([x.shape[axis] for axis in axes])

        def mean(v):
            return v.mean(axes, keepdims=True)

        first = x if len(axes) == 1 else x[:, :1]
        shifted = x - first[..., :1] if layer.centred else x
        centred = shifted - mean(shifted) if layer.centred else x
        var = mean(centred**2)
        rstd = 1 / np.sqrt(var + layer.eps)
        xhat = centred * rstd
        # As for batch norm: of x - first, of the mean of it and their difference, of the variance.
        centring = (m + 4) * FLOAT32 * np.abs(shifted).max(axes, keepdims=True) * layer.centred
        variance = 2 * mean(np.abs(centred)) * centring + (m + 3) * FLOAT32 * var
        root = variance * rstd**2 / 2 + 10 * FLOAT32
        standardising = rstd * centring + np.abs(xhat) * root
        off_y = np.abs(scale) * standardising + 3 * FLOAT32 * (np.abs(scale * xhat) + np.abs(shift))
        g = scale * dy
        size = np.abs(g) + np.abs(mean(g)) * layer.centred + np.abs(xhat * mean(g * xhat))
        bracket = g - mean(g) * layer.centred - xhat * mean(g * xhat)
        off = (m + 6) * FLOAT32 * (mean(np.abs(g)) + np.abs(xhat) * mean(np.abs(g * xhat)) + size)
        off += standardising * np.abs(mean(g * xhat)) + np.abs(xhat) * mean(
            np.abs(g) * standardising
        )
        dx = rstd * np.abs(bracket)
        off_dx = rstd * off + dx * root

        def summed(terms, error):
            """The gradient of a parameter, and how far it may be off."""
            rows, errors = (v.reshape(-1, params["scale"].size) for v in (terms, error))
            wrong = errors.sum(0) + (len(rows) + 2) * FLOAT32 * np.abs(rows).sum(0)
            return u * np.abs(rows.sum(0)) + (1 + u) * wrong

        grads = {
            "scale": summed(dy * xhat, np.abs(dy) * standardising),
            "shift": summed(dy, 0 * dy),
        }
        return (
            u * np.abs(y) + (1 + u) * off_y.reshape(y.shape),
            {name: grads[name] for name in params},
            (u * dx + (1 + u) * off_dx).reshape(y.shape),
        )

    return rounding


LAYERS = {
    "layer norm": (jnn.LayerNorm(), (4, 5)),
    "layer norm over positions, without shift": (jnn.LayerNorm(shift=False, eps=0.1), (2, 3, 5)),
    "rms norm": (jnn.RMSNorm(), (2, 3, 5)),
    "group norm": (jnn.GroupNorm(2), (3, 2, 2, 6)),
}
ROWS = [
    Row(name, layer, shape, rounding=standardised(layer)) for name, (layer, shape) in LAYERS.items()
]
