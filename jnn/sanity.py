"""Before a long run: three checks that cost seconds and find most of what is wired wrongly."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.data.checking import checked, transformed, whole
from jnn.evaluation import Evaluation, evaluation
from jnn.layer import Eval, Layer
from jnn.losses import Loss
from jnn.optimizers import Optimizer, momentum
from jnn.optimizers.protocol import pair
from jnn.penalties import Penalty
from jnn.training import Diverged, checked_penalty, run, start

LOUD = 2.0  # times the loss of a network that knows nothing: the scores start too large


class Sanity(NamedTuple):
    """What `sanity` found; true where nothing is suspicious, and readable as a string."""

    initial: float  # the loss before the first step
    expected: float  # that of a network whose every score is 0: log k for k classes
    penalised: float | None  # the initial loss with the penalty
    tiny: Evaluation  # after training on a few examples alone
    findings: list[str]

    def __bool__(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        at = f"initial loss {self.initial:.4f}, {self.expected:.4f} expected of no knowledge"
        lines = [at + ": as it should be" * (self.initial <= LOUD * self.expected)]
        if self.penalised is not None:
            lines.append(f"with the penalty {self.penalised:.4f}")
        score = "" if self.tiny.accuracy is None else f", accuracy {self.tiny.accuracy:.0%}"
        lines.append(
            f"{self.tiny.examples} examples learnt by heart: loss {self.tiny.loss:.4f}{score}"
        )
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])


def sanity(
    net: Layer,
    loss: Loss,
    data: tuple[Any, Any],
    *,
    key: jax.Array,
    penalty: Penalty | None = None,
    transform: Any = None,
    optimizer: Optimizer | None = None,
    examples: int = 20,
    steps: int = 500,
) -> Sanity:
    """The lectures' checks before training, on fresh parameters from `key`.

    1. The initial loss is about that of a network whose scores are all 0, which is log k for the
       cross-entropy of k classes and k - 1 for the hinge loss. Twice as much is suspicious.
    2. The penalty raises it.
    3. The network learns `examples` examples by heart, in `steps` steps on all of them at once and
       without penalty: all right, or a hundredth of the initial loss where the loss has no
       accuracy. One that cannot has a fault that no amount of data will mend.

    `optimizer` is that of the third check, momentum(0.03) unless given.
    Source: CS231n, "Neural networks 3: learning and evaluation".
    Raises ValueError as `run` does.

    >>> import jnn
    >>> net = jnn.Serial(jnn.Flatten(), jnn.Dense(32), jnn.ReLU(), jnn.Dense(10))
    >>> report = sanity(net, jnn.SoftmaxCrossEntropy(), jnn.data.digits().train,
    ...                 key=jax.random.key(0), penalty=jnn.penalties.L2(1e-3))
    >>> bool(report), round(report.expected, 4)
    (True, 2.3026)
    """
    examples, steps = whole("examples", examples), whole("steps", steps)
    trainer = pair("sanity", optimizer or momentum(0.03))
    checked_penalty(penalty)
    x, y = checked("data", net, loss, data, transform)
    counted = loss.counted(y)
    if counted is not None:  # examples whose label is ignored would tell nothing
        chosen = np.flatnonzero(np.asarray(counted).reshape(len(y), -1).any(axis=1))
        x, y = jax.tree.map(lambda v: v[chosen], (x, y))
    x, y = jax.tree.map(lambda v: v[:1000], (x, y))
    few = jax.tree.map(lambda v: v[:examples], (x, y))
    state = start(net, trainer, jax.eval_shape(transformed, transform, x), key)
    initial = evaluation(net, loss, state.params, state.state, (x, y), transform).loss
    scores, _ = net.forward(state.params, transformed(transform, x), Eval(state.state))
    expected = float(loss.forward(jnp.zeros_like(scores), y)[0])
    penalised = None if penalty is None else initial + float(penalty.value(state.params))
    records = run(
        net,
        loss,
        trainer,
        few,
        resume=state,
        transform=transform,
        epochs=steps,
        batch_size=len(few[1]),
        chunk=steps,
    )
    diverged = None
    try:
        *_, last = records
        trained = last.state
    except Diverged as error:
        diverged, trained = error, error.state
    tiny = evaluation(net, loss, trained.params, trained.state, few, transform)

    findings = []
    if not initial <= LOUD * expected:
        findings.append(
            f"the initial loss is {initial / expected if expected else math.inf:.1f} times what no "
            "knowledge costs: standardise the data, or start the last layer from smaller weights"
        )
    if penalised is not None and not penalised > initial:
        findings.append("the penalty does not raise the loss: it chooses no weights, or costs 0")
    learnt = tiny.loss <= initial / 100 if tiny.accuracy is None else tiny.accuracy == 1
    if diverged:
        findings.append(f"trained on {len(few[1])} examples, {diverged}")
    elif not learnt:
        findings.append(
            f"{len(few[1])} examples are not learnt by heart: look for labels that do not belong "
            "to their inputs, a wrong gradient, or another learning rate"
        )
    return Sanity(initial, expected, penalised, tiny, findings)
