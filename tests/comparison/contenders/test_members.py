"""A contender for each of several optimizers of one training."""

import pytest

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.members import with_members
from thalweg.comparison.contenders.parsing import parse, resolve, split_list, with_user_settings
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.planning.adaptive.search_space import search_space_of
from thalweg.errors import KeywordError, SettingError, TaskError, UnknownNameError
from thalweg.rules import SGD


def test_each_optimizer_has_the_settings_of_its_own_contender() -> None:
    contender = parse("named(d=sgd,g=adam:beta2=0.95,lr=1e-4..1e-2)")
    assert contender.name == "named(d=sgd,g=adam:beta2=0.95,lr=1e-4..1e-2)"
    assert list(contender.space(2)) == ["d.lr", "g.lr", "g.beta1"]
    assert "g.beta2" not in contender.space(3)
    assert (contender.space(1)["g.lr"].high, contender.space(1)["d.lr"].high) == (1e-2, 10.0)
    start = contender.start_settings()
    assert (start["d.momentum"], start["g.beta2"]) == (0.0, 0.95)
    assert [contender.order_of(name) for name in ("d.lr", "g.beta1", "g.beta2")] == [1, 2, 3]


def test_a_text_and_a_dictionary_name_the_same() -> None:
    (contender,) = resolve([{"d": "sgd", "g": "adam:beta2=0.95", "": SGD(lr=0.5)}])
    assert contender.name == "named(d=sgd,g=adam:beta2=0.95,sgd:lr=0.5)"
    assert parse("named(d=sgd,g=adam)").describe() == resolve([{"d": "sgd", "g": "adam"}])[0].describe()
    assert split_list("adam,named(d=sgd,g=adam:lr=1,beta1=0.5),lion") == [
        "adam",
        "named(d=sgd,g=adam:lr=1,beta1=0.5)",
        "lion",
    ]


def test_a_key_continues_the_settings_if_the_contender_has_it_and_else_names_an_optimizer() -> None:
    contender = parse("named(d=adam:beta1=0.5,lr=1e-3,momentum=sgd,g=then(adam,sgd):switch_at=9,schedule=cosine)")
    assert list(contender.members) == ["d", "momentum", "g"]
    assert contender.members["d"].pinned == {"beta1", "lr"}
    assert contender.members["g"].schedule == "cosine"


def test_every_optimizer_starts_where_its_contender_would() -> None:
    space = search_space_of(parse("named(d=sgd,g=adam)"))
    assert (space.anchor["d.lr"], space.anchor["g.lr"], space.anchor["g.beta1"]) == (0.59, 0.01, 0.973)
    # Without a recommended setting of one of them, the others keep theirs.
    partly = search_space_of(parse("named(d=sgd,g=rmsprop)"))
    assert partly.anchor["d.lr"] == 0.59
    assert partly.anchor["g.lr"] == search_space_of(parse("rmsprop")).anchor["lr"]
    assert len(partly.starts) == 1


def test_a_setting_of_ones_own_is_that_of_one_optimizer_or_of_all_that_have_it() -> None:
    contender = parse("named(d=sgd,g=adam)")
    (with_own,) = with_user_settings([contender], ["named(d=sgd,g=adam):lr=0.1,g.beta1=0.5"])
    (settings,) = with_own.for_optimizers(("d", "g")).user_settings
    assert settings == {"d.lr": 0.1, "g.lr": 0.1, "g.beta1": 0.5}
    for wrong in ("d.beta1=0.5", "lrr=1"):
        with pytest.raises(KeywordError, match="the settings are"):
            with_user_settings([contender], [f"{contender.name}:{wrong}"])[0].for_optimizers(("d", "g"))
    with pytest.raises(SettingError, match=r"d\.momentum is fixed"):
        with_user_settings([contender], [f"{contender.name}:d.momentum=0.5"])


def test_a_setting_of_the_unnamed_optimizer_is_no_setting_of_the_others() -> None:
    contender = with_members({"": parse("adam"), "d": parse("sgd:lr=0.5")})
    assert contender.own_settings({"lr": 0.1}) == {"lr": 0.1}
    assert contender.own_settings({"lr": 0.1}, "d") == {}


def test_names_that_a_training_does_not_make_are_refused_both_ways() -> None:
    contender = parse("named(d=sgd,g=adam)")
    assert contender.for_optimizers(("g", "d")).optimizer_names == ("g", "d")
    with pytest.raises(TaskError, match="must be called 'd' and 'g', got one that is called 'x'"):
        contender.for_optimizers(("d", "g", "x"))
    with pytest.raises(TaskError, match=r"got one without a name. Write make_optimizer\(model, name='d'\)"):
        contender.for_optimizers(("",))
    with pytest.raises(TaskError, match="must make an optimizer that is called 'g', and does not"):
        contender.for_optimizers(("d",))


def test_a_record_holds_every_optimizer_and_writes_its_line() -> None:
    contender: Contender = parse("named(d=sgd,g=adam)").for_optimizers(("d", "g"))
    record = ContenderRecord.from_json(contender.describe().to_json())
    assert record == contender.describe()
    settings = {"d.lr": 0.5, "g.lr": 0.25}
    assert record.line_of_code(settings, name="d") == "optimizer = thalweg.optim.SGD(model.parameters(), lr=0.5)"
    assert record.line_of_code(settings, name="g") == "optimizer = thalweg.optim.Adam(model.parameters(), lr=0.25)"
    assert "members" not in parse("adam").describe().to_json()
    other = parse("named(d=sgd,g=adamw)").for_optimizers(("d", "g"))
    assert other.describe().identity() != contender.describe().identity()
    assert contender.state_numbers == 2  # Adam's


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("named()", SettingError, "an optimizer must be named, got none"),
        ("named(d=sgd,d=adam)", SettingError, "named once, got 'd' twice"),
        ("named(d=sgd):lr=0.1", SettingError, "settings must stand beside their contender"),
        ("named(d=gd,g=adam)", SettingError, "gd: an optimizer on the full batch must train alone, got it for d"),
        ("named(d=named(e=sgd),g=adam)", SettingError, "d must be one optimizer"),
        ("named(d=sgdd)", UnknownNameError, "Did you mean sgd"),
    ],
)
def test_a_wrong_text_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse(text)


def test_a_wrong_dictionary_is_refused() -> None:
    with pytest.raises(SettingError, match="name of an optimizer must be a word, got 'a b'"):
        resolve([{"a b": "sgd"}])
