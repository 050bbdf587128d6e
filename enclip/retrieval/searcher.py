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
from enclip.retrieval.clusters import CHUNK_ROWS, Clusters
from enclip.retrieval.files import Parts
from enclip.retrieval.filters import FilterIndex, Mask, both
from enclip.retrieval.heads import AttributeHeads
from enclip.retrieval.index import FlatIndex, Index, index_like, load_index, with_columns
from enclip.retrieval.mix import NOTHING, WITHOUT_CLUSTERS, Mix
from enclip.retrieval.name_heads import SaidByNames
from enclip.retrieval.projection import Projection
from enclip.retrieval.scoring import Asked, Scorer
from enclip.retrieval.text import NAMES, NameIndex, Texts, best_matches
from enclip.retrieval.wording import Wording

PROJECTION, INDEX, CLUSTERS = "projection.npz", "index.faiss", "clusters.npz"
DEEPER = 5  # times as many candidates where words to turn from will push the first ones back
SETTINGS = ("dims", "weights", "rescored")


class Searcher(Scorer):
    """An immutable index over N products; searching is safe from several threads at once.

    A search has two passes: the projected index names the best `rescored` products among those allowed, to which
    the words of names add theirs; these are scored exactly (see `Scorer`).

    Attributes:
        projection, index: see their modules.
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
        index: Index,
        clusters: Clusters,
        mix: Mix,
        rescored: int,
        cluster_mean_CD: Floats | None = None,
        names: NameIndex | None = None,
        wording: Wording | None = None,
    ) -> None:
        super().__init__(
            products,
            embedding_ND,
            dims=dims,
            weights=weights,
            clusters=clusters,
            mix=mix,
            cluster_mean_CD=cluster_mean_CD,
            names=names,
            wording=wording,
        )
        self.projection = projection
        self.index = index
        self.rescored = int(rescored)
        self._filters = FilterIndex(products)
        check_parts(self)
        self.gather()

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
        colour_NC: NDArray[np.floating] | None = None,
        said: SaidByNames | None = None,
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
            mix, names, bank, heads, colour_NC, said: see the attributes and `Wording`.

        Raises:
            CatalogError: no products, or products out of order.
            ReleaseError: embeddings that do not fit the products, the weights or `like`, or are not finite.
        """
        if len(products) == 0:
            raise CatalogError("The catalog holds no product to search.", remedy="Ingest a catalog first.")
        dims = [block.shape[1] for block in block_NDs]
        embedding_ND = joined(products, block_NDs, name_block_NDs, weights)
        wording = Wording.over(embedding_ND, mix, bank=bank, heads=heads, colour_NC=colour_NC, said=said)
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
            without: per query words; a product loses by it whose picture shows the attributes that they name, or whose
                name does, where attributes by name are in the score.
            filters: what the user asked for.
            allowed: `[N]` bool over `products`, and-ed with the filters (`mask_without`, a split).
            use_clusters: False leaves pull and feedback out; None and True follow the release.

        Raises:
            QueryError: k below 1, embeddings or a mask of the wrong shape, or not finite.
        """
        if k < 1:
            raise QueryError(f"k is {k}.", remedy="Ask for at least one result.")
        check_query(query_QDs, without, dims=self.dims, allowed=allowed, num_products=len(self.products))
        asked = self.asked(query_QDs, texts, text_shares, without)
        if use_clusters is False:
            asked = replace(asked, pull_Q=np.zeros_like(asked.pull_Q), feedback_Q=np.zeros_like(asked.feedback_Q))
        mask = both(self._filters.mask(filters), allowed)
        wanted = max(k, self.rescored)
        found = meant = self._candidates(asked, mask, wanted)
        if asked.feedback_Q.any() and (mask is not allowed or wanted > self.rescored):
            # What words mean does not hang on what is shown: neither on filters nor on how many results.
            meant = self._candidates(asked, allowed, self.rescored)
        rankings = []
        for query, row_C in enumerate(found):
            match_N = self.matches(asked, query)
            row_C = _with_matches(row_C, match_N, wanted, mask)
            toward_D = None
            if asked.feedback_Q[query] > 0:
                first_C = row_C if meant is found else _with_matches(meant[query], match_N, self.rescored, allowed)
                toward_D = self._toward(asked, query, first_C, match_N, allowed)
            score_C = self.score(asked, query, row_C, match_N, toward_D)
            ids, cluster_N = self.products.product_id, self.clusters.assignment_N
            rankings.append(ranking.of_candidates(score_C, row_C, ids, k=k, cluster_N=cluster_N))
        return rankings

    def by_words(
        self, query_QDs: Sequence[Floats], *, k: int, texts: Texts, allowed: Mask | None = None
    ) -> list[Ranking]:
        """The best k products per query by what the words of names add to a score, and no vector."""
        asked = self.asked(query_QDs, texts)
        rankings = []
        for match_N in (self.matches(asked, query) for query in range(len(texts))):
            match_N = np.zeros(len(self.products), np.float32) if match_N is None else match_N
            row_C = best_matches(match_N, num_rows=k, allowed=allowed)
            ids, cluster_N = self.products.product_id, self.clusters.assignment_N
            rankings.append(ranking.of_candidates(match_N[row_C], row_C, ids, k=k, cluster_N=cluster_N))
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

    def row(self, product_id: str) -> int | None:
        """A product's row; None where the release does not hold it."""
        return self._filters.row(product_id)

    def counts(self, filters: Filters | None, allowed: Mask | None = None) -> dict[str, dict[str, int]]:
        """Field → value → products that choosing it would leave; see `FilterIndex.counts`."""
        return self._filters.counts(filters, allowed)

    def mask_without(self, product_ids: frozenset[str], *, keep: bool = True) -> Mask | None:
        """`[N]` bool: every product but these (the withdrawn ones); None where none of them is here.

        With `keep` the mask is remembered for the next call with an equal set.
        """
        return self._filters.without(product_ids, keep=keep)

    def member(self, member: int) -> "Searcher":
        """One member alone, without clusters: what the ensemble is held against in quality and cost."""
        blocks = [self.block(member), *([self.name_block(member)] if self.has_names else [])]
        embedding_ND, dims = np.concatenate(blocks, axis=1), [self.dims[member]]
        bank, heads = self.wording.member(member)
        wording = Wording.over(
            embedding_ND,
            self.mix,
            bank=bank,
            heads=heads,
            colour_NC=self.wording.colours,
            said=self.wording.said,
        )
        projection = fit_projection(embedding_ND, dims, [1.0], name_share=self.mix.name_share, spared=wording.width)
        single = Clusters(np.zeros(len(self.products), np.int32), np.zeros((1, projection.width), np.float32))
        return Searcher(
            self.products,
            embedding_ND,
            dims=dims,
            weights=[1.0],
            projection=projection,
            index=index_like(
                self.index, with_columns(projection.gallery(embedding_ND), wording.offset_NE), self.clusters
            ),
            clusters=single,
            mix=replace(self.mix, **WITHOUT_CLUSTERS),
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
            changed.gather()
            changed._reindex()
        return changed

    def with_heads(self, heads: AttributeHeads, said: SaidByNames | None = None) -> "Searcher":
        """The same searcher with other heads of the same fields and colours, and what others read in names, if any."""
        changed = copy.copy(self)
        changed.wording = Wording.over(
            self.embedding_ND,
            self.mix,
            bank=self.bank,
            heads=heads,
            colour_NC=self.wording.colours,
            said=said,
        )
        changed._reindex()
        check_parts(changed)
        changed.gather()
        return changed

    def vectors(self) -> Floats:
        """`[N, P]` float32: the products in the projection, where their clusters lie; a copy."""
        return self.index.vectors()[:, : self.projection.width]

    def closeness(self) -> Floats:
        """`[N]` float32: each product's cosine with the centre of its cluster."""
        closeness_N = np.empty(len(self.products), np.float32)
        for start in range(0, len(closeness_N), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            vector_BP = self.index.vectors(start, start + CHUNK_ROWS)[:, : self.projection.width]
            centre_BP = self.clusters.centroid_CP[self.clusters.assignment_N[rows]]
            closeness_N[rows] = np.einsum("bp,bp->b", fusion.unit(vector_BP), centre_BP)
        return closeness_N

    @property
    def num_bytes(self) -> int:
        """Memory of the vectors (index, half-precision embeddings, cluster means), and of the words of names."""
        vectors = int(self.index.num_bytes + self.embedding_ND.nbytes + self.cluster_mean_CD.nbytes)
        by_words = (self.names, self.wording.said)
        return vectors + sum(part.num_bytes for part in by_words if part is not None)

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
            index=load_index(folder / INDEX),
            clusters=Clusters.load(folder / CLUSTERS),
            cluster_mean_CD=parts.cluster_mean_CD,
            names=NameIndex.load(folder / NAMES, parts.products) if (folder / NAMES).exists() else None,
            wording=Wording.load(folder, num_products=len(parts.products)),
            mix=Mix(**{name: float(parts.settings[name]) for name in Mix.names()}),
            **{name: parts.settings[name] for name in SETTINGS},
        )

    def turn(self, asked: Asked, allowed: Mask | None) -> Floats | None:
        """`[D]` that `search` among the products that are allowed turns one query by, whatever its filters; None: by
        nothing.
        """
        if not asked.feedback_Q[0] > 0:
            return None
        (row_C,) = self._candidates(asked, allowed, self.rescored)
        match_N = self.matches(asked, 0)
        return self._toward(asked, 0, _with_matches(row_C, match_N, self.rescored, allowed), match_N, allowed)

    def _reindex(self) -> None:
        """The same kind of index over what the wording now takes off each product's score."""
        self.index = index_like(self.index, with_columns(self.vectors(), self.wording.offset_NE), self.clusters)

    def _candidates(self, asked: Asked, mask: Mask | None, wanted: int) -> list[NDArray[np.int64]]:
        # Many of the first fall back behind words to turn from: more of them are looked at.
        depths = [DEEPER * wanted if avoided else wanted for avoided in asked.avoided]
        if self._num(mask) <= min(depths, default=0):
            # The first pass only chooses whom to score exactly; here it is everybody.
            rows = np.arange(len(self.products)) if mask is None else np.flatnonzero(mask)
            return [rows] * len(depths)
        query_QP = with_columns(self.projection.query(asked.query_QD), -asked.offset_QE)
        found = self.index.search(query_QP, num_rows=max(depths, default=0), allowed_N=mask)
        return [row_C[:depth] for row_C, depth in zip(found, depths, strict=True)]

    def _toward(
        self, asked: Asked, query: int, row_C: NDArray[np.int64], match_N: Floats | None, allowed: Mask | None
    ) -> Floats:
        score_C = self.score(asked, query, row_C, match_N)
        return self.toward(asked, query, row_C, score_C, allowed=self._num(allowed))

    def _num(self, mask: Mask | None) -> int:
        return len(self.products) if mask is None else int(np.count_nonzero(mask))


def _with_matches(
    row_C: NDArray[np.int64], match_N: Floats | None, wanted: int, mask: Mask | None
) -> NDArray[np.int64]:
    """Candidates, and the best by the words of their names where these have a part."""
    if match_N is None:
        return row_C
    return np.union1d(row_C, best_matches(match_N, num_rows=wanted, allowed=mask))
