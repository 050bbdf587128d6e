"""Start the DAG `refresh_index` after products were changed."""

from collections.abc import Callable

from enclip.config import Settings
from enclip.standalone.airflow_api import AirflowApi

DAG_ID = "refresh_index"


def refresh_trigger(settings: Settings) -> Callable[[], None] | None:
    """What starts a run of it; None where the settings hold no password for Airflow.

    The run looks at the catalog when it begins, so one that is queued already will do. It raises AirflowError.
    """
    password = settings.airflow_password.get_secret_value()
    if not password:
        return None
    url = (settings.airflow_api_url or settings.airflow_url).rstrip("/")
    api = AirflowApi(url, user=settings.airflow_user, password=password)

    def trigger() -> None:
        if not api.queued_runs(DAG_ID):
            api.trigger(DAG_ID, {"only_if_needed": True})

    return trigger
