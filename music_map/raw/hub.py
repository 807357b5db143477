"""Transfer of the data set from the Hugging Face hub: resumed, hashes checked, own files never overwritten.

After an interruption, the hub library's `hf_hub_download` starts a file again from its beginning: its partial files
have random names, and Xet transfers cannot be resumed either. That is no option for the 13.8 GB of audio embeddings.
So this module uses parts of the library: a HEAD request per file for size and hash, then its HTTP session, with a range
request if a part of the file has been received before:

    OUTPUT/flat/50m/listens.parquet           in place only once its hash is right
    OUTPUT/.download/NAME.HASH.part           bytes received so far
    OUTPUT/.download/verified.json            size, mtime and hash of checked files, so that none is read twice
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import hashlib
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from music_map.errors import DamagedFileError, UserError, disk_errors
from music_map.lock import writing
from music_map.reporter import Progress, silent
from music_map.storage import read_json, write_json

REPO = "yandex/yambda"

_T = TypeVar("_T")
_WORK_FOLDER = ".download"
_BLOCK = 1 << 20

# Releases of huggingface_hub differ in their HTTP client (httpx, httpx2). One base class of HfHubHTTPError is the root
# of that client's errors. Together with OSError it covers failed connections, timeouts and truncated bodies.
_TRANSPORT_ERRORS: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)
# A server is given up, or asked again, if its answer does not begin within so many seconds, or if fewer bytes than
# _LEAST arrive in as many. The library's timeout is one of silence, which a byte a second never is.
_PATIENCE, _LEAST = 30.0, 1 << 15
_LONGEST_WAIT = 600.0  # seconds that a server may ask us to wait; the hub's limits are by 300 seconds
# Status codes, besides 5xx, after which a second try may succeed: timeout, too early, too many requests.
_TRANSIENT_STATUS = {408, 425, 429}


class HubError(UserError):
    """The hub could not be reached, refused access, or sent other data than it announced."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of files, and the number of retries.

    Attributes:
      repo: data set repository on the hub.
      revision: branch, tag or commit.
      endpoint: address of the hub; None: the environment's HF_ENDPOINT, else https://huggingface.co.
      attempts: after this many successive tries without new bytes, a request is given up.
      wait_seconds: pause before the second try; it doubles with every further try. A longer Retry-After of the server
        counts instead, up to ten minutes.
      patience: seconds for an answer to begin, and for the next 32 KiB of it.
      note: called with a line before a pause of more than ten seconds.
    """

    repo: str = REPO
    revision: str = "main"
    endpoint: str | None = None
    attempts: int = 3
    wait_seconds: float = 1.0
    patience: float = _PATIENCE
    note: Callable[[str], object] = lambda text: None

    @property
    def address(self) -> str:
        """The address of the hub. Raises UserError if it is no http(s) URL."""
        address = (self.endpoint or constants.ENDPOINT).rstrip("/")
        try:
            parts = urlsplit(address)
            valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
            valid = valid and re.fullmatch(r"[^\s?#]+", address) and get_session().build_request("GET", address)
        except Exception:  # what the HTTP client raises for a host that cannot be has no common class
            valid = False
        if not valid:
            raise UserError(f"HF_ENDPOINT={address!r} is no address of a hub; write e.g. https://huggingface.co")
        return address

    def url(self, path: str, revision: str | None = None) -> str:
        """Download address of a file of the repository."""
        return hf_hub_url(
            self.repo, path, repo_type="dataset", revision=revision or self.revision, endpoint=self.address
        )


@dataclasses.dataclass(frozen=True)
class HubFile:
    """The hub's metadata of one file.

    Attributes:
      path: in the repository, and below the output folder.
      size: bytes.
      digest: hex sha256 of the content (64 digits) or, for small files kept in git itself, the blob's sha1 (40 digits).
      commit: the revision that size and digest belong to.
    """

    path: str
    size: int
    digest: str
    commit: str


def list_files(source: Source, paths: Sequence[str]) -> list[HubFile]:
    """Asks the hub for size, hash and commit of each file; all belong to one commit.

    Raises:
      HubError: no connection, access refused, no such revision or file, or the answer lacks size or hash.
    """
    files: list[HubFile] = []
    for path in paths:
        # The first answer fixes the commit, so that a push to the branch meanwhile cannot mix two versions.
        url = source.url(path, files[0].commit if files else None)
        meta = _retry(source, path, lambda url=url: _within(source.patience, lambda: _metadata(url)))
        if (
            meta is None
            or meta.size is None
            or meta.size < 0
            or not meta.commit_hash
            or not re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", meta.etag or "")
        ):
            raise HubError(
                f"{source.address}: its answer for {path} lacks commit, size or hash, so this is no hub; "
                "check HF_ENDPOINT and the proxy, or put the files in place by hand"
            )
        files.append(HubFile(path, meta.size, meta.etag, meta.commit_hash))
    return files


def download(source: Source, files: Sequence[HubFile], output: Path, *, progress: Progress = silent) -> list[HubFile]:
    """Downloads `files` into `output`. A file is put in place only if its size and hash match the hub's.

    Existing files with the right content are kept, and partial files of an interrupted run are completed. If this
    function fetched a file before and the file has changed since, it is fetched again. Other files in the way are not
    touched.

    Args:
      source: where to download from.
      files: from `list_files`.
      output: folder to fill, in the repository's layout.
      progress: reports the bytes received, including those of an earlier run.

    Returns:
      The files that were transferred.

    Raises:
      HubError: the transfer failed, or the received bytes have another hash (then they are removed).
      UserError: the disk is full or read-only, another download is running, or a different file is in the way.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; choose a folder for the downloads")
    work = output / _WORK_FOLDER
    with writing(output, "download"):
        with disk_errors(output):
            work.mkdir(parents=True, exist_ok=True)
        record = _Record(work / "verified.json")
        wanted = [file for file in files if not _is_present(file, output, record, progress)]
        _remove_stale_parts(work, files)
        _require_space(wanted, output, work)
        if not wanted:
            return []
        with progress("download", sum(file.size for file in wanted), "B") as advance:
            for file in wanted:
                _fetch(source, file, _part_path(work, file), output / file.path, advance)
                record.add(file, output / file.path)
        return wanted


