"""Where we are: the environment, read once, at entry points only."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from enclip.errors import ConfigError

PathFromEnv = Annotated[Path, NoDecode]
# Field → what kind of number it takes.
NUMBERS = {
    "search_wait_s": "of seconds, such as 5",
    "shadow_share": "from 0 to 1, such as 0.1",
    "compared_releases": "from 0 to 16, such as 2",
}


class Settings(BaseSettings):
    """Locations and credentials. Everything has an embedded default under `home`.

    Each field is read from the variable of its alias, and never from one of its own name: HOME is not
    ours. Entry points call `Settings()` and pass the
    result on, so that nothing below them looks at the environment.

    Raises:
        ConfigError: a value is not of its kind; names the variable.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    home: Path = Field(
        Path(".enclip"),
        alias="ENCLIP_HOME",
        description="Folder that holds all embedded state; made on first use.",
    )
    database_url: str = Field(
        "",
        alias="ENCLIP_DATABASE_URL",
        description="Catalog and ledger; empty: SQLite in `home`. Postgres: postgresql+psycopg2://…",
    )
    store_url: str = Field(
        "",
        alias="ENCLIP_STORE_URL",
        description="Pictures, snapshots, embeddings; empty: a folder in `home`. S3: s3://bucket/prefix",
    )
    s3_endpoint_url: str = Field("", alias="ENCLIP_S3_ENDPOINT_URL", description="S3-compatible endpoint; empty: AWS.")
    mlflow_tracking_uri: str = Field(
        "", alias="MLFLOW_TRACKING_URI", description="MLflow; empty: SQLite and a folder in `home`."
    )
    mlflow_url: str = Field(
        "",
        alias="ENCLIP_MLFLOW_URL",
        description="Address of MLflow's UI, for links; empty: the tracking server, else http://127.0.0.1:5000.",
    )
    catalog_source: str = Field(
        "",
        alias="ENCLIP_CATALOG_SOURCE",
        description="What the scheduled ingest reads: a folder, s3://… or hf:NAME; empty: nothing.",
    )
    airflow_url: str = Field(
        "http://127.0.0.1:8080", alias="ENCLIP_AIRFLOW_URL", description="Airflow's address, for links."
    )
    airflow_api_url: str = Field(
        "",
        alias="ENCLIP_AIRFLOW_API_URL",
        description="Where the service finds Airflow, to start refresh_index; empty: ENCLIP_AIRFLOW_URL.",
    )
    airflow_user: str = Field("admin", alias="ENCLIP_AIRFLOW_USER", description="Airflow's user for that.")
    airflow_password: SecretStr = Field(
        SecretStr(""),
        alias="ENCLIP_AIRFLOW_PASSWORD",
        description="That user's password; empty: the service does not start refresh_index.",
    )

    api_keys: SecretStr = Field(
        SecretStr(""),
        alias="ENCLIP_API_KEYS",
        description="Keys that search asks for, separated by commas, each of 16 characters or more; empty: none.",
    )
    write_keys: SecretStr = Field(
        SecretStr(""),
        alias="ENCLIP_WRITE_KEYS",
        description="Keys that change products, and search too, as ENCLIP_API_KEYS are written; empty: nobody may.",
    )
    search_wait_s: float = Field(
        5.0,
        alias="ENCLIP_SEARCH_WAIT_S",
        gt=0,
        le=600,
        description="Seconds that a search may wait for its turn in the service before it is refused.",
    )

    query_log: str = Field(
        "",
        alias="ENCLIP_QUERY_LOG",
        description="File of JSON lines that the service keeps of what is searched for and found; empty: none.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", alias="ENCLIP_LOG_FORMAT", description="How the service writes its log: text or json."
    )
    shadow_share: float = Field(
        0.0,
        alias="ENCLIP_SHADOW_SHARE",
        ge=0,
        le=1,
        description="Share of searches that the service asks the challenger too, after it has answered; 0: none.",
    )
    compared_releases: int = Field(
        2,
        alias="ENCLIP_COMPARED_RELEASES",
        ge=0,
        le=16,
        description="Releases that the service keeps in memory to compare with the served one; 0: it compares none.",
    )

    @field_validator("query_log")
    @classmethod
    def _absolute_or_none(cls, path: str) -> str:
        return str(Path(path).expanduser().absolute()) if path else ""

    @field_validator("log_format", mode="before")
    @classmethod
    def _known_format(cls, value: object) -> object:
        if value not in ("text", "json"):
            raise ConfigError(f"ENCLIP_LOG_FORMAT is {value!r}.", remedy="Set it to text or json.")
        return value

    @field_validator(*NUMBERS, mode="wrap")
    @classmethod
    def _number(cls, value: object, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> float:
        try:
            number: float = check(value)
        except ValidationError as error:
            says, name = error.errors()[0]["msg"].lower(), str(info.field_name)
            raise ConfigError(
                f"{cls.model_fields[name].alias} is {value!r}: {says}.", remedy=f"Set it to a number {NUMBERS[name]}."
            ) from None
        return number

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def resolved_database_url(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.home / 'catalog.db'}"

    @property
    def resolved_store_url(self) -> str:
        """The blob store: an absolute folder or an s3:// URL."""
        return self.store_url or str(self.home / "store")

    @property
    def resolved_tracking_uri(self) -> str:
        """MLflow's tracking URI; absolute, and usable with nothing running by default."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def resolved_mlflow_url(self) -> str:
        """Where a browser finds MLflow's UI."""
        if self.mlflow_url:
            return self.mlflow_url.rstrip("/")
        uri = self.mlflow_tracking_uri
        return uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"

    @property
    def artifact_root(self) -> Path:
        """Where MLflow's artifacts lie when it is embedded."""
        return self.home / "mlartifacts"

    @property
    def scratch(self) -> Path:
        """Local working files that can be rebuilt: pixel maps, checkpoints in progress, opened releases."""
        return self.home / "scratch"
