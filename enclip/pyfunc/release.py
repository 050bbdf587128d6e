"""A version of `enclip` as a pyfunc: it answers a search.

    mlflow.pyfunc.load_model("models:/enclip@champion").predict(pandas.DataFrame({"text": ["navy blue shirt"]}))

Each row is a query: `text`, `image` (base64) or both; optional `k`, `category`, `gender`, `colour`, and prices
from `price_min` to `price_max`.
The answer has a row for each result: `query` (row number), `rank` (from 1), `product_id`, `score`, `name`.
The members come from the registry that the release was loaded from.
"""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

DEFAULT_K = 10


class ReleaseModel(PythonModel):
    """A release, opened as the search service opens it. Withdrawn products are not known here."""

    def load_context(self, context: Any) -> None:
        """Open the release's folder; MLflow calls this by the parameter's name."""
        import tempfile
        from pathlib import Path

        import mlflow

        from enclip.pipeline.open_release import open_release_folder
        from enclip.registry import Registry

        self._downloads = tempfile.TemporaryDirectory(prefix="enclip-members-")
        registry = Registry(mlflow.get_tracking_uri(), None, Path(self._downloads.name))
        self._release = open_release_folder(Path(context.artifacts["release"]), registry)
        if self._release.canaries is not None:
            self._release.canaries.check(self._release)
        self._name_of = dict(zip(self._release.products.product_id, self._release.products.name, strict=True))

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]  # MLflow lets context go
        """The results of every row's query. Raises QueryError for a query that cannot be answered."""
        found: list[dict[str, object]] = []
        for query, record in enumerate(model_input.to_dict("records")):
            ranking = self._search({key: value for key, value in record.items() if _given(value)})
            found += [
                {
                    "query": query,
                    "rank": rank,
                    "product_id": hit.product_id,
                    "score": float(hit.score),
                    "name": self._name_of[hit.product_id],
                }
                for rank, hit in enumerate(ranking.hits, start=1)
            ]
        return pd.DataFrame(found, columns=["query", "rank", "product_id", "score", "name"])

    def _search(self, asked: dict[Any, Any]) -> Any:
        import base64
        import binascii

        from enclip.errors import QueryError
        from enclip.records import Filters

        try:
            image = base64.b64decode(asked["image"], validate=True) if "image" in asked else None
        except binascii.Error as error:
            raise QueryError(f"The image is not base64: {error}.") from error

        def only(name: str) -> tuple[str, ...]:
            return (asked[name],) if name in asked else ()

        return self._release.search(
            text=asked.get("text"),
            image=image,
            weights=None,
            filters=Filters(
                category=only("category"),
                gender=only("gender"),
                colour=only("colour"),
                price_min=asked.get("price_min"),
                price_max=asked.get("price_max"),
            ),
            k=int(asked.get("k", DEFAULT_K)),
            withdrawn=frozenset(),
        )


def _given(value: object) -> bool:
    return bool(pd.notna(value)) and value != ""


set_model(ReleaseModel())
