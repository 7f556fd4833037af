"""Optimizers: (init, update) pairs, the protocol that JAX users know.

    state          = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params)
    params         = apply_updates(params, updates)

States are NamedTuples: the step, the learning rate and every moment can be read by name. `step`
counts the updates made and saturates instead of wrapping around. A schedule sees 0 at the first
update, and its value lands in `lr`; the t of Adam's formulas is 1 there.

Arithmetic is done in float32 at least. Updates have the dtypes of the gradients, parameters keep
theirs, and moments are held in float32 at least, whatever the parameters are: in bfloat16,
0.999 v + 0.001 g^2 is v for ever, and in float16 g^2 is 0 as soon as g is below 2e-4.

Small pieces compose: `chain(clip_norm(1.0), decay(1e-4), momentum(0.1))`. Calls with equal
arguments return equal optimizers, so that a second run with one compiles nothing anew.
"""

from jnn.optimizers.adaptive import (
    AdadeltaState,
    AdamState,
    SquareState,
    adadelta,
    adagrad,
    adam,
    adamw,
    rmsprop,
)
from jnn.optimizers.averaging import AverageState, average
from jnn.optimizers.chaining import chain
from jnn.optimizers.clipping import ClipNormState, clip_norm, clip_value
from jnn.optimizers.first_order import MomentumState, SGDState, momentum, nesterov, sgd
from jnn.optimizers.freezing import freeze
from jnn.optimizers.kronecker import KFACState, kfac, kfac_gradient
from jnn.optimizers.orthogonal import MuonState, muon
from jnn.optimizers.plateaus import PlateauState, reduce_on_plateau
from jnn.optimizers.protocol import Optimizer, Schedule, apply_updates, takes_value
from jnn.optimizers.shrinking import decay, max_norm
from jnn.optimizers.signed import LionState, lion

__all__ = [
    "AdadeltaState",
    "AdamState",
    "AverageState",
    "ClipNormState",
    "KFACState",
    "LionState",
    "MomentumState",
    "MuonState",
    "Optimizer",
    "PlateauState",
    "SGDState",
    "Schedule",
    "SquareState",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "apply_updates",
    "average",
    "chain",
    "clip_norm",
    "clip_value",
    "decay",
    "freeze",
    "kfac",
    "kfac_gradient",
    "lion",
    "max_norm",
    "momentum",
    "muon",
    "nesterov",
    "reduce_on_plateau",
    "rmsprop",
    "sgd",
    "takes_value",
]
