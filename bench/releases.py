"""Releases of drawn numbers, for programs that time searches: as many products and members as asked for.

Products are of kinds, kinds have classes, and what a product has of its own varies in few directions, the kind's: as
many as let an inverted file find what it finds in a real catalog (0.99 of the exact first ten in a twelfth of it). A
member sees all that through a map of its own and adds noise; a text is its class's direction beside one that all texts
share, as towers leave a gap between pictures and words. The time of an exact search does not depend on these numbers;
which products are found does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from enclip.models.bases import load_base
from enclip.models.clip import ClipEncoder
from enclip.models.colours import NUM_COLOURS
from enclip.models.student import TextStudent
from enclip.pipeline.open_release import OpenRelease
from enclip.records import Floats, Product, Products
from enclip.release import ClusterSettings, Manifest, Member
from enclip.retrieval.bank import QueryBank
from enclip.retrieval.heads import PAIR, AttributeHeads, LinearHeads
from enclip.retrieval.mix import Mix
from enclip.retrieval.name_heads import NameHeads
from enclip.retrieval.searcher import Searcher

DIM, RANK, SHARPNESS = 128, 48, 12.0  # of a `tiny` member, and of such a training
PER_CLASS, PER_KIND = 40, 1_000  # products
FREEDOM = 12  # directions in which a kind's products differ
CLASS, OWN, MADE, GAP = 0.7, 0.8, 0.4, 1.0  # lengths beside a kind's of 1; MADE and GAP of a whole embedding's
ASKED = 0.4  # of what is a product's own, in a picture that is asked with
CAPTIONS, MOST_SCORED = 2_400, 2.4e9  # of a bank; captions × products above which there are fewer of them
VALUES = {"gender": 5, "base_colour": 44, "article_type": 110, "usage": 7, "sub_category": 37}  # a real catalog's
PAIRS = 250  # of gender and type, there
OTHER_WORDS, OTHERS_A_NAME = 3_000, 5  # of names, beside those of their attributes
MIX = Mix(calibration=1.0, exemplar_share=0.35, attribute_weight=1.0)


@dataclass(frozen=True, eq=False)
class Queries:
    """Q queries: per member `[Q, D]`, and each one's class."""

    block_QDs: list[Floats]
    class_Q: NDArray[np.int64]


def drawn_heads(chance: np.random.Generator, *, members: int) -> AttributeHeads:
    """Heads of as many fields and values as a real catalog's, pairs of gender and type among them; of colours too."""
    values = {field: tuple(f"{field}{row}" for row in range(count)) for field, count in VALUES.items()}
    pairs = islice(product(values["article_type"], values["gender"]), PAIRS)
    values[PAIR] = tuple(f"{gender} {kind}" for kind, gender in pairs)
    width = sum(map(len, values.values()))
    joint, *own = (
        LinearHeads(chance.standard_normal((dim, width), dtype=np.float32), np.zeros(width, np.float32))
        for dim in (members * DIM + NUM_COLOURS, *[DIM + NUM_COLOURS] * members)
    )
    return AttributeHeads(tuple(values), tuple(values.values()), joint, tuple(own), SHARPNESS, NUM_COLOURS)


def drawn_colours(chance: np.random.Generator, *, products: int) -> Floats:
    """Colours for such heads to read."""
    return _unit(np.abs(chance.standard_normal((products, NUM_COLOURS), dtype=np.float32)))


def drawn_names(chance: np.random.Generator, *, products: int) -> list[str]:
    """Names of a gender, a colour, a type, and words of which a few are frequent."""
    said = [
        [f"{field.split('_')[-1]}{value}" for value in chance.integers(VALUES[field], size=products)]
        for field in ("gender", "base_colour", "article_type")
    ]
    share_W = 1 / np.arange(10, 10 + OTHER_WORDS)
    other_NO = chance.choice(OTHER_WORDS, p=share_W / share_W.sum(), size=(products, OTHERS_A_NAME))
    return [
        " ".join([*named, *(f"word{word}" for word in others)]) for *named, others in zip(*said, other_NO, strict=True)
    ]


def drawn_name_heads(chance: np.random.Generator, heads: AttributeHeads, names: Sequence[str]) -> NameHeads:
    """Classifiers of the same values by all words of such names."""
    vocabulary = tuple(sorted({word for name in names for word in name.split()}))
    intercept_V = np.zeros_like(heads.joint.intercept_V)
    weight_WV = chance.standard_normal((len(vocabulary), len(intercept_V)), dtype=np.float32)
    return NameHeads(vocabulary, heads.starts, LinearHeads(weight_WV, intercept_V))


