"""benchmarks/study_plan.py: the results file that workers share, whenever they die."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import study_plan  # noqa: E402
from study_plan import Budget, Ledger, cells, finished  # noqa: E402

TINY = Budget(
    steps=(2, 2), evaluations=1, most_train=20, most_test=15, n_generated=24, n_kernels=10
)


CELLS = cells()[:5]


def row(cell, budget=None, **values):
    plain = study_plan.settings(cell, budget or Budget())
    return {**cell._asdict(), "settings": plain, **values}


WORKER = """
import sys
sys.path.append({benchmarks!r})
from pathlib import Path
from study_plan import Budget, Ledger, cells, settings
ledger = Ledger(Path({path!r}))
for cell in ledger.left(cells()[:40], Budget()):
    ledger.append({{**cell._asdict(), "settings": settings(cell, Budget()), "pad": "x" * 5000}})
"""
HOLDER = """
import sys, time
sys.path.append({benchmarks!r})
from pathlib import Path
from study_plan import Budget, Ledger, cells
for cell in Ledger(Path({path!r})).left(cells()[:5], Budget()):
    print(*cell, sep="|", flush=True)
    time.sleep(60)
"""


def process(text, path, **how):
    code = text.format(benchmarks=str(BENCHMARKS), path=str(path))
    return subprocess.Popen([sys.executable, "-c", code], text=True, **how)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "study.jsonl") as ledger:
        yield ledger


class TestLedger:
    def test_rows_come_back(self, tmp_path):
        rows = [row(cell, fid=float(i)) for i, cell in enumerate(CELLS)]
        with Ledger(tmp_path / "a" / "study.jsonl") as ledger:
            for one in rows:
                ledger.append(one)
            assert ledger.rows() == rows
        with Ledger(tmp_path / "a" / "study.jsonl") as ledger:
            assert ledger.rows() == rows

    @pytest.mark.parametrize("half", ['{"set": "CB', '{"set": "CBF"}', "\xe9"])
    def test_half_a_row_is_none_and_goes(self, ledger, half):
        path = Path(ledger.file.name)
        ledger.append(row(CELLS[0]))
        with path.open("ab") as file:
            file.write(half.encode("latin-1"))
        assert ledger.rows() == [row(CELLS[0])]
        ledger.append(row(CELLS[1]))
        assert ledger.rows() == [row(CELLS[0]), row(CELLS[1])]
        assert path.read_text().count("\n") == 2

    def test_what_is_done_is_left_out(self, ledger):
        ledger.append(row(CELLS[1]))
        ledger.append(row(CELLS[2], TINY))  # with another budget: it does not count
        assert list(ledger.left(CELLS, Budget())) == [CELLS[0], *CELLS[2:]]

    def test_two_rows_of_a_run(self):
        with pytest.raises(ValueError, match="got two"):
            finished([row(CELLS[0]), row(CELLS[0])], Budget())

    def test_unknown_variants_do_not_count(self):
        gone = row(CELLS[0]) | {"variant": "one that was dropped"}
        assert finished([gone, row(CELLS[1])], Budget()) == {CELLS[1]: row(CELLS[1])}

    def test_workers_share_the_runs(self, ledger):
        workers = [process(WORKER, ledger.file.name) for _ in range(3)]
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
        assert set(finished(ledger.rows(), Budget())) == set(cells()[:40])

    def test_a_dead_worker_holds_nothing(self, ledger):
        worker = process(HOLDER, ledger.file.name, stdout=subprocess.PIPE)
        try:
            assert worker.stdout.readline().strip() == "|".join(map(str, CELLS[0]))
            assert list(ledger.left(CELLS, Budget())) == CELLS[1:]
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait(60)
            worker.stdout.close()
        assert list(ledger.left(CELLS, Budget())) == CELLS
