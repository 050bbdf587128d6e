"""Each service of docker-compose.yml runs with the command and the environment that the file gives it."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compose")]


def test_every_service_is_healthy_or_done(stack: "Stack") -> None:
    for name, service in stack.services.items():
        if "healthcheck" in service:
            assert stack.healthy(name), stack.log(name)[-4000:]
        else:
            assert stack.running[name].returncode == 0
