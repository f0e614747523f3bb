from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.data.batching import (
    BLOCK,
    Cursor,
    TrainingPairs,
    collate,
    derive_seed,
    make_plan,
    oversized,
    share,
    subword_sampler,
    update_of,
)
from nmt.data.store import Ragged
from nmt.errors import UserError

PAIRS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=200)
MULTI30K = Path(__file__).parents[3] / "shared" / "data" / "multi30k"


def plan_of(pairs: list[tuple[int, int]], **changes: int) -> list[np.ndarray]:
    source, target = np.array(pairs).T
    options = {"batch_tokens": 100, "pool": 50, "seed": 1, "epoch": 0, **changes}
    return make_plan(source, target, **options)


@given(PAIRS, st.integers(80, 400), st.integers(1, 300), st.integers(0, 3))
def test_every_pair_once_and_never_above_budget(
    pairs: list[tuple[int, int]], budget: int, pool: int, epoch: int
) -> None:
    plan = plan_of(pairs, batch_tokens=budget, pool=pool, epoch=epoch)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(pairs)))
    source, target = np.array(pairs).T
    for batch in plan:
        assert len(batch) > 0
        assert len(batch) * (source[batch].max() + target[batch].max()) <= budget


@given(PAIRS, st.integers(1, 6), st.integers(1, 5))
def test_an_epoch_is_the_same_for_any_number_of_processes(
    pairs: list[tuple[int, int]], accumulate: int, world: int
) -> None:
    plan, cursor = plan_of(pairs), Cursor()
    seen: list[int] = []
    while cursor.epoch == 0:
        update = update_of(plan, cursor.consumed, accumulate=accumulate)
        assert len(update) == accumulate
        shares = [share(update, rank=rank, world=world) for rank in range(world)]
        assert len({len(mine) for mine in shares}) == 1  # all ranks take the same steps
        together = [item for mine in shares for item in mine]
        positions = [position for position, _ in together]
        assert len(set(positions)) == len(positions)
        for position, batch in together:
            if len(batch):
                assert batch is plan[position]
                seen += batch.tolist()
        cursor = cursor.after(plan, accumulate=accumulate)
    assert cursor == Cursor(1, 0)
    assert sorted(seen) == list(range(len(pairs)))


def test_plan_is_a_function_of_seed_and_epoch() -> None:
    pairs = [(1 + i % 17, 1 + i % 13) for i in range(500)]
    same, again = plan_of(pairs), plan_of(pairs)
    assert all(np.array_equal(a, b) for a, b in zip(same, again, strict=True))
    for change in ({"seed": 2}, {"epoch": 1}):
        other = plan_of(pairs, **change)
        assert [b.tolist() for b in other] != [b.tolist() for b in same]


def test_pools_mix_and_batches_are_shuffled() -> None:
    pairs = [(1 + i % 30, 1 + i % 30) for i in range(3000)]
    plan = plan_of(pairs, batch_tokens=300, pool=3000)
    longest = [max(pairs[i][0] for i in batch) for batch in plan]
    assert np.corrcoef(longest, np.arange(len(longest)))[0, 1] < 0.5  # sorted, it would be near 1


def test_pair_above_the_budget_is_refused_or_left_out_by_name() -> None:
    pairs = [(3, 3), (60, 41), (2, 5), (99, 99)]
    source, target = np.array(pairs).T
    assert oversized(source, target, batch_tokens=100).tolist() == [1, 3]
    with pytest.raises(UserError, match=r"2 of 4 pairs .*100.*longest needs 198"):
        plan_of(pairs)
    plan = make_plan(source, target, batch_tokens=100, pool=9, seed=0, epoch=0, skip_oversized=True)
    assert sorted(np.concatenate(plan).tolist()) == [0, 2]
    assert len(plan_of([(60, 40)])) == 1  # exactly at the budget


def real_share(source: np.ndarray, target: np.ndarray) -> float:
    plan = make_plan(source, target, batch_tokens=4096, pool=20_000, seed=1, epoch=0)
    padded = sum(len(batch) * (source[batch].max() + target[batch].max()) for batch in plan)
    return float((source + target).sum() / padded)


def test_little_padding_on_lengths_like_captions() -> None:
    rng = np.random.default_rng(0)
    source = np.clip(rng.lognormal(2.55, 0.31, 29_000), 4, 45).astype(int) + 1
    target = np.clip(source * rng.lognormal(0.1, 0.16, 29_000), 4, 60).astype(int) + 1
    assert real_share(source, target) >= 0.95  # 0.938 without the serpentine


