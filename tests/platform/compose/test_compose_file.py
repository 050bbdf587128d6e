"""docker-compose.yml and the images' files, read as text: what an operator relies on before anything runs."""

import re
import stat
import subprocess
import sys
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from enclip.config import Settings
from enclip.serving.access import ApiKeys

REPOSITORY = Path(__file__).parents[3]
DOCKERFILES = (REPOSITORY / "infra/Dockerfile", REPOSITORY / "mlflow/Dockerfile")
SCRIPTS = sorted((REPOSITORY / "infra").rglob("*.sh"))
EXAMPLE = REPOSITORY / "infra/.env.example"
ONE_SHOTS = {"store-init", "airflow-init"}
# What may have a default: where things are, never what lets someone in.
OPTIONAL = {
    *("AIRFLOW_PORT", "MLFLOW_PORT", "SEARCH_PORT", "ENCLIP_BASE", "ENCLIP_CATALOGS", "ENCLIP_CATALOG_SOURCE"),
    "ENCLIP_SEARCH_WAIT_S",
    "ENCLIP_LOG_FORMAT",
    "ENCLIP_QUERY_LOG",
    "ENCLIP_SHADOW_SHARE",
    "ENCLIP_COMPARED_RELEASES",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
}
SECRET = re.compile(r"PASSWORD|SECRET|FERNET|ACCESS_KEY|API_KEY|WRITE_KEY")
# What no other service has a use for.
SEARCH_ALONE = {
    *("ENCLIP_API_KEYS", "ENCLIP_WRITE_KEYS", "ENCLIP_SEARCH_WAIT_S", "ENCLIP_LOG_FORMAT", "ENCLIP_QUERY_LOG"),
    "ENCLIP_SHADOW_SHARE",
    "ENCLIP_COMPARED_RELEASES",
    *("ENCLIP_AIRFLOW_API_URL", "ENCLIP_AIRFLOW_USER", "ENCLIP_AIRFLOW_PASSWORD"),
}


def test_ports_are_published_on_the_loopback_interface_alone(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert set(published) == {"airflow-apiserver", "mlflow", "search"}
    for ports in published.values():
        assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_has_a_default_or_a_value(raw_compose: dict[str, Any]) -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w+):-", text)) == OPTIONAL
    for name, service in raw_compose["services"].items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) and not key.endswith("_FILE"):
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), f"{name}: {key}"
            if "://" in str(value) and "@" in str(value):
                assert re.search(r"://\w+:\$\{\w+:\?[^}]+\}@", value), f"{name}: {key} holds a password"


def test_each_missing_secret_stops_compose(
    raw_compose: dict[str, Any], secrets: dict[str, str], substitute: Callable[[Any, Mapping[str, str]], Any]
) -> None:
    substitute(raw_compose, secrets)
    for name in secrets:
        with pytest.raises(KeyError, match=rf"{name} run infra/make-env\.sh"):
            substitute(raw_compose, {**secrets, name: ""})


def test_example_names_every_setting_and_gives_no_password(raw_compose: dict[str, Any]) -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    example = EXAMPLE.read_text()
    given = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    assert set(given) == set(re.findall(r"\$\{(\w+):\?", text))
    assert set(given.values()) == {""}
    shown = dict(re.findall(r"^# (\w+)=(\S*)", example, re.MULTILINE))
    assert shown == dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))


