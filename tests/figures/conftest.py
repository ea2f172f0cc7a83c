import matplotlib as mpl
import pytest

from helpers.figures.style import use_style


@pytest.fixture(autouse=True)
def style():
    """Figures look as in the reports."""
    with mpl.rc_context():
        use_style()
        yield
