"""Trunks that read a token a slate: the parallel scan, pointwise attention, bounded states."""

import pytest
import torch
from torch.nn import functional as F

from responders import InputError
from responders.log.batch import SessionBatch
from responders.models.base import LogShape, unroll
from responders.models.parts.feedback import Feedback
from responders.models.parts.linear_attention import LinearAttentionBlock
from responders.models.parts.pointwise import PointwiseBlock
from responders.models.parts.scan import MinGRUCell, linear_scan
from responders.models.slate_trunks import HSTU, HSTUConfig, MinGRU, MinGRUConfig
from tests.conftest import random_responder


@pytest.mark.parametrize("length", [1, 2, 7, 64, 100])
def test_the_scan_equals_the_loop(length: int) -> None:
    torch.manual_seed(0)
    keep, new = torch.rand(3, length, 5, dtype=torch.float64), torch.randn(3, length, 5).double()
    state, expected = torch.zeros(3, 5, dtype=torch.float64), []
    for t in range(length):
        state = keep[:, t] * state + new[:, t]
        expected.append(state)
    torch.testing.assert_close(linear_scan(keep, new), torch.stack(expected, 1))


def test_a_cell_in_parallel_equals_its_steps_and_is_differentiable() -> None:
    torch.manual_seed(0)
    cell, x, state = MinGRUCell(4), torch.randn(2, 9, 4), torch.randn(2, 4)
    found, stepped = cell.parallel(x, state), []
    for t in range(9):
        state = cell(x[:, t], state)
        stepped.append(state)
    torch.testing.assert_close(found, torch.stack(stepped, 1))
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in cell.parameters())


def test_pointwise_attention_is_the_published_formula() -> None:
    torch.manual_seed(0)
    block = PointwiseBlock(4, 1, window=2)
    with torch.no_grad():
        block.bias.normal_()
        x = torch.randn(1, 5, 4)
        u, q, both = F.silu(block.project(block.norm(x))).split([4, 4, 8], -1)
        k, v = both.chunk(2, -1)
        expected = torch.zeros(1, 5, 4)
        for i in range(5):
            for j in range(max(0, i - 2), i + 1):
                score = q[0, i] @ k[0, j] / 2 + block.bias[0, i - j]
                expected[0, i] += F.silu(score) * v[0, j]
        expected = x + block.out(block.attended_norm(expected) * u)
        torch.testing.assert_close(block(x), expected)


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(InputError, match="multiple of 3 heads"):
        HSTU(LogShape(9, 4), HSTUConfig(heads=3))


