"""Are the gradients right? Hand-written ones against `jax.grad` and finite differences."""

from jnn.gradcheck.finite_differences import Slope, slope
from jnn.gradcheck.network import GradientCheck, LeafCheck, check_network

__all__ = ["GradientCheck", "LeafCheck", "Slope", "check_network", "slope"]
