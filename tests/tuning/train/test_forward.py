"""The written-out forward pass gives the loss and the gradients of transformers' own, on rows of several examples."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers

from deepwell.tuning.train.batches import Batch, collate
from deepwell.tuning.train.examples import Example
from deepwell.tuning.train.forward.adapters import dropped
from deepwell.tuning.train.forward.attention import attend, attend_backward, by_key_head, by_token
from deepwell.tuning.train.forward.decoder import unsupported
from deepwell.tuning.train.forward.head import head_logprobs, head_loss
from deepwell.tuning.train.forward.layout import lay_out
from deepwell.tuning.train.forward.loss import logprobs, outcome, reference_logprobs
from deepwell.tuning.train.forward.norm import rms_norm, rms_norm_backward

pytestmark = pytest.mark.parity

SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = ["Llama", "Qwen2", "Qwen3"]


def model(family: str, dtype: Any, *, targets: Any = "all-linear", dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, attn_implementation="eager")
    base = getattr(transformers, f"{family}ForCausalLM")(config).to(dtype)
    for parameter in base.parameters():  # biases and norms that change nothing would hide a fault
        if parameter.dim() == 1:
            parameter.data += torch.randn_like(parameter) * 0.2
    found = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=targets)
    )
    for name, parameter in found.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.1
    return found.train()


def batch(width: int | None = 320) -> Batch:
    """Two rows of examples, one longer than a tile, with padding behind them."""
    draw = torch.Generator().manual_seed(1)
    rows = [
        [
            Example(
                torch.randint(3, 300, (length,), generator=draw).tolist(),
                [place >= length // 3 for place in range(length)],
            )
            for length in lengths
        ]
        for lengths in ([5, 90, 60, 100], [150, 20, 50])
    ]
    return collate(rows, width)


def reference(found: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
    """Loss and gradients of transformers: every example alone, without packing."""
    found.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for row, segments in enumerate(batch.segments):
        for number in range(int(segments.max()) + 1):
            places = (segments == number).nonzero()[:, 0]
            ids, mask = batch.token_ids[row, places], batch.loss_mask[row, places]
            logits = found(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits[mask[1:]], ids[1:][mask[1:]], reduction="sum")
            loss.backward()
            total += float(loss.detach())
    return total, gradients(found)


def gradients(found: Any) -> dict[str, Any]:
    return {name: one.grad.clone() for name, one in found.named_parameters() if one.grad is not None}


def ours(found: Any, batch: Batch, **options: Any) -> tuple[Any, dict[str, Any]]:
    found.zero_grad()
    result = outcome(found, batch, **options)
    result.loss.backward()
    return result, gradients(found)


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one)


def mean_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    return sum(difference({name: one[name]}, {name: other[name]}) for name in one) / len(one)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_those_of_transformers(family: str) -> None:
    found = model(family, torch.float32)
    assert unsupported(found) is None
    expected, slopes = reference(found, batch())
    result, computed = ours(found, batch())
    assert float(result.loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert result.labelled == batch().labelled
    assert difference(computed, slopes) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_as_near_to_fp32_as_transformers_is(family: str) -> None:
    exact = reference(model(family, torch.float32), batch())[1]
    theirs = reference(model(family, torch.bfloat16), batch())[1]
    result, computed = ours(model(family, torch.bfloat16), batch())
    assert mean_difference(computed, exact) < 1.5 * mean_difference(theirs, exact)
    assert difference(computed, exact) < 0.1
    assert result.loss.dtype == torch.float32


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"], ["o_proj", "up_proj"]])
def test_adapters_on_some_projections_get_their_gradients(targets: list[str]) -> None:
    found = model("Llama", torch.float32, targets=targets)
    assert difference(ours(found, batch())[1], reference(found, batch())[1]) < 1e-4


def test_checkpointing_changes_no_gradient_and_repeats_the_dropout() -> None:
    found = model("Llama", torch.float32, dropout=0.3)
    torch.manual_seed(3)
    plain = ours(found, batch())[1]
    torch.manual_seed(3)
    saved = ours(found, batch(), checkpointing=True)[1]
    assert all(torch.equal(plain[name], saved[name]) for name in plain)
    assert difference(ours(found, batch())[1], plain) > 1e-3  # another draw


def test_evaluation_drops_nothing() -> None:
    found = model("Llama", torch.float32, dropout=0.5).eval()
    with torch.inference_mode():
        losses = {float(outcome(found, batch()).loss) for _ in range(2)}
    assert len(losses) == 1
    found.train()
    _ = ours(found, batch())  # weights that a validation packed can be trained on


def test_the_model_saves_and_loads_the_weights_that_it_had(tmp_path: Any) -> None:
    found = model("Qwen2", torch.float32)
    before = {name: value.clone() for name, value in found.state_dict().items()}
    _ = ours(found, batch())
    after = found.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    other = {name: value + torch.randn_like(value) * 0.02 for name, value in before.items()}
    found.load_state_dict(other)
    assert difference(ours(found, batch())[1], reference(found, batch())[1]) < 1e-4


def test_trained_base_weights_take_the_forward_pass_of_transformers() -> None:
    found = model("Llama", torch.float32).get_base_model()
    for parameter in found.parameters():
        parameter.requires_grad_(True)
    assert unsupported(found)
    expected, slopes = reference(found, batch())
    result, computed = ours(found, batch())
    assert float(result.loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert difference(computed, slopes) < 1e-4


def test_a_batch_without_labels_has_no_loss_and_gradients_of_zero() -> None:
    found = model("Llama", torch.float32)
    blank = batch()
    blank = Batch(blank.token_ids, blank.positions, blank.segments, torch.zeros_like(blank.loss_mask))
    result, computed = ours(found, blank)
    assert float(result.loss.detach()) == 0 and result.labelled == 0
    assert all(not one.any() for one in computed.values())


def test_no_tile_sees_more_than_its_segments() -> None:
    rows = batch()
    layout = lay_out(rows, torch.float32, tile=32)
    allowed = sum(length * (length + 1) // 2 for length in (5, 90, 60, 100, 150, 20, 50))
    seen = [tile.clear * (tile.end - tile.start) + int((tile.mask == 0).sum()) for tile in layout.tiles]
    assert sum(seen) == allowed
    assert [tile.start for tile in layout.tiles[1:]] == [tile.end for tile in layout.tiles[:-1]]
    assert len(layout.token_ids) == rows.tokens
    assert layout.mean_reach < 150


def test_attention_in_tiles_has_the_gradients_of_a_dense_one() -> None:
    layout = lay_out(batch(), torch.float32, tile=32)
    count = len(layout.token_ids)
    draw = torch.Generator().manual_seed(2)
    q, k, v, grad = (torch.randn(count, heads, 8, generator=draw) for heads in (4, 2, 2, 4))
    dense = torch.full((count, count), -torch.inf)
    for tile in layout.tiles:
        clear = tile.first_key + tile.lead
        masked = clear + tile.clear
        dense[tile.start : tile.end, clear:masked] = 0
        dense[tile.start : tile.end, masked : tile.end] = tile.mask
    leaves = [one.clone().requires_grad_() for one in (q, k, v)]
    wide = [leaves[0], *(one.repeat_interleave(2, 1) for one in leaves[1:])]
    scores = torch.einsum("ihd,jhd->hij", wide[0], wide[1]) + dense
    expected = torch.einsum("hij,jhd->ihd", scores.softmax(-1), wide[2])
    expected.backward(grad)
    parts = [by_key_head(q, 2), by_key_head(k, 2).squeeze(2), by_key_head(v, 2).squeeze(2)]
    for keep in (True, False):
        out, kept = attend(*parts, layout.tiles, keep=keep)
        assert len(kept) == (len(layout.tiles) if keep else 0)
        torch.testing.assert_close(by_token(out), expected, rtol=1e-4, atol=1e-5)
        found = attend_backward(by_key_head(grad, 2), *parts, layout.tiles, kept)
        torch.testing.assert_close(by_token(found[0]), leaves[0].grad, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(found[1:], leaves[1:], strict=True):
            torch.testing.assert_close(ours.transpose(0, 1), theirs.grad, rtol=1e-4, atol=1e-5)


def test_head_in_pieces_equals_cross_entropy() -> None:
    draw = torch.Generator().manual_seed(4)
    hidden = (torch.randn(600, 32, generator=draw) * 3).requires_grad_()
    weight = torch.randn(97, 32, generator=draw)
    targets = torch.randint(0, 97, (600,), generator=draw)
    logits = hidden @ weight.t()
    # Some targets are all but certain, where a rounded probability would lose the loss.
    targets[::2] = logits.argmax(-1)[::2]
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    (slope,) = torch.autograd.grad(expected, hidden)
    total, correct = head_loss(hidden, weight, targets)
    (ours,) = torch.autograd.grad(total, hidden)
    assert float(total.detach()) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(ours, slope, rtol=1e-4, atol=1e-4)
    assert int(correct) == int((logits.argmax(-1) == targets).sum())


def test_norm_rounds_once() -> None:
    draw = torch.Generator().manual_seed(5)
    x, weight, grad = (
        torch.randn(*shape, generator=draw).bfloat16() for shape in ((700, 64), (64,), (700, 64))
    )
    exact = x.float().requires_grad_()
    expected = torch.nn.functional.rms_norm(exact, (64,), weight.float(), 1e-5)
    y, scale = rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(y, expected.bfloat16(), rtol=0.01, atol=0)
    expected.backward(grad.float())
    torch.testing.assert_close(
        rms_norm_backward(grad, x, weight, scale, onto=None), exact.grad.bfloat16(), rtol=0.01, atol=1e-3
    )


def test_dropout_has_its_share_and_repeats_by_its_seed() -> None:
    x = torch.empty(500, 300)
    gone = dropped(x, 0.1, 7)
    assert float(gone.float().mean()) == pytest.approx(0.1, abs=0.003)
    assert torch.equal(gone, dropped(x, 0.1, 7))
    assert not torch.equal(gone, dropped(x, 0.1, 8))


def weighted(values: Any) -> Any:
    """A loss in which every label has a weight of its own, so that a gradient of the sum alone would be another."""
    return (values * torch.linspace(-1, 2, len(values))).sum()


@pytest.mark.parametrize("trains_base", [False, True])
def test_logprobs_equal_those_of_transformers_label_by_label(trains_base: bool) -> None:
    found = model("Llama", torch.float32)
    if trains_base:
        found.get_base_model().lm_head.weight.requires_grad_(True)
    assert bool(unsupported(found)) == trains_base
    rows = batch()
    expected = []
    for row, segments in enumerate(rows.segments):
        for number in range(int(segments.max()) + 1):
            places = (segments == number).nonzero()[:, 0]
            ids, mask = rows.token_ids[row, places], rows.loss_mask[row, places]
            chances = found(input_ids=ids[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
            expected.append(chances.gather(1, ids[1:, None])[mask[1:], 0])
    found.zero_grad()
    weighted(torch.cat(expected)).backward()
    slopes = gradients(found)
    found.zero_grad()
    values = logprobs(found, rows)
    weighted(values).backward()
    torch.testing.assert_close(values, torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert difference(gradients(found), slopes) < 1e-4


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_the_reference_is_the_model_without_its_adapters(family: str) -> None:
    found = model(family, torch.float32, dropout=0.4)
    rows = batch()
    with found.disable_adapter():
        expected = -outcome(found, rows).loss
    values = reference_logprobs(found, rows)
    assert not values.requires_grad and found.training
    assert float(values.sum()) == pytest.approx(float(expected), rel=1e-5)
    adapted = logprobs(found.eval(), rows)
    assert adapted.requires_grad
    assert float((adapted.detach() - values).abs().max()) > 0.01
    found.get_base_model().lm_head.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="weights of its own"):
        reference_logprobs(found, rows)


def test_logprobs_of_the_head_have_a_gradient_each() -> None:
    draw = torch.Generator().manual_seed(6)
    hidden = (torch.randn(600, 32, generator=draw) * 3).requires_grad_()
    weight = torch.randn(97, 32, generator=draw)
    targets = torch.randint(0, 97, (600,), generator=draw)
    logits = hidden @ weight.t()
    targets[::2] = logits.argmax(-1)[::2]
    expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (slope,) = torch.autograd.grad(weighted(expected), hidden)
    values = head_logprobs(hidden, weight, targets)
    (ours,) = torch.autograd.grad(weighted(values), hidden)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours, slope, rtol=1e-4, atol=1e-4)
