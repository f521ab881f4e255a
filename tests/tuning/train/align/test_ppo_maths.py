"""The maths of PPO and GRPO, against numbers computed by hand and properties that must hold."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepwell.tuning.align.ppo.maths import (
    constrained_advantages,
    gae,
    group_advantages,
    k3,
    kl_coefficient_step,
    lagrange_step,
    last_token_rewards,
    masked_mean,
    policy_loss,
    value_loss,
    whiten,
)

floats = st.floats(-8, 0, allow_nan=False, width=32)


def test_gae_is_what_the_recursion_gives_by_hand():
    # gamma 0.5, lambda 0.5; the second answer ends after two tokens, and what stands behind it is never read.
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, 9.0]])
    values = torch.tensor([[0.5, 0.25, 0.5], [1.0, 1.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    # First: d2 = 1 - 0.5 = 0.5; d1 = 0.25 - 0.25 = 0; d0 = 0.125 - 0.5 = -0.375
    # A2 = 0.5; A1 = 0 + 0.25 * 0.5 = 0.125; A0 = -0.375 + 0.25 * 0.125 = -0.34375
    # Second: d1 = 2 - 1 = 1; d0 = 0.5 - 1 = -0.5; A0 = -0.5 + 0.25 = -0.25
    assert advantages.tolist() == [[-0.34375, 0.125, 0.5], [-0.25, 1.0, 0.0]]
    assert returns.tolist() == [[0.15625, 0.375, 1.0], [0.75, 2.0, 0.0]]


def test_gae_with_lambda_one_and_no_values_is_the_discounted_return():
    mask = torch.tensor([[True, True, True, False]])
    rewards = last_token_rewards(torch.tensor([3.0]), mask)
    advantages, returns = gae(rewards, torch.zeros(1, 4), mask, gamma=0.5, lam=1.0)
    assert advantages.tolist() == returns.tolist() == [[0.75, 1.5, 3.0, 0.0]]


def test_a_score_stands_on_the_last_token_of_its_answer():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert last_token_rewards(torch.tensor([1.0, 2.0]), mask).tolist() == [[0, 1, 0], [0, 0, 2]]
    with pytest.raises(ValueError, match="without a token"):
        last_token_rewards(torch.tensor([1.0]), torch.zeros(1, 2, dtype=torch.bool))


def test_whitened_values_have_mean_0_and_variance_1_over_the_mask_alone():
    torch.manual_seed(0)
    values, mask = torch.randn(4, 7) * 5 + 3, torch.rand(4, 7) < 0.6
    found = whiten(values, mask)
    assert float(found[mask].mean()) == pytest.approx(0, abs=1e-6)
    assert float(found[mask].pow(2).mean()) == pytest.approx(1, abs=1e-5)
    assert float(found[~mask].abs().sum()) == 0
    assert whiten(torch.full((2, 3), 4.0), torch.ones(2, 3, dtype=torch.bool)).abs().sum() == 0


def test_a_policy_that_has_not_changed_has_ratio_1_and_nothing_is_clipped():
    torch.manual_seed(0)
    old, advantages = -torch.rand(3, 5), torch.randn(3, 5)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] * 4 + [False]])
    logprobs = old.clone().requires_grad_()
    found = policy_loss(logprobs, old, advantages, mask, clip=0.2)
    assert (found.ratio, found.clipped, found.kl) == (1, 0, 0)
    assert float(found.loss.detach()) == pytest.approx(-float(masked_mean(advantages, mask)))
    # The first step is that of the plain policy gradient.
    found.loss.backward()
    wanted = torch.where(mask, -advantages, 0.0) / mask.sum()
    assert logprobs.grad is not None and torch.allclose(logprobs.grad, wanted)


def test_clipping_stops_the_gradient_on_the_side_that_would_gain():
    old = torch.zeros(1, 4)
    ratios = torch.tensor([[1.5, 1.5, 0.5, 0.5]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    logprobs = ratios.log().requires_grad_()
    found = policy_loss(logprobs, old, advantages, torch.ones(1, 4, dtype=torch.bool), clip=0.2)
    assert found.clipped == 1
    assert float(found.loss.detach()) == pytest.approx((-1.2 + 1.5 - 0.5 + 0.8) / 4)
    found.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist()[0] == pytest.approx([0, 1.5 / 4, -0.5 / 4, 0])


def test_a_value_gains_nothing_by_leaving_the_old_one_too_far():
    mask = torch.ones(1, 2, dtype=torch.bool)
    values = torch.tensor([[1.0, 0.1]], requires_grad=True)
    loss = value_loss(values, torch.zeros(1, 2), torch.tensor([[1.0, 1.0]]), mask, clip=0.2)
    # The first is right but beyond the clip: its error is (0.2 - 1)^2, and has no gradient.
    assert float(loss.detach()) == pytest.approx(0.5 * (0.64 + 0.81) / 2)
    loss.backward()
    assert values.grad is not None and values.grad.tolist()[0] == pytest.approx([0, -0.45])


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=20))
def test_k3_is_never_negative_and_zero_for_equal_policies(pairs: list[tuple[float, float]]):
    policy, reference = torch.tensor(pairs).unbind(1)
    assert bool((k3(policy, reference) >= 0).all())
    assert bool((k3(policy, policy) == 0).all())


def test_k3_has_the_divergence_as_its_mean():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    expected = float((p * (p / q).log()).sum())
    assert float((p * k3(p.log(), q.log())).sum()) == pytest.approx(expected, abs=1e-6)


def test_groups_compare_answers_to_one_prompt_alone():
    found = group_advantages(torch.tensor([[1.0, 3.0], [100.0, 100.0], [0.0, 2.0]]))
    assert found.tolist()[0] == pytest.approx([-1, 1], abs=1e-4)
    assert found.tolist()[1] == [0, 0]
    assert found.tolist()[2] == pytest.approx([-1, 1], abs=1e-4)
    with pytest.raises(ValueError, match="two answers"):
        group_advantages(torch.ones(3, 1))


def test_the_multiplier_grows_while_the_cost_is_above_its_limit_and_is_never_negative():
    assert lagrange_step(0.0, 0.5, 0.2, rate=0.5) == pytest.approx(0.15)
    assert lagrange_step(0.1, 0.0, 1.0, rate=0.5) == 0
    reward, cost = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
    assert constrained_advantages(reward, cost, 0.0).tolist() == [1, 1]
    assert constrained_advantages(reward, cost, 3.0).tolist() == [-0.5, 1.0]


def test_the_weight_of_the_divergence_follows_its_budget():
    step = partial(kl_coefficient_step, 0.1, budget=0.2)
    assert step(kl=0.0, before=0.0) == 0.1  # nothing is known before the first update
    assert step(kl=0.14, before=0.14) == pytest.approx(0.1)  # at its aim and at rest
    assert step(kl=0.2, before=0.2) > 0.1 > step(kl=0.05, before=0.05)
    assert step(kl=0.07, before=0.04) > 0.1  # far below the aim, and on its way there too fast
    assert kl_coefficient_step(10.0, kl=9.0, before=1.0, budget=0.2) == 10


@pytest.mark.parametrize("pull", [0.05, 0.15, 0.5])
def test_the_divergence_settles_below_its_budget(pull: float):
    """The divergence answers the weight an iteration late, as in a run: faster the smaller the weight and the divergence."""
    coefficient, before, kl = 0.05, 0.0, 0.01
    course: list[float] = []
    for _ in range(40):
        coefficient = kl_coefficient_step(coefficient, kl, before, 0.2)
        before = kl
        kl *= math.exp(max(-1.2, min(0.6, 0.55 * math.log(pull / coefficient) - 0.36 * math.log(kl / 0.3))))
        course.append(kl)
    assert all(0.1 < one < 0.2 for one in course[20:])
