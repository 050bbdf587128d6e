"""Query → ranking, over one release: what the service runs, and therefore what evaluation measures (D11)."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.errors import CatalogError, QueryError, ReleaseError
from enclip.records import Filters, Floats, Products, Ranking
from enclip.retrieval import fusion, ranking
from enclip.retrieval.bank import QueryBank
from enclip.retrieval.blocks import fit_projection, joined
from enclip.retrieval.checks import check_parts, check_query
from enclip.retrieval.clusters import Clusters, cluster_means, firm
from enclip.retrieval.files import Parts
from enclip.retrieval.filters import FilterIndex, Mask, both
from enclip.retrieval.half import single
from enclip.retrieval.heads import AttributeHeads
from enclip.retrieval.index import FlatIndex, with_columns
from enclip.retrieval.mix import NOTHING, Mix
from enclip.retrieval.projection import Projection
from enclip.retrieval.text import NAMES, NameIndex, Texts, best_matches, word_shares
from enclip.retrieval.wording import Wording

PROJECTION, INDEX, CLUSTERS = "projection.npz", "index.faiss", "clusters.npz"
AVOIDANCE = np.float32(2.0)  # of the heads' log-doubt in a score: docs/reports/without.md
DEEPER = 5
SETTINGS = ("dims", "weights", "rescored")


class Searcher:
    """An immutable index over N products; searching is safe from several threads at once.

    A search has three passes: the projected index names the best `rescored` products among those
    allowed; these are scored again exactly, from the members' half-precision embeddings; then each
    is pulled toward the mean score of its cluster: `(1 - pull) · own + pull · mean of cluster`, so a
    product whose picture is poor is helped by those that look like it. The mean is over the whole
    cluster, whatever the search allows; a small or loose cluster pushes none of its products down.

    Where products' names are searched too, the concatenation holds a second block for each member: the
    text tower's embedding of the name. `(1 - share)·image + share·name` is one inner product again, with
    the share on the query's side: a query without words leaves the names out, in the same index. With
    BM25 its best names join the candidates, and their score is blended with the vectors' (`fusion.blend`).

    What words do beyond that, by a bank of likely queries and by attribute heads, is `Wording`; a query that is a
    picture leaves it out.

    Attributes:
        products: the N products, by product_id ascending.
        embedding_ND: float16 concatenation of the members' image embeddings, D = ΣD_k; with names those of
            the names behind it, D = 2ΣD_k.
        dims, weights: per member the width of its block and its share of the score.
        projection, index, clusters, names, wording: see their modules; names may be None.
        mix: the weights of what enters the score beside cosines. Clusters of a pull of 0 still name each hit's.
        rescored: products that get the second pass, or `k` if that is more.
        cluster_mean_CD: the clusters' mean embeddings.
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
        mix: Mix,
        rescored: int,
        cluster_mean_CD: Floats | None = None,
        names: NameIndex | None = None,
        wording: Wording | None = None,
    ) -> None:
        self.products = products
        self.embedding_ND = embedding_ND
        self.dims = tuple(int(dim) for dim in dims)
        self.weights = tuple(float(weight) for weight in weights)
        self.projection = projection
        self.index = index
        self.clusters = clusters
        self.mix = mix
        self.rescored = int(rescored)
        self.names = names
        self.wording = wording or Wording.over(embedding_ND, mix, bank=None, heads=None)
        self._filters = FilterIndex(products)
        # Computed where a searcher is built, kept in its files: opening one must not read all embeddings.
        self.cluster_mean_CD = cluster_means(embedding_ND, clusters) if cluster_mean_CD is None else cluster_mean_CD
        check_parts(self)
        self._mean_offset_CE = cluster_means(self.wording.offset_NE, clusters)
        self._firm_C = firm(clusters, self.cluster_mean_CD[:, : sum(self.dims)])

    @classmethod
    def build(
        cls,
        products: Products,
        block_NDs: Sequence[NDArray[np.floating]],
        weights: Sequence[float],
        *,
        cluster_count: int,
        mix: Mix = NOTHING,
        rescored: int = 100,
        seed: int = 0,
        like: "Searcher | None" = None,
        name_block_NDs: Sequence[NDArray[np.floating]] = (),
        names: NameIndex | None = None,
        bank: QueryBank | None = None,
        heads: AttributeHeads | None = None,
    ) -> "Searcher":
        """Project, index and cluster the members' embeddings of the products.

        Args:
            products: N ≥ 1 products by product_id ascending.
            block_NDs: per member `[N, D_k]`, unit norm, any float type.
            weights: per member its share of the score; not negative, not all 0.
            cluster_count: at most so many clusters.
            like: a searcher of the same ensemble whose projection and centroids are kept, so that a
                refresh with new products leaves cluster numbers and old scores as they were.
            name_block_NDs: per member the text tower's `[N, D_k]` of the products' names; none: names are
                not searched. A product without a name has its image embedding there too.
            mix, names, bank, heads: see the attributes and `Wording`.

        Raises:
            CatalogError: no products, or products out of order.
            ReleaseError: embeddings that do not fit the products, the weights or `like`, or are not finite.
        """
        if len(products) == 0:
            raise CatalogError("The catalog holds no product to search.", remedy="Ingest a catalog first.")
        dims = [block.shape[1] for block in block_NDs]
        embedding_ND = joined(products, block_NDs, name_block_NDs, weights)
        wording = Wording.over(embedding_ND, mix, bank=bank, heads=heads)
        if like is None:
            projection = fit_projection(
                embedding_ND, dims, weights, name_share=mix.name_share, spared=wording.width, seed=seed
            )
        elif like.dims == tuple(dims) and np.allclose(like.weights, weights) and like.has_names == bool(name_block_NDs):
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
            index=FlatIndex.build(with_columns(vector_NP, wording.offset_NE)),
            clusters=clusters,
            mix=mix,
            rescored=rescored,
            names=names,
            wording=wording,
        )

    def search(
        self,
        query_QDs: Sequence[Floats],
        *,
        k: int,
        texts: Texts | None = None,
        text_shares: Sequence[float] | None = None,
        without: Texts | None = None,
        filters: Filters | None = None,
        allowed: Mask | None = None,
        use_clusters: bool | None = None,
    ) -> list[Ranking]:
        """The best k products per query, fewer where fewer are allowed.

        Args:
            query_QDs: per member the queries' embeddings `[Q, D_k]` float32, unit norm.
            texts: per query its words, which names are searched for; None or "": a picture, held against
                pictures alone, as is every query without `texts`. Without names here they change nothing.
            text_shares: per query how much of it its words are, 0 to 1; default: all.
            without: per query words; a product whose picture shows the attributes that they name loses by it.
            filters: what the user asked for.
            allowed: `[N]` bool over `products`, and-ed with the filters (`mask_without`, a split).
            use_clusters: False leaves the pull out; None and True follow the release.

        Raises:
            QueryError: k below 1, embeddings or a mask of the wrong shape, or not finite.
        """
        if k < 1:
            raise QueryError(f"k is {k}.", remedy="Ask for at least one result.")
        share_Q = word_shares(len(query_QDs[0]), texts, text_shares)
        query_QD, offset_QE = self._query(query_QDs, share_Q, texts)
        check_query(query_QDs, query_QD, dims=self.dims, allowed=allowed, num_products=len(self.products))
        mask = both(self._filters.mask(filters), allowed)
        wanted = max(k, self.rescored)
        pull_Q = np.zeros(len(share_Q)) if use_clusters is False else self.wording.pulls(query_QDs, self.mix)
        rankings = []
        avoided = self._avoided(without, len(share_Q))
        # Many of the first fall back: more of them are looked at.
        depth = DEEPER * wanted if any(avoided) else wanted
        for query, row_C in enumerate(self._candidates(query_QD, offset_QE, mask, depth)):
            match_N, weight = self._matches(texts, query), self.mix.bm25_weight * float(share_Q[query])
            if match_N is not None:
                row_C = np.union1d(row_C, best_matches(match_N, num_rows=wanted, allowed=mask))
            score_C = self._scores(query_QD[query], offset_QE[query], row_C, float(pull_Q[query]))
            if match_N is not None:
                score_C = fusion.blend(score_C, match_N[row_C], weight)
            if self.heads is not None and avoided[query]:
                image_CD = single(self.embedding_ND[row_C, : sum(self.dims)])
                score_C = score_C + AVOIDANCE * self.heads.avoidance(avoided[query], image_CD)
            ids, cluster_N = self.products.product_id, self.clusters.assignment_N
            rankings.append(ranking.of_candidates(score_C, row_C, ids, k=k, cluster_N=cluster_N))
        return rankings

    def similar(
        self, product_id: str, *, k: int, filters: Filters | None = None, allowed: Mask | None = None
    ) -> Ranking:
        """The k products that look most like one, itself left out; names have no part in it.

        Raises:
            QueryError: no such product in this release.
        """
        row = self._filters.row(product_id)
        if row is None:
            raise QueryError(f"Product {product_id!r} is not in this release.", remedy="Search for it first.")
        own_1Ds = [np.asarray(self.block(member)[row], np.float32)[None] for member in range(len(self.dims))]
        others = self.mask_without(frozenset({product_id}), keep=False)
        return self.search(own_1Ds, k=k, filters=filters, allowed=both(others, allowed))[0]

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
        """One member's embeddings of the pictures, `[N, D_k]`."""
        start = sum(self.dims[:member])
        return self.embedding_ND[:, start : start + self.dims[member]]

    def name_block(self, member: int) -> NDArray[np.float16]:
        """One member's embeddings of the names, `[N, D_k]`; needs `has_names`."""
        start = sum(self.dims) + sum(self.dims[:member])
        return self.embedding_ND[:, start : start + self.dims[member]]

    @property
    def bank(self) -> QueryBank | None:
        """The bank of likely queries."""
        return self.wording.bank

    @property
    def heads(self) -> AttributeHeads | None:
        """The attribute heads."""
        return self.wording.heads

    @property
    def has_names(self) -> bool:
        """Whether names are embedded beside the pictures."""
        return bool(self.embedding_ND.shape[1] == 2 * sum(self.dims))

    def member(self, member: int) -> "Searcher":
        """One member alone, without clusters: what the ensemble is held against in quality and cost."""
        blocks = [self.block(member), *([self.name_block(member)] if self.has_names else [])]
        embedding_ND, dims = np.concatenate(blocks, axis=1), [self.dims[member]]
        bank, heads = self.wording.member(member)
        wording = Wording.over(embedding_ND, self.mix, bank=bank, heads=heads)
        projection = fit_projection(embedding_ND, dims, [1.0], name_share=self.mix.name_share, spared=wording.width)
        single = Clusters(np.zeros(len(self.products), np.int32), np.zeros((1, projection.width), np.float32))
        return Searcher(
            self.products,
            embedding_ND,
            dims=dims,
            weights=[1.0],
            projection=projection,
            index=FlatIndex.build(with_columns(projection.gallery(embedding_ND), wording.offset_NE)),
            clusters=single,
            mix=replace(self.mix, pull=0.0),
            rescored=self.rescored,
            names=self.names,
            wording=wording,
        )

    def with_mix(self, **parts: float) -> "Searcher":
        """The same searcher with other weights of these parts of its mix. Everything else is shared, so trying
        costs nothing, but that other shares of names or exemplars change every product's bias.

        Raises:
            ReleaseError: a weight outside 0 to 1, or one of names or a bank that this searcher does not hold.
        """
        changed = copy.copy(self)
        changed.mix = replace(self.mix, **parts)
        check_parts(changed)
        moved = (changed.mix.name_share, changed.mix.exemplar_share) != (self.mix.name_share, self.mix.exemplar_share)
        if self.bank is not None and moved:
            changed.wording = self.wording.remixed(self.embedding_ND, changed.mix)
            changed._mean_offset_CE = cluster_means(changed.wording.offset_NE, self.clusters)
            vector_NP = self.index.vectors()[:, : self.projection.width]
            changed.index = FlatIndex.build(with_columns(vector_NP, changed.wording.offset_NE))
        return changed

    def exact_scores(
        self, query_QDs: Sequence[Floats], rows: NDArray[np.int64] | None = None, *, texts: Texts | None = None
    ) -> Floats:
        """`score_QN` over all products or some rows, without index, candidates and clusters: the slow oracle."""
        rows = np.arange(len(self.products)) if rows is None else rows
        share_Q = word_shares(len(query_QDs[0]), texts, None)
        query_QD, offset_QE = self._query(query_QDs, share_Q, texts)
        score_QN = query_QD @ np.asarray(self.embedding_ND[rows], np.float32).T
        score_QN -= offset_QE @ self.wording.offset_NE[rows].T
        for query, score_N in enumerate(score_QN):
            match_N = self._matches(texts, query)
            if match_N is not None:
                score_QN[query] = fusion.blend(score_N, match_N[rows], self.mix.bm25_weight * float(share_Q[query]))
        return score_QN

    @property
    def num_bytes(self) -> int:
        """Memory of the vectors (index, half-precision embeddings, cluster means) and of BM25's postings."""
        vectors = int(self.index.num_bytes + self.embedding_ND.nbytes + self.cluster_mean_CD.nbytes)
        return vectors + (self.names.num_bytes if self.names is not None else 0)

    def save(self, folder: Path) -> None:
        """Write the searcher's files into a folder."""
        settings = {name: getattr(self, name) for name in SETTINGS} | asdict(self.mix)
        Parts(self.products, self.embedding_ND, self.cluster_mean_CD, settings).write(folder)
        self.projection.save(folder / PROJECTION)
        self.index.save(folder / INDEX)
        self.clusters.save(folder / CLUSTERS)
        self.wording.save(folder)
        if self.names is not None:
            self.names.save(folder / NAMES)

    @classmethod
    def load(cls, folder: Path) -> "Searcher":
        """Open a saved searcher. The half-precision embeddings stay on disk, shared between processes.

        Raises:
            ReleaseError: a file is missing, damaged, or does not fit the others.
        """
        parts = Parts.read(folder, *SETTINGS, "pull", **asdict(NOTHING))  # older releases have less in their mix
        return cls(
            parts.products,
            parts.embedding_ND,
            projection=Projection.load(folder / PROJECTION),
            index=FlatIndex.load(folder / INDEX),
            clusters=Clusters.load(folder / CLUSTERS),
            cluster_mean_CD=parts.cluster_mean_CD,
            names=NameIndex.load(folder / NAMES, parts.products) if (folder / NAMES).exists() else None,
            wording=Wording.load(folder, num_products=len(parts.products)),
            mix=Mix(**{name: float(parts.settings[name]) for name in Mix.names()}),
            **{name: parts.settings[name] for name in SETTINGS},
        )

    def _query(self, query_QDs: Sequence[Floats], share_Q: Floats, texts: Texts | None) -> tuple[Floats, Floats]:
        return self.wording.query(query_QDs, self.weights, self.mix, share_Q=share_Q, texts=texts, names=self.has_names)

    def _matches(self, texts: Texts | None, query: int) -> Floats | None:
        """`[N]` BM25 of one query; None where it has no part in the score."""
        if texts is None or self.names is None or self.mix.bm25_weight == 0 or not texts[query]:
            return None
        return self.names.coverage(texts[query] or "")

    def _avoided(self, without: Texts | None, num_queries: int) -> list[str]:
        """Per query the words to turn from, "" where the heads know none of them."""
        given = without or [None] * num_queries
        return [words if self.heads is not None and words and any(self.heads.asked(words)) else "" for words in given]

    def _candidates(
        self, query_QD: Floats, offset_QE: Floats, mask: Mask | None, wanted: int
    ) -> list[NDArray[np.int64]]:
        allowed = len(self.products) if mask is None else int(np.count_nonzero(mask))
        if allowed <= wanted:
            # The first pass only chooses whom to score exactly; here it is everybody.
            rows = np.arange(len(self.products)) if mask is None else np.flatnonzero(mask)
            return [rows] * len(query_QD)
        query_QP = with_columns(self.projection.query(query_QD), -offset_QE)
        return self.index.search(query_QP, num_rows=wanted, allowed_N=mask)

    def _scores(self, query_D: Floats, offset_E: Floats, row_C: NDArray[np.int64], pull: float) -> Floats:
        # Not `@`: BLAS adds in another order at the edges of a matrix, and so breaks ties between equal
        # pictures by where they lie; einsum treats every row alike.
        score_C = np.einsum("cd,d->c", single(self.embedding_ND[row_C]), query_D)
        score_C = score_C - np.einsum("ce,e->c", self.wording.offset_NE[row_C], offset_E)
        if pull > 0 and len(row_C):
            found, place_C = np.unique(self.clusters.assignment_N[row_C], return_inverse=True)
            mean_C = self.cluster_mean_CD[found] @ query_D - self._mean_offset_CE[found] @ offset_E
            pulled_C = (1 - pull) * score_C + pull * mean_C[place_C]
            score_C = np.where(self._firm_C[found][place_C], pulled_C, np.maximum(score_C, pulled_C))
        return np.asarray(score_C, np.float32)
