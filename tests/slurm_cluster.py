"""A real SLURM of one node on this machine, for tests: munged, slurmctld and slurmd of Debian, in a folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
LACKING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
WHY = "needs root and Debian's packages munge, slurmctld, slurmd and slurm-client"
CAN_START = not LACKING and hasattr(os, "geteuid") and os.geteuid() == 0
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
KillWait=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The variables by which SLURM's commands find a cluster that runs in `folder`; raises RuntimeError with its logs
    where it does not start."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host, ports = socket.gethostname().split(".")[0], [_free_port(), _free_port()]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, ports=ports, cpus=os.cpu_count()))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    folder.chmod(0o755)
    environment = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    places = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *places]
    running = []
    try:
        for words in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(subprocess.Popen(words, env={**os.environ, **environment}, **quiet))
            time.sleep(0.5)
        until = time.monotonic() + 30
        while _state(environment) != "idle":
            if time.monotonic() > until:
                logs = "".join(path.read_text()[-500:] for path in folder.glob("*.log"))
                raise RuntimeError(f"SLURM does not start: {logs}")
            time.sleep(0.2)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(20)


def _state(environment: dict[str, str]) -> str:
    words = ["sinfo", "--noheader", "--format=%T"]
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True)
    return done.stdout.strip()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
