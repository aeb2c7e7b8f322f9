"""Threads: one count everywhere, of the CPUs that the process may use and not of those there are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from cr2fast import _core

# Counts the most threads alive at once while texts are embedded, tokens distilled and a gate fitted.
PROGRAM = """
import sys, threading
from concurrent import futures
import numpy as np
from cr2fast import _core
from cr2fast.encoders import distill, onnx

print("count", _core.thread_count(), _core.thread_count(1000), _core.thread_count(1))
pools = []
class Pool(futures.ThreadPoolExecutor):
    def __init__(self, n):
        pools.append(n)
        super().__init__(n)
onnx.ThreadPoolExecutor = distill.ThreadPoolExecutor = Pool

class Fake(onnx.Encoder):
    def __init__(self):
        self.dim, self._size, self.tokenizer_json = 2, 0, None
    def _embed(self, text):
        return np.ones(2, np.float32)
    tokenizer_json = None
    def tokens(self, text):
        return [0, 1]
    def mean_hidden(self, tokens):
        return np.ones(2)

distill.bert_vocabulary = lambda document: ["a", "b"]
fake = Fake()
for threads in (0, 1000):
    fake.encode(["a", "b"], threads=threads)
    distill.token_vectors(fake, threads=threads, progress=False)
print("pools", *pools)
"""


def run(prefix=(), cpus=None):
    limit = None if cpus is None else lambda: os.sched_setaffinity(0, cpus)
    command = [*prefix, sys.executable, "-c", PROGRAM]
    out = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert out.returncode == 0, out.stderr
    lines = [line.split() for line in out.stdout.splitlines()]
    return {name: [int(n) for n in numbers] for name, *numbers in lines}


def test_zero_is_the_cpus_allowed_and_more_are_never_started():
    allowed = len(os.sched_getaffinity(0))
    assert 1 <= _core.thread_count() <= allowed
    assert _core.thread_count(10**6) == _core.thread_count()
    assert _core.thread_count(1) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_affinity_counts_everywhere():
    got = run(cpus={min(os.sched_getaffinity(0))})
    assert got["count"] == [1, 1, 1]
    # Two texts on one thread need no pool; the vocabulary's has one thread.
    assert set(got["pools"]) == {1}


# A mount namespace in which the control group allows `quota` of 100,000 microseconds.
PREPARE = """
set -e
version=$1 quota=$2 folder=$3; shift 3
mount -t tmpfs none /sys/fs/cgroup
if [ "$version" = 1 ]; then
    echo "1:cpu:/" > "$folder/cgroup"
    mkdir -p /sys/fs/cgroup/cpu
    echo "$quota" > /sys/fs/cgroup/cpu/cpu.cfs_quota_us
    echo 100000 > /sys/fs/cgroup/cpu/cpu.cfs_period_us
else
    echo "0::/group/within" > "$folder/cgroup"
    mkdir -p /sys/fs/cgroup/group/within
    touch /sys/fs/cgroup/group/within/cgroup.controllers
    echo "$quota 100000" > /sys/fs/cgroup/group/cpu.max
    echo "max 100000" > /sys/fs/cgroup/group/within/cpu.max
fi
mount --bind "$folder/cgroup" /proc/$$/cgroup
exec "$@"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare on this system")
@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize(
    ("quota", "expected"), [("100000", 1), ("150000", 1), ("1000", 1), ("9900000", None)]
)
def test_a_control_groups_quota_counts_everywhere(tmp_path, version, quota, expected):
    prefix = ["unshare", "-m", "sh", "-c", PREPARE, "sh", version, quota, str(tmp_path)]
    probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no mount namespace here: {probe.stderr.strip()[:120]}")
    # A quota beyond the machine's CPUs allows those that there are.
    expected = expected or len(os.sched_getaffinity(0))
    got = run(prefix)
    assert got["count"] == [expected, expected, 1]
    assert max(got["pools"]) == expected
