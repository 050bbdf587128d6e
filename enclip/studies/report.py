"""Findings of all folds → `NAME.md`, `NAME.json`, `NAME.per_query.csv` and a plot; folds run before are kept."""

import fcntl
import json
import os
import platform as machine
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from enclip.blobs import write_whole
from enclip.evaluation.markdown import Cell, markdown_table
from enclip.evaluation.plots import plot_gains, plot_levels
from enclip.pipeline.snapshot import code_sha256, git_commit
from enclip.studies.compare import Gain, gain, means
from enclip.studies.definition import Setting
from enclip.studies.findings import Fact

PAPER_CATEGORY = 0.651  # mAP@10 of the paper's worst category with its ensemble
CATEGORY_PRODUCTS = 30  # relevant products of a category from which on its figure says something
ABOUT = ("fold", "query_id", "kind", "category", "num_relevant")
KINDS = ("specific", "type")
Levels = Mapping[str, Mapping[str, Sequence[tuple[str, str]]]]  # panel → line → (label of a level, system)
Effects = Mapping[str, Sequence[tuple[str, str]]]  # a part → (with it, without it), all else equal
Cross = Mapping[str, Mapping[str, Mapping[str, str]]]  # table → row → column → system; a row may have none


class Report:
    """The report of one study in a folder."""

    def __init__(
        self, folder: Path, name: str, *, title: str, setting: Setting, snapshot: str, aspect: float = 1.0
    ) -> None:
        self._folder, self._name, self._title = folder, name, title
        self._about: dict[str, Any] = {
            "study": name,
            "question": title,
            "setting": setting.model_dump(mode="json", exclude={"folds"}),
            "snapshot": snapshot,
            "aspect": aspect,  # of what bases from nothing look at
        }
        # Now: a fold takes hours, in which a checkout moves on.
        self._code = {"git_commit": git_commit(), "code_sha256": code_sha256()}
        self._setting = setting
        self.per_query = pd.DataFrame(columns=list(ABOUT))
        self.facts: dict[str, dict[str, Fact]] = {}
        self._code_of: dict[str, dict[str, str]] = {}
        self._read()

    @property
    def folds(self) -> list[int]:
        """The folds that are in it."""
        return sorted(int(fold) for fold in self.per_query["fold"].unique())

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the report, as it lies there now, to add a fold and write; other runs of the same study wait.

        What was added and not written is gone.
        """
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # ends with the process
            self._read()  # another run may have added folds, or run some again, since this one began
            yield
        finally:
            os.close(folder)

    def add(self, fold: int, rows: pd.DataFrame, facts: Mapping[str, Fact]) -> None:
        """Put a fold in, in the place of what it said before."""
        others = self.per_query[self.per_query["fold"] != fold]
        self.per_query = rows if others.empty else pd.concat([others, rows], ignore_index=True)
        # A system that only the fold's earlier version had is gone.
        self.per_query = self.per_query.sort_values(["fold", "query_id"], ignore_index=True).dropna(axis=1, how="all")
        self.facts[str(fold)] = dict(facts)
        self._code_of[str(fold)] = self._code

    def write(
        self,
        *,
        headlines: Mapping[str, tuple[str, str]],
        levels: Levels | None = None,
        by_category: str = "",
        tried: Sequence[str] = (),
        cross: Cross | None = None,
        effects: Effects | None = None,
        apart: Mapping[str, str] | None = None,
        about: str = "",
    ) -> list[Path]:
        """Write all files; the paths.

        Args:
            headlines: key of the JSON → (ours, theirs), a gain on specific queries that bars are set on; on
                type queries where the catalog has no others.
            levels: what the plot shows instead of gains, where systems differ by a level of something.
            by_category: a system whose mAP@10 is shown by category too.
            tried: systems that are shown for the categories in which that one stays below the paper's worst.
            cross: systems shown once more, as tables of what they do and do not have.
            effects: what each part adds, as the mean over pairs of systems that differ in it alone.
            apart: how names begin, or end → the system that those are compared with, in a table of their own; all
                others are compared with the first system, and these too where theirs is not among the systems.
            about: what a reader has to know of the study.
        """
        systems, peers = self._systems(), self._peers(apart or {})
        figures = means(self.per_query, systems)
        gains = {
            system: {kind: gain(self.per_query, system, peer, kind=kind) for kind in self._kinds()}
            for system, peer in peers.items()
            if peer != system
        }
        document: dict[str, Any] = {
            **self._about,
            "folds": self.folds,
            "code_of_folds": self._code_of,
            "drawn_by": self._code,
            "machine": machine.machine(),
            "compared_with": systems[0],
            **({"compared_apart": dict(apart)} if apart else {}),
            "systems": figures,
            "gains": {name: {kind: _dict(value) for kind, value in kinds.items()} for name, kinds in gains.items()},
            "facts": self.facts,
        }
        named = {key: gain(self.per_query, *pair, kind=self._kinds()[0]) for key, pair in headlines.items()}
        document |= {key: _dict(value) for key, value in named.items()}
        categories = self._categories(by_category) if by_category else []
        document |= {"categories": categories} if categories else {}
        below = [row["category"] for row in categories if row[by_category] < PAPER_CATEGORY] if tried else []
        attempts = self._attempts(below, tried, by_category)
        document |= {"tried": attempts} if attempts else {}
        added = {
            part: {kind: self._effect(pairs, kind) for kind in self._kinds()} for part, pairs in (effects or {}).items()
        }
        if added:
            document["effects"] = {
                part: {kind: _dict(value) for kind, value in of.items()} for part, of in added.items()
            }
        csv, picture = f"{self._name}.per_query.csv", f"{self._name}.png"
        write_whole(self._folder / csv, self.per_query.to_csv(index=False).encode())
        write_whole(self._folder / f"{self._name}.json", (json.dumps(document, indent=2) + "\n").encode())
        if levels:
            kind = self._kinds()[0]
            drawn = {
                panel: {
                    line: [(label, figures[system][kind]) for label, system in points if system in figures]
                    for line, points in lines.items()
                }
                for panel, lines in levels.items()
            }
            plot_levels(self._folder / picture, drawn, title=f"mAP@10, {kind} queries")
        else:
            shown = {
                name: [(value.mean, value.low, value.high) for value in kinds.values()] for name, kinds in gains.items()
            }
            others = [f"\n{part.strip(' ,:')}: against {peer}" for part, peer in (apart or {}).items()]
            title = f"mAP@10 against: {systems[0]}{''.join(others)}"
            plot_gains(self._folder / picture, shown, kinds=self._kinds(), title=title)
        text = self._markdown(
            figures, gains, peers, {key: (*headlines[key], value) for key, value in named.items()}, picture, about
        )
        if cross:
            text += "".join(_cross_table(title, rows, figures, self._kinds()) for title, rows in cross.items())
        if added:
            text += _effects_table(added, self._kinds())
        if categories:
            text += _categories_table(categories, systems[0], by_category)
        if attempts:
            text += _attempts_table(attempts)
        write_whole(self._folder / f"{self._name}.md", text.encode())
        return [self._folder / file for file in (f"{self._name}.md", f"{self._name}.json", csv, picture)]

    def _markdown(
        self,
        figures: Mapping[str, Mapping[str, float]],
        gains: Mapping[str, Mapping[str, Gain]],
        peers: Mapping[str, str],
        headlines: Mapping[str, tuple[str, str, Gain]],
        picture: str,
        about: str,
    ) -> str:
        kinds = self._kinds()
        counts = self.per_query.groupby("kind").size()
        tables: dict[str, list[list[Cell]]] = {}
        for name, values in figures.items():
            found = [str(gains[name][kind]) if name in gains else "" for kind in kinds]
            row: list[Cell] = [self._said(name), *(values[kind] for kind in kinds), *found]
            tables.setdefault(peers[name], []).append(row)
        missing = sorted(set(self._setting.folds) - set(self.folds))
        parts = [
            f"# {self._title}\n",
            f"Study `{self._name}`; made by `{self._command()}`. "
            f"{self._setting.said()}. Folds {', '.join(map(str, self.folds))}, each with its own seeds; every choice "
            "was made on *select*, every figure is of *gate*: "
            + ", ".join(f"{counts[kind]} {kind} queries" for kind in kinds)
            + ". Means over folds of means over queries; 95% intervals resample folds and, as pairs, queries.\n",
        ]
        if about:
            parts.append(f"{about}\n")
        if missing:
            parts.append(
                f"**Not run yet: fold {', '.join(map(str, missing))}**. With {len(self.folds)} of "
                f"{len(self.folds) + len(missing)} folds the intervals know little of how seeds and splits differ.\n"
            )
        for key, (ours, theirs, value) in headlines.items():
            parts.append(f"- `{key}`: {ours} − {theirs}, {kinds[0]} queries: **{value}**")
        header = ("system", *kinds, *(f"{kind}, gain" for kind in kinds))
        parts += ["", *(markdown_table(header, rows) for rows in tables.values())]
        parts.append(f"![mAP@10 of the systems]({picture})\n")
        for fold, facts in sorted(self.facts.items()):
            if facts:
                parts += [f"## Fold {fold}\n", _facts_table(facts)]
        return "\n".join(parts)

    def _command(self) -> str:
        """What makes this report; folds are named where there are more than the setting's."""
        more = set(self.folds) - set(self._setting.folds)
        folds = "".join(f" --fold {fold}" for fold in self.folds) if more else ""
        return f"enclip study {self._name}{self._setting.options()}{folds}"

    def _categories(self, system: str) -> list[dict[str, Any]]:
        """Categories with enough relevant products, counted over type queries, the mean of the folds."""
        first, found = self._systems()[0], []
        for category, part in self.per_query.groupby("category"):
            types = part[part["kind"] == "type"]
            products = types.groupby("fold")["num_relevant"].sum().mean() if len(types) else 0.0
            if products >= CATEGORY_PRODUCTS:
                found.append(
                    {
                        "category": str(category),
                        "products": round(float(products)),
                        "queries": len(part) / len(self.folds),
                        first: float(part[first].mean()),
                        system: float(part[system].mean()),
                    }
                )
        return sorted(found, key=lambda row: -row[system])

    def _attempts(self, categories: Sequence[str], tried: Sequence[str], system: str) -> list[dict[str, Any]]:
        """mAP@10 of what was tried in some categories, and of the system's kinds of queries each alone there."""
        found = []
        for category in categories:
            part = self.per_query[self.per_query["category"] == category]
            kinds = {kind: part.loc[part["kind"] == kind, system].mean() for kind in self._kinds()}
            found.append(
                {
                    "category": category,
                    **{name: float(part[name].mean()) for name in tried},
                    **{f"{system}, {kind} alone": float(value) for kind, value in kinds.items() if value == value},
                }
            )
        return found

    def _effect(self, pairs: Sequence[tuple[str, str]], kind: str) -> Gain:
        """The gain of the mean of the first systems over the mean of the second ones, query by query."""
        ours, theirs = (
            self.per_query[list(systems)].mean(axis=1, skipna=False) for systems in zip(*pairs, strict=True)
        )
        return gain(self.per_query.assign(ours=ours, theirs=theirs), "ours", "theirs", kind=kind)

    def _peers(self, apart: Mapping[str, str]) -> dict[str, str]:
        """System → what it is compared with."""
        systems = self._systems()
        known = {part: peer for part, peer in apart.items() if peer in systems}
        return {
            system: next(
                (peer for part, peer in known.items() if system.startswith(part) or system.endswith(part)), systems[0]
            )
            for system in systems
        }

    def _said(self, system: str) -> str:
        """A system's name, with the folds that know it where others do not: its mean is of other queries then."""
        known = self.per_query.dropna(subset=[system])["fold"].unique()
        some = len(known) < len(self.folds)
        return f"{system} (fold {', '.join(str(int(fold)) for fold in sorted(known))} alone)" if some else system

    def _systems(self) -> list[str]:
        return [column for column in self.per_query.columns if column not in ABOUT]

    def _kinds(self) -> list[str]:
        return [kind for kind in KINDS if (self.per_query["kind"] == kind).any()]

    def _read(self) -> None:
        """Be what lies in the folder, if it is of the very same study."""
        if known := self._known():
            self.per_query, self.facts, self._code_of = known

    def _known(self) -> tuple[pd.DataFrame, dict[str, dict[str, Fact]], dict[str, dict[str, str]]] | None:
        """What lies in the folder, if it is of the very same study."""
        path, rows = self._folder / f"{self._name}.json", self._folder / f"{self._name}.per_query.csv"
        if not (path.is_file() and rows.is_file()):
            return None
        document = json.loads(path.read_bytes())
        # Fields that a setting has gained since have their defaults in an older report, or what was done then.
        document["setting"]["release"].setdefault("views", 1)
        document["setting"] = Setting.model_validate(document["setting"]).model_dump(mode="json", exclude={"folds"})
        document.setdefault("aspect", 1.0)  # of reports from before there were frames
        if any(document.get(key) != value for key, value in self._about.items()):
            return None
        # A category may be called NA, or 007.
        per_query = pd.read_csv(rows, keep_default_na=False, dtype=dict.fromkeys(("query_id", "kind", "category"), str))
        systems = [column for column in per_query.columns if column not in ABOUT]
        per_query[systems] = per_query[systems].apply(pd.to_numeric, errors="coerce")  # a fold may lack a system
        # Before reports could be drawn again, and then folds added, one code made all of it.
        made_by = {key: document[key] for key in self._code if key in document}
        code_of = dict.fromkeys(map(str, document["folds"]), made_by) if made_by else {}
        return per_query, document["facts"], document.get("code_of_folds", code_of)