def test_make_env_fills_every_secret_once(secrets: dict[str, str], tmp_path: Path) -> None:
    assert len(set(secrets.values())) == len(secrets)
    assert all(len(value) >= 40 for value in secrets.values())
    assert len(urlsafe_b64decode(secrets["AIRFLOW_FERNET_KEY"])) == 32
    in_urls = {name: value for name, value in secrets.items() if name != "AIRFLOW_FERNET_KEY"}
    assert all(value.isalnum() for value in in_urls.values())
    file = tmp_path / ".env"
    command = ["sh", str(REPOSITORY / "infra/make-env.sh"), str(file)]
    subprocess.run(command, check=True, capture_output=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "holds the secrets in use" in again.stderr
    assert file.read_text() == before


def test_services_report_health_and_one_shots_do_not_restart(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name in ONE_SHOTS:
            assert service["restart"] == "no"
            assert "healthcheck" not in service
        else:
            assert service["restart"] == "unless-stopped"
            assert set(service["healthcheck"]) >= {"test", "interval", "timeout", "retries", "start_period"}
        for other, condition in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
            assert condition == {"condition": wanted}, f"{name} → {other}"


def test_containers_hold_no_privilege_they_do_not_need(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert not {"privileged", "network_mode", "pid", "cap_add", "devices"} & set(service), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", ()))
        if "build" in service:  # the images of others start as root and step down themselves
            assert service["cap_drop"] == ["ALL"], name


def test_images_of_others_are_pinned(compose: dict[str, Any]) -> None:
    foreign = [service["image"] for service in compose["services"].values() if "build" not in service]
    assert len(foreign) == 2
    assert all(re.search(r":\d[\w.-]+$", image) for image in foreign)


def test_named_volumes_are_declared_and_used(compose: dict[str, Any]) -> None:
    mounted = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
        if not volume.startswith((".", "/"))
    }
    assert mounted == set(compose["volumes"])


def test_older_compose_understands_the_file(compose: dict[str, Any]) -> None:
    # docker-compose 1.29, which Debian ships, refuses top-level `name:` and `develop:` sections.
    assert {key for key in compose if not key.startswith("x-")} == {"services", "volumes"}
    assert not any("develop" in service for service in compose["services"].values())


def test_own_settings_are_ones_that_the_code_reads(compose: dict[str, Any]) -> None:
    known = {str(field.alias) for field in Settings.model_fields.values()}
    for name in ("airflow-scheduler", "search"):
        env = compose["services"][name]["environment"]
        own = {key for key in env if key.startswith("ENCLIP_")} | {"MLFLOW_TRACKING_URI"}
        assert own == (known if name == "search" else known - SEARCH_ALONE), name
        settings = Settings.model_validate({key: env[key] for key in own})
        assert settings.resolved_store_url == "s3://enclip"
        assert settings.resolved_database_url.startswith("postgresql+psycopg2://enclip:")
        assert bool(ApiKeys.parse(settings.api_keys)) == (name == "search")


def test_airflow_settings_exist(compose: dict[str, Any], tmp_path: Path) -> None:
    script = (
        "import json\n"
        "from airflow.configuration import retrieve_configuration_description as read\n"
        "print(json.dumps([f'AIRFLOW__{s}__{k}'.upper() for s, v in read().items() for k in v['options']]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={"AIRFLOW_HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    known = set(yaml.safe_load(done.stdout.splitlines()[-1]))
    given = {key for key in compose["services"]["airflow-scheduler"]["environment"] if key.startswith("AIRFLOW__")}
    assert len(given) > 15
    assert given <= known


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_image_builds_from_any_base_and_runs_as_nobody_special(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    instructions = [line for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert instructions[0] == "ARG BASE=python:3.11-slim-bookworm"
    assert instructions[1] == "FROM ${BASE}"
    assert [line for line in instructions if line.startswith("USER ")] == ["USER enclip"]
    assert not any(line.startswith("ADD ") for line in instructions)
    for install in re.findall(r"pip install (.*)", text):
        assert "--require-hashes" in install or "--no-deps" in install
    context = REPOSITORY if dockerfile.parent.name == "infra" else dockerfile.parent
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in instructions:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (context / source).exists() or source == "README.md", line
                assert context != REPOSITORY or source in allowed, f"{source} is left out by .dockerignore"


def test_build_contexts_match(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if "build" in service:
            build = service["build"]
            dockerfile = REPOSITORY / build["context"] / build.get("dockerfile", "Dockerfile")
            assert dockerfile.resolve() in DOCKERFILES
            assert build["args"] == {"BASE": "python:3.11-slim-bookworm"}


def test_tracking_server_runs_the_versions_of_the_lock() -> None:
    assert not list((REPOSITORY / "mlflow").rglob("*.py"))
    own, common = (_pins(REPOSITORY / path) for path in ("mlflow/requirements.lock", "requirements.lock"))
    assert {"mlflow", "psycopg2-binary", "boto3", "flask-wtf"} <= set(own)
    assert "torch" not in own
    different = {name: (version, common[name]) for name, version in own.items() if common.get(name, version) != version}
    assert not different


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_shell(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\n")
    assert script.stat().st_mode & stat.S_IXUSR
    subprocess.run(["sh", "-n", script], check=True)


def _pins(lock: Path) -> dict[str, set[str]]:
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE):
        pins.setdefault(name, set()).add(version)
    return pins
