"""A damaged release is refused with its reason, by the command line and by the service, which serves on."""

import csv
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from enclip.catalog.drawn import draw_catalog
from enclip.catalog.images import decode, fit_square
from enclip.cli import main
from enclip.config import Settings
from enclip.errors import EnclipError
from enclip.models.bases import load_base
from enclip.models.checkpoint import WEIGHTS, save_checkpoint
from enclip.models.clip import ClipEncoder, ClipModel
from enclip.models.soup import estimate_batch_norm
from enclip.pipeline.members import member_of
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.promote import promote_by_hand
from enclip.records import Product, Products
from enclip.registry import CHAMPION
from enclip.registry.registry import EpochVersion
from enclip.release import MANIFEST, ClusterSettings, Manifest, write_manifest
from enclip.retrieval.files import EMBEDDINGS
from enclip.retrieval.searcher import INDEX, Searcher
from enclip.serving.run import bind, make_server, platform_app

NUM_PRODUCTS = 40
GOOD = 1


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def flip_a_byte(folder: Path, name: str = EMBEDDINGS) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose_a_file(folder: Path) -> None:
    (folder / INDEX).unlink()


def widen_the_member(folder: Path) -> None:
    """As if embeddings and projection had been made by another member; every hash is right."""
    edit_manifest(folder, lambda manifest: manifest["members"][0].update(dim=999))


def come_from_the_future(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(format=2, quantised=True))


def forget_a_field(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.pop("snapshot"))


def cut_the_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes()[:200])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped byte": (flip_a_byte, f"{EMBEDDINGS} is not what the manifest says"),
    "a missing file": (lose_a_file, f"{INDEX} is missing"),
    "a wrong dimension": (widen_the_member, "members of dimensions (999,) by its manifest, but"),
    "a newer manifest": (come_from_the_future, "has format 2; this version reads up to 1"),
    "a manifest without a field": (forget_a_field, "is not a manifest: snapshot: Field required"),
    "half a manifest": (cut_the_manifest, "is not a manifest"),
}
# Releases by what is wrong with them, after the good one.
VERSIONS = {damage: version for version, damage in enumerate(DAMAGES, GOOD + 1)}
OTHER_ENCODER = GOOD + len(DAMAGES) + 1
DAMAGED_MEMBER = OTHER_ENCODER + 1


@dataclass(frozen=True)
class Shop:
    """A platform with one good release, champion, and others that something has happened to."""

    home: Path
    platform: Platform


def tiny(seed: int, products: Products, pictures: dict[str, bytes]) -> tuple[ClipModel, np.ndarray]:
    model = load_base("tiny", seed=seed, device=torch.device("cpu"))
    pixels = np.stack([fit_square(decode(pictures[key]), model.side) for key in products.image_sha256])
    estimate_batch_norm(model, pixels, torch.device("cpu"))
    return model, ClipEncoder(model).encode_images(pixels)


def log_epoch(platform: Platform, folder: Path, model: ClipModel) -> EpochVersion:
    save_checkpoint(folder, model, pixel_side=model.side)
    return platform.registry.log_epoch(
        platform.registry.open_run("training", kind="retrain", params={}),
        folder,
        instance=0,
        epoch=0,
        metrics={},
        snapshot="5" * 64,
        num_products=NUM_PRODUCTS,
    )


