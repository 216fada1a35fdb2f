"""What `import tsgen` costs beyond torch's own import: fresh processes, in turn.

python benchmarks/import_time.py [--rounds 7]
"""

import argparse
import subprocess
import sys

import measure

CODE = """
import time, torch
start = time.perf_counter()
import tsgen
for name in tsgen.__all__:  # they are imported when first used
    getattr(tsgen, name)
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    command = [sys.executable, "-c", CODE]
    seconds = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds + 1)
    ][1:]  # the first reads from disk
    row = measure.summary(seconds)
    print(f"import tsgen after torch: {row['p50_s']:.3f} s")
    measure.save("import_time", {"import tsgen": row | {"machine": measure.machine()}})


if __name__ == "__main__":
    main()
