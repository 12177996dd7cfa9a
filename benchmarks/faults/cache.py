"""Attacks on the cache of kernels and on the compiler: `python benchmarks/faults/cache.py`, as root, a few minutes.

An attack prepares a folder and environment variables. Then a forked process trains with them. It has survived if it
ends in time, its parameters are right, and no code of the attacker has run. The script writes the numbers of attacks,
tried and survived, to `benchmarks/records/faults_cache.json`.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import torch

from thalweg import optim
from thalweg.bench.records import machine
from thalweg.engine.kernels import c_compiler, kernel_cache, library_cache

RECORD = Path(__file__).parents[1] / "records" / "faults_cache.json"
LIMIT_S = 300.0
NOBODY = 65534
LARGE = 300_000

Attack = Callable[[Path], None]


def train(num_elements: int = 3) -> None:
    """Train before the kernel is there, and with it or without it when that is known."""
    kernel_cache._KERNELS.clear()
    param = torch.ones(num_elements, requires_grad=True)
    optimizer = optim.SGD([param], lr=0.25)
    for _ in range(2):
        param.grad = torch.ones_like(param)
        optimizer.step()
        optimizer.prepare()
    assert torch.equal(param, torch.full_like(param, 0.5))


def survives(work: Callable[[], None]) -> bool:
    """Run a function in a forked process; return True if it ends well and in time."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


# --- files of the cache -----------------------------------------------------------------------------------------------


def evil_library(mark: Path) -> bytes:
    """Return a library with a digest that creates a file when it is loaded."""
    library = c_compiler.build(
        "#include <stdio.h>\n__attribute__((constructor)) static void run(void) "
        f'{{ FILE *file = fopen("{mark}", "w"); if (file) fclose(file); }}\nvoid step(void) {{}}\n',
        parallel=False,
        deadline=time.monotonic() + LIMIT_S,
    )
    return library + sha256(library).digest()


def give_away(path: Path) -> None:
    """Let another user own a path, as if that user had created it."""
    os.chown(path, NOBODY, NOBODY)


def to_link(path: Path) -> None:
    """Replace a path by a link to a path of another user."""
    moved = path.rename(path.with_name("moved"))
    give_away(moved)
    path.symlink_to(moved)


def file_attacks(whole: bytes) -> Iterator[tuple[str, Callable[[Path, Path], None]]]:
    """Yield the kind of each attack on a library and its folders, and a function of the file and an evil library."""

    def planted(spoil: Attack) -> Callable[[Path, Path], None]:
        def attack(file: Path, evil: Path) -> None:
            file.write_bytes(evil.read_bytes())
            spoil(file)

        return attack

    for mode in (0o666, 0o777, 0o620, 0o602):
        for depth in range(3):
            yield (
                "planted, writable by others",
                planted(lambda file, depth=depth, mode=mode: [file, *file.parents][depth].chmod(mode | 0o700)),
            )
    for depth in range(4):
        yield "planted, of another user", planted(lambda file, depth=depth: give_away([file, *file.parents][depth]))
    for depth in range(3):
        yield "planted, behind a link", planted(lambda file, depth=depth: to_link([file, *file.parents][depth]))
    numbers = random.Random(0)
    for size in sorted(numbers.sample(range(len(whole)), 20)):
        yield "cut", lambda file, _, size=size: os.truncate(file, size)
    for place in numbers.sample(range(len(whole)), 20):
        flipped = whole[:place] + bytes([whole[place] ^ 1 << numbers.randrange(8)]) + whole[place + 1 :]
        yield "a bit flipped", lambda file, _, flipped=flipped: file.write_bytes(flipped) and None
    for content in (b"", b"no library", bytes(5000), b"\x7fELF" + bytes(5000)):
        signed = content + sha256(content).digest()
        yield "no library, with a digest", lambda file, _, signed=signed: file.write_bytes(signed) and None

    def replace(create: Attack) -> Callable[[Path, Path], None]:
        def attack(file: Path, _: Path) -> None:
            file.unlink()
            create(file)

        return attack

    yield "no regular file", replace(lambda file: os.mkfifo(file, 0o600))
    yield "no regular file", replace(lambda file: file.mkdir())
    yield "no regular file", replace(lambda file: file.symlink_to("/dev/zero"))
    yield "no regular file", replace(lambda file: file.symlink_to(file))
    yield "no regular file", lambda file, _: os.truncate(file, 1 << 40)


