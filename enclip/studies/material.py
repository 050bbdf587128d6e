"""One fold of a setting: its trained epochs as scores, ensembles and releases, all measured on *gate*."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from enclip.evaluation.metrics import ap_at_10_of_scores, evaluate, relevance
from enclip.models.student import TextStudent
from enclip.pipeline.bank import query_bank
from enclip.pipeline.tune import Tuned, tune
from enclip.pipeline.validate import Validator
from enclip.records import Floats, Ranking, Split
from enclip.retrieval.heads import AttributeHeads
from enclip.retrieval.mix import Mix
from enclip.retrieval.name_heads import SaidByNames
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.selection import greedy_weights
from enclip.retrieval.text import NameIndex
from enclip.studies.definition import Setting
from enclip.studies.lab import Embedded, Epoch, Lab, best_of

Values = NDArray[np.float64]  # AP@10 of each gate query


class How(TypedDict, total=False):
    """What sets a release apart from the default.

    Attributes:
        names: a hybrid, with most of the score of vectors from names.
        views: of each picture; 0: as many as the recipe says.
        heads, said: in the place of those that it would have; a searcher that is not tuned has none unless told.
    """

    names: bool
    views: int
    heads: AttributeHeads | None
    said: SaidByNames | None


class Material:
    """What studies measure, computed once. Every choice is made on *select*.

    Args:
        share: of the train split, where bank and heads are to know no more than a training on so much of it.
    """

    def __init__(self, lab: Lab, setting: Setting, fold: int, *, share: float = 1.0) -> None:
        self.lab, self.setting = lab, setting
        self.world = lab.world(setting.little(fold, share))
        self._embedded: dict[str, Embedded] = {}
        self._relevant = {
            split: relevance(side.queries, side.gallery.product_id) for split, side in self._sides.items()
        }

    @property
    def _sides(self) -> dict[Split, Validator]:
        return {Split.SELECT: self.world.select, Split.GATE: self.world.gate}

    @cached_property
    def baseline(self) -> Epoch:
        """The best epoch of one plain run with the release's whole budget."""
        return best_of(self.lab.train(self.setting.baseline(self.world.number)))

    @cached_property
    def instances(self) -> list[list[Epoch]]:
        """The epochs of each instance, without the base."""
        return [self.lab.train(training)[1:] for training in self.setting.instances_of(self.world.number)]

    @cached_property
    def candidates(self) -> list[Epoch]:
        """What may become a member: the last epochs of each instance."""
        return [epoch for epochs in self.instances for epoch in epochs[-self.setting.offered :]]

    @cached_property
    def best_epoch(self) -> Epoch:
        """The best of all the release's epochs."""
        return best_of(self.candidates)

    def embedded(self, epoch: Epoch) -> Embedded:
        """What an epoch makes of the fold."""
        key = str(epoch.folder)
        if key not in self._embedded:
            self._embedded[key] = self.lab.embed(epoch)
        return self._embedded[key]

    def scores(self, epoch: Epoch, split: Split = Split.GATE) -> Floats:
        """`score_QN` by plain cosine, pictures alone."""
        query_QD, image_ND = self.world.of(split, self.embedded(epoch))
        return query_QD @ image_ND.T

    def ap(self, score_QN: Floats, split: Split = Split.GATE) -> Values:
        """AP@10 of each query; ties by product_id."""
        return ap_at_10_of_scores(score_QN, self._relevant[split])

    def ap_of_rankings(self, rankings: Sequence[Ranking]) -> Values:
        """AP@10 of each gate query."""
        return np.array([result.ap_at_10 for result in evaluate(self.world.gate.queries, rankings).results])

    def greedy(self, candidates: Sequence[Epoch], *, most: int, fewest: int = 1) -> tuple[list[Epoch], list[float]]:
        """Members and weights by greedy forward selection on *select*."""
        scores = [self.scores(epoch, Split.SELECT) for epoch in candidates]
        weights, _ = greedy_weights(
            scores, lambda total: float(self.ap(total, Split.SELECT).mean()), min_members=fewest, max_members=most
        )
        used = np.flatnonzero(weights).tolist()
        return [candidates[row] for row in used], [float(weights[row]) for row in used]

    def weighted(self, members: Sequence[Epoch], weights: Sequence[float], split: Split = Split.GATE) -> Floats:
        """`score_QN` of an ensemble by plain cosines."""
        total = sum(
            np.float32(weight) * self.scores(member, split) for member, weight in zip(members, weights, strict=True)
        )
        return np.asarray(total, np.float32)

    def uniform(self, members: Sequence[Epoch]) -> Values:
        """AP@10 of each gate query by the plain mean of members' cosines."""
        return self.ap(self.weighted(members, [1 / len(members)] * len(members)))

    @cached_property
    def ensemble(self) -> tuple[list[Epoch], list[float]]:
        """The release's members and weights."""
        most = self.setting.release.max_members
        fewest = min(self.setting.release.min_members, most, len(self.candidates))
        return self.greedy(self.candidates, most=most, fewest=fewest)

    @cached_property
    def release(self) -> Tuned:
        """The release: its ensemble, with the parts of its score weighed on *select*. Pictures alone."""
        return self.tuned(*self.ensemble)

    def tuned(self, members: Sequence[Epoch], weights: Sequence[float], **how: Unpack[How]) -> Tuned:
        """A release of these members, as `pipeline.cluster` chooses one."""
        fitted = None
        by_name, names = self.world.name_heads if how.get("names") else None, self.world.products.name
        if how.get("heads") is None:
            fitted = self.lab.heads(members, weights, views=self._seen(members, how))
            how = {**how, "heads": fitted.judged if fitted else None}
        if how["heads"] is not None and by_name is not None:
            how = {**how, "said": by_name.judged.over(names)}
        build = self.builder(members, weights, **how)
        select = [self.world.of(Split.SELECT, self.embedded(member))[0] for member in members]
        mix = Mix(name_share=NAME_SHARE if how.get("names") else 0.0)
        tuned = tune(build, select, self.world.select, self.allowed(Split.SELECT), self.setting.release, mix=mix)
        if fitted is None:
            return tuned
        final = by_name.final.over(names) if by_name else None
        return replace(tuned, searcher=tuned.searcher.with_heads(fitted.final, final))

    def views(self, member: Epoch) -> int:
        """Views of each picture that a release with this member has."""
        return self.lab.views(member, self.setting.release)

    def builder(
        self, members: Sequence[Epoch], weights: Sequence[float], **how: Unpack[How]
    ) -> Callable[[int, Mix], Searcher]:
        """What builds these members' searcher of so many clusters with a mix, bank and heads at hand."""
        names, seen = how.get("names", False), self._seen(members, how)
        parts = [self.embedded(member) for member in members]
        products = self.world.products
        sharpnesses = [part.sharpness for part in parts]
        asked = [part.bank_JD for part in parts]
        pictures = [self.lab.pictures(member, views=count) for member, count in zip(members, seen, strict=True)]
        bank = query_bank(self.world.bank, asked, pictures, weights, sharpnesses)
        heads = how.get("heads")
        colour_NC = self.lab.colours(members[0])

        def build(count: int, mix: Mix) -> Searcher:
            return Searcher.build(
                products,
                pictures,
                weights,
                cluster_count=count,
                mix=mix,
                rescored=self.setting.release.rescored,
                bank=bank,
                heads=heads,
                colour_NC=colour_NC,
                said=how.get("said"),
                name_block_NDs=[part.name_ND for part in parts] if names else (),
                names=NameIndex(products) if names else None,
            )

        return build

    def _seen(self, members: Sequence[Epoch], how: How) -> list[int]:
        return [how.get("views", 0) or self.views(member) for member in members]

    def searched(self, searcher: Searcher, members: Sequence[Epoch]) -> Values:
        """AP@10 of each gate query by a release's own search."""
        queries = [self.world.of(Split.GATE, self.embedded(member))[0] for member in members]
        rankings = searcher.search(queries, k=10, texts=self.world.gate.texts, allowed=self.allowed(Split.GATE))
        return self.ap_of_rankings(rankings)

    def student(self, members: Sequence[Epoch], weights: Sequence[float]) -> TextStudent:
        """One text tower for an ensemble, of its best member's."""
        best = max(range(len(members)), key=lambda row: members[row].quality)
        return self.lab.student(members, weights, own=best)

    def searched_by_student(self, searcher: Searcher, members: Sequence[Epoch], weights: Sequence[float]) -> Values:
        """`searched` with one text tower in the members' place."""
        queries = self.student(members, weights).encode_texts(self.world.gate.texts)
        rankings = searcher.search(queries, k=10, texts=self.world.gate.texts, allowed=self.allowed(Split.GATE))
        return self.ap_of_rankings(rankings)

    def allowed(self, split: Split) -> NDArray[np.bool_]:
        """The products of a split."""
        return np.asarray(self.world.products.split == split, dtype=bool)


NAME_SHARE = 0.7  # chosen on select of fold 0 among 0.3, 0.5, 0.7 and 0.85
