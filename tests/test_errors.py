"""Disk errors as one line."""

import errno
import os

import pytest

from music_map.errors import DamagedFileError, UserError, disk_errors, require_memory


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_path_and_the_remedy(number):
    with pytest.raises(UserError, match=r"^a\.npy: no space left on the disk; free some space"), disk_errors("a.npy"):
        raise OSError(number, "full")


def test_numpy_names_no_errno_when_the_disk_is_full():
    with pytest.raises(UserError, match=r"^a\.npy: no space left on the disk"), disk_errors("a.npy"):
        raise OSError("1000 requested and 512 written")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_a_full_device_is_named():
    says, name = r"^standard output: no space left", "standard output"
    with open("/dev/full", "wb", buffering=0) as f, pytest.raises(UserError, match=says), disk_errors(name):
        f.write(b"x")


def test_memory_that_is_not_there_is_refused_before_it_is_taken():
    require_memory(1 << 20, "a small array")
    if os.path.exists("/proc/meminfo"):
        with pytest.raises(UserError, match=r"^d=9: 3 users needs 1,048,576\.0 GiB of memory, but [\d.,]+ GiB are"):
            require_memory(1 << 50, "d=9: 3 users")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_without_access_is_named(number):
    with pytest.raises(UserError, match=r"^out: no access \(.+\); change its permissions"), disk_errors("out"):
        raise OSError(number, "refused")


def test_the_file_that_could_not_be_opened_is_named_rather_than_the_output():
    with pytest.raises(UserError, match=r"^in\.parquet: no access"), disk_errors("out"):
        raise PermissionError(errno.EACCES, "refused", "in.parquet")


@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, "closed"), FileNotFoundError(errno.ENOENT, "gone"), ConnectionError(), KeyError("x")]
)
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, disk_errors("out"):
        raise error
    assert caught.value is error


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: File exists; choose another path"), disk_errors("out"):
        (tmp_path / "file").mkdir()
    with pytest.raises(UserError, match=r"new: Not a directory; choose another path"), disk_errors("out"):
        (tmp_path / "file" / "new").mkdir()


def test_a_user_error_inside_passes_unchanged():
    with pytest.raises(DamagedFileError, match=r"^a\.npy: damaged$"), disk_errors("out"):
        raise DamagedFileError("a.npy: damaged")