@pytest.mark.skipif(not MULTI30K.exists(), reason="Multi30k is not beside the checkout")
def test_little_padding_on_multi30k() -> None:
    def lengths(language: str) -> np.ndarray:
        with gzip.open(MULTI30K / f"train.{language}.gz", "rt", encoding="utf-8") as file:
            return np.array([len(re.findall(r"\w+|[^\w\s]", line)) + 1 for line in file])

    assert real_share(lengths("en"), lengths("fr")) >= 0.95


def test_a_step_costs_a_batch_not_a_pair() -> None:
    """Half a million pairs are planned by a few thousand steps: counted, not timed."""
    count = 500_000
    source = np.full(count, 16)
    plan = make_plan(source, source, batch_tokens=4096, pool=20_000, seed=1, epoch=0)
    assert len(plan) == 25 * -(-20_000 // 128)


# --- collate ---


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(4, 9)), st.lists(st.integers(4, 9))), max_size=6))
def test_collate_pads_and_masks(pairs: list[tuple[list[int], list[int]]]) -> None:
    batch = collate([s for s, _ in pairs], [t for _, t in pairs], pad=0, bos=2, eos=3)
    assert batch.rows == len(pairs)
    assert batch.target_tokens == sum(len(t) + 1 for _, t in pairs)
    for tensor in (batch.source_BS, batch.target_in_BT, batch.target_out_BT, batch.kept_N):
        assert tensor.dtype == torch.int64
    for row, (source, target) in enumerate(pairs):
        assert batch.source_BS[row][batch.source_keep_BS[row]].tolist() == [*source, 3]
        keep = batch.target_keep_BT[row]
        assert batch.target_in_BT[row][keep].tolist() == [2, *target]
        assert batch.target_out_BT[row][keep].tolist() == [*target, 3]
        assert (batch.target_in_BT[row][~keep] == 0).all()
        assert (batch.source_BS[row][~batch.source_keep_BS[row]] == 0).all()
        assert keep.sum() == keep[: len(target) + 1].sum()  # padding is on the right
    kept = batch.target_keep_BT.flatten().nonzero().squeeze(1)
    assert torch.equal(kept, batch.kept_N)


def test_the_empty_batch_can_be_run_and_weighs_nothing() -> None:
    batch = collate([], [], pad=0, bos=2, eos=3)
    assert (batch.rows, batch.target_tokens) == (0, 0)
    assert batch.source_BS.tolist() == [[3]]
    assert batch.target_in_BT.tolist() == [[2]]
    assert not batch.target_keep_BT.any()
    assert batch.source_keep_BS.all()


def test_collate_refuses_two_counts() -> None:
    with pytest.raises(ValueError, match="2 source rows, 1 target rows"):
        collate([[4], [5]], [[4]], pad=0, bos=2, eos=3)


# --- epochs ---


def ragged(rows: list[list[int]]) -> Ragged:
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Ragged(np.array([i for row in rows for i in row], dtype=np.int32), offsets, lengths)


ROWS = [[4] * (1 + i % 7) for i in range(40)]


def pairs_of(**changes: object) -> TrainingPairs:
    options = {
        "source": ragged(ROWS),
        "target": ragged(ROWS[::-1]),
        "batch_tokens": 60,
        "pool": 20,
        "seed": 1,
        "pad": 0,
        "bos": 2,
        "eos": 3,
        **changes,
    }
    return TrainingPairs(**options)


def test_epoch_counts_what_its_batches_hold() -> None:
    epoch = pairs_of().epoch(0)
    for pairs in epoch.plan:
        batch = epoch.batch(pairs)
        assert epoch.target_tokens(pairs) == batch.target_tokens
        real = int(batch.source_keep_BS.sum() + batch.target_keep_BT.sum())
        assert epoch.tokens(pairs) == (real, batch.source_BS.numel() + batch.target_out_BT.numel())
        assert batch.index_B.tolist() == pairs.tolist()
        assert batch.source_BS[0][: len(ROWS[pairs[0]])].tolist() == ROWS[pairs[0]]
    assert epoch.tokens(np.empty(0, dtype=np.int64)) == (0, 0)


def test_no_pairs_is_an_error() -> None:
    with pytest.raises(UserError, match="no pair to train on"):
        pairs_of(source=ragged([]), target=ragged([]))


