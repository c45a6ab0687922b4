"""A real Slurm cluster on one machine: controller, three nodes (one with two pretended GPUs), munge; no accounting.

Needs Debian's packages slurm-wlm, slurm-client and munge, and root. Everything lies in one folder but the links in
/etc/slurm: the executor strips SLURM_CONF from the jobs' environment, so the configuration must be where Slurm looks.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol")
NODES = {"n1": 17001, "n2": 17002, "g1": 17003}
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a short life of credentials lets a job that is started again begin soon
AuthInfo=socket={root}/munge.sock,cred_expire=10
CredType=cred/munge
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdLogFile={root}/log/slurmd-%n.log
SlurmdSpoolDir={root}/spool/%n
# nodes may claim more cores and memory than the machine has
SlurmdParameters=config_overrides
# a step is a group of processes: what is left of it when its first process ends is killed, as sites with cgroups do it,
# also a process whose parent died (linuxproc follows parents, and loses it)
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
ReturnToService=2
# finished jobs stay in the controller's memory, where tests and the executor look for them
MinJobAge=3600
KillWait=5
# jobs in a partition of a higher tier take the nodes of others, which are queued again if they were submitted so
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=0
SlurmdTimeout=20
BatchStartTimeout=10
PropagateResourceLimits=NONE
SchedulerParameters=bf_interval=5,sched_interval=5,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
{nodes}
PartitionName=cpu Nodes=n1,n2 Default=YES DefMemPerCPU=500 DefaultTime=10 MaxTime=120 State=UP
PartitionName=gpu Nodes=g1 PriorityTier=1 DefMemPerCPU=500 DefaultTime=10 MaxTime=120 State=UP
PartitionName=urgent Nodes=g1 PriorityTier=10 PreemptMode=OFF DefMemPerCPU=500 DefaultTime=10 MaxTime=120 State=UP
"""
SETTINGS = Path("/etc/slurm")
PREFIX = "slurm"  # of the clusters' folders, in the folder for temporary files
FILES = ("slurm.conf", "gres.conf", "cgroup.conf")


@dataclass(frozen=True)
class Job:
    """What the controller says of a job.

    Attributes:
        rule: Rule of the workflow (from the comment that the executor gives).
        fields: Every `Name=value` of `scontrol show job`.
    """

    rule: str
    fields: dict[str, str]

    @property
    def id(self) -> str:
        """Number of the job."""
        return self.fields["JobId"]

    @property
    def gpus(self) -> int:
        """GPUs that it asked for."""
        found = re.search(r"gpu(?::\w+)?:(\d+)", self.fields.get("TresPerJob", ""))
        return int(found[1]) if found else 0

    @property
    def restarts(self) -> int:
        """How often Slurm has queued it again."""
        return int(self.fields["Restarts"])

    @property
    def memory_mb(self) -> int:
        """Memory that it got."""
        number, unit = re.findall(r"mem=([\d.]+)([MGT]?)", self.fields["TRES"])[0]
        return round(float(number) * {"": 1, "M": 1, "G": 1024, "T": 1024**2}[unit])


