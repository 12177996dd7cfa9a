"""Settings of the user, from which a search starts."""

from dataclasses import replace

import pytest

import thalweg
from thalweg.comparison.contenders.parsing import parse, with_user_settings
from thalweg.errors import KeywordError, SettingError, UnknownNameError
from thalweg.tasks.tuning.tunable import tunables_of


def test_settings_to_start_from_belong_to_the_contender_they_name() -> None:
    contenders = with_user_settings(
        [parse("adam"), parse("adam:beta2=0.95"), parse("sgd")],
        ["adam:lr=3e-4,beta1=0.8", "adam:beta2=0.95,lr=1e-3", "adam:lr=1e-2"],
    )
    assert [each.user_settings for each in contenders] == [
        ({"lr": 3e-4, "beta1": 0.8}, {"lr": 1e-2}),
        ({"lr": 1e-3},),
        (),
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("adan:lr=1e-3", UnknownNameError, "must begin with the name of a contender, got 'adan:lr=1e-3'. Did you mean"),
        ("adam", SettingError, "must have a value, got 'adam'. Write adam:lr=0.001, say."),
        ("adam:lrr=1e-3", KeywordError, "lrr"),
        ("adam:lr=fast", SettingError, "lr must be a number"),
        ("adam:lr=0", SettingError, "lr is searched in its logarithm, so it must be > 0, got 0"),
        ("adam:beta1=2", SettingError, "beta1 must be in"),
        ("adam:lr", SettingError, "a setting must read name=value, got 'lr'"),
        ("sgd:momentum=0.9", SettingError, "momentum is fixed, so no search can start from 0.9"),
    ],
)
def test_wrong_settings_to_start_from_are_refused(text: str, error, message: str) -> None:
    with pytest.raises(error, match=message):
        with_user_settings([parse("adam"), parse("sgd")], [text])


def test_a_setting_to_start_from_may_name_the_class() -> None:
    (contender,) = with_user_settings([parse("adamw")], ["AdamW:lr=3e-4"])
    assert contender.user_settings == ({"lr": 3e-4},)


def test_a_number_that_is_fixed_starts_no_search() -> None:
    fixed = {"width": tunables_of(lambda width=thalweg.choice(4, 8): width)["width"].fixed_at(4)}
    with pytest.raises(SettingError, match="adam: width is fixed at 4, so no search can start from 8"):
        with_user_settings([replace(parse("adam"), task_settings=fixed)], ["adam:width=8"])


def test_settings_of_a_name_must_have_this_optimizer() -> None:
    (contender,) = with_user_settings([parse("adam")], ["adam:d.lr=0.1"])
    assert contender.for_optimizers(("d", "g")).user_settings == ({"d.lr": 0.1},)
    with pytest.raises(KeywordError, match=r"adam: the settings are lr, .*got 'd.lr'"):
        contender.for_optimizers(("",))


def test_the_exports_of_tuned_numbers() -> None:
    assert {"choice", "log_range", "range"} <= set(thalweg.__all__)