def _categories_table(categories: Sequence[Mapping[str, Any]], first: str, system: str) -> str:
    rows: list[list[Cell]] = [
        [
            row["category"],
            row["products"],
            f"{row['queries']:.1f}",
            row[first],
            row[system],
            "yes" if row[system] >= PAPER_CATEGORY else "no",
        ]
        for row in categories
    ]
    header = ("category", "products", "queries", first, system, f"at {PAPER_CATEGORY}")
    about = (
        f"Specific and type queries together; categories with {CATEGORY_PRODUCTS} relevant products or more in a "
        f"fold's gallery. {PAPER_CATEGORY} is the paper's worst category."
    )
    return f"\n## By category\n\n{about}\n\n{markdown_table(header, rows)}"


def _attempts_table(attempts: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in attempts for column in row))
    table = markdown_table(columns, [[row.get(column, "") for column in columns] for row in attempts])
    return f"\n## Below {PAPER_CATEGORY}: what was tried\n\n{table}"


def _cross_table(
    title: str,
    rows: Mapping[str, Mapping[str, str]],
    figures: Mapping[str, Mapping[str, float]],
    kinds: Sequence[str],
) -> str:
    columns = list(dict.fromkeys(column for systems in rows.values() for column in systems))
    cells: list[list[Cell]] = [
        [name, *(figures[systems[column]][kind] if column in systems else "" for kind in kinds for column in columns)]
        for name, systems in rows.items()
    ]
    header = ("", *(f"{kind}, {column}" for kind in kinds for column in columns))
    return f"\n## {title}\n\n{markdown_table(header, cells)}"


def _effects_table(added: Mapping[str, Mapping[str, Gain]], kinds: Sequence[str]) -> str:
    table = markdown_table(("part", *kinds), [[part, *(str(of[kind]) for kind in kinds)] for part, of in added.items()])
    return f"\n## What each part adds, in the mean over all that it was crossed with\n\n{table}"


def _facts_table(facts: Mapping[str, Fact]) -> str:
    columns = list(dict.fromkeys(column for fact in facts.values() for column in fact))
    rows: Sequence[Sequence[Any]] = [
        [name, *(fact.get(column, "") for column in columns)] for name, fact in facts.items()
    ]
    return markdown_table(("", *columns), rows)


def _dict(value: Gain) -> dict[str, float | int]:
    return {"mean": value.mean, "low": value.low, "high": value.high, "seeds": value.seeds}