@pytest.mark.parametrize("name", ["min_gru", "hstu window", "linear_attention"])
def test_the_state_of_a_long_session_is_bounded_and_exact(name: str) -> None:
    responder, r = random_responder(name), 40
    slate = torch.randint(-1, 9, (2, r, 4), generator=torch.Generator().manual_seed(0))
    slate[:, ::5] = -1
    click = (torch.rand(slate.shape, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    batch = SessionBatch(slate, click * (slate >= 0), torch.zeros(2, 2), torch.full((2,), r))
    sizes, state = [], responder.start(batch.user)
    with torch.no_grad():
        torch.testing.assert_close(
            responder(batch)[batch.shown], unroll(responder, batch)[batch.shown],
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip
        for t in range(r):
            state = responder.observe(state, slate[:, t], batch.click[:, t])
            sizes.append(sum(value.numel() for value in state["trunk"].values()))
    assert sizes[10] == sizes[-1]


@torch.no_grad()
def test_feedback_is_the_sum_over_the_clicks_above_and_has_mean_zero() -> None:
    torch.manual_seed(0)
    feedback, hidden, item = Feedback(3, 4, 5), torch.randn(2, 5), torch.randn(2, 3, 4)
    for parameter in feedback.parameters():
        parameter.normal_(0, 0.5)
    effects, attraction = feedback.effects(hidden, item, torch.arange(3)), torch.randn(2, 3)
    shown, expected = torch.ones(2, 3, dtype=torch.bool), attraction.sigmoid()
    _, never = Feedback.draw(effects, attraction, None, shown, torch.full((2, 3), 1.0))
    click, always = Feedback.draw(effects, attraction, None, shown, torch.zeros(2, 3))
    assert click.all()
    for probability, clicks in ((never, 0.0), (always, 1.0)):
        change = Feedback.changes(effects, clicks - expected)
        by_hand = effects[:, 2, 0] * (clicks - expected[:, 0])
        by_hand += effects[:, 2, 1] * (clicks - expected[:, 1])
        torch.testing.assert_close(change[:, 2], by_hand)
        torch.testing.assert_close(probability.logit(), attraction + change)
    first = expected[:, 0] * always[:, 1].logit() + (1 - expected[:, 0]) * never[:, 1].logit()
    torch.testing.assert_close(first, attraction[:, 1])  # on average nothing has changed


def test_feedback_learns_that_clicks_of_a_slate_go_together() -> None:
    """Users click all items of a slate or none, which no state before the slate can tell."""
    torch.manual_seed(0)
    responder = MinGRU(LogShape(9, 4, 0), MinGRUConfig(embedding_size=4, hidden_size=4))
    optimiser = torch.optim.Adam(responder.parameters(), 0.05)
    slate = torch.randint(0, 9, (64, 3, 4))
    click = (torch.rand(64, 3, 1) < 0.5).float().expand(slate.shape)
    batch = SessionBatch(slate, click, torch.zeros(64, 0), torch.full((64,), 3))
    for _ in range(40):
        optimiser.zero_grad()
        loss, _ = responder.training_loss(batch)
        (loss / 64).backward()
        optimiser.step()
    probability = responder.eval()(batch).detach().sigmoid()
    assert probability[:, :, 1:][click[:, :, 1:] > 0].mean() > 0.9
    assert probability[:, :, 1:][click[:, :, 1:] == 0].mean() < 0.1
    with torch.no_grad():
        marginal = responder.marginal(responder.start(torch.zeros(64, 0)), slate[:, 0])
    assert 0.4 < marginal.mean() < 0.6


def test_min_gru_can_remember_and_forget_at_a_click() -> None:
    """Its gate reads the token, so a slate without a click need not change the state."""
    torch.manual_seed(0)
    responder = MinGRU(LogShape(9, 4, 2))
    size = responder.config.embedding_size  # type: ignore[attr-defined]
    with torch.no_grad():
        responder.cells[0].gate.weight.zero_()
        responder.cells[0].gate.bias.fill_(-20)
        responder.lift.weight[0, 2 * size] = 1.0
        slate = torch.tensor([[0, 1, 2, 3]])
        state = responder.start(torch.randn(1, 2))
        after = responder.observe(state, slate, torch.zeros(1, 4))
    torch.testing.assert_close(after["trunk"]["layers"], state["trunk"]["layers"])


def test_linear_attention_is_a_fading_sum_and_equals_its_steps() -> None:
    torch.manual_seed(0)
    block, x = LinearAttentionBlock(6, 2), torch.randn(2, 7, 6)
    gate, query, key, value, log_decay = block._projected(x)
    expected = torch.zeros(2, 7, 2, 3)
    for i in range(7):
        for j in range(i + 1):
            fade = log_decay[:, j + 1 : i + 1].sum(1).exp()
            weight = (query[:, i] * key[:, j]).sum(-1) * fade
            expected[:, i] += weight.unsqueeze(-1) * value[:, j]
    found, memory = block(x), block.start(2)
    torch.testing.assert_close(found, block._finish(x, gate, expected))
    for t in range(7):
        stepped, memory = block.step(x[:, t], memory)
        torch.testing.assert_close(found[:, t], stepped)
    with pytest.raises(InputError, match="multiple of 4 heads"):
        LinearAttentionBlock(6, 4)
