"""The contracts that every model holds, whatever its architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.errors import UserError
from nmt.models import attention, linear, multihead, sliding
from nmt.models.seq2seq import Memory, Reads, Seq2Seq, Source
from nmt.models.transformer import Transformer

Build = Callable[..., Seq2Seq]
Case = Callable[..., Any]
MustFail = Callable[[Callable[[], None]], None]
CrossSeen = Callable[[Seq2Seq, Tensor, int], tuple[Tensor, bool]]
EXACT: dict[str, float] = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(autouse=True)
def _many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentences here are short: cut them all the same."""
    monkeypatch.setattr(sliding, "SMALLEST_BLOCK", 2)
    monkeypatch.setattr(linear, "CHUNK", 2)


def reach(model: Seq2Seq, place: str) -> int:
    """How far one layer of self-attention sees; beyond any sentence here if nothing limits it."""
    if isinstance(model, Transformer):
        kind = getattr(model, place)[0].self_attention
        if isinstance(kind, sliding.SlidingSelfAttention):
            return kind.span
    return 99


def near(length: int, span: int) -> Tensor:
    places = torch.arange(length)
    return (places[:, None] - places).abs() <= span


def in_chunks(
    model: Seq2Seq, tgt_NT: Tensor, memory: Memory, rows_N: Tensor, sizes: list[int], capacity: int
) -> Tensor:
    cache = model.start(memory, rows_N, capacity)
    hidden = []
    for chunk in tgt_NT.split(sizes, 1):
        hidden_NTD, cache = model.decode(chunk, memory, cache)
        hidden.append(hidden_NTD)
    return torch.cat(hidden, 1)


# --- 1: any chunking of decode gives the same hidden states ---------------------------------------


