"""Files at fsspec URLs (``s3://``, ``gs://``, ``file://``): read, and written whole or not at all.

fsspec is the extra ``remote``, and each protocol may need a package of its own. Both are imported where a URL
is used, and nowhere else.
"""

from __future__ import annotations

import re
import tempfile
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://(.+)$", re.DOTALL)
SECRET = re.compile(r"//[^/@]*@")


def is_url(location: str | Path) -> bool:
    """Tell whether a text means a URL; a path never does."""
    return isinstance(location, str) and "://" in location


def shown(url: str) -> str:
    """Return a URL as it may be printed: user and password are left out."""
    return SECRET.sub("//***@", url)


def require_protocol(url: str) -> None:
    """Raise unless a URL is sound and its protocol's package is installed; nothing is connected to.

    Raises
    ------
    RemoteError
        Saying what is wrong, or what to install.
    """
    known = URL.match(url)
    if known is None:
        raise RemoteError(f"{shown(url)!r} is no URL such as s3://bucket/folder")
    try:
        import fsspec  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise RemoteError(f"{shown(url)} needs fsspec: install loadmaster[remote]") from error
    try:
        fsspec.get_filesystem_class(known[1].lower())
    except (ImportError, ValueError) as error:
        raise RemoteError(f"{shown(url)}: {error}") from error


def upload(source: Path, url: str) -> None:
    """Put a file at a URL, in place of what is there; it appears as a whole or not at all.

    It goes beside the target under another name first: not every protocol writes in one go.
    """
    with _told(url):
        fs, path = _opened(url)
        folder, _, name = path.rpartition("/")
        aside = f"{folder}/.{name}.{uuid.uuid4().hex}"
        try:
            _put(fs, source, aside)
            fs.mv(aside, path)
        except BaseException:
            with suppress(Exception):  # what went wrong first is told
                fs.rm_file(aside)
            raise


def _put(fs: Any, source: Path, path: str) -> None:
    """Copy a file; its folder is made where the protocol has folders and this one is missing."""
    try:
        fs.put_file(str(source), path)
    except FileNotFoundError:
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(source), path)


@contextmanager
def local_copy(location: str | Path) -> Iterator[Path]:
    """Yield a path that holds the file at a URL while the block runs; a path is yielded as it is.

    Raises
    ------
    RemoteError
        The URL cannot be read.
    """
    if not is_url(location):
        yield Path(location)
        return
    url = str(location)
    with tempfile.TemporaryDirectory(prefix="loadmaster-") as directory:
        copy = Path(directory) / "copy"
        with _told(url):
            fs, path = _opened(url)
            fs.get_file(path, str(copy))
        yield copy


def size_of(url: str) -> int:
    """Return the size of the file at a URL, in bytes."""
    with _told(url):
        fs, path = _opened(url)
        return int(fs.size(path))


def folders_with(name: str, url: str) -> list[str]:
    """Return the folders at a URL that hold a file of this name, that with the newest file first."""
    with _told(url):
        fs, path = _opened(url)
        try:
            entries = fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        written = {}
        for entry in entries:
            folder = entry.rstrip("/").rpartition("/")[2]
            with suppress(FileNotFoundError, NotADirectoryError):
                written[folder] = fs.modified(f"{path}/{folder}/{name}")
        return sorted(written, key=lambda folder: written[folder], reverse=True)


def remove_folder(url: str) -> None:
    """Remove a folder at a URL with all that is in it; one that is gone already is none to remove."""
    with _told(url):
        fs, path = _opened(url)
        with suppress(FileNotFoundError):
            fs.rm(path, recursive=True)


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    require_protocol(url)
    from fsspec.core import url_to_fs  # noqa: PLC0415 (an extra)

    fs, path = url_to_fs(url)
    fs.invalidate_cache()  # others write there too
    return fs, path.rstrip("/")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Tell of whatever a protocol's package raises as one error; each has classes of its own."""
    try:
        yield
    except RemoteError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise RemoteError(f"{shown(url)}: {reason}") from error
