"""The clusters of the release, and the map they lie on."""

from collections import Counter
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, HTTPException, Path, Query

from enclip.retrieval.profiles import Profile
from enclip.serving.cluster_schemas import (
    DEFAULT_CLUSTERS,
    MAX_CLUSTERS,
    MAX_POINTS,
    MAX_ROW,
    ClusterAnswer,
    ClusterCard,
    ClusterProduct,
    ClustersAnswer,
    MapAnswer,
    SuspectLabel,
)
from enclip.serving.desk import Desk
from enclip.serving.follow import Served
from enclip.serving.problems import described
from enclip.serving.schemas import DEFAULT_K, MAX_K, ProductCard

PICTURES = 6
NO_SUCH_CLUSTER: dict[int | str, dict[str, Any]] = {404: described("The release has no such cluster.")}
NO_MAP: dict[int | str, dict[str, Any]] = {404: described("The release was built before maps were stored.")}


def cluster_routes(desk: Desk) -> APIRouter:
    """`/v1/clusters` and `/v1/map`."""
    router = APIRouter(prefix="/v1")

    @router.get("/clusters", summary="The clusters of the catalog: what they hold, how pure, what looks mislabelled")
    async def clusters(
        k: Annotated[int, Query(ge=1, le=MAX_CLUSTERS)] = DEFAULT_CLUSTERS,
        offset: Annotated[int, Query(ge=0, le=MAX_ROW)] = 0,
    ) -> ClustersAnswer:
        served = desk.served()
        return await desk.search(lambda: list_clusters(served, k=k, offset=offset))

    @router.get("/clusters/{cluster}", summary="One cluster, its products page by page", responses=NO_SUCH_CLUSTER)
    async def one_cluster(
        cluster: Annotated[int, Path(ge=0, le=MAX_ROW)],
        k: Annotated[int, Query(ge=1, le=MAX_K)] = DEFAULT_K,
        offset: Annotated[int, Query(ge=0, le=MAX_ROW)] = 0,
        suspects: Annotated[bool, Query(description="Only products with a label to look at.")] = False,
    ) -> ClusterAnswer:
        served = desk.served()
        return await desk.search(lambda: show_cluster(served, cluster, k=k, offset=offset, suspects=suspects))

    @router.get("/map", summary="Where products lie on the map of the catalog: near ones look alike", responses=NO_MAP)
    async def catalog_map(
        k: Annotated[int, Query(ge=1, le=MAX_POINTS, description="At most so many, an even sample.")] = MAX_POINTS,
    ) -> MapAnswer:
        served = desk.served()
        return await desk.search(lambda: draw_map(served, k=k))

    return router


def list_clusters(served: Served, *, k: int, offset: int) -> ClustersAnswer:
    """A page of the clusters that hold a product, the largest first."""
    profiles = sorted(served.clusters, key=lambda profile: (-profile.num_products, profile.cluster))
    return ClustersAnswer(
        release=served.version,
        num_products=sum(profile.num_products for profile in profiles),
        num_clusters=len(profiles),
        has_map=served.release.atlas is not None,
        has_suspects=served.release.suspects is not None,
        clusters=[_card(served, profile) for profile in profiles[offset : offset + k]],
    )


def show_cluster(served: Served, cluster: int, *, k: int, offset: int, suspects: bool) -> ClusterAnswer:
    """A page of one cluster. Raises HTTPException 404 where it holds no product."""
    profile = next((profile for profile in served.clusters if profile.cluster == cluster), None)
    if profile is None:
        raise HTTPException(404, f"Release {served.version} has no cluster {cluster} with products in it.")
    profiles, live = served.release.profiles, served.release.live(served.withdrawn)
    row_M = profiles.rows(cluster, live)
    if suspects:
        surest_M = profiles.suspect_rows(live)
        row_M = surest_M[np.isin(surest_M, row_M)]
    return ClusterAnswer(
        release=served.version,
        cluster=_card(served, profile),
        total=len(row_M),
        products=[_product(served, row) for row in row_M[offset : offset + k].tolist()],
    )


def draw_map(served: Served, *, k: int) -> MapAnswer:
    """Up to k products on the map. Raises HTTPException 404 for a release without one."""
    release, atlas = served.release, served.release.atlas
    if atlas is None:
        raise HTTPException(
            404, f"Release {served.version} was built before maps were stored; `enclip refresh` builds one with a map."
        )
    live = release.live(served.withdrawn)
    row_M = atlas.sample(k, live)
    products = release.products.take(row_M)
    category_M = products.category
    commonest = Counter(sorted(category_M[category_M != ""])).most_common()  # ties by name
    place_of = {category: place for place, (category, _) in enumerate(commonest)}
    suspect_M = np.isin(row_M, release.profiles.suspect_rows(live))
    position_M2 = atlas.position_N2[row_M].astype(np.float64).round(4)
    return MapAnswer(
        release=served.version,
        num_products=sum(profile.num_products for profile in served.clusters),
        categories=list(place_of),
        product_id=products.product_id.tolist(),
        name=products.name.tolist(),
        x=position_M2[:, 0].tolist(),
        y=position_M2[:, 1].tolist(),
        cluster=release.profiles.assignment_N[row_M].tolist(),
        category=[place_of.get(category, -1) for category in category_M],
        suspect=np.flatnonzero(suspect_M).tolist(),
    )


def _card(served: Served, profile: Profile) -> ClusterCard:
    nearest = served.release.profiles.rows(profile.cluster, served.release.live(served.withdrawn))[:PICTURES]
    pictures = [ProductCard.of(served.release.products.row(row)) for row in nearest.tolist()]
    return ClusterCard.of(profile, pictures, has_suspects=served.release.suspects is not None)


def _product(served: Served, row: int) -> ClusterProduct:
    card = ProductCard.of(served.release.products.row(row))
    profiles = served.release.profiles
    return ClusterProduct(
        **card.model_dump(),
        closeness=round(profiles.closeness(row), 4),
        suspects=[
            SuspectLabel.of(suspect, [other for other in suspect.evidence if other not in served.withdrawn])
            for suspect in profiles.suspects(row)
        ],
    )
