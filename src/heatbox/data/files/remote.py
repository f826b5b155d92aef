"""Files at addresses that fsspec opens (s3://, gs://, hf://, https://): listed, and read by byte ranges.

Credentials and endpoints are those that fsspec and its libraries find (environment variables, their own
configuration files). A request that fails is made again; after the last try it is an `UnreachableError`.
Nothing is kept open, so threads and forked or spawned processes can read at the same time.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

from heatbox.errors import InputError, UnreachableError, quoted

_log = logging.getLogger(__name__)

WAITS: tuple[float, ...] = (0.5, 2.0, 8.0)
"""Seconds before each further try to read."""
SMALLEST, LARGEST = 2**16, 2**22
"""Bytes of one request: the smallest, and the largest that reads ahead."""
KEPT = 16 * LARGEST
"""Bytes of the parts that are kept in memory, of all files."""

_ADDRESS = re.compile(r"(?:[a-z0-9]+::)*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_IN_TEXT = re.compile(rf"({_ADDRESS.pattern}\S*?)([]'\")>.,:;]*)(?=\s|$)", re.IGNORECASE)
_USER = re.compile(r"(?<=://)(?:[^/?:[]*:(?!:|\d*(?:[/?]|$))(?:[^?]*@|.*@)|[^/?]*@)", re.DOTALL)
_QUERY = re.compile(r"\?.*", re.DOTALL)
_WILD = re.compile(r"[*[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_VERSIONS: tuple[str, ...] = (
    *("ETag", "md5Hash", "blob_id", "Content-MD5", "generation"),
    *("mtime", "LastModified", "last_modified", "Last-Modified", "created"),
)
"""What stores call the checksum or date of a file, the most certain first."""

_LOST = re.compile("Connect|Timeout|Transport|HTTPClientError")
"""In the names of errors of lost connections, which libraries derive from no common class."""
RECENT = 16
"""Number of the parts, the last ones, after which a range can follow."""

Result = TypeVar("Result")


def is_address(path: object) -> bool:
    """Whether a path is an address such as s3://bucket/folder."""
    return isinstance(path, str) and _ADDRESS.match(path) is not None


def shown(text: str) -> str:
    """An address, or a text with some, without users, passwords and queries, which can be secrets.

    For all that is displayed or becomes a name. Users end at the last @, also where a password has a slash;
    a query ends with the address, or in a text at the next space.
    """
    if is_address(text):
        return _QUERY.sub("", _USER.sub("", text))
    return _IN_TEXT.sub(lambda found: shown(found[1]) + found[2], text)


def expand_braces(pattern: str) -> Iterator[str]:
    """The names that a pattern stands for, each once: "{000..002}.tar" three, "{train,val}/0.tar" two.

    Numbers are as long as the first one, with zeros before them.

    Raises:
        InputError: numbers that count down.
    """
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    numbers = _RANGE.fullmatch(found[1])
    choices: Any = found[1].split(",")
    if numbers is not None:
        first, last = int(numbers[1]), int(numbers[2])
        if last < first:
            raise InputError(f"{shown(pattern)}: {found[0]} counts down, expected the smaller number first")
        choices = (f"{n:0{len(numbers[1])}d}" for n in range(first, last + 1))
    rest = (pattern[: found.start()] + choice + pattern[found.end() :] for choice in choices)
    yield from dict.fromkeys(itertools.chain.from_iterable(map(expand_braces, rest)))


def is_pattern(path: str) -> bool:
    """Whether a path has braces or wildcards."""
    return any(mark in shown(path) for mark in "{*[")


