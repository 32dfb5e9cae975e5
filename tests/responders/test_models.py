"""What is particular to each model of the family, and the errors of the published code."""

from dataclasses import fields
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from responders import InputError, SessionLog
from responders.config import make_config
from responders.evaluation.predict import predict
from responders.log.batch import Part, SessionBatch, make_batch
from responders.log.split import split_users
from responders.models import scot
from responders.models.adversarial import AdvNCM
from responders.models.base import LogShape, Responder
from responders.models.build import build_responder, responder_class
from responders.models.neural import NeuralResponder
from responders.models.recurrent import HierarchicalGRU, SlateGRU, SlateGRUConfig
from responders.models.registry import RESPONDERS
from responders.training.checkpoint import load_responder
from responders.training.config import TrainConfig
from responders.training.fit import fit
from responders.training.trainer import Trainer
from tests.conftest import EVERY_RESPONDER, random_batch, random_responder, uniform

NEURAL = [name for name in RESPONDERS if issubclass(responder_class(name), NeuralResponder)]
CHAINS = ["cascade", "dcm", "ubm", "dbn", "ccm"]
SHAPE = LogShape(9, 4, 2)


def make(name: str, **settings: object) -> Responder:
    """An untrained responder for 9 items, 4 positions and 2 user features."""
    kind = responder_class(name)
    return kind(SHAPE, make_config(kind.config_class, settings, name))


def changed(batch: SessionBatch, r: int) -> SessionBatch:
    """The batch with other items and clicks from slate `r` on."""
    slate, click = batch.slate.clone(), batch.click.clone()
    slate[:, r:] = torch.where(slate[:, r:] >= 0, (slate[:, r:] + 1) % 9, -1)
    click[:, r:] = (1 - click[:, r:]) * (slate[:, r:] >= 0)
    return SessionBatch(slate, click, batch.user, batch.length)


# The errors of the published code, in the order of the specification.


def test_gradients_are_those_of_the_batch_alone(small_log: SessionLog, tmp_path: Path) -> None:
    split = split_users(small_log)
    responder, _ = build_responder("mf", small_log, split["train"].sessions)
    trainer = Trainer(responder, small_log, split, TrainConfig(clip=1e9), tmp_path, progress=False)
    first, second = (make_batch(small_log, Part.of(small_log, np.arange(i, i + 8))) for i in (0, 8))
    responder.train()
    trainer._step(first)
    before = {k: v.clone() for k, v in responder.state_dict().items()}
    trainer._step(second)
    found = {k: p.grad.clone() for k, p in responder.named_parameters() if p.grad is not None}
    responder.load_state_dict(before)
    responder.zero_grad()
    torch.manual_seed(1)  # the trainer's seed of step 1
    (responder.training_loss(second)[0] / second.shown.sum()).backward()
    for name, parameter in responder.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad)


@pytest.mark.parametrize("name", ["slate_gru", "session_gru", "hierarchical_gru", "adv_ncm"])
def test_the_click_above_is_read_and_learned_from(name: str) -> None:
    responder, batch = random_responder(name), random_batch()
    responder.training_loss(batch)[0].backward()
    weight = dict(responder.named_parameters())["gru.gru.weight_ih_l0"].grad
    assert weight is not None
    assert (weight[:, responder.items.size :].abs().sum() > 0).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", EVERY_RESPONDER)
def test_nothing_leaks_from_the_future_in_training(name: str) -> None:
    """As in evaluation; the noise of training is drawn from the same seed."""
    responder, batch = random_responder(name).train(), random_batch(slates=4)
    answers = []
    for one in (batch, changed(batch, 2)):
        torch.manual_seed(0)
        with torch.no_grad():
            answers.append(responder(one)[:, :2][batch.shown[:, :2]])
    torch.testing.assert_close(*answers, atol=1e-6, rtol=1e-6)


def test_the_mean_of_the_slates_states_starts_the_next() -> None:
    responder = random_responder("hierarchical_gru")
    assert isinstance(responder, HierarchicalGRU)
    slate, click = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    with torch.no_grad():
        state = responder.start(torch.zeros(1, 2))
        hidden, states = state["hidden"], []
        item = responder.items.vector(responder.items.index(slate))
        above = torch.zeros_like(item[:, 0])
        gru = responder.gru.gru
        cell = torch.nn.GRUCell(gru.input_size, gru.hidden_size)
        cell.load_state_dict({k.removesuffix("_l0"): v for k, v in gru.named_parameters()})
        for s in range(4):
            x = item[:, s] + responder.gru.position.weight[s]
            hidden = cell(torch.cat([x, above], -1), hidden)
            above = item[:, s] * click[:, s]
            states.append(hidden)
        found = responder.observe(state, slate, click)["hidden"]
    torch.testing.assert_close(found, torch.stack(states).mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["item_ctr", *NEURAL])