def _metadata(url: str) -> Any:
    """The hub's metadata of a file; None if its headers make no sense."""
    try:
        return get_hf_file_metadata(url)
    except (ValueError, TypeError) as e:
        if isinstance(e, _TRANSPORT_ERRORS):
            raise
        return None


def by_hand(source: Source, paths: Sequence[str], output: Path) -> list[str]:
    """Lines with the address of each missing file and the place to put it."""
    missing = [path for path in paths if not (output / path).is_file()]
    return [f"{source.url(path)} -> {output / path}" for path in missing]


class _Record:
    """The record of verified files, by size and modification time. If it is lost or damaged, files are read again."""

    def __init__(self, path: Path):
        self._path = path
        try:
            entries = read_json(path)
        except DamagedFileError:
            entries = None
        self._entries: dict[str, Any] = entries if isinstance(entries, dict) else {}

    @staticmethod
    def _entry(file: HubFile, path: Path) -> dict[str, Any]:
        stat = path.stat()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "digest": file.digest}

    def knows(self, file: HubFile) -> bool:
        """Whether this path was fetched or verified before, in any version."""
        return file.path in self._entries

    def confirms(self, file: HubFile, path: Path) -> bool:
        """Whether the file has not changed since its hash was verified."""
        return self._entries.get(file.path) == self._entry(file, path)

    def add(self, file: HubFile, path: Path) -> None:
        self._entries[file.path] = self._entry(file, path)
        write_json(self._path, self._entries)


