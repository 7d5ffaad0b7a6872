"""Our mathematics against TRL 1.12's own lines, run once by golden/make_trl.py: one formula, two hands."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.algorithms import advantages, losses

GOLDEN = json.loads((Path(__file__).parent / "golden" / "trl_ppo.json").read_text())
ALL = np.ones((3, 6), np.float32)


def arrays(part):
    return {k: np.array(v) for k, v in GOLDEN[part].items()}


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_rewards_and_advantages(kind):
    given, expected = arrays("inputs"), arrays(kind)
    kl = advantages.kl_estimate(given["logp"], given["ref_logp"], kind)
    np.testing.assert_allclose(kl, expected["kl"], rtol=1e-9, atol=1e-15)
    rewards = advantages.shaped_rewards(given["scores"], kl, ALL, 0.1)
    np.testing.assert_allclose(rewards, expected["rewards"], atol=1e-6)
    advantage, returns = advantages.gae(rewards, given["values"], ALL, 0.9, 0.8)
    np.testing.assert_allclose(advantage, expected["advantages"], atol=1e-6)
    np.testing.assert_allclose(returns, expected["returns"], atol=1e-6)


def test_k2_is_half_the_squared_log_ratio():
    given = arrays("inputs")  # TRL has no k2
    expected = 0.5 * np.log(np.exp(given["ref_logp"]) / np.exp(given["logp"])) ** 2
    np.testing.assert_allclose(advantages.kl_estimate(given["logp"], given["ref_logp"], "k2"), expected, rtol=1e-9)


def test_whitening():
    golden = arrays("whiten")
    x, mask, count = golden["x"], golden["mask"], golden["mask"].sum()
    # TRL divides by the sample deviation, we by the population's: for n tokens a factor of sqrt(n / (n - 1)).
    factor = np.sqrt(count / (count - 1))
    shifted = advantages.whiten(x, mask, shift_mean=True)
    np.testing.assert_allclose(shifted, golden["shifted"] * factor * mask, atol=1e-6)
    kept = advantages.whiten(x, mask, shift_mean=False)
    np.testing.assert_allclose(kept, ((golden["kept"] - golden["mean"]) * factor + golden["mean"]) * mask, atol=1e-6)


@pytest.mark.parametrize("library", ["mlx.core", "torch"])
def test_clipped_losses(library):
    backends.load("mlx")  # its fast BLAS comes before mlx.core
    xp = importlib.import_module(library)
    golden = arrays("losses")
    array = {k: (xp.array if library == "mlx.core" else xp.tensor)(v.astype(np.float32)) for k, v in golden.items()}
    total = array["mask"].sum()
    policy, ratio, clipped = losses.policy_loss(
        xp, array["new_logprobs"], array["mb_logprobs"], array["mb_advantage"], array["mask"], total, 0.2
    )
    value, value_clipped = losses.value_loss(
        xp, array["vpred"], array["mb_values"], array["mb_return"], array["mask"], total, 0.2
    )
    for ours, name in (
        (policy, "pg_loss"),
        (clipped, "pg_clipfrac"),
        (value, "vf_loss"),
        (value_clipped, "vf_clipfrac"),
    ):
        assert float(ours) == pytest.approx(float(golden[name]), abs=1e-6)
        assert abs(float(golden[name])) > 0.02, "a golden number of zero would say nothing"
    np.testing.assert_allclose(np.array(ratio.tolist()), golden["ratio"], rtol=1e-5)
