"""Every rule is in one group, the shortlist agrees with the records, and the command line shows both."""

import ast
import json
import statistics
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

import thalweg
from thalweg.cli.main import cli
from thalweg.comparison import CONTENDERS, parse
from thalweg.comparison.contenders.named import RECOMMENDED_SCALE
from thalweg.comparison.planning.adaptive.search_space import search_space_of, starting_point
from thalweg.comparison.presentation.profile import profile_of
from thalweg.groups import GROUPS, SHORTLIST, group_of, shortlisted
from thalweg.registry import RULES, WRAPPERS
from thalweg.rules import Adam, Rule, explain
from thalweg.rules.explanation.explain import source_links
from thalweg.tasks.catalogue import BUILT_IN

ROOT = Path(__file__).parents[1]
WILD = json.loads((ROOT / "benchmarks" / "records" / "choosing_in_the_wild.json").read_text())["trainings"]


@pytest.mark.parametrize("name", [*RULES, *WRAPPERS])
def test_every_rule_is_in_a_single_group(name: str) -> None:
    groups = [group.name for group in GROUPS.values() if name in group.members]
    assert len(groups) == 1, f"{name} is in {groups or 'no group'}; add it to src/thalweg/groups.py"


def test_the_groups_name_no_rule_that_is_gone() -> None:
    assert {name for group in GROUPS.values() for name in group.members} == {*RULES, *WRAPPERS}


def test_traits_agree_with_the_groups() -> None:
    """A group says how a step is scaled, which the declarations of a rule say too."""
    for name, kind in RULES.items():
        rule, group = kind(), group_of(kind)
        assert group is not None
        assert (group.name == "parameter-free") == rule.traits.estimates_lr, name
        assert (group.name == "averaging") == rule.traits.has_eval_params, name
        assert (group.name == "matrix") == (rule.traits.scope == "matrix"), name
        assert group.name != "sign" or rule.traits.scope == "elementwise", name
        assert group.name != "tensor-scaled" or rule.traits.scope == "tensor", name


def test_a_rule_of_the_user_is_in_no_group() -> None:
    class Mine(Adam):
        """A rule outside of the registry."""

    assert group_of(Mine) is None
    assert profile_of(thalweg.Contender("mine", Mine())).page == ""


@pytest.mark.parametrize("entry", SHORTLIST.values(), ids=lambda entry: entry.name)
def test_the_shortlist_names_contenders_and_evidence(entry: thalweg.groups.Recommendation) -> None:
    assert isinstance(parse(entry.name).rule, Rule)
    assert source_links(entry.evidence) or (ROOT / entry.evidence).exists()


def median_regret(contender: str) -> float:
    regrets = [training["contenders"].get(contender, {}).get("regret") for training in WILD.values()]
    return statistics.median(regret for regret in regrets if regret is not None)


def test_the_record_supports_the_shortlist() -> None:
    contenders = {name for training in WILD.values() for name in training["contenders"]}
    from_record = [entry.name for entry in SHORTLIST.values() if "choosing_in_the_wild" in entry.evidence]
    assert from_record == ["nadam", "muon+adamw"]
    assert sorted(contenders, key=median_regret)[:2] == ["muon+adamw", "nadam"]


def test_a_starting_point_is_that_of_the_search_and_names_its_record() -> None:
    for contender in CONTENDERS.values():
        settings, record = starting_point(contender)
        assert not record or (ROOT / record).exists()
        anchor = search_space_of(contender).anchor
        for name, value in settings.items():
            assert anchor[name] == pytest.approx(value), contender.name
    recorded = json.loads((ROOT / "benchmarks" / "records" / "recommended.json").read_text())["contenders"]
    for name, measured in recorded.items():
        factor = measured["mean_factor"]
        settings, record = starting_point(parse(name))
        assert record == "benchmarks/records/recommended.json"
        assert settings == (measured["recommended"] if factor["left_out"] < factor["default"] else {}), name


