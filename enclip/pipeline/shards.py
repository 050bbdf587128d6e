"""Where a release's embeddings lie by member and shard, and which there are to make; without a network or torch."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, Plan, RunFolder
from enclip.release import Member

What = Literal["embeddings", "names"]  # of pictures, and of names


@dataclass(frozen=True)
class EmbedTask:
    """One piece of work: row `member` of the ensemble, part `shard` of the catalog."""

    member: int
    shard: int


def plan_embedding(platform: Platform, run_id: str) -> list[EmbedTask]:
    """Member × shard, in order."""
    folder = RunFolder(platform.blobs, run_id)
    plan, choice = folder.read("plan", Plan), folder.read("choose", ChoiceStep)
    shards = plan.recipe.release.shards
    return [EmbedTask(member, shard) for member in range(len(choice.members)) for shard in range(shards)]


def member_block(
    platform: Platform, member: Member, snapshot: str, shards: int, *, what: What = "embeddings"
) -> NDArray[np.float16]:
    """All shards of one member, joined: `embedding_ND` of pictures or of names, in the snapshot's order."""
    return _joined(platform, [shard_key(member, snapshot, shard, shards, what=what) for shard in range(shards)])


def shard_key(member: Member, snapshot: str, shard: int, shards: int, *, what: What = "embeddings") -> str:
    """Where a shard lies in the blob store."""
    part = snapshot_part(snapshot)
    views = f"-v{member.views}" if member.views > 1 else ""
    return f"{what}/{member.weights_sha256[:24]}/{part}-s{member.pixel_side}{views}/{shard}-of-{shards}.npy"


def colours_key(member: Member, snapshot: str, shard: int, shards: int) -> str:
    """Where a shard of the pictures' colours lies: of canvases as a member has them, whichever member."""
    return f"colours/{snapshot_part(snapshot)}-s{member.pixel_side}/{shard}-of-{shards}.npy"


def colour_block(platform: Platform, member: Member, snapshot: str, shards: int) -> NDArray[np.float16]:
    """All shards of the pictures' colours, joined: `colour_NC` in the snapshot's order."""
    return _joined(platform, [colours_key(member, snapshot, shard, shards) for shard in range(shards)])


def _joined(platform: Platform, keys: Sequence[str]) -> NDArray[np.float16]:
    return np.concatenate([np.load(io.BytesIO(platform.blobs.get(key)), allow_pickle=False) for key in keys])


def snapshot_part(snapshot: str) -> str:
    """How a shard's key names its snapshot."""
    return snapshot[:24]


def array_bytes(array: NDArray[np.float16]) -> bytes:
    """An array as the bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
