"""DVC's own command line, with fewer words about what these stages say themselves.

    python -m selma.dvc repro
    python -m selma.dvc status

Left out are its warnings that the pretraining stages are frozen, which they are by design, and its second line where a
stage has said in one line what is wrong with its input, or that it was stopped; the exit code is then the stage's, 2 or
130. Before `repro` params.yaml, your own files and keys are checked: DVC deletes a stage's outs before the stage can
say what is wrong. dvc.lock is written at one stroke, which DVC does not, and one that was cut off is put back first
(selma/runtime/lockfile.py).
Everything else, with all options and exit codes, is DVC's. `make repro` runs this.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import write_text
from selma.planning.keys import check_keys
from selma.planning.own import check_own
from selma.runtime import command, lockfile, work
from selma.runtime.dvcfile import Stage, lacking, load_stages, reached
from selma.runtime.params import load_params

# Where DVC says it, and how: it has no setting for this.
_LOGGERS = ("dvc.repo.reproduce", "dvc.repo.status")
_FROZEN = "%s is frozen."
# How a stage ends that has said why in one line, and what a shell calls that: bad input; Ctrl-C, by exit or by signal.
_SAID = {2: 2, 130: 130, -2: 130}
_FAILED = 255  # DVC's exit code wherever a stage fails


def main(argv: Sequence[str]) -> int:
    """DVC's exit code, that of a stage which has said why it ended, or 2 for a params.yaml that no stage would take."""
    runs = argv[:1] == ["repro"] and not {"-h", "--help", "--dry"} & set(argv)
    if runs and Path("params.yaml").is_file() and (code := command.run(lambda: _check(argv[1:]))):
        return code
    lockfile.restore()
    from dvc.cli import main as dvc

    _write_whole()
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(lambda record: not str(record.msg).startswith(_FROZEN))
    ended: list[int] = []

    def news(record: logging.LogRecord) -> bool:
        code = _exit_code(record.exc_info[1]) if record.exc_info else None
        if code not in _SAID:
            return True
        ended.append(_SAID[code])
        return False

    logging.getLogger("dvc.cli").addFilter(news)
    code = dvc(list(argv))
    if code == 0 and argv[:1] == ["repro"] and all(word.startswith("-") for word in argv[1:]):
        with suppress(UserError, OSError):  # called in a subfolder, say
            work.tidy_all()  # nothing is out of date: what settings that were taken back have left is of no use
    return ended[-1] if ended and code == _FAILED else code


def _check(words: Sequence[str]) -> None:
    """What DVC finds late; `words` are those of `dvc repro`."""
    params, stages = load_params(), load_stages(Path.cwd())
    check_own(params)
    check_keys(params, _looked_at(stages, words), forced=bool({"-f", "--force"} & set(words)))
    if found := lacking(stages):
        raise UserError(f"{found[0]} needs {found[1]}, which is not here, and which no stage makes")


def _looked_at(stages: Mapping[str, Stage], words: Sequence[str]) -> set[str] | None:
    """The stages that DVC would look at, as far as the words say so; None: all of them."""
    targets = {word for word in words if not word.startswith("-")}
    if not targets or {"--downstream", "--force-downstream"} & set(words):
        return None
    if {"-s", "--single-item"} & set(words):
        return targets
    return reached(stages, targets)


def _write_whole() -> None:
    """Have DVC write its YAML files beside themselves, to be renamed into place when they are whole."""
    from dvc.utils.serialize import _common, _yaml

    def dump(path: Any, data: Any, dumper: Callable[..., Any], fs: Any = None, **options: Any) -> None:
        text = io.StringIO()
        dumper(data, text, **options)
        write_text(Path(path), text.getvalue())

    _common._dump_data = _yaml._dump_data = dump


def _exit_code(error: BaseException | None) -> int | None:
    """That of the command of the one stage whose failure is the reason for an error, or None."""
    from dvc.stage.exceptions import StageCmdFailedError

    reason = error.__cause__ if error else None
    if not isinstance(reason, StageCmdFailedError):
        return None
    found = re.search(r"exited with (-?\d+)$", str(reason))
    return int(found[1]) if found else None


if __name__ == "__main__":
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