class Cluster:
    """A cluster in a folder; `start` and `stop` it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def missing() -> list[str]:
        """Return what of Slurm is not installed."""
        return [name for name in PROGRAMS if shutil.which(name) is None]

    @staticmethod
    def occupied() -> list[Path]:
        """Return the settings of a Slurm that is not this one; what tests left that were killed is removed."""
        places = [SETTINGS / name for name in FILES]
        for path in places:
            if path.is_symlink() and _is_left_over(path.readlink()):
                path.unlink()
        return [path for path in places if path.is_symlink() or path.exists()]

    def start(self) -> None:
        """Start munge, the controller and the nodes; return once all nodes are idle."""
        for folder in ("state", "log", *(f"spool/{name}" for name in NODES)):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)  # munge refuses a socket whose folder others cannot enter
        self._write_settings()
        key = self.root / "munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            key.chmod(0o400)
        names = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munged.seed"}
        options = [f"--{option}={self.root / name}" for option, name in names.items()]
        _run("munged", *options, f"--log-file={self.root / 'log' / 'munged.log'}")
        _run("slurmctld")
        wait_for(lambda: _try("scontrol", "ping"), "the controller")
        for name in NODES:
            self.start_node(name)
        wait_for(lambda: set(self.nodes("idle")) == set(NODES), "idle nodes")

    def stop(self) -> None:
        """Stop everything that `start` started, and the jobs that still run."""
        try:
            self._end_jobs()
        finally:
            for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munged"):
                self._signal(name, signal.SIGTERM)
            try:
                wait_for(lambda: not (self.root / "slurmctld.pid").exists(), "the end of the controller")
            finally:
                self._remove_settings()

    def start_node(self, name: str) -> None:
        """Start a node's daemon."""
        _run("slurmd", "-N", name)

    def submit(self, *options: str) -> str:
        """Submit a job beside the study's; return its number."""
        return _output("sbatch", "--parsable", "--output=/dev/null", *options).strip()

    @contextmanager
    def grace(self, partition: str, seconds: int) -> Iterator[None]:
        """Give preempted jobs of a partition so many seconds between a first SIGTERM and their end."""
        change = ("scontrol", "update", f"PartitionName={partition}")
        _run(*change, f"GraceTime={seconds}")
        try:
            yield
        finally:
            _run(*change, "GraceTime=0")

    def crash(self, name: str) -> None:
        """Kill a node's daemon and all that its jobs run, as a machine does that loses power."""
        self._signal(f"slurmd-{name}", signal.SIGKILL)
        for job in self.jobs("RUNNING"):
            if job.fields.get("NodeList") == name:
                for process in processes_of(job.id):
                    _kill(process)

    def nodes(self, state: str) -> list[str]:
        """Return the nodes in a state."""
        shown = _output("sinfo", "--noheader", "--Node", f"--states={state}", "--format=%N")
        return sorted(set(shown.split()))

    def jobs(self, *states: str) -> list[Job]:
        """Return the jobs that the controller knows, oldest first; only those in some states where any are named."""
        found = []
        for block in _output("scontrol", "show", "job").strip().split("\n\n"):
            fields = dict(item.split("=", 1) for item in block.split() if "=" in item)
            comment = re.search(r"Comment=(.*)", block)
            rule = re.search(r"rule_(\w+?)(?:_wildcards|$|\s)", comment[1]) if comment else None
            if "JobId" in fields and (not states or fields["JobState"] in states):
                found.append(Job(rule[1] if rule else "", fields))
        return found

    def _write_settings(self) -> None:
        if occupied := self.occupied():
            raise FileExistsError(f"another Slurm is set up here: {', '.join(map(str, occupied))}")
        host = socket.gethostname().split(".")[0]
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=16000"
            f"{' Gres=gpu:h200:2' if name == 'g1' else ''} State=UNKNOWN"
            for name, port in NODES.items()
        ]
        texts = {
            "slurm.conf": CONFIGURATION.format(host=host, root=self.root, nodes="\n".join(nodes)),
            "gres.conf": "AutoDetect=off\nNodeName=g1 Name=gpu Type=h200 File=/dev/tty6[0-1]\n",
            "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
        }
        SETTINGS.mkdir(exist_ok=True)
        for name in FILES:
            (self.root / name).write_text(texts[name])
            (SETTINGS / name).symlink_to(self.root / name)

    def _remove_settings(self) -> None:
        for name in FILES:
            path = SETTINGS / name
            if path.is_symlink() and path.readlink() == self.root / name:
                path.unlink()

    def _end_jobs(self) -> None:
        if (self.root / "slurmctld.pid").exists() and _try("scontrol", "ping"):
            _try("scancel", "--user=root")
            wait_for(lambda: not self.jobs("RUNNING", "COMPLETING"), "the end of all jobs", seconds=30)

    def _signal(self, name: str, number: signal.Signals) -> None:
        path = self.root / f"{name}.pid"
        if path.exists():
            _kill(int(path.read_text()), number)


def _is_left_over(settings: Path) -> bool:
    """Return whether settings are those of a tests' cluster whose controller is gone."""
    if not (settings.parent.name.startswith(PREFIX) and settings.parent.parent == Path(tempfile.gettempdir())):
        return False
    try:
        return not Path(f"/proc/{int((settings.parent / 'slurmctld.pid').read_text())}").exists()
    except (OSError, ValueError):
        return not settings.exists()


def processes_of(job: str) -> list[int]:
    """Return the processes of a job, Slurm's own among them, youngest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            environment = (path / "environ").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        daemon = re.search(rb"slurmstepd: \[%s\." % job.encode(), command)
        if daemon or f"SLURM_JOB_ID={job}".encode() in environment.split(b"\0"):
            found.append(int(path.name))
    return sorted(found, reverse=True)


def wait_for(condition: Callable[[], object], what: str, *, seconds: float = 60) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: If it does not within the time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.3)


def _kill(process: int, number: signal.Signals = signal.SIGKILL) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:  # it has ended meanwhile
        return


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _try(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