def sampler(pairs: int, seed: int = 9):  # type: ignore[no-untyped-def]
    """Each sentence is a number; sampling repeats it 1 to 9 times, depending on the seed."""

    def encode(texts: list[str], seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [[int(text)] * int(rng.integers(1, 10)) for text in texts]

    def texts(start: int, end: int) -> list[str]:
        return [str(number) for number in range(start, end)]

    return subword_sampler((texts, texts), (encode, encode), pairs=pairs, seed=seed)


def test_sampling_is_a_function_of_the_epoch_and_covers_the_corpus() -> None:
    count = BLOCK + 7
    sample = sampler(count)
    source, target = sample(3)
    assert len(source) == len(target) == count
    assert all(set(source[i].tolist()) == {i} for i in (0, BLOCK - 1, BLOCK, count - 1))
    again = sampler(count)(3)[0]
    assert np.array_equal(source.lengths, again.lengths)
    for other in (target, sample(4)[0], sampler(count, seed=8)(3)[0]):
        assert not np.array_equal(source.lengths, other.lengths)
    assert not np.array_equal(source.lengths[:7], source.lengths[BLOCK:])


def test_plan_follows_sampled_lengths_and_what_does_not_fit_keeps_its_stored_ids() -> None:
    pairs = pairs_of(sample=sampler(40), batch_tokens=16, max_source=8)
    epoch = pairs.epoch(0)
    sampled = sampler(40)(0)
    stayed = 0
    for i in range(40):
        fits = len(sampled[0][i]) + 1 <= 8 and len(sampled[0][i]) + len(sampled[1][i]) + 2 <= 16
        stayed += not fits
        assert epoch.source[i].tolist() == (sampled[0][i].tolist() if fits else ROWS[i])
        assert epoch.source_lengths[i] == len(epoch.source[i]) + 1
        assert epoch.target_lengths[i] == len(epoch.target[i]) + 1
    assert 0 < stayed < 40
    assert sorted(np.concatenate(epoch.plan).tolist()) == list(range(40))


def test_seeds_differ_where_their_parts_do() -> None:
    seeds = {derive_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_links_become_shares_of_each_target_token() -> None:
    """Two tokens share one, one has two, one has none; ends are linked; padding has nothing."""
    first = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]], dtype=bool)  # [T, S]
    second = np.zeros((0, 1), dtype=bool)
    batch = collate([[5, 6, 7], [8]], [[4, 5, 6], []], pad=0, bos=2, eos=3, links=[first, second])
    expected = torch.zeros(2, 4, 4)
    expected[0, 0, 0] = expected[0, 0, 1] = 0.5
    expected[0, 2, 2] = expected[0, 3, 3] = 1.0
    expected[1, 0, 1] = 1.0
    assert batch.aligned_BTS is not None
    assert torch.equal(batch.aligned_BTS, expected)
    moved = batch.to("meta")
    assert moved.aligned_BTS is not None
    assert moved.aligned_BTS.shape == (2, 4, 4)
    assert moved.aligned_BTS.device.type == "meta"


def test_without_links_nothing_is_aligned() -> None:
    batch = collate([[5]], [[4]], pad=0, bos=2, eos=3)
    assert batch.aligned_BTS is None
    assert batch.to("cpu").aligned_BTS is None
    empty = collate([], [], pad=0, bos=2, eos=3, links=[])
    assert empty.aligned_BTS is not None
    assert torch.equal(empty.aligned_BTS, torch.zeros(1, 1, 1))


def test_an_epoch_asks_for_links_by_pair_and_by_the_ids_it_uses() -> None:
    """Sampled ids where they fit, stored ids elsewhere."""
    stored = numbers([3, 4, 5, 6])
    sampled = numbers([1, 2, 30, 1])
    asked: dict[int, tuple[list[int], list[int]]] = {}

    def links(pair: int, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        asked[pair] = source.tolist(), target.tolist()
        return np.ones((len(target), len(source)), dtype=bool)

    pairs = TrainingPairs(
        source=stored, target=stored, batch_tokens=40, pool=4, seed=1, pad=0, bos=2, eos=3,
        sample=lambda epoch: (sampled, sampled), links=links,
    )  # fmt: skip
    epoch = pairs.epoch(0)
    for chosen in epoch.plan:
        batch = epoch.batch(chosen)
        assert batch.aligned_BTS is not None
        assert torch.equal(batch.aligned_BTS.sum(-1) > 0, batch.target_keep_BT)
    assert {pair: len(source) for pair, (source, _) in asked.items()} == {0: 1, 1: 2, 2: 5, 3: 1}
    assert all(source == target for source, target in asked.values())
    assert epoch.batch(np.empty(0, dtype=np.int64)).aligned_BTS is not None


def numbers(lengths: list[int]) -> Ragged:
    """Row i has ``lengths[i]`` times the number i."""
    sizes = np.array(lengths, dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return Ragged(np.repeat(np.arange(len(lengths)), sizes), offsets, sizes)
