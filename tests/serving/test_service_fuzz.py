"""Whatever is sent, the service answers as its OpenAPI description says, and nothing stays behind.

ENCLIP_FUZZ=10 sends ten times as much.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from enclip.pipeline.open_release import OpenRelease
from enclip.serving.access import ApiKeys
from tests.serving.service_world import Service, World

pytestmark = pytest.mark.slow

TIMES = int(os.environ.get("ENCLIP_FUZZ", "1"))
KEY = "a-key-of-the-shop-0123456789"
# A refusal with Retry-After is no failure, and a body may break rules that a schema cannot say: that a picture can
# be decoded, or that something is asked for at all.
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "404", "422", "429", "503"]
"""
WITH_KEY = f"""
[auth.openapi.header]
api_key = "{KEY}"
"""


@pytest.fixture(scope="module")
def open_service(start_service: Callable[..., Service], release: OpenRelease) -> Service:
    return start_service(World(alias=3, releases={3: release}))


@pytest.fixture(scope="module")
def locked_service(start_service: Callable[..., Service], release: OpenRelease) -> Service:
    keys = ApiKeys.parse(SecretStr(KEY))
    return start_service(World(alias=3, releases={3: release}), keys=keys)


@pytest.fixture(scope="module")
def empty_service(start_service: Callable[..., Service]) -> Service:
    return start_service(World())


@pytest.mark.parametrize(
    ("which", "phases", "config"),
    [
        ("open", "examples,coverage,fuzzing", CONFIG),
        ("locked", "examples,coverage", CONFIG + WITH_KEY),
        ("empty", "examples,coverage", CONFIG),
    ],
)
def test_the_api_is_as_its_description_says(
    which: str, phases: str, config: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By schemathesis: statuses, media types, headers, schemas, methods, keys, and what must be refused."""
    service: Service = request.getfixturevalue(f"{which}_service")
    (tmp_path / "schemathesis.toml").write_text(config)
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{service.url}/openapi.json"]
    command += ["--phases", phases, "--max-examples", str(15 * TIMES), "--continue-on-failure", "--seed", "7"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300 * TIMES)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    operations = sum(len(path) for path in httpx.get(f"{service.url}/openapi.json").json()["paths"].values())
    assert f"Tested: {operations}" in run.stdout, run.stdout[-2000:]
