"""A pytest plugin: gradients in tests. It is installed with jnn; nothing need be imported.

The fixture `check_gradients` is `jnn.check_gradients`, except that it fails the test where
something is wrong, with the report for its message; where all is right it returns the report.

    def test_norm(check_gradients):
        check_gradients(rms_norm, jnp.ones((11, 7)), jnp.ones(7))

The marker `gradients(*args, **options)` makes a test out of every regime, that is, kind of values
that the arguments are replaced by: `test_norm[given]`, `test_norm[moved]`, `test_norm[zero]` and so
on, or those that its option `regimes` names. What it is given beside, the fixture is called with,
unless the test says otherwise:

    @pytest.mark.gradients(jnp.ones((11, 7)), jnp.ones(7), known={"eps": 1e-6})
    def test_norm(check_gradients):
        check_gradients(rms_norm)

It is installed as a module beside the package, not in it, so that whoever runs pytest without it
pays nothing: jnn and JAX are imported by the first test that asks for a gradient.
"""

from collections.abc import Callable
from typing import Any

import pytest

_MARKER = "gradients(*args, **options): check_gradients(f) with these, once in every regime"


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker, which `--strict-markers` asks for."""
    config.addinivalue_line("markers", _MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes one test for each regime out of a marked one."""
    marker = metafunc.definition.get_closest_marker("gradients")
    if marker is None:
        return
    name = metafunc.definition.originalname
    if "check_gradients" not in metafunc.fixturenames:
        if marker not in metafunc.definition.own_markers:
            return  # a mark of the whole module, which has other tests as well
        raise pytest.Collector.CollectError(
            f"{name} is marked `gradients` and lacks the fixture: write {name}(check_gradients)"
        )
    from jnn.gradcheck.functions import regimes_named

    try:
        regimes = regimes_named(marker.kwargs.get("regimes", "default"))
    except ValueError as error:
        raise pytest.Collector.CollectError(f"{name}: {error}") from None
    metafunc.parametrize("check_gradients", regimes, indirect=True)


@pytest.fixture
def check_gradients(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`jnn.check_gradients`, which fails the test where the gradient is wrong."""
    marker = request.node.get_closest_marker("gradients")
    regime = {"regimes": request.param} if marker else {}

    def checked(f: Callable[..., Any], *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        import jnn

        if marker:
            args = args or marker.args
            options = marker.kwargs | regime | options
        report = jnn.check_gradients(f, *args, **options)
        if not report:  # raised here, where the frame is hidden: the test's own line comes next
            raise jnn.gradcheck.WrongGradient(str(report))
        return report

    return checked
