"""Where ENCLIP's state lies, by the environment alone."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from enclip.config import Settings
from enclip.errors import ConfigError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)


def test_all_state_lies_in_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.home == tmp_path / ".enclip"
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/.enclip/catalog.db"
    assert settings.resolved_store_url == str(tmp_path / ".enclip/store")
    assert settings.resolved_tracking_uri == f"sqlite:///{tmp_path}/.enclip/mlflow.db"


def test_variables_of_other_programs_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), str(tmp_path / "not-ours"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert Settings() == before


def test_a_setting_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValidationError):
        Settings(home=Path("elsewhere"))  # type: ignore[call-arg]


def test_a_home_folder_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ENCLIP_HOME", "~/shop")
    assert Settings().home == tmp_path / "shop"


@pytest.mark.parametrize("value", ["soon", "", "0", "-1", "nan", "inf", "601"])
def test_a_wait_that_is_none_names_its_variable(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLIP_SEARCH_WAIT_S", value)
    with pytest.raises(ConfigError, match="ENCLIP_SEARCH_WAIT_S is ") as caught:
        Settings()
    assert "seconds" in caught.value.remedy


@pytest.mark.parametrize("value", ["some", "-0.1", "1.1", "10%", "nan"])
def test_a_share_that_is_none_names_its_variable(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLIP_SHADOW_SHARE", value)
    with pytest.raises(ConfigError, match="ENCLIP_SHADOW_SHARE is ") as caught:
        Settings()
    assert "from 0 to 1" in caught.value.remedy


@pytest.mark.parametrize("value", ["two", "", "-1", "17", "1.5"])
def test_a_number_of_releases_that_is_none_names_its_variable(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLIP_COMPARED_RELEASES", value)
    with pytest.raises(ConfigError, match="ENCLIP_COMPARED_RELEASES is ") as caught:
        Settings()
    assert "from 0 to 16" in caught.value.remedy


def test_keys_are_read_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLIP_API_KEYS", "a-key-0123456789")
    settings = Settings()
    assert settings.api_keys.get_secret_value() == "a-key-0123456789"
    assert "a-key" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_the_query_log_lies_where_it_was_meant_to_from_elsewhere_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENCLIP_QUERY_LOG", "queries.jsonl")
    assert Settings().query_log == str(tmp_path / "queries.jsonl")
    monkeypatch.setenv("ENCLIP_QUERY_LOG", "")
    assert Settings().query_log == ""


def test_a_log_format_that_is_none_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLIP_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match=r"ENCLIP_LOG_FORMAT is 'xml'\. Set it to text or json"):
        Settings()
