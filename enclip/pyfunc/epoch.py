"""A version of `enclip-epoch` as a pyfunc: texts or pictures in, embeddings out.

    mlflow.pyfunc.load_model("models:/enclip-epoch/3").predict(pandas.DataFrame({"text": ["navy blue shirt"]}))

Each row holds `text` or `image` (base64); the answer is float32 `[rows, dim]` of unit norm.
The base of an epoch that is a delta comes from the registry that the epoch was loaded from.
"""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class EpochModel(PythonModel):
    """One checkpoint's two towers."""

    def load_context(self, context: Any) -> None:
        """Load the safetensors checkpoint; MLflow calls this by the parameter's name."""
        import tempfile
        from pathlib import Path

        import mlflow

        from enclip.models.checkpoint import load_checkpoint, read_card
        from enclip.models.clip import ClipEncoder
        from enclip.models.device import resolve_device
        from enclip.registry import Registry

        with tempfile.TemporaryDirectory(prefix="enclip-base-") as downloads:
            registry = Registry(mlflow.get_tracking_uri(), None, Path(downloads))
            folder = registry.with_base(Path(context.artifacts["checkpoint"]))
            self._encoder = ClipEncoder(load_checkpoint(folder, device=resolve_device("auto")))
            self._pixel_side = read_card(folder).pixel_side

    def predict(self, model_input: pd.DataFrame) -> Any:  # type: ignore[override]  # MLflow lets context go
        """Embeddings of the rows, in order. Raises QueryError for a row with neither or both."""
        import base64
        import binascii

        from enclip.catalog.images import decode, fit_square
        from enclip.errors import QueryError

        embedding_ND = np.empty((len(model_input), self._encoder.dim), dtype=np.float32)
        for row, record in enumerate(model_input.to_dict("records")):
            text, image = (value if pd.notna(value := record.get(name)) else "" for name in ("text", "image"))
            if bool(text) == bool(image):
                raise QueryError(f"Row {row} must have either a text or an image (base64).")
            if text:
                embedding_ND[row] = self._encoder.encode_texts([text])[0]
                continue
            try:
                pixels = decode(base64.b64decode(image, validate=True))
            except binascii.Error as error:
                raise QueryError(f"The image of row {row} is not base64: {error}.") from error
            embedding_ND[row] = self._encoder.encode_images(fit_square(pixels, self._pixel_side)[None])[0]
        return embedding_ND


set_model(EpochModel())