def test_item_0_is_neither_padding_nor_unknown(name: str) -> None:
    responder = random_responder(name)
    with torch.no_grad():
        state = responder.start(torch.zeros(1, 2))
        unknown = random_responder(name)
        unknown.items.row_of_item[1] = unknown.items.unknown  # type: ignore[union-attr, operator]
        slate = torch.tensor([[0, 1]])
        item_0, as_unknown = (r.logits(state, slate) for r in (responder, unknown))
        assert (item_0[0, 0] - as_unknown[0, 0]).abs() > 1e-4
        if responder.reads_history:
            clicked = responder.observe(state, slate, torch.tensor([[1.0, 0.0]]))
            empty = responder.observe(state, torch.tensor([[-1, 1]]), torch.zeros(1, 2))
            after = [responder.logits(s, torch.tensor([[2, 3]])) for s in (clicked, empty)]
            assert (after[0] - after[1]).abs().max() > 1e-5


@pytest.mark.parametrize("name", ["scot", "slate_transformer", "transformer_gru"])
def test_attention_sees_no_click_of_its_own_slate(name: str) -> None:
    responder, batch = random_responder(name), random_batch()
    flipped = (1 - batch.click) * batch.shown
    with torch.no_grad():
        for r in range(batch.slate.shape[1]):
            click = batch.click.clone()
            click[:, r] = flipped[:, r]
            other = SessionBatch(batch.slate, click, batch.user, batch.length)
            shown = batch.shown[:, r]
            torch.testing.assert_close(
                responder(batch)[:, r][shown], responder(other)[:, r][shown], atol=1e-6, rtol=1e-6
            )


# Readouts.


def read(responder: SlateGRU, readout: str) -> torch.Tensor:
    """Log-odds of a slate of a user without clicks, read as `readout` reads in training."""
    users, slate = torch.zeros(1, responder.items.size), torch.tensor([[1, 2, 3, 4]])
    responder.training_readout = readout
    torch.manual_seed(3)
    offset = responder.session_log_odds(responder.start(torch.zeros(1, 2)), slate)
    return responder.read_own_clicks(users, slate, offset).logits


def test_the_readouts_feed_what_they_say() -> None:
    """Threshold feeds whether p > 1/2, which equals a teacher who clicks just there."""
    responder = random_responder("slate_gru")
    assert isinstance(responder, SlateGRU)
    with torch.no_grad():
        for index in range(30):  # until a slate has clicks on both sides of one half
            responder.items.bias_table.weight[1:5].normal_(
                generator=torch.Generator().manual_seed(index)
            )
            logits = read(responder, "threshold")
            if 0 < (logits[0, :3] > 0).sum() < 3:
                break
        slate, state = torch.tensor([[1, 2, 3, 4]]), responder.start(torch.zeros(1, 2))
        state["user"]["features"] = torch.zeros_like(state["user"]["features"])
        taught = responder.logits(state, slate, (logits > 0).float())
        soft, thresholded = read(responder, "soft"), read(responder, "threshold")
    torch.testing.assert_close(logits, taught, atol=1e-5, rtol=1e-5)
    assert (soft - thresholded).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("readout", "flows"),
    [("soft", True), ("differentiable_sample", True), ("sample", False), ("threshold", False)],
)
def test_the_gradient_flows_through_differentiable_readouts(readout: str, flows: bool) -> None:
    """From the last position's log-odds back into the first position's click."""
    responder = random_responder(f"slate_gru {readout}").train()
    assert isinstance(responder, SlateGRU)
    torch.manual_seed(0)
    users = torch.zeros(1, responder.items.size)
    slate, offset = torch.tensor([[1, 2, 3, 4]]), torch.zeros(1, 1)
    responder.read_own_clicks(users, slate, offset).logits[0, -1].backward()
    bias = responder.readout.position_bias.weight.grad
    assert bias is not None
    assert (bias[0].abs() > 0).item() == flows


