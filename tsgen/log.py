"""Where a training stage is, and its metrics as JSON lines."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Progress:
    """Where a stage is."""

    step: int = 0
    total: int = 0  # 0 until it is known
    best: float | None = None  # lowest validation loss
    since_best: int = 0
    seconds: float = 0.0


class Log:
    """Metrics as JSON lines; a resumed run leaves neither gap nor repetition."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def write(self, stage: str, now: Progress, line: dict[str, float]) -> dict[str, float]:
        if self.path is not None:
            place = {"stage": stage, "step": now.step, "seconds": round(now.seconds, 3)}
            with self.path.open("a") as file:
                file.write(json.dumps(place | line) + "\n")
        return line

    def clear(self) -> None:
        """Forget a run that was killed before its first checkpoint."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def cut(self, stage: str, step: int) -> None:
        """Forget what a killed run wrote after its last checkpoint."""
        if self.path is None or not self.path.exists():
            return
        kept = []
        for text in self.path.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # half a line: the run was killed while writing it
                break
            kept.append(text)
            if (line["stage"], line["step"]) == (stage, step):
                break
        self.path.write_text("".join(f"{text}\n" for text in kept))
