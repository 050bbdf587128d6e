"""One text tower that answers for all members of an ensemble, taught by theirs.

Words cost an ensemble of K members K passes through K towers. The student costs one: the best member's
tower, whose head gives the embeddings of all members side by side, so that index, bank and clusters stay
as they are. It learns from texts alone, as pictures do not enter a tower of words: knowledge distillation
(Hinton et al., arXiv 1503.02531) by the cosine to each teacher's embedding.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from enclip.blobs import write_whole, writing
from enclip.errors import WeightsError
from enclip.models.architecture import Architecture, build_module, build_tokenizer
from enclip.models.checkpoint import digest_of, fill, first_lines, state_of
from enclip.models.clip import ClipEncoder, ClipModel
from enclip.models.device import autocast, short_attention
from enclip.models.progress import load_state, save_state
from enclip.models.schedule import learning_rate
from enclip.models.texts import encode_texts, without_padding
from enclip.recipes import TrainRecipe
from enclip.records import Floats

WEIGHTS, CARD = "weights.safetensors", "student.json"
HEAD = "head"
BATCH = 256
FROM_NOTHING, FROM_PRETRAINED = 1e-3, 2e-5  # peak learning rates
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)

OnText = Callable[[int, int, float], None]  # (step, steps, loss)


class StudentCard(BaseModel):
    """`student.json`: what builds the tower again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    architecture: Architecture
    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TextStudent:
    """A text tower and its head.

    Attributes:
        model: its image tower is gone.
        head_DE: `[D, E]` from the tower's embedding of unit norm to the members' side by side, E = ΣD_k.
        dims: per member the width of its block.
    """

    model: ClipModel
    head_DE: nn.Parameter
    dims: tuple[int, ...]

    def encode_texts(self, texts: Sequence[str]) -> list[Floats]:
        """Per member `embedding_BD` of the texts: float32, unit norm."""
        embedding_BD = torch.from_numpy(self._encoder.encode_texts(texts))
        with torch.inference_mode():
            return [block_BD.numpy() for block_BD in _blocks(embedding_BD @ self.head_DE.cpu(), self.dims)]

    @cached_property
    def _encoder(self) -> ClipEncoder:
        return ClipEncoder(self.model)

    def save(self, folder: Path) -> None:
        """Write weights and card into a folder, the card last. Raises StoreError where the disk is full."""
        with writing(folder / WEIGHTS, SafetensorError):
            folder.mkdir(parents=True, exist_ok=True)
            save_file({**state_of(self.model.module), HEAD: self.head_DE.detach().cpu()}, folder / WEIGHTS)
            card = StudentCard(architecture=self.model.architecture, dims=self.dims)
            write_whole(folder / CARD, card.model_dump_json(indent=2).encode())

    @classmethod
    def load(cls, folder: Path, *, device: torch.device) -> "TextStudent":
        """The student of a folder, in eval mode. Raises WeightsError where a file is missing or damaged."""
        try:
            card = StudentCard.model_validate_json((folder / CARD).read_bytes())
            state = load_file(folder / WEIGHTS, device="cpu")
            head_DE = state.pop(HEAD)
        except (OSError, ValidationError, SafetensorError, KeyError) as error:
            raise WeightsError(f"The student at {folder} cannot be read: {first_lines(error)}.") from error
        model = _texts_alone(build_module(card.architecture), card.architecture)
        fill(model.module, state, where=folder / WEIGHTS)
        return cls(model.to(device), nn.Parameter(head_DE.to(device), requires_grad=False), card.dims)


