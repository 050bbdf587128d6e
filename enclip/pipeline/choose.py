"""Choose the ensemble on *select*: best epoch, soups, uniform last epochs, greedy over all there are."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from enclip.catalog.snapshot import load_snapshot, pixel_map
from enclip.errors import TrainingError
from enclip.models.device import after_training
from enclip.models.views import views_of
from enclip.pipeline.budget import Budget, Price, Timed
from enclip.pipeline.members import load_member, member_of
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, Plan, RunFolder, TrainStep
from enclip.pipeline.soups import cook
from enclip.pipeline.train import training_rows
from enclip.pipeline.validate import Validator
from enclip.recipes import ReleaseRecipe
from enclip.records import Floats, Split
from enclip.release import Candidate, GallerySettings, Member
from enclip.retrieval.selection import greedy_weights


def choose(platform: Platform, run_id: str) -> ChoiceStep:
    """Pick members and weights by mAP@10 on *select*; nothing of *gate* is looked at.

    Candidates are every epoch of the run, soups of its last epochs and, where the recipe says so, the
    champion's members; an ensemble beyond the budget is made smaller until it is within. Where names are searched,
    their share is chosen with them.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, trained = folder.read("plan", Plan), folder.read("train", TrainStep)
    with folder.timed("choose"):
        products = load_snapshot(platform.blobs, plan.snapshot)
        pool = _pool(platform, plan, trained)
        with_names = plan.recipe.release.gallery != "image"
        image_MQN: list[Floats] = []
        name_MQN: list[Floats] = []
        prices: list[Price] = []
        before = folder.find("choose", ChoiceStep)
        timed = Timed(plan.recipe.release, before.text_ms if before else {})
        select = Validator(products, split=Split.SELECT)
        views = plan.recipe.release.views
        for row, member in enumerate(pool):
            model = load_member(platform.registry, member.source, device=after_training(plan.recipe.train.device))
            pool[row] = member.model_copy(update={"views": views_of(views, from_scratch=model.from_scratch)})
            pixels = pixel_map(
                products, platform.blobs, side=member.pixel_side, scratch=platform.scratch, digest=plan.snapshot
            )
            prices.append(timed.price(member.weights_sha256, model))
            image_MQN.append(select.scores(model, pixels))
            if with_names:
                name_MQN.append(select.name_scores(model, image_MQN[-1]))
        own_pixels = pixel_map(
            products, platform.blobs, side=trained.pixel_side, scratch=platform.scratch, digest=plan.snapshot
        )
        rows = training_rows(products, plan.recipe.train)
        for soup, model, scores in cook(platform, plan, trained.epochs, pixels=own_pixels, rows=rows, select=select):
            pool.append(soup.model_copy(update={"views": views_of(views, from_scratch=model.from_scratch)}))
            prices.append(timed.price(soup.weights_sha256, model))
            image_MQN.append(scores)
            if with_names:
                name_MQN.append(select.name_scores(model, scores))
        own = {epoch.version for epoch in trained.epochs}
        chooser = _Chooser(pool, prices, select, plan.recipe.release, own=own, num_products=len(products))
        step = _with_share(chooser, image_MQN, name_MQN, plan.recipe.release)
        base = next((epoch for epoch in trained.epochs if epoch.epoch == 0), None)
        if base is not None:
            step = step.model_copy(update={"base": member_of(base, trained.pixel_side)})
        step = step.model_copy(update={"text_ms": timed.text_ms})
        folder.write("choose", step)
    return step


def _pool(platform: Platform, plan: Plan, trained: TrainStep) -> list[Member]:
    """Candidate members, each checkpoint once; the untuned base is not one of them."""
    pool = {epoch.weights_sha256: member_of(epoch, trained.pixel_side) for epoch in trained.epochs if epoch.epoch > 0}
    if plan.recipe.release.use_champion and plan.parent_release is not None:
        for member in platform.registry.release_manifest(plan.parent_release).members:
            pool.setdefault(member.weights_sha256, member)
    if not pool:
        raise TrainingError(f"Run {plan.run_id} has no epoch to choose from.", remedy="Train at least one epoch.")
    return list(pool.values())


def _with_share(
    chooser: "_Chooser", image_MQN: Sequence[Floats], name_MQN: Sequence[Floats], recipe: ReleaseRecipe
) -> ChoiceStep:
    """The best ensemble over pictures; with names, over the shares of them too. Ties: the smallest share."""
    if not name_MQN:
        return chooser.best(image_MQN)[0]
    found = {
        share: chooser.best(
            [(1 - share) * image_QN + share * name_QN for image_QN, name_QN in zip(image_MQN, name_MQN, strict=True)]
        )
        for share in sorted(recipe.name_shares)
    }
    share = max(found, key=lambda tried: found[tried][1])
    values = ", ".join(f"{tried:g}: {value:.3f}" for tried, (_, value) in found.items())
    why = f"A name share of {share:g} has the highest mAP@10 on select ({values})."
    gallery = GallerySettings(protocol=recipe.gallery, name_share=share, chosen_because=why)
    return found[share][0].model_copy(update={"gallery": gallery})


