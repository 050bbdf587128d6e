"""Teach one text tower to answer for the ensemble that was chosen; `cluster` decides on *select* whether it may."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.blobs import write_whole, writing
from enclip.catalog.snapshot import load_snapshot
from enclip.models.captions import Captions
from enclip.models.clip import ClipEncoder
from enclip.models.device import after_training, resolve_device
from enclip.models.student import CARD, WEIGHTS, OnText, TextStudent, agreement, distil
from enclip.pipeline.members import load_member
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, Plan, RunFolder, StudentStep
from enclip.pipeline.validate import Validator
from enclip.records import Floats, Products, Split
from enclip.release import StudentSettings
from enclip.retrieval.searcher import Searcher

MOST_NAMES = 20_000  # beyond, more names teach a tower little about words


def distil_run(platform: Platform, run_id: str, *, on_text: OnText | None = None) -> StudentStep:
    """The student of a run's ensemble; goes on after its last finished epoch, and is made once.

    Raises:
        WeightsError: a member's weights are damaged.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, choice = folder.read("plan", Plan), folder.read("choose", ChoiceStep)
    recipe = plan.recipe.release
    if len(choice.members) < 2 or not recipe.student_epochs:
        why = "One member is its own tower." if len(choice.members) < 2 else "The recipe wants none."
        step = StudentStep(summary=why)
        folder.write("distil", step)
        return step
    texts = student_texts(load_snapshot(platform.blobs, plan.snapshot))
    key = _key(choice, texts, recipe.student_epochs, seed=plan.recipe.train.seed)
    known = folder.find("distil", StudentStep)
    # Pruning takes the files of an old run, and leaves its records.
    is_whole = all(platform.blobs.exists(f"{key}/{name}") for name in (WEIGHTS, CARD))
    if known is not None and known.key == key and is_whole:
        return known
    with folder.timed("distil"):
        device = after_training(plan.recipe.train.device)
        models = [load_member(platform.registry, member.source, device=device) for member in choice.members]
        targets = [ClipEncoder(model).encode_texts(texts) for model in models]
        state = platform.scratch / key
        student = distil(
            models[choice.best_member],
            texts,
            targets,
            own=choice.best_member,
            weights=[member.weight for member in choice.members],
            epochs=recipe.student_epochs,
            seed=plan.recipe.train.seed,
            device=resolve_device(device),
            state_dir=state,
            on_text=on_text,
        )
        student.save(state)
        for name in (WEIGHTS, CARD):
            platform.blobs.put(f"{key}/{name}", (state / name).read_bytes())
        agrees = agreement(student, texts, targets)
        step = StudentStep(
            key=key,
            num_texts=len(texts),
            agreement=tuple(round(value, 4) for value in agrees),
            summary=f"One text tower for {len(models)} members, cosine {min(agrees):.3f} with the least alike.",
        )
        folder.write("distil", step)
        shutil.rmtree(state, ignore_errors=True)
    return step


def student_texts(products: Products, *, seed: int = 0) -> list[str]:
    """What the train split can be asked for: its captions and names, and captions of its values newly combined."""
    random, captions = np.random.default_rng(seed), Captions(products)
    rows = np.flatnonzero(products.split == Split.TRAIN)
    claims = {claim.text for claim in captions.claims(rows)}
    names = sorted({str(name) for name in products.name[rows]} - {""})
    some = random.permutation(len(names))[:MOST_NAMES]
    return sorted(claims | {names[row] for row in some} | set(captions.invented(rows, 2 * len(claims), random)))


def fetch_student(platform: Platform, step: StudentStep) -> Path:
    """The folder of a student's files, on this machine."""
    folder = platform.scratch / step.key
    found = {name: platform.blobs.get(f"{step.key}/{name}") for name in (WEIGHTS, CARD)}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in found.items():
            write_whole(folder / name, content)
    return folder


def copy_student(source: Path, target: Path) -> None:
    """Put a student's files into a folder, and nothing that a crash left beside them."""
    target.mkdir(parents=True)
    for name in (WEIGHTS, CARD):
        shutil.copy(source / name, target / name)


def judged(
    platform: Platform,
    step: StudentStep,
    searcher: Searcher,
    query_blocks: Sequence[Floats],
    select: Validator,
    allowed: NDArray[np.bool_],
    *,
    most: float,
    needed: bool = False,
) -> StudentSettings:
    """Whether a student may answer for the members: it may lose at most that much mAP@10 on *select*, or anything
    where it is needed, as the members' own towers together are beyond the budget.

    Args:
        query_blocks: per member its own embeddings of `select.texts`.
        allowed: the split's products.
    """
    if not step.key:
        return StudentSettings(chosen_because=step.summary)
    student = TextStudent.load(fetch_student(platform, step), device=resolve_device("auto"))
    ours, theirs = (
        select.quality_of_rankings(searcher.search(blocks, k=10, texts=select.texts, allowed=allowed))
        for blocks in (query_blocks, student.encode_texts(select.texts))
    )
    passes = needed or theirs >= ours - most
    verdict = "it answers for them" if passes else f"they answer themselves, as it may lose {most:g}"
    if needed:
        verdict += ", as max_text_ms does not allow all of theirs"
    return StudentSettings(
        num_texts=step.num_texts if passes else 0,
        agreement=step.agreement,
        chosen_because=f"One tower: {theirs:.3f} on select, the members' own: {ours:.3f}; {verdict}.",
    )


def _key(choice: ChoiceStep, texts: Sequence[str], epochs: int, *, seed: int) -> str:
    members = [(member.weights_sha256, round(member.weight, 6)) for member in choice.members]
    content = json.dumps([members, choice.best_member, list(texts), epochs, seed]).encode()
    return f"students/{hashlib.sha256(content).hexdigest()[:24]}"
