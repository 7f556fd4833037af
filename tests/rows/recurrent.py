"""Rows of recurrent layers: plain, ragged and backwards, and one that is handed a memory."""

from row import Below, Row

import jnn

ROWS = [
    Row("rnn", jnn.RNN(3), (2, 3, 4)),
    Row("gru, ragged and backwards", jnn.GRU(2, reverse=True), ((3, 4, 3), Below(2, (3, 4)))),
    Row(
        "lstm that is handed a memory",
        jnn.LSTM(2),
        ((2, 3, 4), Below(2, (2, 3)), ((2, 2), (2, 2))),
    ),
]
