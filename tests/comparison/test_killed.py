"""A comparison killed at sixteen random moments ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

# Forks of a process that has imported everything: sixteen new ones would take minutes to import torch.
SCRIPT = """
import dataclasses, json, os, random, shutil, signal, sqlite3, sys, time
import torch

torch.set_num_threads(1)  # a fork must find no threads but its own
import thalweg
from thalweg.comparison import Store
from thalweg.comparison.training import timing

torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # imports the compiler once, and not in each fork
task = dataclasses.replace(thalweg.tasks.load("quadratic"), passes=60)
timing.POPULATIONS = (2, 4, 4)  # many small populations: many moments to be killed at
folder = sys.argv[1]
store, draw = os.path.join(folder, "store.sqlite"), random.Random(0)

def compare(path):
    return thalweg.compare(task, ["gd", "adam"], budget="2x12trials", store=path, workers=1)

def rows(path):
    if not planned():
        return set()
    with sqlite3.connect(path) as connection:
        return set(connection.execute("SELECT contender, stage, study, trial, seed, seconds FROM results"))

def life(seconds, seen, after_result):
    child = os.fork()
    if child == 0:
        try:
            compare(store)
        finally:
            os._exit(0)
    began = time.monotonic()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if after_result and rows(store) <= seen:
            began = time.monotonic()
        elif time.monotonic() - began > seconds and planned():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.005)
    return False

def planned():
    try:
        with sqlite3.connect(store) as connection:
            return connection.execute("SELECT count(*) FROM comparisons").fetchone()[0]
    except sqlite3.OperationalError:
        return False

def forget(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM results")
    Store(path).reopen(1)

kills, partial, seen = 0, 0, set()
while kills < 16:
    # Every other one from the start, which kills while resuming; the others from a new result, while more are stored.
    after_result = kills % 2 == 1
    killed = life(draw.uniform(0.0, 0.3 if after_result else 0.8), seen, after_result)
    now = rows(store)
    assert seen <= now, "a stored result was lost or trained again"
    partial += killed and seen != now
    seen = now
    kills += killed
    if not killed:  # it ended: all of it once more, by the same plan, for the kills that are left
        forget(store)
        seen = set()
resumed = compare(store)
whole = os.path.join(folder, "whole.sqlite")
shutil.copy(store, whole)
forget(whole)
uninterrupted = compare(whole)
facts = lambda comparison: [comparison.to_json()["verdict"], sorted(row[:5] for row in rows(comparison.store.path))]
print(json.dumps({"kills": kills, "partial": partial, "same": facts(resumed) == facts(uninterrupted)}))
"""


def test_killed_at_sixteen_random_moments_it_resumes_to_the_same_verdict(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False, timeout=3600
    )
    assert process.returncode == 0, process.stderr[-2000:]
    result = json.loads(process.stdout)
    assert result["same"]
    assert result["kills"] == 16
    assert result["partial"] >= 8  # lives in which something was stored
