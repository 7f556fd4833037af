"""Every planted bug and every rewrite, through jnn's checker and through its peers."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jnn

from . import FIRST, LAST, UNSEEN
from .case import Case, equivalents, planted
from .peers import PEERS, verdicts

GROUPS: dict[str, Callable[[], list[Case]]] = {
    "first": lambda: planted(FIRST),
    "last": lambda: planted(LAST),
    "unseen": lambda: planted(UNSEEN),
    "right": lambda: equivalents(FIRST + LAST + UNSEEN),
}
JNN = "`jnn.check_gradients`"
SLOW = 10  # seconds


class Outcome(NamedTuple):
    """What was said of one case."""

    name: str
    group: str
    said: tuple[tuple[str, str, str], ...]  # path, cause and message of jnn's findings
    named: bool  # by a true word, at what was spoiled and nowhere else
    told: bool | None  # the words that the message should hold; None where there are none
    causes: tuple[str, ...]
    peers: dict[str, str]
    seconds: float  # jnn took


def checks() -> dict[str, Callable[[], str]]:
    """The benchmark of this file by name."""
    return {"mutations": bench}


def bench() -> str:
    """The table, and what was missed or misnamed."""
    tasks = [(group, i) for group, cases in GROUPS.items() for i in range(len(cases()))]
    # New processes, for JAX's threads do not live through a fork; as many as cores, for most of
    # the time goes into compiling, which takes one; and others after a while, for what is compiled
    # stays in memory.
    spawn, outcomes = multiprocessing.get_context("spawn"), []
    with spawn.Pool(os.cpu_count(), maxtasksperchild=40) as pool:
        for n, outcome in enumerate(pool.imap(_examined, tasks), 1):
            print(f"{n} of {len(tasks)}: {outcome.name}", end="\33[K\r", file=sys.stderr)
            outcomes.append(outcome)
    return "\n".join([*_table(outcomes), "", *_faults(outcomes), *_spent(outcomes)])


def _examined(task: tuple[str, int]) -> Outcome:
    return examined(*task)


def examined(group: str, index: int) -> Outcome:
    """One case, through all checkers."""
    case = GROUPS[group]()[index]
    began = time.perf_counter()
    try:
        findings = jnn.check_gradients(case.f, *case.args, known=case.known).findings
        said = tuple((f.path, f.cause, f.message) for f in findings)
    except Exception as error:  # refused, but never named
        said = (("", type(error).__name__, str(error).partition("\n")[0]),)
    seconds = time.perf_counter() - began
    return Outcome(
        case.name,
        group,
        said,
        bool(said) and all(path in {*case.spoiled, ""} and c in case.causes for path, c, _ in said),
        any(case.words in message for *_, message in said) if case.words else None,
        tuple(sorted(case.causes)),
        verdicts(case),
        seconds,
    )


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    parts = {group: [o for o in outcomes if o.group == group] for group in GROUPS}

    def of(count: int, group: str) -> str:
        return f"{count} of {len(parts[group])}"

    def row(name: str, *cells: str) -> str:
        return f"| {name} | {' | '.join(cells)} |"

    caught = {g: sum(bool(o.said) for o in part) for g, part in parts.items()}
    named = {g: sum(o.named for o in part) for g, part in parts.items()}
    bugs = [group for group in GROUPS if group != "right"]
    lines = [
        "| mutations | bugs caught | named rightly | written last: caught | named rightly "
        "| by another hand: caught | named rightly | rewrites refused |",
        f"|---|{'---:|' * (2 * len(bugs) + 1)}",
        row(
            JNN,
            *(of(counts[group], group) for group in bugs for counts in (caught, named)),
            of(caught["right"], "right"),
        ),
    ]
    for peer in PEERS:
        against = {g: sum(bool(o.peers[peer]) for o in part) for g, part in parts.items()}
        cells = [cell for group in bugs for cell in (of(against[group], group), "")]
        lines.append(row(peer, *cells, of(against["right"], "right")))
    return lines


def _faults(outcomes: Sequence[Outcome]) -> list[str]:
    lines = []
    for o in outcomes:
        said = "; ".join(f"{path or 'f'}: {cause}: {message}" for path, cause, message in o.said)
        if o.group == "right" and o.said:
            lines.append(f"* refused: {o.name}: {said}")
        elif o.group != "right" and not o.said:
            lines.append(f"* missed: {o.name} ({', '.join(o.causes)})")
        elif o.group != "right" and not o.named:
            lines.append(f"* misnamed ({o.group}): {o.name} ({', '.join(o.causes)}): {said}")
        elif o.told is False:
            lines.append(f"* named, but not its constant or place ({o.group}): {o.name}: {said}")
    return lines


def _spent(outcomes: Sequence[Outcome]) -> list[str]:
    seconds = sorted((o.seconds, o.name) for o in outcomes)
    lines = [
        f"* {peer} stopped with another error than its own, counted as a refusal, at "
        + ", ".join(f"{n} {what}" for what, n in counts.items())
        for peer in PEERS
        if (counts := _stopped(outcomes, peer))
    ]
    (middle, _), (longest, slowest) = seconds[len(seconds) // 2], seconds[-1]
    slow = sum(took > SLOW for took, _ in seconds)
    words = f"{middle:.1f} s in the middle, more than {SLOW} s at {slow} of {len(seconds)}"
    return [*lines, f"* {JNN} took {words}, {longest:.1f} s at most ({slowest})"]


def _stopped(outcomes: Sequence[Outcome], peer: str) -> dict[str, int]:
    """How many bugs and rewrites a peer had no verdict on."""
    counts = {"bugs": 0, "rewrites": 0}
    for o in outcomes:
        if o.peers[peer] not in ("", "wrong"):
            counts["rewrites" if o.group == "right" else "bugs"] += 1
    return {what: n for what, n in counts.items() if n}
