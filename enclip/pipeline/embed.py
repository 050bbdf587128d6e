"""Embed the catalog by member and shard; what an earlier release knows already is not computed again."""

import time

import numpy as np
from numpy.typing import NDArray

from enclip.catalog.snapshot import load_snapshot, pictures
from enclip.errors import ConfigError
from enclip.models.clip import ClipEncoder, embed_pixels
from enclip.models.device import after_training
from enclip.pipeline.colours import colour_rows, known_colours, reads_colours
from enclip.pipeline.known import Known, recalled
from enclip.pipeline.members import load_member
from enclip.pipeline.names import encode_names, known_names
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, EmbedStep, Plan, RunFolder
from enclip.pipeline.shards import array_bytes, colours_key, plan_embedding, shard_key
from enclip.recipes import Device
from enclip.records import Products
from enclip.release import Member


def embed(platform: Platform, run_id: str, *, member: int, shard: int) -> EmbedStep:
    """Embed one shard by one member into the blob store: float16 `[n, D]`, unit norm.

    Where names are searched, theirs go beside the pictures', zero for a product without one; the first member's
    pictures' colours go there too. A shard that exists already is left as it is: its key names the weights and the
    snapshot.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, choice = folder.read("plan", Plan), folder.read("choose", ChoiceStep)
    shards = plan.recipe.release.shards
    if not (0 <= member < len(choice.members) and 0 <= shard < shards):
        raise ConfigError(
            f"Run {run_id} has {len(choice.members)} members and {shards} shards; "
            f"asked for member {member}, shard {shard}."
        )
    chosen = choice.members[member]
    key, names = (shard_key(chosen, plan.snapshot, shard, shards, what=what) for what in ("embeddings", "names"))
    colours = colours_key(chosen, plan.snapshot, shard, shards)
    with_names = plan.recipe.release.gallery != "image"
    with_colours = member == 0 and reads_colours(platform, plan)
    products = load_snapshot(platform.blobs, plan.snapshot)
    rows = np.array_split(np.arange(len(products)), shards)[shard]
    wanted = [key, *([names] if with_names else []), *([colours] if with_colours else [])]
    if all(map(platform.blobs.exists, wanted)):
        return EmbedStep(key=key, num_images=len(rows), num_reused=len(rows), images_per_s=0.0)
    with folder.timed(f"embed-{member}-{shard}"):
        start = time.monotonic()
        parent = plan.built_from or plan.parent_release
        images, titles = known_embeddings(platform, parent, chosen)
        num_names = 0
        if with_names:
            model = load_member(platform.registry, chosen.source, device=after_training(plan.recipe.train.device))
            name_ND, num_names = encode_names(ClipEncoder(model), products.take(rows), titles)
            platform.blobs.put(names, array_bytes(name_ND))
        embedding_ND, computed = embed_rows(
            platform, chosen, products, rows, snapshot=plan.snapshot, known=images, device=plan.recipe.train.device
        )
        platform.blobs.put(key, array_bytes(embedding_ND))
        if with_colours:
            seen: Known = {}
            if parent is not None:
                seen = known_colours(open_release(platform, parent, encoders=False), side=chosen.pixel_side)
            colour_NC = colour_rows(
                platform, products, rows, side=chosen.pixel_side, snapshot=plan.snapshot, known=seen
            )
            platform.blobs.put(colours, array_bytes(colour_NC))
    return EmbedStep(
        key=key,
        num_images=len(rows),
        num_reused=len(rows) - computed,
        images_per_s=round(computed / (time.monotonic() - start), 1),
        num_names=num_names,
    )


def embed_all(platform: Platform, run_id: str) -> list[EmbedStep]:
    """Every member over every shard, one after the other."""
    return [embed(platform, run_id, member=task.member, shard=task.shard) for task in plan_embedding(platform, run_id)]


def embed_rows(
    platform: Platform,
    member: Member,
    products: Products,
    rows: NDArray[np.int64],
    *,
    snapshot: str,
    known: Known,
    device: Device = "auto",
) -> tuple[NDArray[np.float16], int]:
    """`embedding_ND` of these rows, float16; and how many of them had to be computed."""
    embedding_ND, missing = recalled(products.image_sha256[rows], known, width=member.dim)
    if missing:
        model = load_member(platform.registry, member.source, device=after_training(device))
        parts = pictures(
            products, platform.blobs, rows[missing], side=member.pixel_side, scratch=platform.scratch, digest=snapshot
        )
        made = [embed_pixels(model, part, model.device, views=member.views) for part in parts]
        embedding_ND[missing] = np.concatenate(made)
    return embedding_ND, len(missing)


def known_embeddings(platform: Platform, release: int | None, member: Member) -> tuple[Known, Known]:
    """Picture hash → embedding, and name → embedding, by this member, from a release that has it; else nothing.

    Embeddings of pictures by another number of views are not the member's own.
    """
    if release is None:
        return {}, {}
    others = platform.registry.release_manifest(release).members
    column = next((i for i, other in enumerate(others) if other.weights_sha256 == member.weights_sha256), None)
    if column is None:
        return {}, {}
    searcher = open_release(platform, release, encoders=False).searcher
    seen_alike = others[column].views == member.views
    images = dict(zip(searcher.products.image_sha256, searcher.block(column), strict=True)) if seen_alike else {}
    return images, known_names(searcher, column)
