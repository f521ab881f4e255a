"""The losses of DPO and KTO on numbers computed by hand, and the log-ratios of packed answers."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from deepwell.tuning.align.losses import (
    answer_sums,
    class_weights,
    dpo_loss,
    kto_loss,
    kto_shift,
    replay_loss,
)
from deepwell.tuning.train.batches import collate
from deepwell.tuning.train.examples import Example

pytestmark = pytest.mark.parity


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_dpo_is_the_logistic_loss_of_the_difference_of_rewards() -> None:
    preferred, rejected = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([-1.0, 3.0, 0.0])
    found = dpo_loss(preferred, rejected, 0.5)
    assert found.tolist() == pytest.approx([-log(sigmoid(1.5)), -log(sigmoid(-2.0)), log(2)], rel=1e-6)
    smooth = dpo_loss(preferred, rejected, 0.5, 0.1)
    assert smooth[0].item() == pytest.approx(-0.9 * log(sigmoid(1.5)) - 0.1 * log(sigmoid(-1.5)), rel=1e-6)


def test_kto_lifts_good_answers_above_its_reference_point_and_bad_ones_below() -> None:
    ratios = torch.tensor([3.0, 3.0, -2.0], requires_grad=True)
    desirable = torch.tensor([True, False, False])
    found = kto_loss(ratios, desirable, torch.tensor(1.0), 0.1, (2.0, 0.5))
    expected = [2 * (1 - sigmoid(0.2)), 0.5 * (1 - sigmoid(-0.2)), 0.5 * (1 - sigmoid(0.3))]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    found.sum().backward()
    assert ratios.grad is not None and (ratios.grad < 0).tolist() == [True, False, False]


def test_the_reference_point_is_never_below_zero_and_has_no_gradient() -> None:
    ratios = torch.tensor([1.0, 2.0], requires_grad=True)
    assert kto_shift(ratios).item() == 1.5 and not kto_shift(ratios).requires_grad
    assert kto_shift(-ratios).item() == 0


@pytest.mark.parametrize(
    ("counts", "weights"), [((10, 10), (1, 1)), ((5, 10), (2, 1)), ((10, 4), (1, 2.5)), ((1, 999), (10, 1))]
)
def test_the_rarer_kind_weighs_more_up_to_a_limit(
    counts: tuple[int, int], weights: tuple[float, float]
) -> None:
    assert class_weights(*counts) == weights


def test_sums_belong_to_their_examples_in_packed_rows() -> None:
    rows = [
        [
            Example([1, 2, 3], [False, True, True]),
            Example([4, 5], [False, False]),
            Example([6, 7], [False, True]),
        ],
        [Example([8, 9, 1, 2], [False, False, True, True])],
    ]
    batch = collate(rows)
    values = torch.arange(1.0, batch.labelled + 1, requires_grad=True)
    sums = answer_sums(batch, values)
    assert sums.tolist() == [1 + 2, 0, 3, 4 + 5]
    sums[3].backward()
    assert values.grad is not None and values.grad.tolist() == [0, 0, 0, 1, 1]


def test_replay_is_zero_where_nothing_moved_and_pulls_back_from_both_sides() -> None:
    differences = torch.tensor([0.0, 0.5, -0.5], requires_grad=True)
    found = replay_loss(differences)
    assert found.tolist() == pytest.approx([0, exp(0.5) - 1.5, exp(-0.5) - 0.5], rel=1e-5, abs=1e-7)
    found.sum().backward()
    assert differences.grad is not None
    assert differences.grad.tolist() == pytest.approx([0, exp(0.5) - 1, exp(-0.5) - 1], rel=1e-5, abs=1e-7)
