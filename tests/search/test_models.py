"""Targets, fit, posterior, feasibility and acquisition: the numbers behind a suggestion."""

from __future__ import annotations

import math

import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from gpytorch.mlls import ExactMarginalLogLikelihood
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.designs import MIXED, SMALL

from foretune.errors import SuggestionUnavailableError
from foretune.search.acquisition import Acquisition, polish, pool
from foretune.search.designer import Deadline
from foretune.search.economy import Economy
from foretune.search.encode import Encoding
from foretune.search.feasibility import Feasibility
from foretune.search.fit import Fit, fit_single_task_gp, marginal_loss, single_task_gp
from foretune.search.posterior import NotFiniteError, Posterior, cholesky
from foretune.search.targets import Targets

finite_values = st.lists(st.floats(-1e200, 1e200), min_size=1, max_size=20)


def data(n: int = 20, width: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `n` rows and standardised targets of a smooth function with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(n, width, generator=generator, dtype=torch.float64)
    noise = 0.05 * torch.randn(n, generator=generator, dtype=torch.float64)
    y = torch.sin(4 * X[:, 0]) - (X[:, 1] - 0.3).square() + noise
    return X, (y - y.mean()) / y.std(correction=0)


def posterior_of(fit: Fit, X: torch.Tensor, z: torch.Tensor) -> Posterior:
    """Return the posterior of a fit on its own data."""
    return Posterior(fit.kernel, constant=fit.constant, noise=fit.noise, X=X, z=z)


@given(values=finite_values, maximize=st.booleans())
@settings(max_examples=80, deadline=None)
def test_targets_are_finite_and_keep_the_order(values: list[float], maximize: bool) -> None:
    """Better values never get smaller targets, the best stays the best, nothing overflows."""
    targets = Targets.of(values, maximize=maximize)
    assert bool(torch.isfinite(targets.z).all())
    sign = 1 if maximize else -1
    order = sorted(range(len(values)), key=lambda i: sign * values[i])
    sorted_z = targets.z[order]
    assert bool((sorted_z[1:] >= sorted_z[:-1] - 1e-12).all())


def test_targets_go_back_to_the_metric() -> None:
    """A mean and a deviation return to the metric's own unit and direction."""
    targets = Targets.of([1.0, 2.0, 3.0], maximize=False)
    assert [targets.mean(z) for z in targets.z.tolist()] == pytest.approx([1.0, 2.0, 3.0])
    assert targets.sd(1.0) == pytest.approx(math.sqrt(2 / 3))
    assert targets.z[0] > targets.z[2]


def test_one_diverged_loss_flattens_nothing() -> None:
    """A bad outlier of a million leaves the differences of the others visible."""
    ordinary = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    z = Targets.of([*ordinary, 1e6], maximize=False).z
    assert float(z[:6].max() - z[:6].min()) > 1.0
    z = Targets.of([*ordinary, 1e6], maximize=True).z
    assert float(z[:6].max() - z[:6].min()) > 0.5
    assert int(z.argmax()) == 6


def test_a_majority_at_the_top_hides_no_bad_value() -> None:
    """When most values are equal and best, a bad one still looks bad."""
    z = Targets.of([0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.2], maximize=True).z
    assert float(z[0] - z[5]) > 0.5


def test_the_loss_is_that_of_botorch() -> None:
    """Our objective equals gpytorch's exact marginal likelihood of the same `SingleTaskGP`."""
    X, z = data()
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        theta = 0.5 * torch.randn(5, generator=generator, dtype=torch.float64)
        theta[1] = -3.0
        model = single_task_gp(X, z)
        model.mean_module.constant.data.fill_(float(theta[0]))
        model.likelihood.noise = theta[1].exp()
        model.covar_module.lengthscale = theta[2:].exp()
        mll = ExactMarginalLogLikelihood(model.likelihood, model)
        model.train()
        wanted = -mll(model(X), model.train_targets)
        assert float(marginal_loss(model, theta, X, z)) == pytest.approx(
            float(wanted.detach()), abs=1e-6
        )


@pytest.mark.slow
def test_a_fit_is_at_least_as_good_as_botorchs() -> None:
    """The loss reached is not above that of BoTorch's own optimiser."""
    from botorch.fit import fit_gpytorch_mll

    X, z = data(30)
    model = single_task_gp(X, z)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    theirs = torch.cat(
        [
            model.mean_module.constant.detach().reshape(1),
            model.likelihood.noise.detach().log(),
            model.covar_module.lengthscale.detach()[0].log(),
        ]
    )
    fit = fit_single_task_gp(X, z, Deadline(60))
    ours = torch.tensor(
        [fit.constant, math.log(fit.noise), *(math.log(v) for v in fit.lengthscales)],
        dtype=torch.float64,
    )
    loss = [float(marginal_loss(model, theta, X, z)) for theta in (ours, theirs)]
    assert loss[0] <= loss[1] + 1e-4


def test_the_posterior_is_that_of_botorch() -> None:
    """Mean and deviation agree with `SingleTaskGP.posterior` at the same hyperparameters."""
    X, z = data()
    fit = fit_single_task_gp(X, z, Deadline(60))
    model = single_task_gp(X, z)
    model.mean_module.constant.data.fill_(fit.constant)
    model.likelihood.noise = fit.noise
    model.covar_module.lengthscale = torch.tensor(fit.lengthscales, dtype=torch.float64)
    queries, _ = data(50, seed=1)
    model.eval()
    with torch.no_grad():
        theirs = model.posterior(queries)
        mean, sd = posterior_of(fit, X, z).at(queries)
    torch.testing.assert_close(mean[:, 0], theirs.mean[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sd, theirs.variance[:, 0].sqrt(), atol=1e-4, rtol=1e-3)


def test_the_acquisition_is_botorchs_log_ei() -> None:
    """Without pending trials and failures the score is `LogExpectedImprovement`."""
    X, z = data()
    fit = fit_single_task_gp(X, z, Deadline(60))
    posterior = posterior_of(fit, X, z)
    model = single_task_gp(X, z)
    model.mean_module.constant.data.fill_(fit.constant)
    model.likelihood.noise = fit.noise
    model.covar_module.lengthscale = torch.tensor(fit.lengthscales, dtype=torch.float64)
    model.eval()
    queries, _ = data(50, seed=2)
    theirs = LogExpectedImprovement(model, best_f=posterior.incumbent()[0])
    with torch.no_grad():
        wanted = theirs(queries.unsqueeze(1))
        found = Acquisition(posterior, Economy(None, None))(queries)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)


def test_a_pending_trial_is_worth_nothing_twice() -> None:
    """Fantasies remove the expected improvement next to a pending trial and leave it far away."""
    X, z = data()
    posterior = posterior_of(fit_single_task_gp(X, z, Deadline(60)), X, z)
    queries, _ = data(200, seed=3)
    with torch.no_grad():
        before = Acquisition(posterior, Economy(None, None))(queries)
        chosen = queries[before.argmax()].unsqueeze(0)
        after = Acquisition(posterior.with_pending(chosen, seed=0), Economy(None, None))
        assert float(after(chosen)) < float(before.max()) - 0.5
        assert not torch.equal(queries[after(queries).argmax()], chosen[0])


def test_fantasies_agree_with_the_posterior() -> None:
    """Averaged over fantasies the mean hardly moves, and no deviation grows."""
    X, z = data()
    posterior = posterior_of(fit_single_task_gp(X, z, Deadline(60)), X, z)
    pending, _ = data(4, seed=4)
    queries, _ = data(50, seed=5)
    fantasised = posterior.with_pending(pending, seed=0)
    mean, sd = posterior.at(queries)
    new_mean, new_sd = fantasised.at(queries)
    assert new_mean.shape == (50, 16)
    assert bool((new_sd <= sd + 1e-9).all())
    assert bool(((new_mean.mean(dim=1) - mean[:, 0]).abs() <= 0.35 * sd + 1e-6).all())
    assert posterior.with_pending(pending[:0], seed=0) is posterior


def test_a_matrix_that_is_hardly_positive_definite_gets_jitter() -> None:
    """Duplicate rows without noise still factorise; a truly indefinite matrix and NaN are refused."""
    ones = torch.ones(3, 3, dtype=torch.float64)
    L = cholesky(ones)
    torch.testing.assert_close(L @ L.T, ones, atol=1e-3, rtol=0)
    with pytest.raises(torch.linalg.LinAlgError):
        cholesky(-ones)
    with pytest.raises(NotFiniteError):
        cholesky(ones * math.nan)


def test_feasibility_learns_a_monotone_limit() -> None:
    """Failures at one end of a column make that end doubtful and leave the other trusted."""
    line = torch.linspace(0, 1, 9, dtype=torch.float64)
    X = torch.stack([line, torch.full_like(line, 0.5)], dim=1)
    model = Feasibility(X[:6], X[6:])
    chance = model.log_probability(X).exp()
    assert float(chance[:4].min()) > 0.8
    assert float(chance[7:].max()) < 0.4
    assert bool((chance[1:] <= chance[:-1] + 0.02).all())


def test_feasibility_is_differentiable_and_a_probability() -> None:
    """Log P is at most 0 everywhere, its gradient finite, with failures alone as well."""
    X, _ = data(12)
    for worked, failed in ((X[:8], X[8:]), (X[:0], X)):
        model = Feasibility(worked, failed)
        query = X.clone().requires_grad_()
        value = model.log_probability(query)
        assert bool((value <= 0).all())
        value.sum().backward()
        assert query.grad is not None
        assert bool(torch.isfinite(query.grad).all())


def test_a_small_space_is_scored_whole_and_a_large_one_sampled() -> None:
    """The pool of twelve configurations is these twelve; that of a mixed space is legal and near the best."""
    small = Encoding(SMALL)
    assert len(pool(small, small.grid()[:1], seed=0)) == 12
    mixed = Encoding(MIXED)
    best = mixed.draw(torch.full((1, len(mixed.columns)), 0.4, dtype=torch.float64))
    candidates = pool(mixed, best, seed=0)
    assert torch.equal(mixed.snap(candidates), candidates)
    spray = candidates[2048:]
    assert len(spray) == 512
    assert float((spray - best).abs()[:, 0].median()) < 0.15
    assert torch.equal(candidates, pool(mixed, best, seed=0))
    assert not torch.equal(candidates, pool(mixed, best, seed=1))


def test_polishing_goes_uphill_and_stays_legal() -> None:
    """Smooth columns move to a better score, the others stay, and the result is legal."""
    encoding = Encoding(MIXED)
    starts = encoding.draw(torch.full((2, len(encoding.columns)), 0.2, dtype=torch.float64))

    def score(X: torch.Tensor) -> torch.Tensor:
        return -(X[:, 0] - 0.77).square() - (X[:, 7] - 0.5).square()

    polished = polish(encoding, score, starts, Deadline(60))
    assert float(polished[0, 0]) == pytest.approx(0.77, abs=1e-3)
    assert torch.equal(encoding.snap(polished), polished)
    fixed = [j for j in range(encoding.width) if j not in encoding.smooth]
    assert torch.equal(polished[:, fixed], starts[:, fixed])


def test_a_fit_stops_at_its_deadline() -> None:
    """A cancelled deadline ends a fit at its next step."""
    X, z = data()
    deadline = Deadline(60)
    deadline.cancel()
    with pytest.raises(SuggestionUnavailableError, match="deadline"):
        fit_single_task_gp(X, z, deadline)


def test_a_prediction_counts_less_than_an_observation() -> None:
    """The noise of one row may be larger: without limit it is as if the row were not there."""
    X, z = data()
    extra = torch.zeros(len(X), dtype=torch.float64)
    extra[-1] = 1e9
    fit = fit_single_task_gp(X[:-1], z[:-1], Deadline(math.inf))
    without = posterior_of(fit, X[:-1], z[:-1])
    unsure = Posterior(fit.kernel, constant=fit.constant, noise=fit.noise, X=X, z=z, extra=extra)
    sure = posterior_of(fit, X, z)
    at = torch.rand(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for a, b in zip(unsure.at(at), without.at(at), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert not torch.allclose(unsure.at(at)[0], sure.at(at)[0], atol=1e-4)
    pending = unsure.with_pending(at[:2], seed=0)
    assert torch.allclose(pending.at(at[2:])[1], without.with_pending(at[:2], seed=0).at(at[2:])[1])


def test_predictions_are_noise_to_the_fit_too() -> None:
    """A wild row whose noise is known to be large does not make the whole function wild."""
    X, z = data(30)
    z = z.clone()
    z[3] = 8.0
    extra = torch.zeros(len(X), dtype=torch.float64)
    extra[3] = 64.0
    told = fit_single_task_gp(X, z, Deadline(math.inf), extra)
    untold = fit_single_task_gp(X, z, Deadline(math.inf))
    assert min(told.lengthscales) > 3 * min(untold.lengthscales)