class Drawn:
    """N products as K members see them.

    Attributes:
        block_NDs: per member `[N, D]` float16, unit norm.
        class_N: products of one are what its queries mean.
    """

    def __init__(self, num_products: int, num_members: int, *, seed: int = 0) -> None:
        self._chance = np.random.default_rng(seed)
        num_kinds, num_classes = max(1, num_products // PER_KIND), max(1, num_products // PER_CLASS)
        self.class_N = self._chance.integers(num_classes, size=num_products)
        self._kind_C = np.arange(num_classes) % num_kinds
        self._basis_KFR = self._normal(num_kinds, FREEDOM, RANK) / np.float32(np.sqrt(RANK))
        self._class_CR = _unit(self._normal(num_kinds, RANK))[self._kind_C] + CLASS * self._varied(self._kind_C)
        self._maps = [_unit(self._normal(RANK, DIM)) for _ in range(num_members)]
        self._gaps = [_unit(self._normal(1, DIM)) for _ in range(num_members)]
        own_NR = self._class_CR[self.class_N] + OWN * self._varied(self._kind_C[self.class_N])
        self.block_NDs = [self._seen(own_NR, member) for member in range(num_members)]
        self.weights = [1 / num_members] * num_members
        rows = [Product(f"{row:07d}", "", "", gender="Men" if row % 2 else "Women") for row in range(num_products)]
        self.products = Products.from_rows(rows)

    def pictures(self, number: int) -> Queries:
        """Pictures that show their class better than most products do."""
        class_Q = self._chance.integers(len(self._class_CR), size=number)
        own_QR = self._class_CR[class_Q] + ASKED * OWN * self._varied(self._kind_C[class_Q])
        blocks = [self._seen(own_QR, member).astype(np.float32) for member in range(len(self._maps))]
        return Queries(blocks, class_Q)

    def texts(self, number: int) -> Queries:
        """Words for classes."""
        class_Q = self._chance.integers(len(self._class_CR), size=number)
        return Queries(self._said(class_Q), class_Q)

    def searcher(self, *, cluster_count: int = 64, mix: Mix = MIX) -> Searcher:
        """All that a release has: projection, bank, heads, clusters."""
        captions = min(CAPTIONS, int(MOST_SCORED / len(self.products)), len(self._class_CR))
        class_J = np.arange(captions)
        bank = QueryBank.of(
            self._said(class_J),
            [self._seen(self._class_CR[class_J], member) for member in range(len(self._maps))],
            np.full(captions, PER_CLASS),
            weights=self.weights,
            sharpness=SHARPNESS,
        )
        return Searcher.build(
            self.products,
            self.block_NDs,
            self.weights,
            cluster_count=cluster_count,
            mix=mix,
            bank=bank,
            heads=drawn_heads(self._chance, members=len(self._maps)),
            colour_NC=drawn_colours(self._chance, products=len(self.products)),
        )

    def _varied(self, kind_N: NDArray[np.int64]) -> Floats:
        """`[N, RANK]` of about length 1: in the directions of each row's kind."""
        free_NF = self._normal(len(kind_N), FREEDOM) / np.float32(np.sqrt(FREEDOM))
        varied_NR = np.zeros((len(kind_N), RANK), np.float32)
        for free in range(FREEDOM):
            varied_NR += free_NF[:, free, None] * self._basis_KFR[kind_N, free]
        return varied_NR

    def _seen(self, own_NR: Floats, member: int) -> NDArray[np.float16]:
        seen_ND = own_NR @ self._maps[member]
        seen_ND += MADE * _unit(self._normal(*seen_ND.shape)) * np.linalg.norm(seen_ND, axis=1, keepdims=True)
        return _unit(seen_ND).astype(np.float16)

    def _said(self, class_Q: NDArray[np.int64]) -> list[Floats]:
        return [
            _unit(_unit(self._class_CR[class_Q] @ seen_RD) + GAP * gap_1D)
            for seen_RD, gap_1D in zip(self._maps, self._gaps, strict=True)
        ]

    def _normal(self, *shape: int) -> Floats:
        return self._chance.standard_normal(shape, dtype=np.float32)


def towers(num_members: int) -> list[ClipEncoder]:
    """`tiny` members, untrained: they cost what trained ones do."""
    return [ClipEncoder(load_base("tiny", seed=seed, device=torch.device("cpu"))) for seed in range(num_members)]


def open_drawn(drawn: Drawn, *, version: int = 1) -> OpenRelease:
    """A release that a service can serve; several members have a student, as `enclip retrain` gives them one."""
    encoders = towers(len(drawn.weights))
    searcher = drawn.searcher()
    members = tuple(
        Member(
            version=place + 1,
            source="models:/m-drawn",
            instance=place,
            epoch=0,
            weight=weight,
            weights_sha256=str(place),
            init_id="drawn",
            dim=DIM,
            pixel_side=80,
        )
        for place, weight in enumerate(drawn.weights)
    )
    manifest = Manifest(
        kind="retrain",
        run_id="drawn",
        base="tiny",
        snapshot="drawn",
        trained_on="drawn",
        num_products=len(drawn.products),
        members=members,
        clusters=ClusterSettings(count=searcher.clusters.count, pull=MIX.pull),
        rescored=searcher.rescored,
        chosen_because="drawn",
        created_at="2026-11-21T00:00:00Z",
    )
    student = _student([DIM] * len(encoders)) if len(encoders) > 1 else None
    return OpenRelease(version, manifest, searcher, tuple(encoders), None, student)


def _student(dims: Sequence[int]) -> TextStudent:
    model = load_base("tiny", seed=0, device=torch.device("cpu"))
    model.module.visual = nn.Identity()
    model.module.eval()
    head_DE = torch.randn(DIM, sum(dims), generator=torch.Generator().manual_seed(0))
    return TextStudent(model, nn.Parameter(head_DE, requires_grad=False), tuple(dims))


def _unit(vector_ND: Floats) -> Floats:
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)
