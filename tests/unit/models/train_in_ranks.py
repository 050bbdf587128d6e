"""What torchrun starts in test_training.py: one rank of a training of shapes."""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_models import draw_shapes, small_clip

from enclip.models.clip import ClipModel
from enclip.models.distributed import joined
from enclip.models.training import fit
from enclip.recipes import TrainRecipe


def main(folder: Path, techniques: dict[str, Any]) -> None:
    validated = 0

    def validate(model: ClipModel) -> dict[str, float]:
        nonlocal validated
        validated += 1
        return {"val_map_at_10": 0.1 * validated}

    with joined(os.environ, "cpu") as (ranks, device):
        time.sleep(3 * ranks.rank)  # machines do not start at the same time
        model = small_clip(seed=ranks.rank)  # DDP makes all start with the first one's weights
        results = list(
            fit(
                replace(model, from_scratch="lora_rank" not in techniques),
                draw_shapes(96),
                TrainRecipe(epochs=2, batch_size=12, accumulate=2, learning_rate=3e-3, **techniques),
                instance=0,
                device=device,
                state_dir=folder / "state",
                validate=validate,
            )
        )
        torch.save(
            {
                "hashes": [result.weights_sha256 for result in results],
                "losses": [result.metrics["train_loss"] for result in results],
                "weights": torch.cat([value.detach().reshape(-1) for value in model.module.parameters()]),
                "validated": validated,
            },
            folder / f"rank{ranks.rank}.pt",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
