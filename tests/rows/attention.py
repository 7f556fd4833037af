"""Rows of attention: grouped heads, every kind of mask, chance, and two sequences."""

from row import Below, Row

import jnn

X = (2, 3, 4)
GROUPED = jnn.Attention(4, kv_heads=2, causal=True, rotary=10.0, dim=2, bias=False)

ROWS = [
    Row("attention", jnn.Attention(2), X),
    Row("attention, grouped, causal and rotary", GROUPED, X),
    Row("attention with padding", jnn.Attention(2, causal=True), (X, Below(2, (2, 3)))),
    Row("attention, dropout", jnn.Serial(jnn.Attention(1, dropout=0.5)), X, two_modes=True),
    Row("cross attention", jnn.CrossAttention(2), (X, (2, 5, 6), Below(2, (2, 2, 3, 5)))),
]