@pytest.mark.parametrize("name", [*CONTENDERS, *(f"{wrapper}(adam)" for wrapper in WRAPPERS)])
def test_the_line_of_code_of_a_profile_makes_the_optimizer(name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    contender = parse(name)
    scope: dict = {"thalweg": thalweg, "model": model}
    profile = profile_of(contender)
    ast.parse(profile.code)
    exec(profile.code, scope)
    assert scope["optimizer"].param_groups
    for setting, value in profile.starting_point.items():
        assert repr(value) in profile.code, setting


def test_links_of_a_source_are_addresses() -> None:
    text = "A 2017, arXiv:1708.03888, B, doi:10.1007/BF01582063; C (openreview.net/forum?id=O_1-x), arXiv:1708.03888."
    assert source_links(text) == (
        "https://arxiv.org/abs/1708.03888",
        "https://doi.org/10.1007/BF01582063",
        "https://openreview.net/forum?id=O_1-x",
    )
    assert source_links("Polyak 1964 (USSR Comput. Math. Math. Phys. 4(5), 1-17), torch.optim.Adam") == ()
    assert explain(Adam()).links[0] == "https://arxiv.org/abs/1412.6980"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_list_shows_groups_and_shortlist_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.cli.commands.list.stdout_console", lambda: Console(width=width))
    text = CliRunner().invoke(cli, ["list"], catch_exceptions=False).output
    words = text.split()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for group in GROUPS.values():
        assert f"{group.name}:" in words
    assert {*CONTENDERS, *WRAPPERS, *SHORTLIST} <= set(words)
    for contender in CONTENDERS.values():
        assert set(contender.about.split()) <= set(words)
    assert words.index("shortlist:") < words.index("classical:")


def test_list_and_explain_agree_in_json() -> None:
    listed = json.loads(CliRunner().invoke(cli, ["list", "--json"], catch_exceptions=False).output)
    assert {entry["group"] for entry in listed} == set(GROUPS)
    marked = {entry["name"]: entry["shortlist"] for entry in listed if entry["shortlist"]}
    assert marked == {name: entry.reason for name, entry in SHORTLIST.items() if name in CONTENDERS}
    explained = json.loads(CliRunner().invoke(cli, ["explain", "muon", "--json"], catch_exceptions=False).output)
    assert explained["group"] == "matrix"
    assert [entry["name"] for entry in explained["shortlist"]] == ["muon+adamw"]
    assert explained["code"].startswith("optimizer = thalweg.optim.route(model, 'muon+adamw'")
    assert explained["links"][1] == "https://arxiv.org/abs/2502.16982"
    assert explained["page"] == "docs/optimizers/rules/muon.md"


def test_the_filter_of_the_list_reads_groups() -> None:
    names = {
        entry["name"]
        for entry in json.loads(CliRunner().invoke(cli, ["list", "sign", "elementwise", "--json"]).output)
        if entry["group"] == "sign"
    }
    assert {"lion", "signsgd", "rprop"} <= names
    assert shortlisted(CONTENDERS["momentum"].rule)[0].name == "momentum"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adamw", "These settings did best without tuning: benchmarks/records/recommended.json"),
        ("rmsprop", "No other settings did better than the defaults: benchmarks/records/recommended.json"),
        ("signsgd", "derived from that of Adam. How well this works: benchmarks/records/transfer.json"),
        ("prodigy", "at their defaults. No other starting point was measured."),
    ],
)
def test_explain_says_where_a_starting_point_comes_from(name: str, sentence: str) -> None:
    printed = " ".join(CliRunner().invoke(cli, ["explain", name], catch_exceptions=False).output.split())
    assert sentence in printed
    assert (f"short trainings: it comes from {RECOMMENDED_SCALE}." in printed) == ("record" in sentence)


def test_the_scale_of_starting_points_is_that_of_the_trainings_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "records" / "recommended.json").read_text())
    passes = {name: task["passes"] for name, task in record["tasks"].items()}
    tasks = {name: BUILT_IN[name]() for name in passes}
    sizes = [sum(param.numel() for param in task.model().parameters()) for task in tasks.values()]
    shares = record["lengths"]
    all_passes = [max(1, round(share * number)) for number in passes.values() for share in shares]
    steps = [
        max(1, round(share * passes[name])) * task.batches_per_pass(full_batch=False)
        for name, task in tasks.items()
        for share in shares
    ]
    assert (
        f"{len(tasks)} tasks, models of {min(sizes):,} to {max(sizes):,} parameters, "
        f"{min(steps)} to {max(steps)} steps (of the full batch {min(all_passes)} to {max(all_passes)}), "
        "linear decay"
    ) == RECOMMENDED_SCALE