def test_an_unknown_readout_is_refused() -> None:
    with pytest.raises(InputError, match=r"readout 'sofd' is unknown.*soft"):
        SlateGRU(SHAPE, SlateGRUConfig(readout="sofd"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["slate_transformer", "session_transformer", "scot"])
def test_heads_must_divide_the_hidden_size(name: str) -> None:
    with pytest.raises(InputError, match="hidden_size 10 must be a multiple of 2 x 4 heads"):
        make(name, hidden_size=10)


# The next-click head.


@pytest.mark.parametrize("name", NEURAL)
def test_memory_is_the_same_stepping_and_in_parallel(name: str) -> None:
    torch.manual_seed(0)
    responder = make(name, hidden_size=8, embedding_size=8, next_click=0.5).eval()
    assert isinstance(responder, NeuralResponder)
    batch = random_batch()
    with torch.no_grad():
        parallel = responder.evaluate(batch).memory
        assert parallel is not None
        state = responder.start(batch.user)
        for r in range(batch.slate.shape[1]):
            here = batch.length > r
            torch.testing.assert_close(
                parallel[here, r], responder.memory(state)[here], atol=1e-5, rtol=1e-5
            )
            state = responder.observe(state, batch.slate[:, r], batch.click[:, r])
        assert responder.next_click_logits(state).shape == (len(batch.user), 9)


def test_the_next_click_head_learns_and_is_saved(small_log: SessionLog, tmp_path: Path) -> None:
    settings = {"epochs": 6, "next_click": 0.3, "hidden_size": 16, "patience": 6}
    users = fit(small_log, "session_gru", tmp_path / "run", settings, progress=False)
    losses = [epoch["next_click_loss"] for epoch in users.card["training"]["history"]]
    assert losses[-1] < losses[0]
    assert losses[-1] < np.log(40)  # better than a guess among 40 items
    assert isinstance(users.responder, NeuralResponder)
    state = users.responder.start(torch.zeros(2, small_log.users.features.shape[1]))
    assert users.responder.next_click_logits(state).shape == (2, 40)


def test_the_skip_contrast_learns(small_log: SessionLog, tmp_path: Path) -> None:
    settings = {"epochs": 4, "next_skip": 0.3, "hidden_size": 16, "patience": 6}
    users = fit(small_log, "session_gru", tmp_path / "run", settings, progress=False)
    losses = [epoch["next_skip_loss"] for epoch in users.card["training"]["history"]]
    assert losses[-1] < losses[0]
    assert "next_click_loss" not in users.card["training"]["history"][0]


def test_the_skip_contrast_is_cross_entropy_over_a_click_and_the_skips() -> None:
    torch.manual_seed(0)
    responder = make("session_gru", hidden_size=8, embedding_size=8, next_skip=1.0).eval()
    assert isinstance(responder, NeuralResponder)
    batch = random_batch()
    memory = responder.evaluate(batch).memory
    loss, _ = responder.next_skip_loss(batch, memory)
    expected, state = torch.zeros(()), responder.start(batch.user)
    for r in range(batch.slate.shape[1]):
        slate, click = batch.slate[:, r], batch.click[:, r]
        scores = responder.next_click_logits(state)
        for b, s in torch.nonzero(click > 0).tolist():
            skipped = slate[b][(click[b] == 0) & (slate[b] >= 0)]
            row = torch.cat([scores[b, slate[b, s, None]], scores[b, skipped]])
            expected = expected - row.log_softmax(0)[0]
        state = responder.observe(state, slate, click)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)
    responder.next_skip = 0.0
    assert responder.next_skip_loss(batch, memory) == (0.0, {})


def test_without_the_head_next_clicks_are_refused() -> None:
    responder = random_responder("scot")
    assert isinstance(responder, NeuralResponder)
    with pytest.raises(InputError, match="train it with next_click > 0"):
        responder.next_click_logits(responder.start(torch.zeros(1, 2)))


# AdvNCM.


def test_generator_and_discriminator_train_against_each_other() -> None:
    torch.manual_seed(0)
    responder = make("adv_ncm", hidden_size=8, embedding_size=8, adversarial=0.0)
    assert isinstance(responder, AdvNCM)
    batch = random_batch(users=40)
    plain = make("slate_gru", hidden_size=8, embedding_size=8)
    own = responder.state_dict()
    plain.load_state_dict({k: own[k] for k in plain.state_dict()})
    gradients = []
    for model in (plain.eval(), responder.eval()):
        model.training_loss(batch)[0].backward()
        gradients.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():  # the discriminator's loss does not reach it
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-5)
    assert (gradients[1]["discriminator.out.weight"].abs() > 0).any()

    responder.adversarial = 1.0
    responder.zero_grad()
    responder.training_loss(batch)[0].backward()
    moved = responder.gru.gru.weight_hh_l0.grad
    assert not torch.allclose(moved, gradients[0]["gru.gru.weight_hh_l0"])


