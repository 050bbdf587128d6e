"""Disks of a test's own: a process in a mount namespace puts a small or read-only one where a home lies."""

import ctypes
import os
from pathlib import Path

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
PRIVATE, RECURSIVE, BIND, REMOUNT, READ_ONLY = 0x40000, 0x4000, 0x1000, 0x20, 0x1
NOT_ALLOWED = 77  # exit code of a process that may not mount

_libc = ctypes.CDLL(None, use_errno=True)


def enter_namespace() -> None:
    """From here on this process sees mounts that no other does; exits with NOT_ALLOWED where it may not."""
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(NEW_MOUNTS):
        if _libc.unshare(NEW_MOUNTS | NEW_USER):
            os._exit(NOT_ALLOWED)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if _libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None):
        os._exit(NOT_ALLOWED)


def mount_small(folder: Path, *, megabytes: int) -> None:
    """An empty disk of this size over a folder."""
    folder.mkdir()
    _mount("tmpfs", folder, kind="tmpfs", options=f"size={megabytes}m")


def make_read_only(folder: Path, *, on: bool = True) -> None:
    """Let nobody write to what lies in a folder, root included; or let them again."""
    if on:
        _mount(folder, folder, flags=BIND)
    _mount("none", folder, flags=BIND | REMOUNT | (READ_ONLY if on else 0))


def leave_free(folder: Path, num_bytes: int) -> None:
    """Fill the disk of a folder up to this many bytes."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    disk = os.statvfs(folder)
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, disk.f_bavail * disk.f_frsize - num_bytes))


def _mount(source: object, folder: Path, *, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = [os.fsencode(str(source)), os.fsencode(folder), kind.encode() or None]
    if _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))
