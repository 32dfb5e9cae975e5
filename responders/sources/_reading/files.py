"""Find raw files: the path given is a file, or a folder of files with known names."""

from __future__ import annotations

from pathlib import Path

from responders.errors import InputError


def raw_path(raw: str | Path) -> Path:
    """Return the path of raw data; a URL such as s3://bucket/folder becomes a `upath.UPath`.

    That is no `Path`, but has the methods of one that reading needs.

    Raises:
        InputError: universal-pathlib or the driver of the store is not installed, or the store
            cannot be reached.
    """
    if "://" not in str(raw):
        return Path(raw)
    try:
        from upath import UPath
    except ImportError:
        raise InputError(f"{raw} is a URL: pip install 'recsim-env[remote]' to read it") from None
    try:
        path: Path = UPath(raw)
        path.exists()  # loads the driver, and connects
    except Exception as error:  # each driver has its own kinds
        raise InputError(f"{raw} cannot be reached: {error or type(error).__name__}") from error
    return path


def existing(path: Path) -> Path:
    """Return `path`; raise `InputError` if it does not exist."""
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    return path


def existing_file(path: Path) -> Path:
    """Return `path`; raise `InputError` if it is not a file."""
    if not path.is_file():
        raise InputError(f"there is no file {path}" + (": it is a folder" * path.is_dir()))
    return path


def find(folder: Path, *names: str) -> Path | None:
    """Return the first of the files `names` in `folder`, plain or gzipped, or None."""
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def need(folder: Path, *names: str) -> Path:
    """Return the first of the files `names` in `folder`, plain or gzipped.

    Raises:
        InputError: none of them exists; the message lists the files of the folder.
    """
    path = find(folder, *names)
    if path is None:
        files = sorted(p.name for p in folder.iterdir())[:20] if existing(folder).is_dir() else []
        raise InputError(
            f"{folder} has no {' or '.join(names)} (plain or .gz): it has "
            f"{', '.join(files) or 'no file'}"
        )
    return path


def only(folder: Path, found: list[Path], what: str) -> Path:
    """Return the single file of `found`; raise `InputError` if there is not exactly one."""
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise InputError(f"{folder} is a folder; give one {what} in it (found: {names})")
    return found[0]