class RemoteFile:
    """A file at an address, read by byte ranges.

    Ranges that follow each other are read ahead, in growing parts; the last parts stay in memory.
    """

    def __init__(self, address: str, info: dict[str, Any] | None = None) -> None:
        self.address, self.where = address, shown(address)
        self._listed = info

    @cached_property
    def _info(self) -> dict[str, Any]:
        if self._listed is not None and self._listed.get("size") is not None:  # not in lists by HTTP
            return self._listed
        return tried(self.address, "", lambda fs, path: fs.info(path))

    @cached_property
    def size(self) -> int:
        """Number of bytes.

        Raises:
            InputError: there is no such file, or its size is not known.
        """
        size = self._info.get("size")
        if self._info.get("type", "file") != "file" or not isinstance(size, int):
            raise InputError(f"{self.where}: expected a file of known size, found {self._info.get('type')}")
        return size

    @property
    def version(self) -> str:
        """What changes when the file does: its size, and the checksum or date that the store lists."""
        mark = next((self._info[key] for key in _VERSIONS if self._info.get(key)), "")
        return f"{self.size} {mark.isoformat() if hasattr(mark, 'isoformat') else mark}"

    @cached_property
    def _key(self) -> tuple[str, str]:
        """Of the parts in memory: another one where the file has changed."""
        return self.address, self.version

    def read(self, start: int, count: int) -> bytes:
        """A range of bytes; fewer at the end of the file.

        Raises:
            UnreachableError: it cannot be read, also when tried again.
        """
        count = max(0, min(count, self.size - start))
        if not count:
            return b""
        with turn(self._key):
            part, following = _parts.look(self._key, start, count)
            if part is None and following:
                part = self._fetched(start, max(count, min(2 * following, LARGEST)))
        if part is None:  # not in order: other threads may read at the same time
            part = self._fetched(start, max(count, SMALLEST))
        return part[:count]

    def _fetched(self, start: int, count: int) -> bytes:
        end = min(start + count, self.size)

        def get(fs: Any, path: str) -> bytes:
            data: bytes = fs.cat_file(path, start=start, end=end)
            if len(data) > end - start:
                raise InputError(f"{self.where}: the server sends whole files, expected one with byte ranges")
            if len(data) < end - start:
                raise OSError(f"only {len(data)} bytes came; the file has {self.size} as listed")
            return data

        data = tried(self.address, f"bytes {start} to {end} of ", get)
        _parts.keep(self._key, start, data)
        return data

    def open(self) -> io.RawIOBase:
        """The file, to read and seek."""
        return _Opened(self)


class _Opened(io.RawIOBase):
    """A remote file as an object of Python's io; there is nothing to close."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def files_at(address: str) -> dict[str, RemoteFile]:
    """The files that an address names, by their paths below the folder that contains them.

    Args:
        address: of one file; of a folder, for all files below it; or a pattern with braces or *.

    Raises:
        InputError: there is none.
        UnreachableError: the address cannot be reached.
    """
    if is_pattern(address):
        found = list(itertools.chain.from_iterable(map(_matching, expand_braces(address))))
        if not found:
            raise InputError(f"{shown(address)}: no file is named like that")
        return _below_common_folder(found)
    path = _opened_anew(address)[1]
    if "." in path.rpartition("/")[2] and not address.endswith("/"):
        file = RemoteFile(address)
        if file._info.get("type", "file") == "file":
            return {_path_of(address).rpartition("/")[2]: file}
    listed = tried(address, "the list of ", lambda fs, path: fs.find(path, detail=True))
    root, base = f"{path.rstrip('/')}/", address.rstrip("/")
    inside = {name[len(root) :]: info for name, info in listed.items() if name.startswith(root)}
    if not inside:
        raise InputError(f"{shown(address)}: no such file or folder, or an empty one")
    return {name: RemoteFile(f"{base}/{name}", info) for name, info in inside.items() if name}


def _opened_anew(address: str) -> tuple[Any, str]:
    """As `opened`, without the lists that the file system has kept, which may be old."""
    fs, path = opened(address)
    fs.invalidate_cache()
    return fs, path


def _matching(address: str) -> list[RemoteFile]:
    path = _opened_anew(address)[1]
    if not is_pattern(address):
        return [RemoteFile(address)]
    listed = tried(address, "the list of ", lambda fs, path: fs.glob(path, detail=True))
    folder = path[: path.rfind("/", 0, _WILD.search(path).start()) + 1]  # type: ignore[union-attr]
    base = address.removesuffix(path[len(folder) :])  # has what paths lack: a host, a repository

    def address_of(name: str) -> str:
        if is_address(name):
            return name
        if not name.lstrip("/").startswith(folder.lstrip("/")):
            raise InputError(f"{shown(address)}: a file is listed elsewhere, as {shown(name)}")
        return base + name.lstrip("/")[len(folder.lstrip("/")) :]

    return [
        RemoteFile(address_of(name), info)
        for name, info in sorted(listed.items())
        if info.get("type", "file") == "file"
    ]


def _below_common_folder(files: list[RemoteFile]) -> dict[str, RemoteFile]:
    paths = [_path_of(file.address) for file in files]
    folder = os.path.commonpath([path.rpartition("/")[0] for path in paths])
    named = {path[len(folder) :].lstrip("/"): file for path, file in zip(paths, files, strict=True)}
    if len(named) < len(files):
        raise InputError(f"{files[0].where}: a file is named twice by the pattern")
    return named


def _path_of(address: str) -> str:
    """The part of an address that has folders and a name, without a query."""
    return shown(address)[_ADDRESS.match(address).end() :].lstrip("/")  # type: ignore[union-attr]


# --------------------------------------------------------------------------------- the library, and errors


def opened(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, which fsspec keeps, and the path in it.

    Raises:
        InputError: the library for the protocol is missing, or there is none.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address)  # type: ignore[no-any-return]
    except ImportError as error:
        name = address.partition("://")[0]
        raise InputError(f"{shown(address)}: fsspec needs another package for {name}:// ({error})") from error
    except Exception as error:  # whatever the library of a store raises
        raise InputError(f"{shown(address)}: cannot be opened ({_reason(error, address)})") from error


def tried(address: str, what: str, work: Callable[[Any, str], Result]) -> Result:
    """The result of a request, which is made again where the failure may pass.

    Args:
        address: of the file or folder.
        what: is asked, in messages before the address; "" for the file itself.
        work: file system and path → result.

    Raises:
        InputError: there is no such file or folder.
        UnreachableError: naming the address, what was asked and what came.
    """
    where = f"{what}{shown(address)}"
    for wait in (*WAITS, None):
        try:
            return work(*opened(address))
        except InputError:
            raise
        except Exception as error:  # whatever the library of a store raises
            if wait is not None and _may_pass(error):
                _log.info("%s: %s; trying again in %g s", where, _reason(error, address), wait)
                time.sleep(wait)
                continue
            if isinstance(error, FileNotFoundError):
                raise InputError(f"{where}: no such file, folder or bucket") from error
            if _is_refusal(error):
                raise UnreachableError(
                    f"{where}: access is refused or credentials are missing ({_reason(error, address)})"
                ) from error
            tries = f" after {len(WAITS) + 1} tries" if wait is None else ""
            raise UnreachableError(f"{where}: cannot be read{tries} ({_reason(error, address)})") from error
    raise AssertionError


def _reason(error: Exception, address: str) -> str:
    return shown(quoted(error).replace(address, shown(address)))


def _status(error: Exception) -> int:
    """The number of a server's answer, under the names that libraries give it; 0 if there is none."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    status = status or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else 0


