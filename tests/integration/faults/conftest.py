"""One unbroken run, remembered after each of its steps."""

import pytest

from enclip.catalog.drawn import draw_catalog

from .world import STEPS, World, copy_home, open_home, small_base, state_of


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """120 products, and what an unbroken run makes of them."""
    root = tmp_path_factory.mktemp("faults")
    draw_catalog(root / "catalog", num_products=120, seed=7)
    small_base(root)
    home = root / "home"
    home.mkdir()
    copy_home(home, root / "after-nothing")
    states = {}
    for name, step in STEPS.items():
        platform = open_home(home)
        step(platform)
        platform.database.dispose()
        states[name] = state_of(home)
        copy_home(home, root / f"after-{name}")
    return World(root=root, states=states)