def attack_files(results: dict[str, list[bool]]) -> None:
    """Attack a cache that holds a kernel."""
    with tempfile.TemporaryDirectory() as root:
        os.environ["XDG_CACHE_HOME"] = root
        train()
        (kept,) = Path(root, "thalweg", "kernels").iterdir()
        name, whole = kept.name, kept.read_bytes()
    for kind, attack in file_attacks(whole):
        with tempfile.TemporaryDirectory() as root:
            base, mark, evil = Path(root, "cache"), Path(root, "mark"), Path(root, "evil")
            evil.write_bytes(evil_library(mark))
            file = base / "thalweg" / "kernels" / name
            file.parent.mkdir(parents=True, mode=0o700)
            file.write_bytes(whole)
            attack(file, evil)
            os.environ["XDG_CACHE_HOME"] = str(base)
            results.setdefault(kind, []).append(survives(train) and not mark.exists())
            print(kind, results[kind][-1])

    def use_truncated() -> None:
        train()
        kernel_cache._KERNELS.clear()
        param = torch.ones(3, requires_grad=True)
        optimizer = optim.SGD([param], lr=0.25, backend="compiled")
        for number in range(20):
            for file in Path(os.environ["XDG_CACHE_HOME"], "thalweg", "kernels").iterdir():
                os.truncate(file, 0) if number % 2 else file.unlink()
            param.grad = torch.ones(3)
            optimizer.step()
            library_cache.keep(name, whole)

    with tempfile.TemporaryDirectory() as root:
        os.environ["XDG_CACHE_HOME"] = root
        results["truncated or deleted in use"] = [survives(use_truncated)]


# --- the environment --------------------------------------------------------------------------------------------------


