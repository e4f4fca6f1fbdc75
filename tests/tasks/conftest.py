import pytest

from powerjax.tasks import sandbox


@pytest.fixture
def bubblewrap():
    """Skips a test that runs programs in a sandbox on a machine that has none."""
    try:
        sandbox.require()
    except OSError as error:
        pytest.skip(f"programs run in a sandbox: {error}")