def _is_refusal(error: Exception) -> bool:
    refused = isinstance(error, PermissionError) or _status(error) in (401, 403)
    return refused or "credentials" in str(error).lower()


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: lost connections, time limits, servers that are busy or broken."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    if 400 <= (status := _status(error)) < 600:
        return status in (408, 429) or status >= 500
    kinds = type(error).__mro__
    return (
        isinstance(error, OSError | TimeoutError)
        or type(error).__module__.startswith("aiohttp")
        or any(_LOST.search(kind.__name__) for kind in kinds)  # of botocore, httpx, ...
    )


# ------------------------------------------------------------------------------------------ parts in memory


class _Parts:
    """The parts of remote files that were read last."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._parts: OrderedDict[tuple[tuple[str, str], int], bytes] = OrderedDict()

    def look(self, key: tuple[str, str], start: int, count: int) -> tuple[bytes | None, int]:
        """The range, if a part contains it; else the length of the part that it follows, 0 if none.

        Threads that share the reading of a file are a few ranges ahead of each other.
        """
        with self._lock:
            following = 0
            for age, ((name, begin), data) in enumerate(reversed(self._parts.items())):
                if name == key and begin <= start:
                    if start + count <= begin + len(data):
                        return data[start - begin : start - begin + count], 0
                    if age < RECENT and start <= begin + len(data) + max(2 * count, SMALLEST):
                        following = max(following, len(data))
            return None, following

    def keep(self, key: tuple[str, str], start: int, data: bytes) -> None:
        """Keep a part, and drop the oldest beyond `KEPT` bytes; a larger one was asked for as a whole."""
        if len(data) > LARGEST:
            return
        with self._lock:
            self._parts[key, start] = data
            self._parts.move_to_end((key, start))
            while sum(map(len, self._parts.values())) > KEPT:
                self._parts.popitem(last=False)


_parts = _Parts()
_turns: defaultdict[Hashable, Lock] = defaultdict(Lock)


def turn(key: Hashable) -> Lock:
    """The lock of what only one thread should fetch; the others then find it in memory."""
    return _turns[key]


def _after_fork() -> None:
    """A forked process starts with locks that no thread holds."""
    global _parts, _turns
    _parts, _turns = _Parts(), defaultdict(Lock)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