def test_the_discriminator_learns_and_balance_is_logged(
    small_log: SessionLog, tmp_path: Path
) -> None:
    settings = {"epochs": 4, "hidden_size": 16, "patience": 4, "adversarial": 0.0}
    alone = fit(small_log, "adv_ncm", tmp_path / "alone", settings, progress=False)
    history = alone.card["training"]["history"]
    names = {
        "discriminator_loss", "generator_loss", "real_accuracy", "generated_accuracy",
        "generated_click_rate", "click_rate",
    }  # fmt: skip
    assert names <= history[0].keys()
    assert history[-1]["discriminator_loss"] < history[0]["discriminator_loss"]
    assert 0 < history[-1]["generated_click_rate"] < 1


# Models of reading down a slate.


@pytest.mark.parametrize("name", CHAINS)
def test_unconditional_probabilities_are_sums_over_the_clicks_above(name: str) -> None:
    responder = random_responder(name)
    slate = torch.tensor([[1, 2, -1, 4]])
    with torch.no_grad():
        unconditional = responder.logits({}, slate).sigmoid()[0]
        expected, total = torch.zeros(4), 0.0
        for clicks in product([0.0, 1.0], repeat=3):
            click = torch.tensor([[clicks[0], clicks[1], 0.0, clicks[2]]])
            p = responder.logits({}, slate, click).sigmoid()
            shown = slate >= 0
            weight = float(torch.where(click > 0, p, 1 - p)[shown].prod())
            expected += weight * click[0]
            total += weight
    assert total == pytest.approx(1, abs=1e-5)
    shown = slate[0] >= 0
    torch.testing.assert_close(unconditional[shown], expected[shown], atol=1e-4, rtol=1e-3)


def test_a_cascade_ends_at_the_first_click() -> None:
    responder = random_responder("cascade")
    with torch.no_grad():
        p = responder.logits({}, torch.tensor([[1, 2, 3]]), torch.tensor([[0.0, 1, 0]])).sigmoid()
    assert p[0, 1] > 0.05
    assert p[0, 2] < 1e-5


# From training to a checkpoint and back.


@pytest.mark.parametrize("name", RESPONDERS)
def test_every_responder_trains_and_comes_back_from_disk(
    name: str, small_log: SessionLog, tmp_path: Path
) -> None:
    """Better than chance on held-out users after one epoch, and the same when loaded again."""
    few = small_log.select(np.arange(200))
    known = {field.name for field in fields(responder_class(name).config_class)}
    settings = {k: 8 for k in ("hidden_size", "embedding_size") if k in known}
    settings |= {"epochs": 1, "batch_size": 64}
    users = fit(few, name, tmp_path / "run", settings, progress=False)
    metrics = users.card["metrics"]
    assert np.isfinite(metrics["log_loss"])
    if name not in ("cascade", "dcm"):  # too strict for clicks that are not the last
        assert metrics["log_loss"] < np.log(2)
    again = load_responder(tmp_path / "run")
    part = Part.of(few, np.arange(5))
    first, second = (predict(one.responder, few, part).logit for one in (users, again))
    np.testing.assert_allclose(first, second, atol=1e-6)

    more = few.catalogue.extended(np.array([1000]))
    extended = load_responder(tmp_path / "run", more).responder
    with torch.no_grad():
        state = extended.start(torch.zeros(1, few.users.features.shape[1]))
        slate = torch.tensor([[40, 0]])
        answer = extended.respond(state, slate, uniform(slate))
    assert torch.isfinite(answer.probability).all()


def test_scot_recomputes_long_sessions_with_the_same_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gradient of sessions that are recomputed is that of keeping everything."""
    batch, gradients = random_batch(users=12, slates=40), []
    for keep_everything in (False, True):
        if keep_everything:
            monkeypatch.setattr(scot, "checkpoint", lambda score, *given, **_: score(*given))
        responder = random_responder("scot").train()
        torch.manual_seed(1)
        responder.training_loss(batch)[0].backward()
        gradients.append({name: p.grad for name, p in responder.named_parameters()})
    torch.testing.assert_close(*gradients)
