"""Count what becomes of memories in files when things go wrong.

`python tests/faults.py [--full] [CASE ...]` runs cases at the level of what a user calls,
`Memory` and the command line, and prints a table: how often each case had which outcome. Every
case names the outcomes that are allowed; the exit status is 1 if there was any other. With
`--full` cases take minutes, else seconds; `test_faults.py` runs them as tests.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import functools
import hashlib
import io
import itertools
import os
import pickle
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import resmem
import resmem._cli.commands  # before any child loses the right to read it
from fuzz.fuzz_container import manifest_of, root
from resmem.__main__ import main as resmem_main

PATIENCE = 60  # seconds after which what should have ended counts as hung
MIB = 1 << 20
PAGE = 4096
EVERYTHING = sys.maxsize


class Skipped(Exception):  # noqa: N818
    """This machine or user cannot run the case; the text says why."""


@dataclass(frozen=True)
class Case:
    """A kind of fault. ``run`` takes a folder and a number of runs, and yields their outcomes."""

    name: str
    run: Callable[[Path, int], Iterator[str]]
    allowed: tuple[str, ...]
    few: int
    many: int

    def outcomes(self, full: bool) -> Counter[str]:
        """Return how often the case had each outcome."""
        with tempfile.TemporaryDirectory(prefix="resmem-faults-") as name:
            os.chmod(name, 0o755)  # so that other users can enter
            return Counter(self.run(Path(name), self.many if full else self.few))

    def others(self, outcomes: Counter[str]) -> list[str]:
        """Return the outcomes that are not allowed."""
        return sorted(set(outcomes) - set(self.allowed))


CASES: dict[str, Case] = {}


def case(name: str, *allowed: str, few: int, many: int):
    """Register a function as a case."""

    def register(run):
        CASES[name] = Case(name, run, allowed, few, many)
        return run

    return register


# ---- Memories and digests of their answers ---------------------------------------------------


def rows(seed, n, d=4, columns=3):
    """Return embeddings, outputs and targets."""
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((n, d), dtype=np.float32)
    return keys, rng.standard_normal((n, columns), dtype=np.float32), rng.integers(0, columns, n)


def fitted(seed, n, d=4, columns=3, **options):
    """Return a memory whose rows, and so whose answers, are drawn from ``seed``."""
    options = {"k": 3, "sigma": 1.0, **options}
    keys, outputs, targets = rows(seed, n, d, columns)
    if options.get("store") == "head":
        outputs = None
    return resmem.Memory(**options).fit(keys, outputs, targets)


def answers(memory):
    """Return a digest of a memory's answers; it does not depend on where its rows lie."""
    about = memory.info()
    queries, outputs, _ = rows(99, 5 + len(memory) // 200, about["d"], about["columns"])
    corrected = memory.correct(queries, None if memory.store == "head" else outputs)
    parts = [corrected, *memory.kneighbors(queries)]
    settings = f"{len(memory)} {memory.k} {memory.sigma_} {memory.temperature} {memory.strength}"
    return digest(settings.encode(), *(part.tobytes() for part in parts))


def digest(*parts):
    return hashlib.sha256(b"".join(parts)).hexdigest()


def loaded(path):
    """Return the digest of the memory in a file, with every block verified."""
    return answers(resmem.Memory.load(path))


def contents(folder):
    """Return the content of every file of a folder, hidden ones included."""
    return {entry.name: Path(entry.path).read_bytes() for entry in os.scandir(folder)}


# ---- Other processes -------------------------------------------------------------------------


class Child:
    """A forked process that works and sends lines of text."""

    def __init__(self, work: Callable[[Callable[[str], None]], None]) -> None:
        read, write = os.pipe()
        sys.stdout.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads warns
            self.pid = os.fork()
        if self.pid == 0:  # never back to the caller
            status = 1
            try:
                signal.alarm(PATIENCE)
                work(lambda line: os.write(write, f"{line}\n".encode()) and None)
                status = 0
            except BaseException as error:
                os.write(write, f"{described(error)}\n".encode())
            finally:
                os._exit(status)
        os.close(write)
        self._pipe = open(read)  # noqa: SIM115
        self._status: int | None = None

    def line(self) -> str:
        """Return the next line that it sends; "" when it has ended."""
        return self._pipe.readline().rstrip("\n")

    def working(self) -> bool:
        """Return whether it still runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is None

    def end(self) -> tuple[list[str], str]:
        """Return the rest of its lines, and how it ended: "" if with status 0."""
        with self._pipe:
            lines = self._pipe.read().splitlines()
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        code = os.waitstatus_to_exitcode(self._status)
        return lines, signal.Signals(-code).name if code < 0 else f"exit {code}" if code else ""


def in_child(work: Callable[[], str]) -> str:
    """Return the outcome of `work` in a forked child, or the signal that ended the child."""
    lines, ended = Child(lambda say: say(work())).end()
    return " ".join([*lines[-1:], *([ended] if ended.startswith("SIG") else [])])


def described(error):
    return " ".join(f"{type(error).__name__}: {error}".split())


def command(*words):
    """Run the command line in this process; return its status and standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = resmem_main([str(word) for word in words])
        except SystemExit as leave:
            status = leave.code
    return status, said.getvalue()


# ---- Damage ----------------------------------------------------------------------------------


def saved(path):
    """Write a file with one save."""
    fitted(0, 3).save(path)


def appended(path):
    """Write a file with a save and two appends, each after a removal."""
    memory = fitted(0, 3).save(path)
    for turn in range(2):
        memory.add(*rows(turn + 1, 2)).remove([turn]).save(path, append=True)


def read(path, wanted):
    """Return the outcome of loading a file that was tampered with."""
    try:
        return "same" if loaded(path) == wanted else "other answers"
    except resmem.FileFormatError:
        return "refused"
    except Exception as error:
        return described(error)


def some(items, count):
    """Return a random sample of ``count`` items, or all if there are no more."""
    return items if count >= len(items) else random.Random(0).sample(items, count)


def flips(make):
    """Change single bytes: each by a bit, and those of fields to every other value."""

    def run(folder, count):
        path = folder / "m.resmem"
        make(path)
        data, wanted = path.read_bytes(), loaded(path)
        fields = [PAGE * page + at for page in range(3) for at in (*range(32), *range(4092, 4096))]
        _, manifest, length = root(data)
        fields += range(manifest, manifest + length)
        assert len(manifest_of(data)) == length
        bits = [(at, byte ^ 1 << at % 8) for at, byte in enumerate(data)]
        values = [(at, value) for at in fields for value in range(256) if value != data[at]]
        with open(path, "r+b", buffering=0) as file:
            for at, value in (*some(bits, count // 2), *some(values, count // 2)):
                os.pwrite(file.fileno(), bytes([value]), at)
                yield read(path, wanted)
                os.pwrite(file.fileno(), data[at : at + 1], at)

    return run


def truncations(make):
    """Cut files short at any byte; load them in Python and on the command line."""

    def run(folder, count):
        path = folder / "m.resmem"
        make(path)
        length, wanted = path.stat().st_size, loaded(path)
        step = max(1, length // count)
        for size in range(length - 1, -1, -step):
            os.truncate(path, size)
            outcome = read(path, wanted)
            status, said = command("verify", path)
            told = (status, said.count("\n")) == (2, 1) and said.startswith("resmem: error: ")
            yield outcome if told else f"verify: {status} {said!r}"

    return run


def junk(make):
    """Add bytes behind the end, as a killed append leaves them; the next one drops them."""

    def run(folder, count):
        path = folder / "m.resmem"
        make(path)
        data, rng = path.read_bytes(), random.Random(0)
        for turn in range(count):
            path.write_bytes(data + rng.randbytes(turn if turn < 100 else rng.randrange(20_000)))
            memory = resmem.Memory.load(path)
            before = answers(memory)
            outcome = read(path, before)
            memory.add(*rows(turn, 1)).save(path, append=True)
            yield outcome if read(path, answers(memory)) == "same" else "lost by an append"

    return run


for make in (saved, appended):
    case(f"flips-{make.__name__}", "refused", "same", few=500, many=EVERYTHING)(flips(make))
    case(f"truncations-{make.__name__}", "refused", few=50, many=EVERYTHING)(truncations(make))
    case(f"junk-{make.__name__}", "same", few=20, many=1000)(junk(make))


# ---- Kills -----------------------------------------------------------------------------------

BATCH = 4000  # rows of 128 values: an append of some megabytes


def batch(i):
    """Return the rows that append number ``i`` adds."""
    return *rows(i, BATCH, 128), np.arange(BATCH * i, BATCH * (i + 1))


def window(i):
    """Return the memory after append number ``i``: the last three batches."""
    memory = resmem.Memory(k=3, sigma=1.0, strength=i).fit(*batch(i))
    for before in range(max(0, i - 2), i):
        memory.add(*batch(before))
    return memory


def keeps_saving(path):
    """Return work that saves one window after the other over a file."""
    windows = [window(i) for i in range(3)]

    def work(say):
        for memory in itertools.cycle(windows):
            say(f"begins {int(memory.strength)}")
            memory.save(path)
            say(f"did {int(memory.strength)}")

    return work


def keeps_appending(path):
    """Return work that appends one batch after the other, and removes the fourth last."""

    def work(say):
        memory = resmem.Memory.load(path)
        while True:
            i = int(memory.strength) + 1
            say(f"begins {i}")
            memory.add(*batch(i))
            if i > 2:
                memory.remove(batch(i - 3)[-1])
            memory.strength = i
            memory.save(path, append=True)
            say(f"did {i}")

    return work


def replaced(i):
    """Return the memory after update number ``i``, which replaces all rows of one batch."""
    return resmem.Memory(k=3, sigma=1.0, strength=i).fit(*rows(i, BATCH, 128))


def keeps_updating(path):
    """Return work that appends one update of all rows after the other."""

    def work(say):
        memory = resmem.Memory.load(path)
        while True:
            i = int(memory.strength) + 1
            say(f"begins {i}")
            memory.update(np.arange(BATCH), *rows(i, BATCH, 128))
            memory.strength = i
            memory.save(path, append=True)
            say(f"did {i}")

    return work


def kills(work_on, state=window):
    """Kill a process at random moments: its file is the old state or the new one, whole.

    ``state`` gives the memory after each step of the work.
    """

    def run(folder, count):
        path, rng = folder / "m.resmem", random.Random(0)
        state(2).save(path)
        work, expected = work_on(path), functools.cache(lambda i: answers(state(i)))
        for _ in range(count):
            said = [f"did {int(resmem.Memory.load(path).strength)}"]
            child = Child(work)
            said.append(child.line())
            time.sleep(rng.uniform(0, 0.2))
            os.kill(child.pid, signal.SIGKILL)
            more, ended = child.end()
            said += more
            yield after_kill(path, said, expected) if ended == "SIGKILL" else f"{said[-1]} {ended}"

    return run


def after_kill(path, said, expected):
    """Return what a killed process left, given the lines that it sent."""
    old = [int(line.split()[1]) for line in said if line.startswith("did ")][-1]
    word, new = said[-1].split()
    memory = resmem.Memory.load(path)
    i = int(memory.strength)
    if i not in (old, int(new)) or answers(memory) != expected(i):
        return f"damaged: state {i} after {said[-1]!r}"
    beside = [path.with_name(name) for name in os.listdir(path.parent) if name != path.name]
    for other in beside:
        if not other.name.startswith(".m.resmem.") or loaded(other) != expected(int(new)):
            return f"left {other.name}"
    for append in (True, False):
        memory.save(path, append=append)
        if loaded(path) != expected(i):
            return f"damaged by the next save(append={append})"
    if any(other.exists() for other in beside):
        return "not removed by the next save"
    if beside:
        return "old, new beside it"
    return "between" if word == "did" else "new" if i == int(new) else "old"


# The last outcome is rare: a kill between the two calls that name the new file and move it.
case("kill-save", "old", "new", "between", "old, new beside it", few=4, many=100)(
    kills(keeps_saving)
)
case("kill-append", "old", "new", "between", few=4, many=100)(kills(keeps_appending))
case("kill-update", "old", "new", "between", few=3, many=100)(kills(keeps_updating, replaced))


# ---- No room ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Action:
    """A call that reads or writes a file, and a digest of its result."""

    target: str
    ready: Callable[[Path], Callable[[], object]]  # takes the folder, returns the call
    result: Callable[[Path], str]
    extends: bool = False  # appends to the file that is there


def arrays_of(path):
    """Return a digest of the arrays in a .npy or .npz file."""
    found = np.load(path)
    named = {"": found} if isinstance(found, np.ndarray) else found
    return digest(*(name.encode() + named[name].tobytes() for name in sorted(named)))


def bytes_of(path):
    """Return a digest of a file."""
    return digest(path.read_bytes())


class Refused(Exception):  # noqa: N818
    """The command line ended with status 2; the text is its message."""


def run_line(line, folder):
    """Run a command line; raise Refused if it ends with status 2 and one line."""
    status, said = command(*words(line, folder), "--quiet")
    if status == 2 and said.startswith("resmem: error: ") and said.count("\n") == 1:
        raise Refused(said)
    if (status, said) != (0, ""):
        raise RuntimeError(f"status {status}, {said!r}")


def words(line, folder):
    """Return the words of a line: OUT is the folder of its target, IN that of its inputs."""
    return line.replace("IN/", f"{folder.parent}/inputs/").replace("OUT/", f"{folder}/").split()


def saving(folder):
    memory = fitted(5, 5000, 4, 40)
    return lambda: memory.save(folder / "m.resmem")


def appending(folder):
    memory = resmem.Memory.load(folder / "m.resmem").add(*rows(5, 5000, 4, 40))
    memory.remove([0, 2001])
    return lambda: memory.save(folder / "m.resmem", append=True)


def exporting(name):
    def ready(folder):
        memory = fitted(5, 5000, 4, 40)
        return lambda: memory.export(folder / name)

    return ready


def loading(folder):
    return lambda: resmem.Memory.load(folder / "m.resmem")


def running(name):
    return lambda folder: lambda: run_line(LINES[name], folder)


_ROWS = "--embeddings IN/rows.npz --outputs IN/rows.npz"
LINES = {
    "resmem-info": "info OUT/m.resmem",
    "resmem-fit": f"fit OUT/m.resmem --force {_ROWS} --targets IN/rows.npz",
    "resmem-add": f"add OUT/m.resmem {_ROWS} --targets IN/rows.npz",
    "resmem-update": "update OUT/m.resmem "
    + _ROWS.replace("rows.npz", "few.npz")
    + " --targets IN/few.npz --ids IN/few.npz",
    "resmem-merge": "merge IN/m.resmem IN/other.resmem --force -o OUT/m.resmem",
    "resmem-get": "get IN/m.resmem -o OUT/p.npz",
    "resmem-audit": "audit IN/m.resmem -o OUT/a.csv",
    "resmem-prune": "prune IN/m.resmem --keep 0.5 --force -o OUT/m.resmem",
    "resmem-predict": f"predict IN/m.resmem {_ROWS} --what correct -o OUT/p.npy",
    "resmem-neighbors": f"predict IN/m.resmem {_ROWS} --what neighbors -o OUT/p.npz",
    "resmem-export": "export IN/m.resmem OUT/e.npz",
}
READS = {
    "load": Action("m.resmem", loading, loaded),
    "resmem-info": Action("m.resmem", running("resmem-info"), loaded),
}
WRITES = {
    "save": Action("m.resmem", saving, loaded),
    "append": Action("m.resmem", appending, loaded, extends=True),
    "export-npz": Action("e.npz", exporting("e.npz"), loaded),
    "export-safetensors": Action("e.safetensors", exporting("e.safetensors"), loaded),
    "resmem-fit": Action("m.resmem", running("resmem-fit"), loaded),
    "resmem-add": Action("m.resmem", running("resmem-add"), loaded, extends=True),
    "resmem-update": Action("m.resmem", running("resmem-update"), loaded, extends=True),
    "resmem-merge": Action("m.resmem", running("resmem-merge"), loaded),
    "resmem-get": Action("p.npz", running("resmem-get"), arrays_of),
    "resmem-audit": Action("a.csv", running("resmem-audit"), bytes_of),
    "resmem-prune": Action("m.resmem", running("resmem-prune"), loaded),
    "resmem-predict": Action("p.npy", running("resmem-predict"), arrays_of),
    "resmem-neighbors": Action("p.npz", running("resmem-neighbors"), arrays_of),
    "resmem-export": Action("e.npz", running("resmem-export"), loaded),
}


def inputs(folder, n=5000):
    """Write the files that the command lines read."""
    (folder / "inputs").mkdir()
    keys, outputs, targets = rows(6, n, 4, 40)
    np.savez(folder / "inputs" / "rows.npz", embeddings=keys, outputs=outputs, targets=targets)
    few = {"embeddings": keys[:1500], "outputs": outputs[:1500], "targets": targets[:1500]}
    np.savez(folder / "inputs" / "few.npz", **few, ids=np.arange(1500) + 100)
    fitted(7, n, 4, 40).save(folder / "inputs" / "m.resmem")
    other = resmem.Memory(k=3, sigma=1.0).fit(*few.values(), ids=np.arange(1500) + n)
    other.save(folder / "inputs" / "other.resmem")


def earlier(action, folder):
    """Put an old file where the new one is to go."""
    path = folder / action.target
    memory = fitted(4, 2000, 4, 40)
    if path.suffix == ".resmem":
        memory.save(path)
    elif path.name.startswith("e."):
        memory.export(path)
    elif path.suffix == ".npy":
        np.save(path, np.arange(3))
    elif path.suffix == ".csv":
        path.write_text("earlier")
    else:
        np.savez(path, np.arange(3))


@contextmanager
def small_disk(folder):
    """Mount a disk of 8 MiB at the folder."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        raise Skipped("a tmpfs cannot be mounted here: not root, or not allowed")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def little_room(folder, room):
    """Leave only ``room`` bytes of the disk free."""
    disk = os.statvfs(folder)
    filler = folder / "filler"
    with open(filler, "wb") as file:
        size = disk.f_bavail * disk.f_frsize - room
        os.posix_fallocate(file.fileno(), 0, max(PAGE, size // PAGE * PAGE))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def largest_file(size):
    """Let no file grow beyond ``size`` bytes: writing fails, as Python ignores the signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@functools.cache
def undisturbed():
    """Return the digest and the file length of every action where nothing goes wrong."""
    with tempfile.TemporaryDirectory(prefix="resmem-faults-") as name:
        inputs(Path(name))
        found = {}
        for kind, action in (READS | WRITES).items():
            path = Path(name) / kind / action.target
            path.parent.mkdir()
            earlier(action, path.parent)
            action.ready(path.parent)()
            found[kind] = action.result(path), path.stat().st_size
        return found


def without_room(name, error):
    """Write with too little room: none, all but the last bytes, or anything between."""
    action, full = WRITES[name], error == errno.ENOSPC

    def run(folder, count):
        inputs(folder)
        wanted, length = undisturbed()[name]
        path, rng = folder / "disk" / action.target, random.Random(0)
        path.parent.mkdir()
        with small_disk(path.parent) if full else contextlib.nullcontext():
            for turn in range(count):
                earlier(action, path.parent)
                there = path.stat().st_size if action.extends else 0
                most = length - there - (2 * PAGE if full else 1)  # a disk hands out pages
                room = (0, most)[turn] if turn < 2 else rng.randrange(most)
                restriction = little_room(path.parent, room) if full else largest_file(there + room)
                yield one_without_room(action, path, restriction, error, wanted)
                path.unlink()

    return run


def one_without_room(action, path, restriction, error, wanted):
    """Return the outcome of a write under a restriction and then without it."""
    before, call = contents(path.parent), action.ready(path.parent)
    with restriction:
        try:
            call()
            return "it had room"
        except Refused as refused:
            if str(refused) != f"resmem: error: {os.strerror(error)}: {str(path)!r}\n":
                return described(refused)
        except OSError as raised:
            if (raised.errno, raised.filename) != (error, str(path)):
                return described(raised)
        except Exception as raised:
            return described(raised)
    if contents(path.parent) != before:
        return f"changed: {sorted(contents(path.parent))}"
    call()
    return "refused" if action.result(path) == wanted else "wrong when there was room"


for name in WRITES:
    case(f"full-disk-{name}", "refused", few=2, many=30)(without_room(name, errno.ENOSPC))
    case(f"file-limit-{name}", "refused", few=2, many=30)(without_room(name, errno.EFBIG))


# ---- Paths -----------------------------------------------------------------------------------


def _folder(path):
    path.unlink()
    path.mkdir()


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _dangling_link(path):
    _link(path)
    path.with_name("elsewhere").unlink()


def _no_folder(path):
    shutil.rmtree(path.parent)


@dataclass(frozen=True)
class Situation:
    """What is at a path, and the errors of reading, replacing and extending a file there."""

    make: Callable[[Path], None]
    reads: int = 0
    replaces: int = 0
    extends: int = 0

    def error(self, action: Action) -> int:
        if action in READS.values():
            return self.reads
        return self.extends if action.extends else self.replaces


SITUATIONS = {
    "read-only-file": Situation(lambda path: path.chmod(0o444), extends=errno.EACCES),
    "read-only-folder": Situation(lambda path: path.parent.chmod(0o555), replaces=errno.EACCES),
    "unreadable-file": Situation(
        lambda path: path.chmod(0o000), reads=errno.EACCES, extends=errno.EACCES
    ),
    "folder": Situation(_folder, errno.EISDIR, errno.EISDIR, errno.EISDIR),
    "missing-folder": Situation(_no_folder, errno.ENOENT, errno.ENOENT, errno.ENOENT),
    "pipe": Situation(_pipe, errno.EINVAL, errno.EINVAL, errno.EINVAL),
    "link": Situation(_link),
    "dangling-link": Situation(_dangling_link, reads=errno.ENOENT, extends=errno.ENOENT),
}


def is_refusal(error, code, path):
    """Return whether an exception has this code and path. For what the command line finds before
    it starts to work, it has words of its own."""
    if isinstance(error, Refused):
        return any(repr(str(named)) in str(error) for named in (path, path.parent))
    return isinstance(error, OSError) and (error.errno, error.filename) == (code, str(path))


def listing(folder):
    """Return mode, inode, size and time of every file of a folder."""
    if not folder.exists():
        return {}
    there = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(folder)}
    return {name: (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in there.items()}


def at_situation(situation, action, folder, wanted):
    """Return the outcome of a call on a path where no ordinary file is."""
    path, error = folder / action.target, situation.error(action)
    folder.mkdir()
    earlier(action, folder)
    call = action.ready(folder)
    situation.make(path)
    before = listing(folder)
    try:
        call()
    except Exception as raised:
        if not error or not is_refusal(raised, error, path):
            return described(raised)
        return "refused" if listing(folder) == before else f"changed: {listing(folder)}"
    if error:
        return f"done, expected {errno.errorcode[error]}"
    litter = set(listing(folder)) - set(before) - {"elsewhere"}
    if litter or stat.S_IFMT(path.lstat().st_mode) != stat.S_IFMT(before[path.name][0]):
        return f"left {listing(folder)}"
    path.chmod(0o600)
    return "done" if action.result(path) == wanted else "wrong result"


def as_nobody(work):
    """Return the outcome of `work` in a child that permissions bind."""

    def restricted():
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        return work()

    return in_child(restricted)


def paths(situation):
    """Run every action once in a situation."""

    def run(folder, _):
        inputs(folder)
        folder.chmod(0o777)
        for name, action in (READS | WRITES).items():
            wanted, _ = undisturbed()[name]
            work = functools.partial(at_situation, situation, action, folder / name, wanted)
            outcome = as_nobody(work)
            if "Operation not permitted" in outcome:
                raise Skipped("this process may not become another user")
            yield outcome if outcome in ("done", "refused") else f"{name}: {outcome}"

    return run


for name, situation in SITUATIONS.items():
    case(f"path-{name}", "done", "refused", few=1, many=1)(paths(situation))


# ---- Several processes -----------------------------------------------------------------------


def meanwhile(children, look):
    """Return the children's lines; call `look` while any of them works, and once more."""
    while any([child.working() for child in children]):
        look()
    look()
    said, ends = zip(*(child.end() for child in children), strict=True)
    if any(ends):
        raise RuntimeError(f"a child ended otherwise than planned: {ends}, {said}")
    return said


def saves_at_once(folder, count):
    """Two processes save to one path at once, and a third reads."""
    path, reads = folder / "m.resmem", []
    memories = [fitted(i, 40_000 + 1000 * i).remove([i]) for i in range(2)]
    states = {answers(memory): f"process {i}" for i, memory in enumerate(memories)}
    memories[0].save(path)
    for turn in range(count):
        order = memories if turn % 2 else memories[::-1]
        children = [Child(lambda _, memory=memory: memory.save(path)) for memory in order]
        meanwhile(children, lambda: reads.append(states.get(loaded(path), "damaged")))
        yield f"{reads[-1]} last" if os.listdir(folder) == [path.name] else "litter"
    yield from ("read" if state != "damaged" else state for state in reads)


def append_row(path, say, row=None):
    """Load, add a row and append; try again whenever another process was faster."""
    while True:
        memory = resmem.Memory.load(path)
        new = len(memory) if row is None else row
        try:
            memory.add(*rows(new, 1), ids=[new]).save(path, append=True)
        except resmem.FileFormatError:
            raise
        except ValueError as error:
            if "has changed since" not in str(error):
                raise
            say("refused")
        else:
            say(f"appended {new} to {int(memory.strength)}")
            return


def with_rows(memory, ids):
    """Return the memory after rows with these ids were added."""
    for row in ids:
        memory.add(*rows(row, 1), ids=[row])
    return memory


def appends_at_once(folder, count):
    """Two processes append to one file: every append that reported success is in it."""
    path, n, turns = folder / "m.resmem", 20_000, 5
    for _ in range(count):
        fitted(0, n).save(path)

        def work(say, first):
            for row in range(first, first + turns):
                append_row(path, say, row)

        firsts = (n, n + turns)
        children = [Child(lambda say, first=first: work(say, first)) for first in firsts]
        said = meanwhile(children, lambda: resmem.Memory.load(path))
        yield from (line.split()[0] for lines in said for line in lines)
        whole = loaded(path) == answers(with_rows(fitted(0, n), range(n, n + 2 * turns)))
        yield "all there" if whole else "lost"


def saves_beside_appends(folder, count):
    """One process saves over a file that another one appends to: an append is refused, or it is
    in the file until that is replaced."""
    path, n, last = folder / "m.resmem", 20_000, 8

    @functools.cache
    def expected(number, length):
        return answers(with_rows(fitted(0, n, strength=number), range(n, length)))

    def saves(_):
        memory = fitted(0, n)
        for memory.strength in range(1, last + 1):
            memory.save(path)
            time.sleep(0.02)

    def appends(say):
        for _ in range(25):
            append_row(path, say)

    def look():
        memory = resmem.Memory.load(path)
        reads.append(answers(memory) == expected(int(memory.strength), len(memory)))

    for _ in range(count):
        reads: list[bool] = []
        fitted(0, n, strength=0).save(path)
        _, said = meanwhile([Child(saves), Child(appends)], look)
        yield from (line.split()[0] for line in said)
        yield from ("read" if whole else "damaged" for whole in reads)
        there = sum(line.endswith(f" to {last}") for line in said)
        whole = loaded(path) == expected(last, n + there)
        yield "all there" if whole and os.listdir(folder) == [path.name] else "lost"


case("saves-at-once", "process 0 last", "process 1 last", "read", few=4, many=50)(saves_at_once)
case("appends-at-once", "appended", "refused", "all there", few=2, many=20)(appends_at_once)
case("saves-beside-appends", "appended", "refused", "read", "all there", few=1, many=20)(
    saves_beside_appends
)


# ---- Little memory ---------------------------------------------------------------------------


class World:
    """Memories, rows and files for calls under a memory limit."""

    def __init__(self, folder: Path) -> None:
        self.path, self.copy, self.export = (folder / name for name in ("m", "copy", "e.npz"))
        size = {"n": 8000, "d": 64, "columns": 50}
        weight = np.random.default_rng(3).standard_normal((50, 64), dtype=np.float32)
        self.dense, self.sparse = fitted(0, **size), fitted(0, **size, store="sparse:8")
        self.head = fitted(0, **size, store="head", head=(weight, None))
        self.more = rows(1, **size)
        self.queries, self.outputs, _ = rows(2, 1500, 64, 50)
        self.dense.save(self.path)
        self.content = self.path.read_bytes()
        self.continued = resmem.Memory.load(self.path).add(*self.more).remove(np.arange(100))
        self.worn = fitted(0, **size).remove(np.arange(100, 8000))

    def memories(self):
        return self.dense, self.sparse, self.head, self.continued, self.worn

    def state(self) -> list[str]:
        """Return digests of everything that a call may change."""
        self.path.write_bytes(self.content)
        return [answers(memory) for memory in self.memories()]


def of_value(value):
    """Return a digest of a call's result, or of the file that it wrote."""
    if isinstance(value, resmem.Memory):
        return answers(value)
    if isinstance(value, Path):
        return loaded(value)
    return digest(*(array.tobytes() for array in value))


LIMITED = {
    "fit-dense": lambda w, _: w.dense.fit(*w.more),
    "fit-sparse": lambda w, _: w.sparse.fit(*w.more),
    "fit-head": lambda w, _: w.head.fit(w.more[0], None, w.more[2]),
    "add": lambda w, _: w.dense.add(*w.more),
    "add-ids": lambda w, _: w.dense.add(*w.more, ids=8000 + 3 * np.arange(8000)),
    "add-compact": lambda w, _: w.worn.add(*w.more),
    "remove": lambda w, _: w.dense.remove(np.arange(0, 8000, 2)),
    "temperature": lambda w, _: setattr(w.dense, "temperature", 2.0) or w.dense,
    "search": lambda w, n: resmem.search(w.queries, w.more[0], 9, threads=n),
    "kneighbors": lambda w, n: w.dense.kneighbors(w.queries, threads=n),
    "correct-dense": lambda w, n: [w.dense.correct(w.queries, w.outputs, threads=n)],
    "correct-sparse": lambda w, n: [w.sparse.correct(w.queries, w.outputs, threads=n)],
    "correct-head": lambda w, n: [w.head.correct(w.queries, threads=n)],
    "predict_proba": lambda w, n: [w.dense.predict_proba(w.queries, w.outputs, threads=n)],
    "load": lambda w, _: resmem.Memory.load(w.path),
    "load-unverified": lambda w, _: resmem.Memory.load(w.path, verify=False),
    "save": lambda w, _: w.dense.save(w.copy) and w.copy,
    "save-removed": lambda w, _: w.worn.save(w.copy) and w.copy,
    "append": lambda w, _: w.continued.save(w.path, append=True) and w.path,
    "export": lambda w, _: w.dense.export(w.export) and w.export,
    "pickle": lambda w, _: pickle.loads(pickle.dumps(w.dense)),
    "estimate": lambda w, _: [  # without its times, which vary
        np.array([x.nbytes for x in resmem.Memory.estimate(10**6, 64, 50, budget=MIB).options])
    ],
}
SMALL = 512
M_MMAP_THRESHOLD, LARGE = -3, 128 << 10  # larger pieces come from the system and go back to it
MARGINS = (0, 8 * MIB, 2 * MIB, 32 * MIB, 128 * MIB)


@contextmanager
def little_memory(margin):
    """Limit address space to what is in use and a margin. Memory that the allocator still holds,
    freed or kept for threads, is taken first."""
    if ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE) != 1:
        raise RuntimeError("mallopt refuses a fixed threshold")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used, before = pages * resource.getpagesize(), resource.getrlimit(resource.RLIMIT_AS)
    taken, size = [], 64 * MIB
    resource.setrlimit(resource.RLIMIT_AS, (used, before[1]))
    try:
        while size >= SMALL:
            try:
                taken.append(np.empty(size, np.uint8))
            except MemoryError:
                size //= 2
        resource.setrlimit(resource.RLIMIT_AS, (used + margin, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def under_limit(call, world, threads, margin, before, wanted):
    """Return the outcome of a call that may lack memory: then it must change nothing."""
    os.environ["RESMEM_NUM_THREADS"] = f"{threads}"
    outcome = "done"
    try:
        with little_memory(margin):
            value = call(world, threads)
    except MemoryError:
        outcome = "MemoryError"
    if outcome == "MemoryError":
        if world.state() != before:
            return "MemoryError, and something changed"
        value = call(world, threads)
    return outcome if of_value(value) == wanted else f"{outcome}, and other answers"


def limited(call):
    def run(folder, count):
        world, rng = World(folder), random.Random(0)
        before = world.state()
        wanted = in_child(lambda: of_value(call(world, 1)))
        margins = [*MARGINS, *(int(MIB * 2 ** rng.uniform(-6, 6)) for _ in range(count))][:count]
        for margin in margins:
            for threads in (1, 2):
                world.path.write_bytes(world.content)
                work = functools.partial(under_limit, call, world, threads, margin, before, wanted)
                yield in_child(work)

    return run


for name, call in LIMITED.items():
    case(f"memory-{name}", "done", "MemoryError", few=2, many=35)(limited(call))


# ---- Interrupts ------------------------------------------------------------------------------

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}


def started(line, folder):
    """Start `python -m resmem`; return it once its signal handlers are set."""
    child = subprocess.Popen(
        [sys.executable, "-m", "resmem", *words(line, folder), "--quiet"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONFAULTHANDLER": "1",  # prints its stack if it has to be aborted
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while child.poll() is None:
        about = Path(f"/proc/{child.pid}/status").read_text()
        if int(about.split("SigCgt:")[1].split()[0], 16) & 1 << signal.SIGTERM - 1:
            break
        time.sleep(0.002)
    return child


def interrupts(name):
    """Send signals at random moments to a command that replaces or extends a result."""
    line, action = LINES[name], WRITES[name]

    def run(folder, count):
        inputs(folder, 20_000)
        path, rng = folder / "own" / action.target, random.Random(0)
        path.parent.mkdir()
        earlier(action, path.parent)
        states = {action.result(path): "old"}
        child, begin = started(line, path.parent), time.monotonic()
        _, said = child.communicate()
        duration = time.monotonic() - begin
        if child.returncode or said:
            raise RuntimeError(f"{line!r} fails: {said!r}")
        states[action.result(path)] = "new"
        for turn in range(count):
            number = list(STATUS)[turn % len(STATUS)]
            earlier(action, path.parent)
            child = started(line, path.parent)
            time.sleep(rng.uniform(0, 0.8 * duration))
            yield f"{number}: {interrupted(child, number, action, path, states)}"

    return run


def interrupted(child, number, action, path, states):
    """Send a signal to a command and return what it leaves."""
    child.send_signal(signal.Signals[number])
    try:
        _, said = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGABRT)
        return f"hung, {child.communicate()[1]!r}"
    if os.listdir(path.parent) != [path.name]:
        return f"left {os.listdir(path.parent)}"
    state = states.get(action.result(path), "damaged")
    if (child.returncode, said) == (STATUS[number], ""):
        return state
    # The signal came when all was done and the interpreter was about to end.
    finished = child.returncode in (0, -signal.Signals[number]) and (state, said) == ("new", "")
    return "finished" if finished else f"{state}, status {child.returncode}, {said!r}"


for name in ("resmem-fit", "resmem-add", "resmem-predict", "resmem-export"):
    ends = [f"{number}: {state}" for number in STATUS for state in ("old", "new", "finished")]
    case(f"signals-{name}", *ends, few=3, many=60)(interrupts(name))


# ---- The program -----------------------------------------------------------------------------


def main(arguments=None):
    """Run the cases and print the table; 1 if an outcome is not allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--full", action="store_true", help="run each case often, which takes minutes"
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="their names, or how they begin")
    options = parser.parse_args(arguments)
    for word in options.cases:
        if not any(name.startswith(word) for name in CASES):
            parser.error(f"no case begins with {word!r}; there are {', '.join(CASES)}")
    print(f"{'case':<29} {'runs':>7}  {'verdict':<8} outcomes")
    bad = False
    for name, each in CASES.items():
        if not options.cases or name.startswith(tuple(options.cases)):
            bad |= not print_row(each, options.full)
    return int(bad)


def print_row(each, full):
    """Run a case and print its line of the table; return whether all is allowed."""
    try:
        outcomes = each.outcomes(full)
    except Skipped as why:
        print(f"{each.name:<29} {0:>7}  {'skipped':<8} {why}", flush=True)
        return True
    others = each.others(outcomes)
    counts = [f"{outcome} {outcomes[outcome]}" for outcome in each.allowed]
    counts.append(f"other {sum(outcomes[other] for other in others)}")
    counts += [f"{other[:3000]!r} {outcomes[other]}" for other in others]
    verdict = "FAULT" if others else "ok"
    total = sum(outcomes.values())
    print(f"{each.name:<29} {total:>7}  {verdict:<8} {', '.join(counts)}", flush=True)
    return not others


if __name__ == "__main__":
    sys.exit(main())
