"""Timings that can be compared: interleaved rounds in one process, medians of per-round ratios.

A machine's speed drifts by more than the differences worth knowing, so absolute times of one row
after another say little. Here every round times every row once, in alternating order, and what is
reported is the ratio within a round: its median over the rounds, and its spread.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

Work = Callable[[], None]  # does a fixed number of steps and waits for the result


class Row(NamedTuple):
    """One contestant: `prepare(steps)` returns the work of that many steps, compiled and warm."""

    name: str
    prepare: Callable[[int], Work]


class Result(NamedTuple):
    """Speed of a row relative to the first: 2 is twice as fast; with its least and greatest."""

    name: str
    microseconds: float  # a step, the median over the rounds
    speed: float
    low: float
    high: float


def compare(rows: Sequence[Row], rounds: int = 9, seconds: float = 0.4) -> list[Result]:
    """Times every row once a round; each runs for about `seconds` in a round."""
    works, steps = [], []
    for row in rows:
        count = 1
        while (elapsed := _time(row.prepare(count))) < seconds / 4:
            count = int(count * min(10, 1.2 * seconds / 4 / elapsed)) + 1
        steps.append(max(1, round(count * seconds / elapsed)))
        works.append(row.prepare(steps[-1]))
    times: list[list[float]] = [[] for _ in rows]
    for turn in range(rounds):
        order = range(len(rows)) if turn % 2 == 0 else reversed(range(len(rows)))
        for i in order:
            times[i].append(_time(works[i]) / steps[i])
    results = []
    for row, mine in zip(rows, times, strict=True):
        ratios = [first / own for first, own in zip(times[0], mine, strict=True)]
        median = statistics.median(ratios)
        results.append(
            Result(row.name, 1e6 * statistics.median(mine), median, min(ratios), max(ratios))
        )
    return results


def table(title: str, results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        f"| {title} | us a step | speed (median, least to greatest) |",
        "|---|---:|---:|",
        *(
            f"| {r.name} | {r.microseconds:.1f} | {r.speed:.2f} ({r.low:.2f} to {r.high:.2f}) |"
            for r in results
        ),
    ]
    return "\n".join(lines)


def _time(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
