"""Where ENCLIP's state lies, by the environment alone."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from enclip.config import Settings


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