@pytest.mark.parametrize("grad", [False, True])
def test_chunks(model: Seq2Seq, source: Source, tgt_BT: Tensor, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        memory = model.encode(source)
        expected_BTD = model(source, tgt_BT)
        for sizes, capacity in (([1] * 6, 0), ([1] * 6, 6), ([2, 1, 3], 3), ([4, 2], 20), ([6], 2)):
            hidden_BTD = in_chunks(model, tgt_BT, memory, torch.arange(3), sizes, capacity)
            torch.testing.assert_close(hidden_BTD, expected_BTD, **EXACT)


def test_the_future_is_hidden(model: Seq2Seq, source: Source, tgt_BT: Tensor) -> None:
    changed_BT = tgt_BT.clone()
    changed_BT[:, 4:] = 4 + (changed_BT[:, 4:] - 3) % 9
    before_BTD, after_BTD = model(source, tgt_BT), model(source, changed_BT)
    torch.testing.assert_close(before_BTD[:, :4], after_BTD[:, :4], **EXACT)
    assert not torch.allclose(before_BTD[:, 4:], after_BTD[:, 4:])


def test_the_past_and_the_source_are_read(model: Seq2Seq, source: Source, tgt_BT: Tensor) -> None:
    hidden_BTD = model(source, tgt_BT)
    changed_BT = tgt_BT.clone()
    changed_BT[:, 0] = 4 + (changed_BT[:, 0] - 3) % 9
    layers = len(model.decoder) if isinstance(model, Transformer) else 1
    last = min(5, layers * reach(model, "decoder"))
    other_BTD = model(source, changed_BT)
    assert (other_BTD[:, last] - hidden_BTD[:, last]).abs().max() > 1e-8
    torch.testing.assert_close(other_BTD[:, last + 1 :], hidden_BTD[:, last + 1 :], **EXACT)
    ids_BS = source.ids_BS.clone()
    ids_BS[:, 0] = 4 + (ids_BS[:, 0] - 3) % 9
    other_BTD = model(Source(ids_BS, source.keep_BS), tgt_BT)
    assert (other_BTD[:, 0] - hidden_BTD[:, 0]).abs().amax(-1).min() > 1e-8


# --- 2: padding and batch-mates change nothing ----------------------------------------------------


def test_padding_and_batch_mates(model: Seq2Seq, source: Source, tgt_BT: Tensor) -> None:
    together_BTD = model(source, tgt_BT)
    for row, length in enumerate(source.keep_BS.sum(1).tolist()):
        ids_1S = source.ids_BS[row : row + 1, :length]
        alone_1TD = model(Source(ids_1S, torch.ones_like(ids_1S, dtype=torch.bool)), tgt_BT[[row]])
        torch.testing.assert_close(together_BTD[[row]], alone_1TD, **EXACT)


def test_what_lies_under_padding(model: Seq2Seq, source: Source, tgt_BT: Tensor) -> None:
    ids_BS = source.ids_BS.masked_fill(~source.keep_BS, 11)
    other_BTD = model(Source(ids_BS, source.keep_BS), tgt_BT)
    torch.testing.assert_close(model(source, tgt_BT), other_BTD, **EXACT)


def test_gradients_ignore_padding(model: Seq2Seq, source: Source, tgt_BT: Tensor) -> None:
    def gradients(batch: Source) -> list[Tensor]:
        loss = model.project(model(batch, tgt_BT)).square().sum()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    wider = Source(
        torch.nn.functional.pad(source.ids_BS, (0, 3), value=7),
        torch.nn.functional.pad(source.keep_BS, (0, 3)),
    )
    for narrow, wide in zip(gradients(source), gradients(wider), strict=True):
        assert narrow.isfinite().all()
        torch.testing.assert_close(narrow, wide, rtol=1e-9, atol=1e-9)


# --- 3: select, then decode = decode, then select -------------------------------------------------

# hypotheses to start with; hypotheses that stay; memory rows that stay; what each reads then
SELECTIONS = {
    "reorder beams": ([0, 0, 1, 1, 2, 2], [1, 0, 3, 3, 4, 5], None, None),
    "grow to beams": ([0, 1, 2], [0, 0, 1, 1, 2, 2], None, None),
    "finish a sentence": ([0, 0, 1, 1, 2, 2], [1, 1, 4, 5], [0, 2], [0, 0, 1, 1]),
    "irregular": ([0, 0, 0, 1, 2], [2, 0, 3, 4], None, None),
    "out of order": ([2, 0, 1, 0], [3, 0, 0, 2, 1], None, None),
    "irregular and fewer": ([0, 1, 1, 2], [1, 2, 3], [1, 2], [0, 0, 1]),
    "swap the memory": ([0, 1, 2], [2, 0], [2, 0], [0, 1]),
    "repeat the memory": ([0, 1, 2], [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5]),
    "only the first": ([0, 0, 1, 1, 2, 2], [0, 1], None, None),
    "permuted": ([2, 0, 1], [1, 0, 2], None, None),
}


def test_select(model: Seq2Seq, source: Source) -> None:
    for name in SELECTIONS:
        check_selection(model, source, name)


def check_selection(model: Seq2Seq, source: Source, name: str) -> None:
    rows, stay, memory_rows, reads = SELECTIONS[name]
    tgt_NT = torch.randint(4, 13, (len(rows), 5), generator=torch.Generator().manual_seed(4))
    expected_NTD = model(Source(source.ids_BS[rows], source.keep_BS[rows]), tgt_NT).index_select(
        0, torch.tensor(stay)
    )
    with torch.no_grad():
        memory = model.encode(source)
        cache = model.start(memory, torch.tensor(rows), 6)
        before_NTD, cache = model.decode(tgt_NT[:, :3], memory, cache)
        torch.testing.assert_close(before_NTD[stay], expected_NTD[:, :3], **EXACT)
        cache = cache.select(torch.tensor(stay), None if reads is None else torch.tensor(reads))
        if memory_rows is not None:
            memory = memory.select(torch.tensor(memory_rows))
        for step in (3, 4):
            hidden_ND, cache = model.decode(tgt_NT[stay, step : step + 1], memory, cache)
            torch.testing.assert_close(hidden_ND[:, 0], expected_NTD[:, step], **EXACT)


def test_repeat(model: Seq2Seq, source: Source, tgt_BT: Tensor) -> None:
    memory = model.encode(source).repeat(2)
    assert memory.rows == 6
    tgt_NT = tgt_BT.repeat_interleave(2, 0)
    hidden_NTD = in_chunks(model, tgt_NT, memory, torch.arange(6), [6], 0)
    torch.testing.assert_close(hidden_NTD, model(source, tgt_BT).repeat_interleave(2, 0), **EXACT)


def test_regular_beams_share_the_memory() -> None:
    assert Reads.of(torch.tensor([0, 0, 1, 1])).group == 2
    assert Reads.of(torch.tensor([0, 1, 2])).group == 1
    for irregular in ([0, 1, 1], [1, 1], [0, 1, 0, 1], [1, 0], [0, 0, 2, 2], []):
        assert Reads.of(torch.tensor(irregular, dtype=torch.long)).group == 0


def test_regular_beams_copy_no_keys(
    model: Seq2Seq, source: Source, tgt_BT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = model.encode(source)
    cache = model.start(memory, torch.tensor([0, 0, 1, 1, 2, 2]), 2)
    monkeypatch.setattr(type(memory), "select", None)
    model.decode(tgt_BT.repeat_interleave(2, 0), memory, cache)


@pytest.mark.parametrize("kind", ["none", "bahdanau", "transformer"])
def test_a_wrong_grouping_is_noticed(
    kind: str,
    build: Build,
    recurrent_case: Case,
    transformer_case: Case,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    """Mutation: any order of hypotheses is taken for the regular one."""
    attentions = {"none": ("none", None, None), "bahdanau": ("additive", "previous", None)}
    case = recurrent_case(attentions[kind]) if kind in attentions else transformer_case()
    model = build(case)
    monkeypatch.setattr(Reads, "of", lambda rows_N: Reads(rows_N, len(rows_N) // 3))
    must_fail(lambda: check_selection(model, source, "permuted"))


@pytest.mark.parametrize(
    ("pattern", "past"),
    [
        ("full", multihead.KeysValues),
        ("sliding", sliding.Recent),
        ("linear", linear.RunningSums),
    ],
)
def test_a_past_of_others_is_noticed(
    pattern: str,
    past: type,
    build: Build,
    transformer_case: Case,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    """Mutation: hypotheses change places, what they have read does not."""
    model = build(transformer_case(decoder=pattern))
    check_selection(model, source, "permuted")
    monkeypatch.setattr(past, "select", lambda me, rows: me)
    must_fail(lambda: check_selection(model, source, "permuted"))


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_a_shifted_memory_mask_is_noticed(
    kind: str,
    build: Build,
    recurrent_case: Case,
    transformer_case: Case,
    source: Source,
    tgt_BT: Tensor,
    cross_seen: CrossSeen,
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    """Mutation: the source's mask is off by one slot, so padding is read."""
    attentive = recurrent_case(("additive", "previous", None))
    model = build(attentive if kind == "lstm" else transformer_case())
    if kind == "lstm":
        weigh = attention.weigh
        monkeypatch.setattr(attention, "weigh", lambda x, keep: weigh(x, keep.roll(1, -1)))
    else:
        mask = multihead.FullSelfAttention.mask
        monkeypatch.setattr(
            multihead.FullSelfAttention, "mask", lambda *args: mask(*args).roll(1, -1)
        )
    must_fail(lambda: test_padding_and_batch_mates(model, source, tgt_BT))
    must_fail(lambda: check_weights(model, source, tgt_BT, cross_seen, False))


# --- 5: attention weights are a distribution over what may be seen --------------------------------


@pytest.mark.parametrize("empty_row", [False, True])
def test_weights(
    model: Seq2Seq, source: Source, tgt_BT: Tensor, cross_seen: CrossSeen, empty_row: bool
) -> None:
    check_weights(model, source, tgt_BT, cross_seen, empty_row)


def check_weights(
    model: Seq2Seq, source: Source, tgt_BT: Tensor, cross_seen: CrossSeen, empty_row: bool
) -> None:
    if empty_row:
        source.keep_BS[1] = False
    maps = model.explain(source, tgt_BT)
    keep_BS = source.keep_BS
    cross_BTM, exact = cross_seen(model, keep_BS, 6)
    causal_TT = near(6, reach(model, "decoder")).tril()
    near_SS = near(7, reach(model, "encoder"))
    seen = 0
    for weights, keep, kind in (
        (maps.encoder, keep_BS[None, :, None, None, :] & near_SS, "encoder"),
        (maps.decoder, causal_TT, "decoder"),
        (maps.cross, cross_BTM[None, :, None], "cross"),
    ):
        if weights is None:
            assert maps.missing[kind]
            continue
        seen += 1
        assert kind not in maps.missing
        assert weights.shape[1] == 3
        assert weights.isfinite().all()
        keep = keep.expand(weights.shape)
        assert (weights[~keep] == 0).all()
        if kind == "cross" and not exact:
            assert (weights.sum(-1)[keep.any(-1)] > 0).all()
            assert (weights.sum(-1) <= 1 + 1e-10).all()
            continue
        assert (weights[keep] > 0).all()
        torch.testing.assert_close(weights.sum(-1), keep.any(-1).to(weights.dtype), **EXACT)
    assert seen + len(maps.missing) == 3


@pytest.mark.parametrize("rows", [[0, 0, 1, 1, 2, 2], [2, 0, 1, 0]])
def test_weights_of_hypotheses(
    model: Seq2Seq, source: Source, tgt_BT: Tensor, rows: list[int]
) -> None:
    """What decoding hands out, hypothesis by hypothesis and chunk by chunk, explain shows."""
    shown = model.explain(source, tgt_BT).cross
    memory, chunks = model.encode(source), []
    cache = model.start(memory, torch.tensor(rows), 6)
    for chunk in tgt_BT[rows].split([1, 3, 2], 1):
        cross: list[Tensor] = []
        _, cache = model.decode(chunk, memory, cache, cross)
        assert bool(cross) == (shown is not None)
        chunks.append(cross)
    if shown is not None:
        found = torch.stack([torch.cat(layer, 2) for layer in zip(*chunks, strict=True)])
        torch.testing.assert_close(found, shown[:, rows], **EXACT)


def test_an_empty_row_is_finite(model: Seq2Seq, source: Source, tgt_BT: Tensor) -> None:
    source.keep_BS[1] = False
    logits = model.project(model(source, tgt_BT))
    assert logits.isfinite().all()
    logits[[0, 2]].square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


# --- the rest of the interface --------------------------------------------------------------------


def test_every_parameter_learns(model: Seq2Seq, source: Source, tgt_BT: Tensor) -> None:
    model.train()
    model.project(model(source, tgt_BT)).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_dropout_only_in_training(model: Seq2Seq, source: Source, tgt_BT: Tensor) -> None:
    assert torch.equal(model(source, tgt_BT), model(source, tgt_BT))
    model.train()
    assert not torch.equal(model(source, tgt_BT), model(source, tgt_BT))


def test_shared_matrices_have_one_name(model: Seq2Seq) -> None:
    pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert len(pointers) == len(set(pointers))


def test_other_streams_are_refused(model: Seq2Seq, source: Source) -> None:
    with pytest.raises(UserError, match="one source sentence"):
        model.encode(Source(source.ids_BS, source.keep_BS, context=source.ids_BS))


def test_slots_know_where_they_come_from(model: Seq2Seq, source: Source) -> None:
    memory = model.encode(source).select(torch.tensor([2, 0]))
    assert memory.position_BM.tolist() == [list(range(7))] * 2
    assert memory.stream_BM.tolist() == [[0] * 7] * 2
    assert torch.equal(memory.keep_BM, source.keep_BS[[2, 0]])


@pytest.mark.parametrize("train", [False, True])
def test_half_precision(model: Seq2Seq, source: Source, tgt_BT: Tensor, train: bool) -> None:
    """bf16 autocast runs, forwards, backwards and step by step, and stays near full precision."""
    model.float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    exact_BTD = model(source, tgt_BT)
    with torch.autocast("cpu", torch.bfloat16):
        if train:
            model.train()
            model.project(model(source, tgt_BT)).float().sum().backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        else:
            with torch.no_grad():
                memory = model.encode(source)
                rows = torch.arange(3)
                hidden_BTD = in_chunks(model, tgt_BT, memory, rows, [1, 2, 1, 1, 1], 6)
            torch.testing.assert_close(hidden_BTD.float(), exact_BTD, rtol=0.1, atol=0.1)