def distil(
    start: ClipModel,
    texts: Sequence[str],
    target_TDs: Sequence[Floats],
    *,
    own: int,
    weights: Sequence[float],
    epochs: int,
    seed: int,
    device: torch.device,
    state_dir: Path,
    on_text: OnText | None = None,
) -> TextStudent:
    """Teach one member's text tower to answer for all. Goes on after its last finished epoch.

    Args:
        start: the member's model; its text tower is trained in place.
        texts: T distinct texts.
        target_TDs: per member its embeddings of them, unit norm.
        own: the row of `start` among the members.
        weights: per member its share of the score, and so of the loss.

    Raises:
        TrainingError: `state_dir` holds another distillation.
    """
    name = _fingerprint(start, texts, target_TDs, weights=weights, epochs=epochs, seed=seed)
    dims = tuple(target_TD.shape[1] for target_TD in target_TDs)
    known_TD = ClipEncoder(start.to(device)).encode_texts(texts)
    model = _texts_alone(start.module, start.architecture, from_scratch=start.from_scratch).to(device)
    head_DE = nn.Parameter(torch.from_numpy(_head(known_TD, target_TDs, own=own)).to(device))
    student = TextStudent(model, head_DE, dims)
    trained = [value for key, value in model.module.named_parameters() if not key.startswith("logit_")]
    optimizer = torch.optim.AdamW(
        [
            {"params": [head_DE, *(value for value in trained if value.ndim >= 2)], "weight_decay": WEIGHT_DECAY},
            {"params": [value for value in trained if value.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=BETAS,
        eps=1e-6,
        fused=True,
    )
    _, saved = load_state(state_dir, name=name, device=device)
    done = 0
    if saved:
        model.module.load_state_dict(saved["tower"])
        head_DE.data.copy_(saved["head"])
        optimizer.load_state_dict(saved["optimizer"])
        done = int(saved["epoch"])
    token_TL = model.tokenize(texts)
    target_TE = torch.from_numpy(np.concatenate(target_TDs, axis=1))
    share_M = torch.tensor([weight / sum(weights) for weight in weights], device=device)
    recipe, peak = TrainRecipe(epochs=max(1, epochs)), FROM_NOTHING if start.from_scratch else FROM_PRETRAINED
    per_epoch = math.ceil(len(texts) / BATCH)
    for epoch in range(done + 1, epochs + 1):
        model.module.train()
        order_T = np.random.default_rng([seed, epoch]).permutation(len(texts))
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        for number, part in enumerate(np.array_split(order_T, per_epoch)):
            step = (epoch - 1) * per_epoch + number
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, peak, step=step, steps=per_epoch * epochs)
            token_BL = without_padding(model.module, token_TL[part]).to(device)
            with autocast(device), short_attention(device):
                feature_BD = encode_texts(model.module, token_BL)
            found_BE = functional.normalize(feature_BD.float(), dim=-1) @ head_DE
            wanted_BDs = torch.split(target_TE[part].to(device), list(dims), dim=1)
            cosine_M = torch.stack(
                [
                    (ours * theirs).sum(dim=1).mean()
                    for ours, theirs in zip(_blocks(found_BE, dims), wanted_BDs, strict=True)
                ]
            )
            loss = ((1 - cosine_M) * share_M).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([head_DE, *trained], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if on_text:
                on_text(step + 1, per_epoch * epochs, float(loss.detach()))
        tensors = {"tower": model.module.state_dict(), "head": head_DE.detach(), "optimizer": optimizer.state_dict()}
        state_dir.mkdir(parents=True, exist_ok=True)
        save_state(state_dir, name=name, results=[], tensors={**tensors, "epoch": torch.tensor(epoch)})
    model.module.eval()
    return student


def agreement(student: TextStudent, texts: Sequence[str], target_TDs: Sequence[Floats]) -> tuple[float, ...]:
    """Per member the mean cosine of the student's embeddings with its own."""
    found = student.encode_texts(texts)
    return tuple(float((ours * theirs).sum(axis=1).mean()) for ours, theirs in zip(found, target_TDs, strict=True))


def _texts_alone(module: nn.Module, architecture: Architecture, *, from_scratch: bool = False) -> ClipModel:
    """The CLIP without its image tower, which a student neither reads nor stores."""
    module.visual = nn.Identity()
    tokenize = build_tokenizer(architecture.tokenizer)
    return ClipModel(module, tokenize, architecture, init_id="student", from_scratch=from_scratch)


def _head(known_TD: Floats, target_TDs: Sequence[Floats], *, own: int) -> Floats:
    """`head_DE` to start from: the tower's own block as it is, the others by least squares."""
    blocks = [
        np.eye(known_TD.shape[1], dtype=np.float32)
        if member == own
        else np.linalg.lstsq(known_TD, target_TD, rcond=None)[0].astype(np.float32)
        for member, target_TD in enumerate(target_TDs)
    ]
    return np.concatenate(blocks, axis=1)


def _blocks(embedding_BE: Tensor, dims: Sequence[int]) -> list[Tensor]:
    return [functional.normalize(block_BD, dim=-1) for block_BD in torch.split(embedding_BE, list(dims), dim=1)]


def _fingerprint(
    start: ClipModel,
    texts: Sequence[str],
    target_TDs: Sequence[Floats],
    *,
    weights: Sequence[float],
    epochs: int,
    seed: int,
) -> str:
    digest = hashlib.sha256(digest_of(start.module, start.architecture).encode())
    digest.update(repr((list(texts), [round(weight, 6) for weight in weights], epochs, seed)).encode())
    for target_TD in target_TDs:
        digest.update(np.ascontiguousarray(target_TD, np.float32).tobytes())
    return digest.hexdigest()
