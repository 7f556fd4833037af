"""Are the gradients right? Hand-written ones against `jax.grad` and finite differences."""

from jnn.gradcheck.finite_differences import Slope, slope
from jnn.gradcheck.functions import check_gradients
from jnn.gradcheck.layers import check_layer, check_loss, check_pair
from jnn.gradcheck.network import GradientCheck, LeafCheck, check_network
from jnn.gradcheck.optimizers import check_optimizer
from jnn.gradcheck.report import Finding, Report, WrongGradient

__all__ = [
    "Finding",
    "GradientCheck",
    "LeafCheck",
    "Report",
    "Slope",
    "WrongGradient",
    "check_gradients",
    "check_layer",
    "check_loss",
    "check_network",
    "check_optimizer",
    "check_pair",
    "slope",
]
