"""What words do to a score beyond cosines: the bank of likely queries and the attribute heads, as one part of a search.

Both move a query's vector, and take something off each product's score that depends on the product alone. These
offsets, E numbers a product, are E more columns of the index, which a query that is a picture gives no weight.
What names say of attributes stands beside them, where names are searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.errors import ReleaseError
from enclip.records import Floats
from enclip.retrieval import fusion
from enclip.retrieval.bank import BANK, QueryBank
from enclip.retrieval.heads import HEADS, AttributeHeads
from enclip.retrieval.mix import Mix
from enclip.retrieval.name_heads import NAME_HEADS, SaidByNames
from enclip.retrieval.text import Texts

NAMES_SAY = 4.0  # times the log-probability by pictures: names are surer of it. docs/decisions/0007


@dataclass(frozen=True, eq=False)
class Wording:
    """Bank and heads over N products; any may be None.

    Attributes:
        offset_NE: the bank's bias, then the heads' normaliser of each field and the colours that they read; E is 0
            without both.
        said: what the products' names say of the values that heads tell apart; only with heads.
    """

    bank: QueryBank | None
    heads: AttributeHeads | None
    offset_NE: Floats
    said: SaidByNames | None = None

    @classmethod
    def over(
        cls,
        embedding_ND: NDArray[np.floating],
        mix: Mix,
        *,
        bank: QueryBank | None,
        heads: AttributeHeads | None,
        colour_NC: NDArray[np.floating] | None = None,
        said: SaidByNames | None = None,
    ) -> "Wording":
        """Compute the offsets of products' concatenations, by a mix's shares of names and exemplars.

        Args:
            colour_NC: the pictures' colours, where heads read them.

        Raises:
            ReleaseError: colours that are not those of the products, or of which heads want others.
        """
        columns = [_bias(bank, embedding_ND, mix)]
        if heads is not None:
            own_NC = _nothing(len(embedding_ND)) if colour_NC is None or not heads.num_colours else colour_NC
            if own_NC.shape != (len(embedding_ND), heads.num_colours):
                raise ReleaseError(
                    f"Heads read {heads.num_colours} colours of {len(embedding_ND)} pictures; there are {own_NC.shape}."
                )
            columns += [heads.normalisers(embedding_ND, own_NC), np.asarray(own_NC, np.float32)]
        return cls(bank, heads, np.concatenate(columns, axis=1), said)

    def remixed(self, embedding_ND: NDArray[np.floating], mix: Mix) -> "Wording":
        """The same for other shares of names or exemplars, which move the bank's bias."""
        others_NE = self.offset_NE[:, int(self.bank is not None) :]
        return replace(self, offset_NE=np.concatenate([_bias(self.bank, embedding_ND, mix), others_NE], axis=1))

    @property
    def width(self) -> int:
        """E as bank and heads have it."""
        of_heads = 0 if self.heads is None else len(self.heads.fields) + self.heads.num_colours
        return int(self.bank is not None) + of_heads

    @property
    def colours(self) -> Floats:
        """`[N, C]` that heads read."""
        num_colours = 0 if self.heads is None else self.heads.num_colours
        return self.offset_NE[:, self.offset_NE.shape[1] - num_colours :]

    def query(
        self,
        query_QDs: Sequence[Floats],
        weights: Sequence[float],
        mix: Mix,
        *,
        share_Q: Floats,
        texts: Texts | None,
        names: bool,
    ) -> tuple[Floats, Floats, Floats]:
        """Weighted queries as their words move them, per query what multiplies the offsets, `[Q, E]`, and `breadth_Q`,
        0 to 1: how broad the bank knows each to be; 0 where its words name two attributes or more. Without a bank, or
        words that heads know, no query is known to be narrow; nor is it asked where the mix does not.

        Args:
            share_Q: how much of each query its words are.
            names: whether names lie behind the pictures in what is searched.
        """
        exemplar_Q, breadth_Q = mix.exemplar_share * share_Q, np.ones(len(share_Q), np.float32)
        spares = bool(mix.feedback or mix.pull * mix.narrowing)
        if spares and self.heads is not None and texts is not None:
            breadth_Q[[self.heads.num_named(text or "") > 1 for text in texts]] = 0
        if self.bank is not None and (exemplar_Q.any() or (spares and breadth_Q.any())):
            near = self.bank.near(query_QDs)
            if spares:
                breadth_Q *= self.bank.breadth(near)
            if exemplar_Q.any():
                query_QDs = self.bank.enrich(query_QDs, exemplar_Q, near)
        query_QD = fusion.weight_query(query_QDs, weights)
        if names:
            query_QD = fusion.share_query(query_QD, mix.name_share * share_Q)
        parts = [np.zeros((len(share_Q), 0), np.float32)]
        if self.bank is not None:
            parts.append(mix.calibration * share_Q[:, None])
        if self.heads is not None:
            strength_Q1 = mix.attribute_weight * share_Q[:, None]
            direction_QD, asked_QF = self.heads.query(texts or [None] * len(share_Q))
            image_QD, colour_QC = np.split(strength_Q1 * direction_QD, [sum(self.heads.dims)], axis=1)
            query_QD[:, : image_QD.shape[1]] += image_QD
            parts += [strength_Q1 * asked_QF, -colour_QC]  # an offset is taken off
        return query_QD, np.concatenate(parts, axis=1).astype(np.float32), breadth_Q

    def said_by_names(self, text: str) -> Floats | None:
        """`[N]`, at most 0, in units of the score: how likely names mean the attributes that a text names; None where
        it names none, or there is nothing that reads names.
        """
        if self.said is None or self.heads is None:
            return None
        found_N = self.said.log_probability(self.heads.scored(text))
        if found_N is None:
            return None
        # What is likely of any product is said once: a product without a name is no worse for that.
        strength_N = np.where(self.said.is_silent, np.float32(1), np.float32(NAMES_SAY))
        return found_N * strength_N / np.float32(self.heads.sharpness)

    def avoidance(self, text: str, row_C: NDArray[np.int64], embedding_CD: Floats, *, names: bool) -> Floats:
        """`[C]`, at most 0, in units of the score: how likely pictures, and names, show what a text names.

        Args:
            embedding_CD: of the rows, as the heads read them. names: whether names are asked, too.
        """
        if self.heads is None:
            return np.zeros(len(row_C), np.float32)
        found_C = self.heads.avoidance(text, embedding_CD)
        if names and self.said is not None:
            for shown_C in self.said.shown(self.heads.turned_from(text), row_C):
                found_C = found_C + self.heads.doubt(shown_C)
        return found_C

    def member(self, member: int) -> tuple[QueryBank | None, AttributeHeads | None]:
        """Bank and heads of one member alone."""
        return (
            None if self.bank is None else self.bank.member(member),
            None if self.heads is None else self.heads.member(member),
        )

    def save(self, folder: Path) -> None:
        """Write the files of what there is."""
        first = int(self.bank is not None)
        if self.bank is not None:
            self.bank.save(folder / BANK, self.offset_NE[:, 0])
        if self.heads is not None:
            self.heads.save(folder / HEADS, self.offset_NE[:, first:])
        if self.said is not None:
            self.said.save(folder / NAME_HEADS)

    @classmethod
    def load(cls, folder: Path, *, num_products: int) -> "Wording":
        """What a folder holds of it. Raises ReleaseError where a file is damaged, or of other products."""
        bank, bias_N = QueryBank.load(folder / BANK) if (folder / BANK).exists() else (None, None)
        heads, offset_NE = AttributeHeads.load(folder / HEADS) if (folder / HEADS).exists() else (None, None)
        said = None
        if (folder / NAME_HEADS).exists():
            said = SaidByNames.load(folder / NAME_HEADS, num_products=num_products)
        columns = [_nothing(num_products)]
        columns += [] if bias_N is None else [bias_N[:, None]]
        columns += [] if offset_NE is None else [offset_NE]
        if {len(column) for column in columns} != {num_products}:
            raise ReleaseError(f"The bank or the heads at {folder} are not of its {num_products} products.")
        return cls(bank, heads, np.concatenate(columns, axis=1), said)


def _bias(bank: QueryBank | None, embedding_ND: NDArray[np.floating], mix: Mix) -> Floats:
    if bank is None:
        return _nothing(len(embedding_ND))
    return bank.bias(embedding_ND, name_share=mix.name_share, exemplar_share=mix.exemplar_share)[:, None]


def _nothing(num_rows: int) -> Floats:
    return np.zeros((num_rows, 0), np.float32)
