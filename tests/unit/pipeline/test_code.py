"""What a report says of the code that made it, in a real checkout and in copies."""

import shutil
import subprocess
import sys
from pathlib import Path

import enclip
from enclip.pipeline.snapshot import code_sha256

PACKAGE = Path(enclip.__file__).parent
ASK = "from enclip.pipeline.snapshot import code_sha256, git_commit; print(repr(git_commit()), code_sha256())"


def copied(root: Path) -> Path:
    return shutil.copytree(PACKAGE, root / "enclip", ignore=shutil.ignore_patterns("__pycache__"))


def asked(root: Path) -> tuple[str, str]:
    """Commit and digest as the code below `root` tells them."""
    done = subprocess.run([sys.executable, "-c", ASK], cwd=root, capture_output=True, text=True, check=True)
    commit, digest = done.stdout.split()
    return commit.strip("'"), digest


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    done = subprocess.run(["git", "-C", root, *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_copy_has_no_commit_and_is_known_by_its_digest(tmp_path: Path) -> None:
    package = copied(tmp_path)
    assert asked(tmp_path) == ("", code_sha256())
    with (package / "gates.py").open("a") as module:
        module.write("# changed\n")
    assert asked(tmp_path)[1] != code_sha256()


def test_a_commit_is_marked_where_the_code_differs_from_it_and_only_there(tmp_path: Path) -> None:
    package, report = copied(tmp_path), tmp_path / "report.md"
    report.write_text("old")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All")
    commit = git(tmp_path, "rev-parse", "HEAD")
    report.write_text("a study wrote it")
    assert asked(tmp_path)[0] == commit
    with (package / "gates.py").open("a") as module:
        module.write("# changed\n")
    assert asked(tmp_path)[0] == f"{commit}+"


def test_the_commit_of_a_checkout_that_the_package_is_installed_below_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "A shop")
    (tmp_path / "site").mkdir()
    copied(tmp_path / "site")
    assert asked(tmp_path / "site")[0] == ""
