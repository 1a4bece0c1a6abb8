"""What a stage tells MLflow: its params, metrics, loss curve and a few images. Never fails or slows a stage.

Importing MLflow takes a process two seconds and opening its store several, times forty stages. So a stage
only appends JSON lines to a spool, `.work/tracking/<time>-<pid>.jsonl`, and one recorder process
(recorder.py, started here when none runs) hands the lines over to MLflow while the stages continue.

    with tracking.stage_run("expert@count"):
        tracking.log_metric("loss", 0.12, step=1)

`SELMA_TRACKING=off` turns it off; outside a run the log functions do nothing. `python -m selma.runtime.recorder`
waits until everything is handed over.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from selma.ground.errors import UserError, first_line
from selma.runtime import facts, timing
from selma.runtime.facts import flatten
from selma.runtime.places import home

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_spool: Spool | None = None  # of the stage this process runs


def off() -> bool:
    """Whether the environment turns tracking off."""
    return os.environ.get("SELMA_TRACKING", "").lower() in ("off", "0", "false", "no")


@contextmanager
def stage_run(name: str) -> Iterator[None]:
    """Record the body as the MLflow run of stage `name`; whatever the body raises passes through."""
    global _spool
    if off():
        yield
        return
    _try(_open, name)
    status = "FINISHED"
    try:
        yield
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        if _spool:
            _try(_close, name, status)
            _spool = None


def log_metric(name: str, value: float, step: int = 0) -> None:
    """A point of a curve, e.g. the loss at a step; visible in `mlflow ui` a second later."""
    if _spool:
        _try(_spool.write, event="metric", name=name, value=float(value), step=int(step))


def log_row(row: Mapping[str, float]) -> None:
    """A row of a curve, all of its columns at the step `round`."""
    for name, value in row.items():
        if name != "round":
            log_metric(name, value, int(row["round"]))


def log_results(results: Mapping[str, Mapping[str, float]]) -> None:
    """Results of the whole pipeline with their intervals (mean, low, high): metrics of the parent run.

    `gain` is then the mean, `gain.low` and `gain.high` its interval, and MLflow sorts pipeline executions by it.
    """
    for name, found in results.items() if _spool else ():
        for part in ("mean", "low", "high"):
            label = name if part == "mean" else f"{name}.{part}"
            _try(_spool.write, event="result", name=label, value=float(found[part]))


def log_image(path: Path, name: str) -> None:
    """Keep a copy of an image file as the run's artifact `name`, with the file's ending."""
    if _spool:
        _try(_spool.image, path, name)


def spools(root: Path) -> Path:
    """The folder of the spools, and of the recorder's lock and log."""
    return root / ".work" / "tracking"


def redact(value: Any) -> Any:
    """`value` (plain data) with every secret of the environment, and every password in a URL, as ***."""
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if not isinstance(value, str):
        return value
    secrets = {text for name, text in os.environ.items() if SECRET.search(name) and len(text) >= 6}
    for secret in sorted(secrets, key=len, reverse=True):
        value = value.replace(secret, "***")
    return re.sub(r"://[^/@\s]+@", "://***@", value)


class Spool:
    """An open spool. Its lock tells the recorder that the stage is alive: it is released when the process ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{time.time_ns()}-{os.getpid()}.jsonl"
        # Locked under a name that the recorder does not look for, so that it never sees it unlocked.
        temporary = self.path.with_suffix(".new")
        self.file: IO[str] = open(  # noqa: SIM115
            temporary, "w", encoding="utf-8", errors="replace", buffering=1
        )
        fcntl.flock(self.file, fcntl.LOCK_EX)
        temporary.rename(self.path)

    def write(self, **event: Any) -> None:
        line = json.dumps(redact({"time": time.time_ns() // 1_000_000, **event}), ensure_ascii=False)
        self.file.write(line + "\n")

    def image(self, path: Path, name: str) -> None:
        folder = self.path.with_suffix(".files")
        folder.mkdir(exist_ok=True)
        file = folder / f"{Path(name).name.removesuffix(path.suffix)}{path.suffix}"
        shutil.copyfile(path, file)
        self.write(event="image", file=f"{folder.name}/{file.name}")


def _open(name: str) -> None:
    global _spool
    _warn_of_failure()
    _spool = Spool(spools(home()))
    _spool.write(event="start", stage=name, **facts.of_stage(name))
    _start_recorder()


def _close(name: str, status: str) -> None:
    from selma.runtime.dvcfile import load_stages

    stage = load_stages(Path.cwd()).get(name) if Path("dvc.yaml").is_file() else None
    made = (*stage.outs, *stage.metrics) if stage and status == "FINISHED" else ()
    for path in made:
        if not (path.startswith("metrics/") and path.endswith(".json") and Path(path).is_file()):
            continue  # a file that is missing is DVC's to report
        values = flatten(json.loads(Path(path).read_text(encoding="utf-8")))
        file = Path(path).relative_to("metrics").with_suffix("").as_posix()
        _spool.write(event="metrics", file=file, values={k: v for k, v in values.items() if _number(v)})
    _spool.write(event="end", status=status)
    _spool.file.close()
    _start_recorder()  # it may have exited since


def _start_recorder() -> None:
    """Start a recorder unless one is running. It outlives the stage, and Ctrl-C does not reach it."""
    root = home()
    with open(spools(root) / "recorder.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    with open(spools(root) / "recorder.log", "a") as log:
        subprocess.Popen(
            [sys.executable, "-m", "selma.runtime.recorder", "--linger"],
            cwd=Path(__file__).parents[2] if not (root / "selma").is_dir() else root,
            env={**os.environ, "DVC_ROOT": str(root.resolve())},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _warn_of_failure() -> None:
    """Report once what the recorder could not do; it has no terminal of its own."""
    failed = spools(home()) / "failed"
    if failed.is_file():
        _warn(first_line(UserError(failed.read_text(encoding="utf-8", errors="replace"))))
        failed.unlink(missing_ok=True)


def _warn(problem: str) -> None:
    print(f"warning: MLflow tracking: {redact(problem)}; the stage continues", file=sys.stderr, flush=True)


@timing.phase("tracking")
def _try(call: Any, *args: Any, **kwargs: Any) -> None:
    """Call, and on any failure warn once and record nothing more in this process."""
    global _spool
    try:
        call(*args, **kwargs)
    except UserError:
        _spool = None  # bad params or a bad dvc.yaml: the stage itself reports it, in its one line
    except Exception as error:
        _warn(f"{type(error).__name__}: {first_line(error)[:200]}")
        _spool = None
