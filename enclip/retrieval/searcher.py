"""Query → ranking, over one release: what the service runs, and therefore what evaluation measures (D11)."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enclip.blobs import write_whole
from enclip.errors import CatalogError, QueryError, ReleaseError
from enclip.records import Filters, Floats, Hit, Products, Ranking
from enclip.retrieval import fusion, ranking
from enclip.retrieval.clusters import Clusters, cluster_means
from enclip.retrieval.filters import FilterIndex, Mask, both
from enclip.retrieval.index import FlatIndex
from enclip.retrieval.projection import Projection

PRODUCTS, EMBEDDINGS, PROJECTION = "products.parquet", "embeddings.npy", "projection.npz"
INDEX, CLUSTERS, MEANS, SETTINGS = "index.faiss", "clusters.npz", "cluster-means.npy", "searcher.json"


class Searcher:
    """An immutable index over N products; searching is safe from several threads at once.

    A search has three passes: the projected index names the best `rescored` products among those
    allowed; these are scored again exactly, from the members' half-precision embeddings; then each
    is pulled toward the mean score of its cluster: `(1 - pull) · own + pull · mean of cluster`, so a
    product whose picture is poor is helped by those that look like it. The mean is over the whole
    cluster, whatever the search allows.

    Attributes:
        products: the N products, by product_id ascending.
        embedding_ND: float16 concatenation of the members' image embeddings, D = ΣD_k.
        dims, weights: per member the width of its block and its share of the score.
        projection, index, clusters: see their modules.
        pull: 0 leaves the clusters out of the score; they still name each hit's cluster.
        rescored: products that get the second pass, or `k` if that is more.
    """

    def __init__(
        self,
        products: Products,
        embedding_ND: NDArray[np.float16],
        *,
        dims: Sequence[int],
        weights: Sequence[float],
        projection: Projection,
        index: FlatIndex,
        clusters: Clusters,
        pull: float,
        rescored: int,
        cluster_mean_CD: Floats | None = None,
    ) -> None:
        self.products = products
        self.embedding_ND = embedding_ND
        self.dims = tuple(int(dim) for dim in dims)
        self.weights = tuple(float(weight) for weight in weights)
        self.projection = projection
        self.index = index
        self.clusters = clusters
        self.pull = float(pull)
        self.rescored = int(rescored)
        self._filters = FilterIndex(products)
        # Computed where a searcher is built, kept in its files: opening one must not read all embeddings.
        self._cluster_mean_CD = cluster_means(embedding_ND, clusters) if cluster_mean_CD is None else cluster_mean_CD
        self._check()

    @classmethod
    def build(
        cls,
        products: Products,
        block_NDs: Sequence[NDArray[np.floating]],
        weights: Sequence[float],
        *,
        cluster_count: int,
        pull: float,
        rescored: int = 200,
        seed: int = 0,
        like: "Searcher | None" = None,
    ) -> "Searcher":
        """Project, index and cluster the members' embeddings of the products.

        Args:
            products: N ≥ 1 products by product_id ascending.
            block_NDs: per member `[N, D_k]`, unit norm, any float type.
            weights: per member its share of the score; not negative, not all 0.
            cluster_count: at most so many clusters.
            like: a searcher of the same ensemble whose projection and centroids are kept, so that a
                refresh with new products leaves cluster numbers and old scores as they were.

        Raises:
            CatalogError: no products, or products out of order.
            ReleaseError: embeddings that do not fit the products, the weights or `like`, or are not finite.
        """
        if len(products) == 0:
            raise CatalogError("The catalog holds no product to search.", remedy="Ingest a catalog first.")
        dims = [block.shape[1] for block in block_NDs]
        _check_members(products, block_NDs, weights)
        embedding_ND = np.concatenate([np.asarray(block, np.float16) for block in block_NDs], axis=1)
        if like is None:
            projection = Projection.fit(embedding_ND, dims, weights, seed=seed)
        elif like.dims == tuple(dims) and np.allclose(like.weights, weights):
            projection = like.projection
        else:
            raise ReleaseError(
                f"A searcher of members {like.dims}, weights {like.weights}, cannot be extended to {dims}, {weights}."
            )
        vector_NP = projection.gallery(embedding_ND)
        clusters = (
            Clusters.fit(vector_NP, count=cluster_count, seed=seed)
            if like is None
            else like.clusters.assigned(vector_NP)
        )
        return cls(
            products,
            embedding_ND,
            dims=dims,
            weights=weights,
            projection=projection,
            index=FlatIndex.build(vector_NP),
            clusters=clusters,
            pull=pull,
            rescored=rescored,
        )

    def search(
        self,
        query_QDs: Sequence[Floats],
        *,
        k: int,
        filters: Filters | None = None,
        allowed: Mask | None = None,
        use_clusters: bool | None = None,
    ) -> list[Ranking]:
        """The best k products per query, fewer where fewer are allowed.

        Args:
            query_QDs: per member the queries' embeddings `[Q, D_k]` float32, unit norm.
            filters: what the user asked for.
            allowed: `[N]` bool over `products`, and-ed with the filters (`mask_without`, a split).
            use_clusters: False leaves the pull out; None and True follow the release.

        Raises:
            QueryError: k below 1, embeddings or a mask of the wrong shape, or not finite.
        """
        if k < 1:
            raise QueryError(f"k is {k}.", remedy="Ask for at least one result.")
        query_QD = fusion.weight_query(query_QDs, self.weights)
        self._check_query(query_QDs, query_QD, allowed)
        mask = both(self._filters.mask(filters), allowed)
        candidates = self._candidates(query_QD, mask, max(k, self.rescored))
        pull = 0.0 if use_clusters is False else self.pull
        return [self._rescore(query_D, rows, pull, k) for query_D, rows in zip(query_QD, candidates, strict=True)]

    def similar(
        self, product_id: str, *, k: int, filters: Filters | None = None, allowed: Mask | None = None
    ) -> Ranking:
        """The k products that look most like one, itself left out.

        Raises:
            QueryError: no such product in this release.
        """
        row = self._filters.row(product_id)
        if row is None:
            raise QueryError(f"Product {product_id!r} is not in this release.", remedy="Search for it first.")
        own_1D = np.asarray(self.embedding_ND[row], np.float32)[None]
        block_1Ds = np.split(own_1D, np.cumsum(self.dims)[:-1], axis=1)
        others = self.mask_without(frozenset({product_id}), keep=False)
        return self.search(block_1Ds, k=k, filters=filters, allowed=both(others, allowed))[0]

    def mask_without(self, product_ids: frozenset[str], *, keep: bool = True) -> Mask | None:
        """`[N]` bool: every product but these (the withdrawn ones); None where none of them is here.

        With `keep` the mask is remembered for the next call with an equal set.
        """
        return self._filters.without(product_ids, keep=keep)

    def mask_of(self, product_ids: frozenset[str]) -> Mask:
        """`[N]` bool: only these products (a gallery to measure on); ids that are not here are ignored."""
        mask = np.zeros(len(self.products), bool)
        mask[[row for row in map(self._filters.row, product_ids) if row is not None]] = True
        return mask

    def block(self, member: int) -> NDArray[np.float16]:
        """One member's embeddings `[N, D_k]`."""
        start = sum(self.dims[:member])
        return self.embedding_ND[:, start : start + self.dims[member]]

    def member(self, member: int) -> "Searcher":
        """One member alone, without clusters: what the ensemble is held against in quality and cost."""
        block_ND = np.ascontiguousarray(self.block(member))
        identity = Projection.identity(self.dims[member])
        index = FlatIndex.build(identity.gallery(block_ND))
        single = Clusters(np.zeros(len(self.products), np.int32), np.zeros((1, index.width), np.float32))
        return Searcher(
            self.products,
            block_ND,
            dims=[self.dims[member]],
            weights=[1.0],
            projection=identity,
            index=index,
            clusters=single,
            pull=0.0,
            rescored=self.rescored,
        )

    def with_pull(self, pull: float) -> "Searcher":
        """The same searcher with another pull; everything else is shared, so trying pulls costs nothing.

        Raises:
            ReleaseError: a pull outside 0 to 1.
        """
        changed = copy.copy(self)
        changed.pull = float(pull)
        changed._check()
        return changed

    def member_scores(self, member: int, query_QD: Floats) -> Floats:
        """`score_QN` of one member, exact, over all products."""
        return fusion.member_scores(query_QD, self.block(member))

    def exact_scores(self, query_QDs: Sequence[Floats], rows: NDArray[np.int64] | None = None) -> Floats:
        """`score_QN` of the ensemble over all products or some rows, without index and clusters: the slow oracle."""
        embedding_ND = self.embedding_ND if rows is None else self.embedding_ND[rows]
        return fusion.weight_query(query_QDs, self.weights) @ np.asarray(embedding_ND, np.float32).T

    @property
    def num_bytes(self) -> int:
        """Memory of the vectors: index, half-precision embeddings, cluster means."""
        return int(self.index.num_bytes + self.embedding_ND.nbytes + self._cluster_mean_CD.nbytes)

    def save(self, folder: Path) -> None:
        """Write the searcher's files into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        columns: dict[str, Any] = {
            name: pa.array(getattr(self.products, name), pa.string()) for name in Products.column_names()
        }
        pq.write_table(pa.table(columns), folder / PRODUCTS)
        np.save(folder / EMBEDDINGS, self.embedding_ND, allow_pickle=False)
        self.projection.save(folder / PROJECTION)
        self.index.save(folder / INDEX)
        self.clusters.save(folder / CLUSTERS)
        np.save(folder / MEANS, self._cluster_mean_CD, allow_pickle=False)
        settings = {"dims": self.dims, "weights": self.weights, "pull": self.pull, "rescored": self.rescored}
        write_whole(folder / SETTINGS, json.dumps(settings, indent=2).encode())

    @classmethod
    def load(cls, folder: Path) -> "Searcher":
        """Open a saved searcher. The half-precision embeddings stay on disk, shared between processes.

        Raises:
            ReleaseError: a file is missing, damaged, or does not fit the others.
        """
        try:
            settings = json.loads((folder / SETTINGS).read_bytes())
            table = pq.read_table(folder / PRODUCTS, columns=list(Products.column_names()))
            embedding_ND = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
            cluster_mean_CD = np.load(folder / MEANS, allow_pickle=False)
            products = Products(**{name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names})
            kept = {name: settings[name] for name in ("dims", "weights", "pull", "rescored")}
        except (OSError, ValueError, KeyError, EOFError, pa.ArrowException) as error:
            raise ReleaseError(f"The release at {folder} cannot be opened: {error}.") from error
        return cls(
            products,
            embedding_ND,
            projection=Projection.load(folder / PROJECTION),
            index=FlatIndex.load(folder / INDEX),
            clusters=Clusters.load(folder / CLUSTERS),
            cluster_mean_CD=cluster_mean_CD,
            **kept,
        )

    def _candidates(self, query_QD: Floats, mask: Mask | None, wanted: int) -> list[NDArray[np.int64]]:
        allowed = len(self.products) if mask is None else int(np.count_nonzero(mask))
        if allowed <= wanted:
            # The first pass only chooses whom to score exactly; here it is everybody.
            rows = np.arange(len(self.products)) if mask is None else np.flatnonzero(mask)
            return [rows] * len(query_QD)
        return self.index.search(self.projection.query(query_QD), num_rows=wanted, allowed_N=mask)

    def _rescore(self, query_D: Floats, row_C: NDArray[np.int64], pull: float, k: int) -> Ranking:
        # Not `@`: BLAS adds in another order at the edges of a matrix, and so breaks ties between equal
        # pictures by where they lie; einsum treats every row alike.
        score_C = np.einsum("cd,d->c", np.asarray(self.embedding_ND[row_C], np.float32), query_D)
        cluster_C = self.clusters.assignment_N[row_C]
        if pull > 0 and len(row_C):
            found, place_C = np.unique(cluster_C, return_inverse=True)
            score_C = (1 - pull) * score_C + pull * (self._cluster_mean_CD[found] @ query_D)[place_C]
        best = ranking.order(score_C, row_C)[:k]
        return Ranking(
            tuple(
                Hit(str(self.products.product_id[row]), round(float(score), ranking.DECIMALS), int(cluster))
                for row, score, cluster in zip(row_C[best], score_C[best], cluster_C[best], strict=True)
            )
        )

    def _check_query(self, query_QDs: Sequence[Floats], query_QD: Floats, allowed: Mask | None) -> None:
        widths = tuple(block.shape[-1] for block in query_QDs)
        if widths != self.dims:
            raise QueryError(f"Query embeddings have widths {widths}; the members' are {self.dims}.")
        if not np.isfinite(query_QD).all():
            raise QueryError("A query embedding is not finite.", remedy="Check the encoder that made it.")
        if allowed is not None and (allowed.shape != (len(self.products),) or allowed.dtype != np.bool_):
            raise QueryError(f"The mask has shape {allowed.shape}; one bool per product was expected.")

    def _check(self) -> None:
        ids = self.products.product_id
        if not (ids[:-1] < ids[1:]).all():
            raise CatalogError("Products are not in ascending order of unique ids.", remedy="Use Products.from_rows.")
        if not 0 <= self.pull <= 1:
            raise ReleaseError(f"A pull of {self.pull} cannot be used.", remedy="Choose one from 0 to 1.")
        sizes = {len(ids), len(self.embedding_ND), len(self.index), len(self.clusters.assignment_N)}
        widths = (self.embedding_ND.shape[1], len(self.projection.scale_D), sum(self.dims))
        means = (self.clusters.count, sum(self.dims))
        if (
            len(sizes) > 1
            or len(set(widths)) > 1
            or self._cluster_mean_CD.shape != means
            or self.index.width != self.projection.width
        ):
            raise ReleaseError(
                f"Parts of the release do not fit each other: {sorted(sizes)} products, widths {widths}, "
                f"index {self.index.width} for projection {self.projection.width}, cluster means "
                f"{self._cluster_mean_CD.shape} for {self.clusters.count} clusters."
            )


def _check_members(products: Products, block_NDs: Sequence[NDArray[np.floating]], weights: Sequence[float]) -> None:
    if not block_NDs or len(block_NDs) != len(weights):
        raise ReleaseError(f"{len(block_NDs)} embeddings for {len(weights)} weights; each member has one of both.")
    if min(weights) < 0 or sum(weights) <= 0 or not np.isfinite(weights).all():
        raise ReleaseError(f"Weights {tuple(weights)} cannot be used; they are not negative, and not all 0.")
    for number, block in enumerate(block_NDs):
        if block.ndim != 2 or len(block) != len(products):
            raise ReleaseError(f"Member {number} embedded {len(block)} of {len(products)} products.")
        finite_N = np.isfinite(block).all(axis=1)
        if not finite_N.all():
            worst = products.product_id[int(np.argmin(finite_N))]
            raise ReleaseError(
                f"Member {number} embeds product {worst!r} as a vector that is not finite.",
                remedy="Leave that member out; its training may have diverged.",
            )
