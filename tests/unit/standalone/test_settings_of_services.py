"""What the services are told: our settings, Airflow's, MLflow's."""

import os
import stat
from pathlib import Path

import pytest

from enclip.config import Settings
from enclip.errors import ConfigError
from enclip.standalone import airflow, mlflow
from enclip.standalone.environment import environment_of
from enclip.standalone.refresh import refresh_trigger
from enclip.standalone.up import search, with_airflow


def test_a_child_process_reads_the_very_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        ENCLIP_HOME=tmp_path / "home",
        ENCLIP_DATABASE_URL="postgresql+psycopg2://enclip@db/enclip",
        ENCLIP_STORE_URL="s3://bucket/prefix",
        ENCLIP_S3_ENDPOINT_URL="http://127.0.0.1:9000",
        MLFLOW_TRACKING_URI="http://127.0.0.1:5001",
        ENCLIP_CATALOG_SOURCE="s3://shop/feed",
        ENCLIP_API_KEYS="a-key-0123456789",
        ENCLIP_WRITE_KEYS="another-key-0123456789",
        ENCLIP_AIRFLOW_API_URL="http://airflow:8080",
        ENCLIP_AIRFLOW_PASSWORD="a-password",
        ENCLIP_SEARCH_WAIT_S=2.5,
        ENCLIP_QUERY_LOG=str(tmp_path / "queries.jsonl"),
        ENCLIP_LOG_FORMAT="json",
        ENCLIP_SHADOW_SHARE=0.25,
        ENCLIP_COMPARED_RELEASES=3,
    )
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_the_search_service_can_start_a_refresh_where_it_has_airflow_s_password(tmp_path: Path) -> None:
    settings = Settings(ENCLIP_HOME=tmp_path)
    assert refresh_trigger(settings) is None
    told = with_airflow(settings, "http://127.0.0.1:18080", "a-password")
    assert refresh_trigger(told) is not None
    env = search(told, port=8001).env
    assert (env["ENCLIP_AIRFLOW_API_URL"], env["ENCLIP_AIRFLOW_USER"]) == ("http://127.0.0.1:18080", "admin")
    assert env["ENCLIP_AIRFLOW_PASSWORD"] == "a-password"
    assert "a-password" not in f"{told} {search(told, port=8001).command}"


def test_a_store_in_a_relative_folder_is_the_same_folder_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment_of(Settings(ENCLIP_STORE_URL="blobs"))["ENCLIP_STORE_URL"] == str(tmp_path / "blobs")


def test_every_setting_is_handed_on() -> None:
    assert set(environment_of(Settings())) == {field.alias for field in Settings.model_fields.values()}


def test_the_password_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    settings = Settings(ENCLIP_HOME=tmp_path)
    password = airflow.password(settings)
    assert len(password) >= 12
    assert airflow.password(settings) == password
    assert airflow.password(Settings(ENCLIP_HOME=tmp_path / "other")) != password
    file = Path(
        airflow.environment(settings, port=8080, mlflow_url="", unpaused=True)[
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"
        ]
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700  # Airflow's signing keys lie here as well


def test_a_damaged_password_file_is_replaced(tmp_path: Path) -> None:
    settings = Settings(ENCLIP_HOME=tmp_path)
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow" / "passwords.json").write_text("{")
    assert airflow.password(settings) == airflow.password(settings)


def test_airflow_keeps_to_its_home_and_the_loopback(tmp_path: Path) -> None:
    settings = Settings(ENCLIP_HOME=tmp_path)
    env = airflow.environment(settings, port=18080, mlflow_url="http://127.0.0.1:15000", unpaused=False)
    assert env["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert env["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:18080/execution/"
    assert env["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] == "True"
    assert env["ENCLIP_HOME"] == str(tmp_path)
    assert env["ENCLIP_MLFLOW_URL"] == "http://127.0.0.1:15000"
    assert env["ENCLIP_AIRFLOW_URL"] == "http://127.0.0.1:18080"
    # The log servers would listen on all interfaces.
    logs = {service.name: service.command for service in airflow.components(settings, env)}
    assert "--skip-serve-logs" in logs["Airflow's scheduler"]
    assert "--skip-serve-logs" in logs["Airflow's triggerer"]


def test_tasks_find_the_programs_of_this_environment(tmp_path: Path) -> None:
    env = airflow.environment(Settings(ENCLIP_HOME=tmp_path), port=8080, mlflow_url="", unpaused=True)
    first = Path(env["PATH"].split(os.pathsep)[0])
    assert (first / "enclip").exists()
    assert (first / "airflow").exists()


def test_without_a_checkout_there_are_no_dags_and_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No DAGs in .*Run from a checkout"):
        airflow.environment(Settings(ENCLIP_HOME=tmp_path), port=8080, mlflow_url="", unpaused=True, dags=tmp_path)


def test_mlflow_serves_the_embedded_store_on_the_loopback_without_pickles_or_telemetry(tmp_path: Path) -> None:
    service = mlflow.server(Settings(ENCLIP_HOME=tmp_path), port=15000)
    options = dict(zip(service.command, service.command[1:], strict=False))
    assert options["--host"] == "127.0.0.1"
    assert options["--backend-store-uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert options["--default-artifact-root"] == f"file://{tmp_path}/mlartifacts"
    assert "127.0.0.1:15000" in options["--allowed-hosts"].split(",")
    assert service.env["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert service.env["MLFLOW_DISABLE_TELEMETRY"] == "true"
