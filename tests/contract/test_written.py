"""Files that Python writes: whole or as they were, on a full disk, through links, from many threads."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cr2fast._util.files import write_whole

# What fills the disk, in place of a disk: no file may be larger than 4 kB.
FULL = """
import resource, signal, sys
from cr2fast._util.files import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_whole(sys.argv[1], b"new" * 4096)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "point.json"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 0
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["point.json"]


def test_links_are_followed_and_permissions_stay(tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "state.json"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "x", b"")
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "real", b"")


def test_what_is_no_file_is_written_to_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"through")
    reader.join()
    assert got == [b"through"]
    assert pipe.is_fifo()
    # A link that only the kernel can follow.
    code = "from cr2fast._util.files import write_whole; write_whole('/dev/stdout', b'said')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"said"


def test_threads_that_write_one_file_leave_one_of_theirs(tmp_path):
    path = tmp_path / "state.json"
    texts = [bytes([65 + i]) * 10_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: [write_whole(path, text) for _ in range(20)], texts))
    assert path.read_bytes() in texts
    assert os.listdir(tmp_path) == ["state.json"]