class _PartFile(io.BufferedWriter):
    """A partial file opened to append. It counts and hashes every byte once, including those of earlier runs."""

    def __init__(self, path: Path, file: HubFile, advance: Callable[[int], object]):
        super().__init__(io.FileIO(path, "a"))
        self._path, self._file, self._advance = path, file, advance
        self._hash, self._count = _new_hash(file), 0
        for block in _blocks(path):
            self._take(block)

    def _take(self, data: bytes) -> None:
        self._hash.update(data)
        self._count += len(data)
        self._advance(len(data))

    def write(self, data: bytes) -> int:
        self.expect(len(data))
        # A UserError, so that a full disk is not mistaken for a broken connection and retried.
        with disk_errors(self._path):
            written = super().write(data)
        self._take(data)
        return written

    def expect(self, more: int) -> None:
        """Raises HubError if `more` bytes would exceed the announced size; then all that was received is dropped."""
        if self._count + more > self._file.size:
            received, size = self._count + more, self._file.size
            self.restart()
            raise HubError(
                f"{self._file.path}: the server sends {received} bytes or more, the hub announced {size}; stopped, and "
                "what had arrived was removed; run the command again or put the file in place by hand"
            )

    def restart(self) -> None:
        """Drops everything received so far."""
        self.seek(0)
        self.truncate()
        self._advance(-self._count)
        self._hash, self._count = _new_hash(self._file), 0

    def finish(self) -> str:
        """Flushes to the disk and returns the digest of the content."""
        with disk_errors(self._path):
            self.flush()
            os.fsync(self.fileno())
        return self._hash.hexdigest()


