"""Every rule says each verdict it can say, from made-up numbers."""

from __future__ import annotations

from typing import Any

import pytest

from nmt.evaluation.claims import BY_NUMBER, CLAIMS, Kind, Outcome, judge

# Intervals (low, high) that must give reproduced, not reproduced and inconclusive.
INTERVALS = {
    1: [(0.1, 0.5), (-0.5, 0.0), (-0.1, 0.4)],
    3: [(-0.9, 0.4), (1.0, 3.0), (-0.2, 1.2)],
    4: [(-0.9, 2.0), (-3.0, -1.0), (-1.5, 0.5)],
    5: [(0.1, 40.0), (-9.0, -0.1), (-1.0, 9.0)],
    6: [(0.1, 2.0), (-2.0, -0.1), (-0.1, 0.1)],
    7: [(0.2, 0.9), (-0.4, 0.0), (-0.1, 0.4)],
    8: [(0.5, 9.0), (-3.0, -0.2), (-0.2, 0.5)],
    9: [(0.01, 0.2), (-0.2, 0.0), (-0.1, 0.1)],
    10: [(1.8, 2.2), (0.9, 1.2), (1.4, 2.1)],
    11: [(0.1, 5.0), (-5.0, -1.0), (-1.0, 1.0)],
    12: [(0.1, 0.4), (0.5, 0.9), (0.3, 0.6)],
    13: [(0.1, 9.0), (-9.0, 0.0), (-1.0, 9.0)],
    15: [(0.1, 9.0), (-9.0, 0.0), (-1.0, 9.0)],
}
SAYS = (Outcome.reproduced, Outcome.not_reproduced, Outcome.inconclusive)


def numbers(number: int, low: float | None, high: float | None) -> dict[str, Any]:
    rule = BY_NUMBER[number].rule
    assert rule is not None
    value = 0.0 if low is None or high is None else (low + high) / 2
    return {
        "statistic": {"value": value, "low": low, "high": high},
        "counts": dict(rule.least),
    }


def test_the_claims_are_those_of_the_story() -> None:
    assert [claim.number for claim in CLAIMS] == list(range(1, 19))
    kinds = {kind: [c.number for c in CLAIMS if c.kind is kind] for kind in Kind}
    assert kinds[Kind.demonstration] == [2, 16]
    assert kinds[Kind.later] == [14, 17, 18]
    assert kinds[Kind.verdict] == list(INTERVALS)
    assert all((c.rule is not None) == (c.kind is Kind.verdict) for c in CLAIMS)


@pytest.mark.parametrize("number", INTERVALS)
@pytest.mark.parametrize("place", range(3), ids=lambda place: SAYS[place].name)
def test_every_rule_says_each_verdict(number: int, place: int) -> None:
    verdict = judge(BY_NUMBER[number], numbers(number, *INTERVALS[number][place]))
    assert verdict is not None
    assert verdict.outcome == SAYS[place]
    assert "[" in verdict.reason


@pytest.mark.parametrize("number", [n for n in INTERVALS if BY_NUMBER[n].rule.least])  # type: ignore[union-attr]
def test_too_little_material_is_counted(number: int) -> None:
    given = numbers(number, 0.1, 0.2)
    for name, least in list(given["counts"].items()):
        short = given | {"counts": given["counts"] | {name: least - 1}}
        verdict = judge(BY_NUMBER[number], short)
        assert verdict is not None
        assert verdict.outcome == Outcome.not_testable
        assert f"{least - 1:,} {name}" in verdict.reason
    del given["counts"]
    assert judge(BY_NUMBER[number], given).outcome == Outcome.not_testable  # type: ignore[union-attr]


def test_no_statistic_and_no_interval() -> None:
    claim = BY_NUMBER[3]
    assert claim.rule is not None
    assert claim.rule({}).outcome == Outcome.not_testable
    lacking = claim.rule(numbers(3, -0.5, 0.5) | {"missing": "no English"})
    assert (lacking.outcome, lacking.reason) == (Outcome.not_testable, "no English")
    assert claim.rule(numbers(3, None, 0.5)).outcome == Outcome.inconclusive
    assert judge(BY_NUMBER[2], {}) is None


def test_a_reason_has_three_digits_and_its_unit() -> None:
    given = numbers(1, 0.0, 0.0) | {"statistic": {"value": 0.01234, "low": -1.5, "high": 123.4}}
    verdict = judge(BY_NUMBER[1], given)
    assert verdict is not None
    assert verdict.reason == "0.0123 [−1.50, 123] chrF points per word"
