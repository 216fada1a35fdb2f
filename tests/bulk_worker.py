"""What `test_bulk` runs in processes of their own; light, so that they start fast."""

import os
import threading

import torch
from killed import kill_at
from tqdm import tqdm

import tsgen

LABELLED = {"seed": 3, "label": "bell", "progress": False}


def write(saved, out, environment=None):
    """40 shards of a saved model."""
    os.environ |= environment or {}
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # the one it makes itself outlives a killed process
    tsgen.generate(saved, 40 * 64 - 5, out=out, shard_size=64, **LABELLED)


def write_until(saved, out, n_steps):
    """`write`, killed at a step."""
    kill_at(out, n_steps)
    write(saved, out)
