"""A comparison killed at fifty random moments ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

# Forks of a process that has imported everything: fifty new ones would take minutes to import torch.
SCRIPT = """
import json, os, random, shutil, signal, sqlite3, sys, time
import torch

torch.set_num_threads(1)  # a fork must find no threads but its own
import thalweg
from thalweg.comparison import Store
from thalweg.comparison.training import timing

timing.POPULATIONS = (2, 4, 4)  # many small populations: many moments to be killed at
folder = sys.argv[1]
store, draw = os.path.join(folder, "store.sqlite"), random.Random(0)

def compare(path):
    return thalweg.compare("quadratic", ["gd", "adam"], budget="2x12trials", store=path, workers=1)

def rows(path):
    if not planned():
        return set()
    with sqlite3.connect(path) as connection:
        return set(connection.execute("SELECT contender, stage, study, trial, seed, seconds FROM results"))

def life(seconds, seen):
    # Half of them from the start, which kills while resuming; half from the first result, while more are stored.
    after_result = draw.random() < 0.5
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

kills, partial, seen = 0, 0, set()
while kills < 50:
    killed = life(draw.uniform(0.0, 0.8), seen)
    now = rows(store)
    assert seen <= now, "a stored result was lost or trained again"
    partial += seen != now
    seen = now
    kills += killed
    if not killed:  # it ended: all of it once more, by the same plan, for the kills that are left
        with sqlite3.connect(store) as connection:
            connection.execute("DELETE FROM results")
            connection.execute("UPDATE comparisons SET finished = NULL")
        seen = set()
resumed = compare(store)
whole = os.path.join(folder, "whole.sqlite")
shutil.copy(store, whole)
with sqlite3.connect(whole) as connection:
    connection.execute("DELETE FROM results")
    connection.execute("UPDATE comparisons SET finished = NULL")
uninterrupted = compare(whole)
facts = lambda comparison: [comparison.to_json()["verdict"], sorted(row[:5] for row in rows(comparison.store.path))]
print(json.dumps({"kills": kills, "partial": partial, "same": facts(resumed) == facts(uninterrupted)}))
"""


def test_killed_at_fifty_random_moments_it_resumes_to_the_same_verdict(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False, timeout=900
    )
    assert process.returncode == 0, process.stderr[-2000:]
    result = json.loads(process.stdout)
    assert result["same"]
    assert result["kills"] == 50
    assert result["partial"] >= 10  # lives in which something was stored