def log_release(
    platform: Platform, folder: Path, products: Products, embedding_ND: np.ndarray, epoch: EpochVersion, side: int
) -> None:
    run_id = folder.name
    Searcher.build(products, [embedding_ND], [1.0], cluster_count=4, rescored=50).save(folder)
    manifest = Manifest(
        kind="retrain",
        run_id=run_id,
        base="tiny",
        snapshot="5" * 64,
        trained_on="5" * 64,
        num_products=len(products),
        members=(member_of(epoch, side).model_copy(update={"dim": embedding_ND.shape[1]}),),  # whatever the epoch has
        clusters=ClusterSettings(count=4, pull=0.0),
        rescored=50,
        chosen_because="the only one",
        created_at="2026-01-01T00:00:00Z",
    )
    run = platform.registry.open_run(run_id, kind="retrain", params={})
    platform.registry.log_release(run, folder, write_manifest(folder, manifest))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    scratch = tmp_path_factory.mktemp("damaged")
    home = scratch / "home"
    platform = open_platform(Settings(ENCLIP_HOME=home, MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    products, pictures = drawn(scratch / "catalog")
    model, embedding_ND = tiny(0, products, pictures)
    epoch = log_epoch(platform, scratch / "checkpoint", model)
    for name in ("good", *(damage.replace(" ", "-") for damage in DAMAGES)):
        log_release(platform, scratch / name, products, embedding_ND, epoch, model.side)
    # A release whose files fit each other, but whose member embeds queries in more dimensions.
    log_release(platform, scratch / "narrow", products, embedding_ND[:, :-8].copy(), epoch, model.side)
    other, other_ND = tiny(1, products, pictures)
    cracked = log_epoch(platform, scratch / "other-checkpoint", other)
    log_release(platform, scratch / "cracked", products, other_ND, cracked, other.side)
    flip_a_byte(platform.registry.fetch_epoch(cracked.source), WEIGHTS)
    for damage, (happen, _) in DAMAGES.items():
        happen(platform.registry.fetch_release(VERSIONS[damage]))
    promote_by_hand(platform, GOOD)
    return Shop(home, platform)


def drawn(folder: Path) -> tuple[Products, dict[str, bytes]]:
    draw_catalog(folder, num_products=NUM_PRODUCTS, seed=3)
    pictures, rows = {}, []
    with open(folder / "styles.csv", newline="") as file:
        for row in csv.DictReader(file):
            picture = (folder / "images" / f"{row['id']}.jpg").read_bytes()
            sha256 = hashlib.sha256(picture).hexdigest()
            pictures[sha256] = picture
            rows.append(Product(product_id=row["id"], name=row["productDisplayName"], image_sha256=sha256))
    return Products.from_rows(rows), pictures


@pytest.fixture(scope="module")
def service(shop: Shop) -> Iterator[str]:
    """`enclip serve` over the platform, in a thread; its address."""
    server = make_server(platform_app(shop.platform))
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    try:
        wait_until(url, lambda state: state["release"] == GOOD)
        yield url
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()


def wait_until(url: str, condition: Callable[[dict[str, Any]], bool], *, timeout_s: float = 30.0) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            state: dict[str, Any] = httpx.get(f"{url}/health/ready").json()
        except httpx.TransportError as error:
            state = {"release": None, "problem": str(error)}
        if condition(state):
            return state
        assert time.monotonic() < deadline, f"not reached in {timeout_s} s: {state}"
        time.sleep(0.05)


def figure(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def test_the_good_release_answers(shop: Shop) -> None:
    assert len(open_release(shop.platform, GOOD).search(text="navy blue shirt", k=5).hits) == 5


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_release_is_refused_when_it_is_opened(shop: Shop, damage: str) -> None:
    for encoders in (True, False):
        with pytest.raises(EnclipError, match=re.escape(DAMAGES[damage][1])) as caught:
            open_release(shop.platform, VERSIONS[damage], encoders=encoders)
        assert caught.value.remedy


def test_a_damaged_member_is_refused_when_the_release_is_opened(shop: Shop) -> None:
    with pytest.raises(EnclipError, match=f"{WEIGHTS} is damaged"):
        open_release(shop.platform, DAMAGED_MEMBER)


def test_a_member_of_another_dimension_is_refused_when_the_release_is_opened(shop: Shop) -> None:
    with pytest.raises(EnclipError, match=r"by its manifest, but .* by its checkpoints"):
        open_release(shop.platform, OTHER_ENCODER)


@pytest.fixture
def command(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`command("search", "shirt")`: exit status, stdout and stderr, in this process (imports take seconds)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("ENCLIP_HOME", str(shop.home))
        monkeypatch.setattr(sys, "argv", ["enclip", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


@pytest.mark.parametrize("damage", list(DAMAGES)[:4])
@pytest.mark.parametrize("arguments", [("search", "navy blue shirt"), ("evaluate",)])
def test_the_command_line_says_what_is_wrong_with_a_release(
    command: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], damage: str
) -> None:
    refused(command(*arguments, "--release", str(VERSIONS[damage])), DAMAGES[damage][1])


@pytest.mark.parametrize("damage", list(DAMAGES)[:4])
def test_promote_refuses_a_damaged_release(
    shop: Shop, command: Callable[..., tuple[int, str, str]], damage: str
) -> None:
    try:
        refused(command("promote", str(VERSIONS[damage])), DAMAGES[damage][1])
        assert shop.platform.registry.alias(CHAMPION) == GOOD
    finally:
        shop.platform.registry.set_alias(CHAMPION, GOOD)


def refused(done: tuple[int, str, str], reason: str) -> None:
    """One message on stderr, with a remedy, and nothing on stdout."""
    status, out, error = done
    assert (status, out) == (1, "")
    assert error.startswith("error: "), error
    assert reason in error
    assert error.count("try:") == 1


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        *((VERSIONS[damage], DAMAGES[damage][1]) for damage in list(DAMAGES)[:4]),
        (OTHER_ENCODER, "by its checkpoints"),
        (DAMAGED_MEMBER, f"{WEIGHTS} is damaged"),
    ],
)
def test_the_service_serves_on_and_says_why(shop: Shop, service: str, version: int, reason: str) -> None:
    failed = figure(service, "enclip_failed_loads_total")
    try:
        shop.platform.registry.set_alias(CHAMPION, version)  # as a person may, in MLflow
        state = wait_until(service, lambda state: f"Release {version} cannot be served" in state["problem"])
        assert reason in state["problem"]
        assert (state["ready"], state["release"], state["alias"]) == (True, GOOD, version)
        assert httpx.get(f"{service}/health/ready").status_code == 200
        assert figure(service, "enclip_release") == GOOD
        assert figure(service, "enclip_alias_release") == version
        assert figure(service, "enclip_follow_problem") == 1
        assert figure(service, "enclip_failed_loads_total") > failed
        found = httpx.post(f"{service}/v1/search", json={"text": "navy blue shirt", "k": 10}).json()
        assert (found["release"], len(found["results"])) == (GOOD, 10)
    finally:
        shop.platform.registry.set_alias(CHAMPION, GOOD)
    state = wait_until(service, lambda state: state["alias"] == GOOD)
    assert (state["release"], state["problem"]) == (GOOD, "")
