"""Tables as plain text."""

from collections.abc import Sequence


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], foot: Sequence[str] = (), left: int = 1
) -> str:
    """Columns under a head, and over a foot where there is one; the first `left` are words.

    >>> print(table(("layer", "size"), [("dense1", "80"), ("relu1", "0")], ("total", "80")))
    layer   size
    ------------
    dense1    80
    relu1      0
    ------------
    total     80
    """
    every = [head, *rows, *([foot] if foot else [])]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    below = [rule, lines[-1]] if foot else []
    return "\n".join([lines[0], rule, *lines[1 : len(rows) + 1], *below])