class _Chooser:
    """Picks members out of a pool by their scores on *select*, under the recipe's budget."""

    def __init__(
        self,
        pool: Sequence[Member],
        prices: Sequence[Price],
        select: Validator,
        recipe: ReleaseRecipe,
        *,
        own: Collection[int],
        num_products: int,
    ) -> None:
        self._pool, self._prices = pool, prices
        self._quality = select.quality
        self._recipe = recipe
        self._budget = Budget(recipe, num_products=num_products)
        self._epochs = [row for row, member in enumerate(pool) if not member.ingredients]
        # Versions that this run has trained; a champion's epochs are of another, whatever their number.
        self._own = [row for row in self._epochs if pool[row].version in own] or self._epochs
        self._soups = [row for row, member in enumerate(pool) if member.ingredients]

    def best(self, score_MQN: Sequence[Floats]) -> tuple[ChoiceStep, float]:
        """The best ensemble by these scores, and its mAP@10 on *select*."""
        pool, recipe = self._pool, self._recipe
        alone = np.array([self._quality(score_QN) for score_QN in score_MQN])
        fewest, most = min(recipe.min_members, len(self._epochs)), min(recipe.max_members, len(pool))
        weightings = {"best epoch": self._single(self._epochs, alone)}
        weightings["uniform last epochs"] = self._largest(
            most, lambda size: _uniform(_latest(pool, self._own, size), len(pool))
        )
        weightings["greedy"] = self._largest(
            most,
            lambda size: greedy_weights(score_MQN, self._quality, min_members=min(fewest, size), max_members=size)[0],
        )
        if self._soups:
            weightings["best soup"] = self._single(self._soups, alone)
        qualities = {name: self._quality(_weighted(score_MQN, weights)) for name, weights in weightings.items()}
        affordable = [name for name, weights in weightings.items() if self._affordable(weights)]
        allowed = [
            name for name in affordable if sum(len(pool[row].checkpoints) for row in _used(weightings[name])) >= fewest
        ]
        # Fewer checkpoints than wished for, or one epoch beyond the budget, are better than no release.
        name = max(allowed or affordable or ["best epoch"], key=lambda name: qualities[name])
        rows = sorted(_used(weightings[name]), key=lambda row: (-weightings[name][row], row))
        members = tuple(pool[row].model_copy(update={"weight": float(weightings[name][row])}) for row in rows)
        step = ChoiceStep(
            members=members,
            candidates=tuple(self._candidate(name, weightings[name], qualities[name]) for name in weightings),
            needs_student=self._budget.needs_student([self._prices[row] for row in rows]),
            best_member=max(range(len(rows)), key=lambda index: alone[rows[index]]),
            chosen_because=self._reason(name, qualities, fewest=fewest, most=most, wished=name in allowed),
        )
        return step, qualities[name]

    def _single(self, rows: Sequence[int], alone: NDArray[np.float64]) -> Floats:
        """The best of these that can be paid, or the best of all."""
        payable = [row for row in rows if self._budget.allows([self._prices[row]])]
        return _uniform([max(payable or rows, key=lambda row: alone[row])], len(self._pool))

    def _largest(self, most: int, weigh: Callable[[int], Floats]) -> Floats:
        """The weights for as many members as can be paid, at most `most`; one at least."""
        for size in range(most, 1, -1):
            weights = weigh(size)
            if self._affordable(weights):
                return weights
        return weigh(1)

    def _affordable(self, weights: Floats) -> bool:
        rows = _used(weights)
        return len(rows) <= self._recipe.max_members and self._budget.allows([self._prices[row] for row in rows])

    def _candidate(self, name: str, weights: Floats, quality: float) -> Candidate:
        rows = _used(weights)
        cost = self._budget.cost([self._prices[row] for row in rows])
        return Candidate(
            name=name,
            versions=tuple(self._pool[row].version for row in rows),
            weights=tuple(float(weight) for weight in weights[weights > 0]),
            map_at_10=quality,
            text_ms=cost.text_ms if self._recipe.max_text_ms else None,
            memory_mb=cost.memory_mb,
            within_budget=self._affordable(weights),
        )

    def _reason(self, name: str, qualities: Mapping[str, float], *, fewest: int, most: int, wished: bool) -> str:
        wish = f"at least {fewest} checkpoints" if wished else f"fewer than the {fewest} checkpoints wished for"
        limits = [f"at most {most} members"]
        if self._recipe.max_text_ms:
            limits.append(f"{self._recipe.max_text_ms:g} ms for words")
        if self._recipe.max_memory_mb:
            limits.append(f"{self._recipe.max_memory_mb:g} MB")
        soups = "1 soup" if len(self._soups) == 1 else f"{len(self._soups)} soups"
        return (
            f"{name.capitalize()} has the highest mAP@10 on select ({qualities[name]:.3f}; best epoch "
            f"{qualities['best epoch']:.3f}) among ensembles of {wish} in {', '.join(limits)}, out of "
            f"{len(self._epochs)} checkpoints and {soups}."
        )


def _latest(pool: Sequence[Member], epochs: Sequence[int], most: int) -> list[int]:
    """Rows of the last epochs, spread over the instances."""
    return sorted(epochs, key=lambda row: (-pool[row].epoch, pool[row].instance))[:most]


def _uniform(rows: Sequence[int], length: int) -> Floats:
    weights = np.zeros(length, dtype=np.float32)
    weights[list(rows)] = 1 / len(rows)
    return weights


def _used(weights: Floats) -> list[int]:
    """Rows of the members that count."""
    return [int(row) for row in np.flatnonzero(weights)]


def _weighted(score_MQN: Sequence[Floats], weights: Floats) -> Floats:
    total = np.zeros_like(score_MQN[0])
    for weight, score_QN in zip(weights, score_MQN, strict=True):
        if weight:
            total += weight * score_QN
    return total
