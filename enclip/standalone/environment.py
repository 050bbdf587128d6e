"""Settings handed on to child processes: what they read gives them the very same settings."""

from pathlib import Path

from pydantic import SecretStr

from enclip.config import Settings


def environment_of(settings: Settings) -> dict[str, str]:
    """Each setting under its variable's name; a folder absolute, since a task runs elsewhere."""
    variables = {}
    for name, field in type(settings).model_fields.items():
        setting = getattr(settings, name)
        value = setting.get_secret_value() if isinstance(setting, SecretStr) else str(setting)
        if name == "store_url" and value and "://" not in value:
            value = str(Path(value).absolute())
        variables[str(field.alias)] = value
    return variables