def _new_hash(file: HubFile) -> Any:
    if len(file.digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as f:
        while block := f.read(_BLOCK):
            yield block


def _part_path(work: Path, file: HubFile) -> Path:
    return work / f"{file.path.replace('/', '-')}.{file.digest[:16]}.part"


def _remove_stale_parts(work: Path, files: Sequence[HubFile]) -> None:
    """Drops partial files of versions of these files that are no longer wanted."""
    for file in files:
        for part in work.glob(f"{file.path.replace('/', '-')}.*.part"):
            if part != _part_path(work, file):
                part.unlink(missing_ok=True)


def _is_present(file: HubFile, output: Path, record: _Record, progress: Progress) -> bool:
    """Whether the file is in place; hashes it unless the record confirms it. Raises UserError for a foreign file."""
    path = output / file.path
    if not os.path.lexists(path):
        return False
    if not path.is_file():
        raise UserError(f"{path}: is in the way of a download of this name; move it away or choose another folder")
    if record.confirms(file, path):
        return True
    difference = f"{path.stat().st_size} bytes, the hub's has {file.size}"
    if path.stat().st_size == file.size:
        difference = "another hash"
        digest = _new_hash(file)
        with progress(f"check {file.path}", file.size, "B") as advance:
            for block in _blocks(path):
                digest.update(block)
                advance(len(block))
        if digest.hexdigest() == file.digest:
            record.add(file, path)
            return True
    if record.knows(file):
        return False
    raise UserError(
        f"{path}: differs from the hub's file ({difference}) and was not fetched from there; "
        "move it away or choose another folder"
    )


def _require_space(files: Sequence[HubFile], output: Path, work: Path) -> None:
    parts = [_part_path(work, file) for file in files]
    needed = sum(file.size for file in files) - sum(part.stat().st_size for part in parts if part.exists())
    free = shutil.disk_usage(output).free
    if needed > free:
        raise UserError(
            f"{output}: the download needs {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB of disk are free; "
            "free some space or choose another folder"
        )


def _fetch(source: Source, file: HubFile, part: Path, target: Path, advance: Callable[[int], object]) -> None:
    """Transfers one file and moves it in place."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    resumed = part.exists()
    digest = _transfer(source, file, part, advance)
    if digest != file.digest and resumed:
        # Bytes from an earlier run may be damaged (by a power cut, for example): try once without them.
        _discard(part, advance)
        digest = _transfer(source, file, part, advance)
    if digest != file.digest:
        size = part.stat().st_size
        _discard(part, advance)
        kind = "sha256" if len(file.digest) == 64 else "git sha1"
        raise HubError(
            f"{file.path}: the {size} bytes received have {kind} {digest[:12]}..., the hub announced {file.size} bytes "
            f"with {file.digest[:12]}...; they were removed; run the command again or put the file in place by hand"
        )
    with disk_errors(target):
        os.replace(part, target)


def _discard(part: Path, advance: Callable[[int], object]) -> None:
    advance(-part.stat().st_size)
    part.unlink()


def _transfer(source: Source, file: HubFile, part: Path, advance: Callable[[int], object]) -> str:
    """Appends the missing bytes to the partial file; returns the digest of the whole."""
    with disk_errors(part), _PartFile(part, file, advance) as f:

        def receive() -> None:
            # If the server does not announce the length, a body can end early without an error.
            while (start := f.tell()) < file.size:
                _receive(source.url(file.path, file.commit), f, source.patience)
                if f.tell() <= start:
                    raise ConnectionError(f"the server sent nothing beyond byte {start}")

        _retry(source, file.path, receive, position=f.tell)
        return f.finish()


def _receive(url: str, f: _PartFile, patience: float) -> None:
    """One GET request for the missing bytes of the file."""
    # Offsets count bytes of the file itself, not of a compressed body.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if f.tell():
        headers["Range"] = f"bytes={f.tell()}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with contextlib.ExitStack() as stack:
        asked = get_session().stream("GET", url, headers=headers, timeout=timeout)
        response = _within(patience, lambda: stack.enter_context(asked))
        hf_raise_for_status(response)
        if response.status_code != 206 and f.tell():
            f.restart()  # the server does not support ranges and sends the whole file
        announced = response.headers.get("Content-Length", "")
        f.expect(int(announced) if announced.isdecimal() else 0)
        start, before = time.monotonic(), f.tell()
        for data in response.iter_bytes():
            f.write(data)
            if f.tell() - before >= _LEAST:
                start, before = time.monotonic(), f.tell()
            elif time.monotonic() - start > patience:
                raise TimeoutError(f"only {f.tell() - before} bytes in {patience:g} s")


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """What `call` returns or raises. Raises TimeoutError after so many seconds; the call goes on in its thread."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append((call(), None))
        except BaseException as e:
            ended.append((None, e))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not ended:
        raise TimeoutError(f"no answer within {seconds:g} s")
    value, error = ended[0]
    if error is not None:
        raise error
    return value


def _retry(source: Source, path: str, request: Callable[[], _T], position: Callable[[], int] = lambda: 0) -> _T:
    """Runs a request until it succeeds. Gives up after `source.attempts` failures in a row without 32 KiB more."""
    reached, failures = position(), 0
    while True:
        try:
            return request()
        except _TRANSPORT_ERRORS as e:
            more = position() - reached >= _LEAST
            failures = 1 if more else failures + 1
            reached = position() if more else reached
            asked = _retry_after(e)
            if failures >= source.attempts or not _is_transient(e) or asked > _LONGEST_WAIT:
                raise _hub_error(source, path, e) from e
        pause = max(source.wait_seconds * 2 ** (failures - 1), asked)
        if pause > 10:
            source.note(f"{source.address}: busy; the next try is in {pause:.0f} s")
        time.sleep(pause)


def _retry_after(error: BaseException) -> float:
    """Seconds that the server asks to wait, by Retry-After (RFC 9110, 10.2.3); 0 if it does not."""
    text = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    if text.strip().isdecimal():
        return float(text[:20])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status >= 500 or status in _TRANSIENT_STATUS
    return not isinstance(error, OfflineModeIsEnabled)


def _hub_error(source: Source, path: str, error: BaseException) -> HubError:
    """An error of the HTTP client or the hub as one line."""
    where = f"{source.address}: {path}"
    by_hand = "put the files in place by hand"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"{where}: HF_HUB_OFFLINE forbids the network; unset it or {by_hand}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{where}: {source.repo} has no revision {source.revision!r}; --revision=main is the newest")
    if isinstance(error, EntryNotFoundError):
        return HubError(f"{where}: {source.repo} has no such file at {source.revision!r}; try another --revision")
    if isinstance(error, GatedRepoError) or status in (401, 403):
        return HubError(f"{where}: access refused ({status}); set HF_TOKEN to a valid token, or {by_hand}")
    if status == 404:
        return HubError(f"{where}: not found (404); check HF_ENDPOINT, or {by_hand}")
    if status:
        asked = _retry_after(error)
        when = f"in {asked:,.0f} s, as it asks" if asked else "later"
        return HubError(f"{where}: the hub answered {status}; try again {when}, or {by_hand}")
    reason = " ".join(str(error).split()) or type(error).__name__
    return HubError(f"{where}: the connection failed ({reason}); check the network and HF_ENDPOINT, or {by_hand}")