def environments(root: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Yield variables of the environment, by the kind of the attack; None removes a variable."""
    (root / "file").touch()
    home: dict[str, str | None] = {"XDG_CACHE_HOME": None}
    for value in (
        "relative",
        "",
        ".",
        str(root / "file"),
        str(root / "file" / "below"),
        "/proc",
        "/dev/null",
        "/proc/1",
    ):
        yield "XDG_CACHE_HOME", {"XDG_CACHE_HOME": value}
    for path in ("", "relative", "/nowhere/home", "/dev/null", str(root / "file"), None):
        yield "HOME", home | {"HOME": path}
    for path in ("/nowhere", "", "relative", "/proc", str(root / "file")):
        yield "TMPDIR", {"TMPDIR": path, "XDG_CACHE_HOME": str(root / "new")}
    scripts = {
        "no-interpreter": "#!/nowhere/interpreter\n",
        "no-script": "text",
        "no-mode": "#!/bin/sh\n",
        "killed": "#!/bin/sh\nkill -9 $$\n",
        "bytes": "#!/bin/sh\nprintf '\\377' >&2\nexit 1\n",
        "much": "#!/bin/sh\nhead -c 10000000 /dev/zero >&2\nexit 1\n",
        "pipe": "#!/bin/sh\nmkfifo step.o step.so 2>/dev/null\nexit 0\n",
        "background": '#!/bin/sh\nsleep 30 &\nexec cc "$@"\n',
        "garbage": '#!/bin/sh\nfor last; do :; done\necho garbage > "$last"\n',
        "slow": '#!/bin/sh\nsleep 2\nexec cc "$@"\n',
        "hangs": "#!/bin/sh\nsleep 100000 &\nwait\n",
    }
    for name, text in scripts.items():
        (root / name).write_text(text)
        (root / name).chmod(0o644 if name == "no-mode" else 0o755)
    commands = [
        "'",
        '"',
        "''",
        " ",
        "/",
        "/nowhere/cc",
        "false",
        "true",
        "cat",
        f"{sys.executable} --version",
        "cc -x",
        "\\",
    ]
    for command in (*commands, *(str(root / name) for name in scripts)):
        yield "CC", {"CC": command, "XDG_CACHE_HOME": str(root / f"cache-{abs(hash(command))}")}


def attack_environment(results: dict[str, list[bool]]) -> None:
    """Train in environments that are malformed."""
    with tempfile.TemporaryDirectory() as root:
        for kind, variables in environments(Path(root)):

            def work(variables: dict[str, str | None] = variables, root: str = root) -> None:
                os.chdir(root)
                tempfile.tempdir = None
                c_compiler.TIME_LIMIT_S = 20.0
                for name, value in variables.items():
                    os.environ.pop(name, None)
                    if value is not None:
                        os.environ[name] = value
                train()

            results.setdefault(kind, []).append(survives(work))
            print(kind, variables, results[kind][-1])

    def without_passwd() -> None:
        os.setgid(54321)
        os.setuid(54321)
        for name in ("HOME", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        train()

    results["a user without HOME and passwd entry"] = [survives(without_passwd)]


# --- several processes ------------------------------------------------------------------------------------------------


def attack_processes(results: dict[str, list[bool]]) -> None:
    """Kill compilers, compile in several processes at once, and fork at bad moments."""
    with tempfile.TemporaryDirectory() as root:
        os.environ |= {"XDG_CACHE_HOME": f"{root}/cache"}
        tempfile.tempdir = root

        def killed_while_it_compiles() -> None:
            kernel_cache._KERNELS.clear()
            param = torch.ones(3, requires_grad=True)
            param.grad = torch.ones(3)
            optim.Adam([param]).step()
            while not list(Path(root).glob("thalweg-compiler-*/step.c")):
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)

        results["a process killed while it compiles"] = []
        for _ in range(5):
            survives(killed_while_it_compiles)
            results["a process killed while it compiles"].append(
                survives(train) and survives(lambda: _compile_another(root))
            )
        os.environ["XDG_CACHE_HOME"] = f"{root}/common"

        def together() -> None:
            pids = []
            for _ in range(4):
                pid = os.fork()
                if pid == 0:
                    train()
                    os._exit(0)
                pids.append(pid)
            assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4

        results["four processes compile one kernel"] = [survives(together)]
        results["forked after OpenMP"] = []
        for size in (3, 1000, LARGE):
            for _ in range(10):
                torch.randn(LARGE).exp()
                results["forked after OpenMP"].append(survives(lambda size=size: train(size)))
        tempfile.tempdir = None


def _compile_another(root: str) -> None:
    """Compile, which deletes what was left; the folder of this compilation is deleted in the end."""
    c_compiler.build("int x;", parallel=False, deadline=time.monotonic() + LIMIT_S)
    assert not list(Path(root).glob("thalweg-compiler-*"))


def main() -> None:
    """Attack, and write the record."""
    if os.geteuid() != 0:
        sys.exit("Run this script as root: it acts as another user.")
    torch.set_num_threads(4)
    results: dict[str, list[bool]] = {}
    for attack in (attack_processes, attack_files, attack_environment):
        attack(results)
    table = {kind: {"tried": len(ends), "survived": sum(ends)} for kind, ends in results.items()}
    total = {key: sum(entry[key] for entry in table.values()) for key in ("tried", "survived")}
    RECORD.write_text(json.dumps({"total": total, "attacks": table, "machine": machine()}, indent=1) + "\n")
    print(json.dumps(table, indent=1), total)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
