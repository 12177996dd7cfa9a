"""Requests that nobody can mean are answered at once, with code 2 and the way out."""

import time

import pytest

import thalweg
from thalweg.cli.main import main
from thalweg.errors import SettingError, UnknownNameError

BIG = "a" * 1_000_000
REQUESTS = {
    "workers": (["--workers", "100000"], "workers must be at most"),
    "trials": (["--budget", "1000000x1000000trials"], "at most 1,000,000 trials"),
    "digits": (["--budget", "9" * 5000 + "trials"], "a budget must read like"),
    "time": (["--budget", "999999999h"], "a budget must be at most 8,784h"),
    "a name": (["--with", BIG], "must have at most 100,000 characters, got 1,000,000"),
    "parentheses": (["--with", "clip(" + "a," * 300_000], "must have at most 100,000 characters"),
    "a long name": (["--with", "a" * 90_000], "the text of a contender must have at most 20,000 characters"),
    "contenders": (["--with", ",".join(f"adam:lr={k}e-9" for k in range(1, 5000))], "at most 100 contenders"),
    "a target": (["--target", "1e999"], "target must be a finite number"),
    "a budget of letters": (["--budget", BIG], "a budget must read like"),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_an_absurd_request_is_answered_at_once(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, message = REQUESTS[kind]
    start_s = time.process_time()
    with pytest.raises(SystemExit) as end:
        main(["compare", "quadratic", *options])
    assert time.process_time() - start_s < 10  # it takes milliseconds; without a bound it takes minutes
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert message in told
    assert len(told) < 5000


@pytest.mark.parametrize("arguments", [["compare", BIG], ["compare", f"{BIG}.py:x"], ["report", BIG], ["explain", BIG]])
def test_a_name_of_a_million_letters_is_no_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert "Traceback" not in told
    assert len(told) < 5000


def test_the_library_has_the_same_bounds() -> None:
    with pytest.raises(SettingError, match="at most 100 contenders"):
        thalweg.compare("quadratic", (f"adam:lr={k}e-9" for k in range(1, 10**9)))
    with pytest.raises(SettingError, match="at most 100 tasks"):
        thalweg.compare_suite([f"quadratic:condition={k}" for k in range(1, 200)], ["gd"])
    with pytest.raises(UnknownNameError, match="at most 20,000 characters"):
        thalweg.compare("quadratic", [BIG])
