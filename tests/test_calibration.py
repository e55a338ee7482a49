import numpy as np
import pytest

from bioclip2_jax.measures import calibration


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain_ece(scores, right):
    error = 0.0
    for number in range(15):
        inside = [i for i, s in enumerate(scores) if number / 15 <= s < (number + 1) / 15]
        if number == 14:
            inside += [i for i, s in enumerate(scores) if s == 1]
        if inside:
            gap = abs(np.mean([right[i] for i in inside]) - np.mean([scores[i] for i in inside]))
            error += len(inside) / len(scores) * gap
    return error


def plain_softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_the_calibration_error_is_that_of_fifteen_bins():
    rng = np.random.default_rng(0)
    scores = np.append(rng.random(300), [0.0, 1.0])
    right = rng.random(302) < scores**2
    found = calibration.summary(scores, right)
    assert found.ece == pytest.approx(plain_ece(scores, right))
    assert sum(part.count for part in found.bins) == 302


@pytest.fixture(scope="module")
def world():
    """Pictures whose true class is drawn from the softmax of 10 times their cosines."""
    rng = np.random.default_rng(1)
    images, classes = unit(rng.normal(size=(3000, 8))), unit(rng.normal(size=(6, 8)))
    chances = plain_softmax(10.0 * images.astype(float) @ classes.T)
    labels = np.asarray([rng.choice(6, p=row) for row in chances])
    return images, labels, classes


def test_the_temperature_is_the_one_of_least_loss_on_one_half(world):
    images, labels, classes = world
    found = calibration.temperature_scaling(images, labels, classes, 40.0, seed=3)
    order = np.random.default_rng(3).permutation(3000)
    logits = 40.0 * images.astype(float) @ classes.T

    def loss(rows, temperature):
        chances = plain_softmax(logits[rows] / temperature)
        return -np.mean(np.log(chances[np.arange(len(rows)), labels[rows]]))

    fitted, judged = order[:1500], order[1500:]
    grid = np.exp(np.linspace(0, 3, 3001))
    best = grid[np.argmin([loss(fitted, t) for t in grid])]
    assert found.temperature == pytest.approx(best, rel=2e-3)
    assert found.temperature == pytest.approx(4, rel=0.1)  # the labels were drawn at 40 / 4
    for name, temperature in (("before", 1.0), ("after", found.temperature)):
        chances = plain_softmax(logits[judged] / temperature)
        right = chances.argmax(axis=1) == labels[judged]
        assert getattr(found, f"nll_{name}") == pytest.approx(loss(judged, temperature), rel=1e-4)
        assert getattr(found, f"ece_{name}") == pytest.approx(
            plain_ece(chances.max(axis=1), right), abs=1e-3
        )
    assert found.ece_after < 0.05 < found.ece_before


def test_a_long_list_is_fitted_on_fewer_images_and_judged_on_all(world, monkeypatch):
    images, labels, classes = world
    whole = calibration.temperature_scaling(images, labels, classes, 40.0)
    monkeypatch.setattr(calibration, "FIT_SCORES", 6 * 700)
    monkeypatch.setattr("bioclip2_jax.measures.scores.CHUNK_ELEMENTS", 600)
    some = calibration.temperature_scaling(images, labels, classes, 40.0)
    assert (some.num_fitted, some.num_judged) == (700, 1500)
    assert some.nll_before == pytest.approx(whole.nll_before, rel=1e-5)
    assert some.temperature == pytest.approx(whole.temperature, rel=0.1)


def test_one_image_gives_no_temperature(world):
    images, labels, classes = world
    assert calibration.temperature_scaling(images[:1], labels[:1], classes, 40.0) is None


def test_a_temperature_of_few_pictures_or_at_the_bound_is_flagged(world):
    images, labels, classes = world
    assert calibration.temperature_scaling(images, labels, classes, 40.0).caution == ""
    few = calibration.temperature_scaling(images[:20], labels[:20], classes, 40.0)
    assert "fitted on 10 pictures" in few.caution
    right = (images @ classes.T).argmax(axis=1)  # nothing is ever wrong: the colder, the better
    assert "bound" in calibration.temperature_scaling(images, right, classes, 40.0).caution
