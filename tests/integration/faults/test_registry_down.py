"""A registry that is down, or hangs, when a release is to be promoted."""

import socket
import time

import pytest

from enclip import ledger
from enclip.errors import RegistryError
from enclip.pipeline.promote_run import promote_run
from tests.conftest import free_port

from .world import RUN, STEPS, World, open_home, state_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("answers", [False, True], ids=["down", "hangs"])
def test_a_registry_that_does_not_answer_moves_nothing_and_the_promotion_can_be_run_again(
    world: World, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    home, port = world.home_after("gate"), free_port()
    platform = open_home(home, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    door = socket.create_server(("127.0.0.1", port)) if answers else None

    start = time.monotonic()
    with pytest.raises(RegistryError, match=rf"127\.0\.0\.1:{port}.*MLFLOW_TRACKING_URI"):
        promote_run(platform, RUN)
    assert time.monotonic() - start < 15
    assert ledger.history(platform.database) == []
    platform.database.dispose()
    if door:
        door.close()

    platform = open_home(home)
    STEPS["promote"](platform)
    platform.database.dispose()
    assert state_of(home) == world.states["promote"]
