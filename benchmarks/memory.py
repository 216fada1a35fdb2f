"""Memory while a million series are drawn to disk, which must not grow with their number.

    python benchmarks/memory.py [--n 1000000] [--steps S] [--out FOLDER]

Bundled cbf to npz shards in a temporary folder, which is removed. The resident set is read every
second from /proc/self/statm; what counts is how much its median grows from the second minute to the
last one. Goes to results/memory.json.
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import measure

import tsgen

EVERY_S, WINDOW_S = 1.0, 60.0
PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch(threading.Thread):
    """(seconds, MB resident) of this process, once a second until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stop, self.began = threading.Event(), time.perf_counter()
        self.seen: list[tuple[float, float]] = []

    def run(self) -> None:
        while True:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.seen.append((time.perf_counter() - self.began, pages * PAGE / 1e6))
            if self.stop.wait(EVERY_S):
                return


def growth(seen: list[tuple[float, float]]) -> float | None:
    """MB from the median of the second minute to that of the last; None within 3 minutes."""
    end = seen[-1][0]
    if end < 3 * WINDOW_S:
        return None
    second = [mb for s, mb in seen if WINDOW_S <= s < 2 * WINDOW_S]
    return median([mb for s, mb in seen if s >= end - WINDOW_S]) - median(second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10**6, help="series")
    parser.add_argument("--steps", type=int, help="of decoding (the model's own)")
    parser.add_argument("--out", type=Path, help="where the temporary folder is made")
    args = parser.parse_args()
    model = tsgen.load("cbf")
    settings = {} if args.steps is None else {"steps": args.steps}
    watch = Watch()
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        watch.start()
        tsgen.generate(model, args.n, out=folder, seed=0, **settings)
        watch.stop.set()
        watch.join()
        n_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
    mb = [mb for _, mb in watch.seen]
    row = {
        "steps": model.config.sampling.steps if args.steps is None else args.steps,
        "minutes": watch.seen[-1][0] / 60,
        "bytes": n_bytes,
        "peak_mb": max(mb),
        "grown_mb": growth(watch.seen),
        "mb_every_10_s": [round(value, 1) for value in mb[::10]],
        "machine": measure.machine(),
    }
    print({key: value for key, value in row.items() if key not in ("mb_every_10_s", "machine")})
    measure.save("memory", {f"{args.n:,} series": row})


if __name__ == "__main__":
    main()
