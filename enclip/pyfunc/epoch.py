"""A version of `enclip-epoch` as a pyfunc: texts or pictures in, embeddings out.

    mlflow.pyfunc.load_model("models:/enclip-epoch/3").predict(pandas.DataFrame({"text": ["navy blue shirt"]}))

Each row holds `text` or `image` (base64); the answer is float32 `[rows, dim]` of unit norm.
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
        from enclip.models.checkpoint import load_checkpoint
        from enclip.models.clip import ClipEncoder
        from enclip.models.device import resolve_device

        device = resolve_device("auto")
        model = load_checkpoint(context.artifacts["checkpoint"], device=device)
        self._encoder = ClipEncoder(model, device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Embeddings of the rows, in order. Raises QueryError for a row with neither or both."""
        import base64
        import binascii

        from enclip.catalog.images import decode, fit_square
        from enclip.errors import QueryError

        embedding_ND = np.empty((len(model_input), self._encoder.dim), dtype=np.float32)
        for row, record in enumerate(model_input.to_dict("records")):
            text, image = record.get("text") or "", record.get("image") or ""
            if bool(text) == bool(image):
                raise QueryError(f"Row {row} must have either a text or an image (base64).")
            if text:
                embedding_ND[row] = self._encoder.encode_texts([text])[0]
                continue
            try:
                pixels = decode(base64.b64decode(image, validate=True))
            except binascii.Error as error:
                raise QueryError(f"The image of row {row} is not base64: {error}.") from error
            embedding_ND[row] = self._encoder.encode_images(fit_square(pixels, max(pixels.shape[:2]))[None])[0]
        return embedding_ND


set_model(EpochModel())
