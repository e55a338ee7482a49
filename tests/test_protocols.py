"""The protocols beyond species against plain references written here."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import f1_score
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import beyond, species
from bioclip2_jax.evaluation.protocols.herbarium19 import herbarium19, split_labelled
from bioclip2_jax.evaluation.protocols.multi_label import awa2, fishnet
from bioclip2_jax.evaluation.protocols.newt import newt
from bioclip2_jax.evaluation.protocols.parts import Parts
from bioclip2_jax.evaluation.protocols.plantdoc import loader_order, plantdoc
from bioclip2_jax.evaluation.published.beyond import Labelled, OldAndNew, TwoParts
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.evaluation.subject import Job
from bioclip2_jax.measures import heads


def clusters(rng, classes: int, each: int, dim: int, spread: float = 1.0):
    """Features [classes · each, dim] float32 around one centre a class, and labels, shuffled."""
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    centres = rng.normal(size=(classes, dim))
    return (centres[labels] + spread * rng.normal(size=(len(labels), dim))).astype("f4"), labels


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


# ---- NeWT


def newt_questions(rng):
    parts = [clusters(rng, 2, 30, 12, 3.0) for _ in range(3)]
    tasks = np.repeat(["age", "sex", "health"], 60)
    is_train = np.tile(np.arange(60) < 36, 3)
    order = rng.permutation(180)  # the published table does not keep tasks together
    features = np.concatenate([x for x, _ in parts])[order]
    labels = np.concatenate([y for _, y in parts])[order]
    return features, labels, tasks[order], is_train[order]


def test_newt_gives_the_numbers_of_scikit_learn():
    features, labels, tasks, is_train = newt_questions(np.random.default_rng(0))
    clusters = np.where(tasks == "health", "c2", "c1")
    found = newt(features, labels, tasks, is_train, seed=1, clusters=clusters, iterations=8, jobs=1)
    right, per_task = [], {}
    for task in ("age", "sex", "health"):
        train, test = (tasks == task) & is_train, (tasks == task) & ~is_train
        x, y = unit(features[train]), unit(features[test])
        mean = x.mean(axis=0)
        space = {
            "svc__C": stats.loguniform(1e-3, 1e1),
            "svc__kernel": ["rbf", "linear", "sigmoid", "poly"],
            "svc__gamma": stats.loguniform(1e-4, 1e-3),
        }
        machine = Pipeline([("scaler", StandardScaler()), ("svc", SVC())])
        search = RandomizedSearchCV(machine, space, n_iter=8, random_state=1)
        search.fit(unit(x - mean), labels[train])
        same = search.predict(unit(y - mean)) == labels[test]
        right.append(same)
        per_task[task] = same.mean()
    assert found.micro == np.concatenate(right).mean() and 0.5 < found.micro < 1
    assert found.tasks == pytest.approx(per_task)
    assert found.macro == pytest.approx(np.mean(list(per_task.values())))
    assert found.clusters["c1"] == pytest.approx((per_task["age"] + per_task["sex"]) / 2)
    assert found.right.sum() == sum(part.sum() for part in right)


def test_newt_does_not_depend_on_the_number_of_processes():
    questions = newt_questions(np.random.default_rng(1))
    one, two = (newt(*questions, iterations=3, jobs=jobs) for jobs in (1, 2))
    np.testing.assert_array_equal(one.right, two.right)


def test_a_newt_task_with_one_answer_is_named():
    features, labels, tasks, is_train = newt_questions(np.random.default_rng(2))
    with pytest.raises(UserError, match="NeWT task sex: needs test images, and five training"):
        newt(features, np.where(tasks == "sex", 1, labels), tasks, is_train, iterations=1, jobs=1)


# ---- Heads


def many_labels(rng, count: int, dim: int = 24, labels: int = 9):
    features = (3 * rng.normal(size=(count, dim))).astype("f4")
    truth = np.random.default_rng(7).normal(size=(dim, labels))
    return features, (features @ truth + 4 * rng.normal(size=(count, labels)) > 0).astype(int)


@pytest.fixture
def trained_once(monkeypatch):
    """The two protocols ask one head, which need not be trained for each of them."""
    train, kept = heads.train_head, {}

    def train_head(x, y, *how, **options):
        key = (*how, *options.items())
        if key not in kept:
            kept[key] = train(x, y, *how, **options)
        return kept[key]

    monkeypatch.setattr(heads, "train_head", train_head)


def start(x, y, seed: int) -> list[np.ndarray]:
    """Both sides begin here: at these rates a head does not forget its start."""
    params = heads.train_head(x, y, 0.0, seed, epochs=0)
    return [np.asarray(params[name]) for name in ("w1", "b1", "w2", "b2")]


def test_a_head_starts_as_pytorch_draws_linear_layers():
    w1, b1, w2, b2 = start(np.ones((1, 24), "f4"), np.ones((1, 9)), 0)
    for values, inputs in ((w1, 24), (b1, 24), (w2, 512), (b2, 512)):
        bound = 1 / np.sqrt(inputs)
        assert stats.kstest(values.ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01


@threadpool_limits.wrap(limits=1)  # the matrices are small
def train_by_hand(x, y, params, rate: float, rng, batch: int = 256) -> list[np.ndarray]:
    """Gradients and Adam by hand, with NumPy's own random numbers."""
    params = [np.array(p, np.float32) for p in params]
    first, second = ([np.zeros_like(p) for p in params] for _ in range(2))
    step = 0
    for epoch in range(50):
        order = rng.permutation(len(x))
        for begin in range(0, len(x), batch):
            rows = order[begin : begin + batch]
            mask = np.float32(2) * (rng.random((len(rows), 512), np.float32) < 0.5)
            hidden = (x[rows] @ params[0] + params[1]) * mask
            logits = hidden @ params[2] + params[3]
            d_logits = (1 / (1 + np.exp(-logits)) - y[rows].astype("f4")) / logits.size
            d_hidden = d_logits @ params[2].T * mask
            gradients = [
                x[rows].T @ d_hidden,
                d_hidden.sum(0),
                hidden.T @ d_logits,
                d_logits.sum(0),
            ]
            step += 1
            for i, gradient in enumerate(gradients):
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                move = first[i] / (1 - 0.9**step)
                size = np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8
                params[i] -= np.float32(rate * 0.5 ** (epoch // 20)) * move / size
    return params


def answers_by_hand(params, x, rng, protocol: str) -> np.ndarray:
    """With the dropout still on and a threshold of 0.5, or without and at even chances."""
    hidden = x @ params[0] + params[1]
    if protocol == "v2":
        hidden = hidden * 2.0 * (rng.random(hidden.shape) < 0.5)
    return hidden @ params[2] + params[3] > (0.5 if protocol == "v2" else 0)


def test_fishnet_agrees_with_gradients_by_hand(trained_once):
    rng = np.random.default_rng(0)
    (x, y), (tx, ty) = many_labels(rng, 1500), many_labels(rng, 20_000)
    theirs = {"v2": [], "corrected": []}
    for seed in range(3):
        own = np.random.default_rng(seed)
        params = train_by_hand(x, y, start(x, y, seed), 1e-4, own)
        for protocol, values in theirs.items():
            same = answers_by_hand(params, tx, own, protocol) == ty
            values.append(same.all(axis=1).mean())
    for protocol, values in theirs.items():
        ours = [fishnet(Parts(x, y, tx, ty), protocol, seed).accuracy for seed in range(3)]
        assert abs(np.mean(ours) - np.mean(values)) < 0.005
        assert np.mean(ours) > 0.1


def test_awa2_agrees_with_gradients_by_hand(trained_once):
    rng = np.random.default_rng(1)
    (x, y), (tx, ty) = many_labels(rng, 1500, labels=7), many_labels(rng, 40_000, labels=7)

    def f1(answers, columns) -> float:
        both = (answers & (ty == 1)).sum(axis=0)
        return float(np.mean((2 * both / (answers.sum(axis=0) + ty.sum(axis=0)))[columns]))

    theirs, before = {"v2": [], "corrected": []}, []
    for seed in range(3):
        own = np.random.default_rng(seed)
        params = train_by_hand(x, y, start(x, y, seed), 1e-5, own)
        for protocol, values in theirs.items():
            columns = slice(2) if protocol == "v2" else slice(7)
            values.append(f1(answers_by_hand(params, tx, own, protocol), columns))
        before.append(f1(answers_by_hand(start(x, y, seed), tx, own, "corrected"), slice(7)))
    for protocol, values in theirs.items():
        ours = [awa2(Parts(x, y, tx, ty), protocol, seed).f1 for seed in range(3)]
        assert abs(np.mean(ours) - np.mean(values)) < 0.005
    assert np.mean(ours) > np.mean(before) + 0.05  # it did learn


def test_the_head_learns_what_a_linear_map_can():
    rng = np.random.default_rng(3)
    x, y = many_labels(rng, 600)
    params = heads.train_head(x, y, 1e-3, seed=0)
    logits = np.asarray(heads.head_logits(params, x))
    assert ((logits > 0) == y).mean() > 0.85
    again = heads.train_head(x, y, 1e-3, seed=0)
    np.testing.assert_array_equal(params["w1"], again["w1"])


def test_the_slips_of_the_original_lower_the_figure():
    rng = np.random.default_rng(4)
    (x, y), (tx, ty) = many_labels(rng, 1200), many_labels(rng, 1200)
    first, second, corrected = (fishnet(Parts(x, y, tx, ty), p) for p in ("v1", "v2", "corrected"))
    assert first.accuracy == second.accuracy < corrected.accuracy
    np.testing.assert_allclose(corrected.right.mean(), corrected.accuracy)
    assert corrected.per_label.shape == (9,)


def test_awa2_scores_two_attributes_or_all():
    rng = np.random.default_rng(5)
    (x, y), (tx, ty) = many_labels(rng, 600, labels=6), many_labels(rng, 800, labels=6)
    for protocol, threshold in (("v2", 0.5), ("corrected", 0.0)):
        found = awa2(Parts(x, y, tx, ty), protocol, seed=2)
        params = heads.train_head(x, y, 1e-5, seed=2)
        answers = heads.evaluation_logits(params, tx, protocol, 2) > threshold
        wanted = {"labels": np.unique(ty)} if protocol == "v2" else {}
        expected = f1_score(ty, answers.astype(int), average="macro", zero_division=0, **wanted)
        assert found.f1 == pytest.approx(expected)
        columns = [0, 1] if protocol == "v2" else range(6)
        both = sum((answers[:, i] & (ty[:, i] == 1)).sum() for i in columns)
        named = sum(answers[:, i].sum() + ty[:, i].sum() for i in columns)
        assert found.micro_f1 == pytest.approx(2 * both / named)
    # Without those columns the call means the first two attributes.
    assert len(np.unique(ty)) == 2 and len(found.per_attribute) == 6


# ---- Herbarium 19


def plain_kmeans(points, known, count, seed):
    """Loops over everything, in float64."""
    points = points.astype(float)
    rng = np.random.RandomState(seed)
    free = np.flatnonzero(known < 0)
    classes = np.unique(known[known >= 0])
    centres = [points[known == c].mean(axis=0) for c in classes]
    while len(centres) < count:
        d2 = np.min([((points[free] - c) ** 2).sum(axis=1) for c in centres], axis=0)
        chance = np.cumsum(d2 / d2.sum())
        centres.append(points[free[np.flatnonzero(chance >= rng.rand())[0]]])
    centres = np.stack(centres)
    labels = np.searchsorted(classes, known)
    best = (np.inf, None)
    for _ in range(10):
        distances = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
        labels = np.where(known >= 0, labels, distances.argmin(axis=1))
        inertia = distances[np.arange(len(points)), labels].sum()
        if inertia < best[0]:
            best = inertia, labels.copy()
        moved = np.stack([points[labels == c].mean(axis=0) for c in range(count)])
        shift = np.sqrt(((moved - centres) ** 2).sum(axis=1)).sum()
        centres = moved
        if shift**2 < 1e-4:
            break
    return best


def matched(found, truth):
    counts = np.zeros((100, 100), int)
    for f, t in zip(found, truth, strict=True):
        counts[f, t] += 1
    pairs = dict(zip(*linear_sum_assignment(-counts), strict=True))
    return np.asarray([pairs[f] == t for f, t in zip(found, truth, strict=True)])


@pytest.mark.parametrize("protocol, seed", [("v2", 0), ("v2", 1), ("v1", 0)])
def test_herbarium_clusters_as_plain_loops_do(protocol, seed):
    rng = np.random.default_rng(seed)
    features, labels = clusters(rng, 14, 40, 10, 0.9)
    is_old = np.arange(14) % 2 == 0
    labelled = split_labelled(labels, is_old)
    found = herbarium19(features, labels, labelled, is_old, protocol, seed)
    points = features if protocol == "v1" else unit(features)
    inertia, groups = plain_kmeans(points, np.where(labelled, labels, -1), 14, seed)
    assert found.inertia == pytest.approx(inertia, rel=1e-5)
    np.testing.assert_array_equal(found.clusters, groups)
    free, old = ~labelled, is_old[labels]
    right = np.zeros(len(labels), bool)
    for part in (free & old, free & ~old):
        right[part] = matched(groups[part], labels[part])
    assert found.accuracy == right[free].mean()
    each = [right[free & (labels == c)].mean() for c in range(14)]
    assert found.macro == pytest.approx(np.mean(each))
    assert found.old == right[free & old].mean() and found.new == right[free & ~old].mean()
    if protocol == "v1":
        return
    corrected = herbarium19(features, labels, labelled, is_old, "corrected", seed)
    assert corrected.accuracy == matched(groups[free], labels[free]).mean() <= found.accuracy


def test_four_fifths_of_the_old_classes_are_labelled():
    labels = np.repeat(np.arange(10), 20)
    is_old = np.arange(10) < 5
    labelled = split_labelled(labels, is_old)
    assert labelled.sum() == 80 and not labelled[100:].any()
    drawn = np.random.RandomState(0).choice(range(100), replace=False, size=80)
    assert set(np.flatnonzero(labelled)) == set(drawn)
    with pytest.raises(UserError, match="labelled and unlabelled"):
        herbarium19(np.ones((200, 2)), labels, np.ones(200, bool), is_old)


# ---- PlantDoc


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_plantdoc_is_the_nearest_of_one_example_a_class(protocol):
    rng = np.random.default_rng(6)
    features, labels = clusters(rng, 8, 30, 16, 1.5)
    train, test = np.arange(240) < 120, np.arange(240) >= 120
    points = features if protocol == "v1" else unit(features)
    x, tx = points[train], points[test]
    parts = Parts(x, labels[train], tx, labels[test])
    running = np.random.RandomState(0)
    np.random.seed(0)
    for repeat in range(5):
        found = plantdoc(parts, running if protocol == "v1" else repeat)
        if protocol == "v2":
            np.random.seed(repeat)
        chosen = []
        for label in range(8):
            rows = np.flatnonzero(labels[train] == label)
            np.random.shuffle(rows)
            chosen.append(rows[0])
        np.random.shuffle(np.array(chosen))
        mean = x[chosen].mean(axis=0)
        centres, queries = unit(x[chosen] - mean), unit(tx - mean)
        answers = ((queries[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        assert found.accuracy == (answers == labels[test]).mean()
        assert found.support == chosen
        right = answers == labels[test]
        each = [right[labels[test] == c].mean() for c in set(labels[test])]
        assert found.macro == pytest.approx(np.mean(each))
    with pytest.raises(UserError, match="class 8 has test pictures"):
        plantdoc(Parts(x, labels[train], tx, labels[test] + 1), 0)


def test_pictures_come_in_the_order_of_pytorchs_loader():
    """What `DataLoader(range(n), shuffle=True)` gives after `torch.manual_seed(0)`."""
    assert loader_order(10).tolist() == [6, 7, 1, 4, 2, 0, 9, 8, 3, 5]
    assert loader_order(2342)[:8].tolist() == [1244, 1117, 119, 1573, 537, 809, 677, 321]
    assert sorted(loader_order(2342)) == list(range(2342)) and loader_order(1).tolist() == [0]


# ---- Which features, how often, from which generator


def kept(features: np.ndarray) -> SimpleNamespace:
    """Who holds features of pictures "0", "1", ..., as a store does: of length 1, with norms."""
    norms = np.linalg.norm(features, axis=1)
    keys = [str(number) for number in range(len(features))]
    about = SimpleNamespace(bad=[])
    store = SimpleNamespace(features=unit(features), norms=norms, keys=keys, about=about)
    return SimpleNamespace(store=lambda root: store)


def job(task: str, pictures, protocol: str) -> Job:
    settings = Settings(protocol=protocol)
    return Job(task=task, settings=settings, name=task, root=Path(task), pictures=pictures)


@pytest.mark.parametrize("protocol", ["v1", "v2", "corrected"])
def test_a_release_says_which_features_and_how_many_runs(protocol):
    rng = np.random.default_rng(8)
    features, labels = clusters(rng, 6, 30, 10, 1.5)
    features *= rng.uniform(0.5, 2, (len(labels), 1)).astype("f4")  # their lengths matter
    points = features if protocol == "v1" else unit(features)
    files = [str(number) for number in range(len(labels))]

    is_old = np.arange(6) < 3
    pictures = OldAndNew(files=files, labels=labels, is_old=is_old)
    found = beyond.run_herbarium19(job("herbarium19", pictures, protocol), kept(features))
    given = points, labels, split_labelled(labels, is_old), is_old, protocol
    seeds = range(1 if protocol == "v1" else 3)
    assert found.runs == [herbarium19(*given, seed).accuracy for seed in seeds]
    assert found.protocol == protocol

    pictures = TwoParts(Labelled(files[:90], labels[:90]), Labelled(files[90:], labels[90:]))
    found = beyond.run_plantdoc(job("plantdoc", pictures, protocol), kept(features))
    for order, runs in ((np.arange(90), found.runs), (loader_order(90), found.loader_runs)):
        parts = Parts(points[order], labels[order], points[90:], labels[90:])
        running = np.random.RandomState(0)
        seeds = [running] * 5 if protocol == "v1" else range(5)
        assert runs == [plantdoc(parts, seed).accuracy for seed in seeds]
    assert found.runs != found.loader_runs


def test_a_release_says_how_few_shot_draws(monkeypatch):
    asked = []

    def few_shot(*given, run_on):
        asked.append(run_on)
        raise UserError("drawn")

    question = SimpleNamespace(
        classes=[], labels=np.zeros(1, int), pictures=SimpleNamespace(features=[], keys=["a"])
    )
    question.pictures.features = np.ones((1, 2), "f4")
    monkeypatch.setattr(species, "few_shot", few_shot)
    monkeypatch.setattr(species.questions, "by_examples", lambda *_: question)
    subject = SimpleNamespace(place=lambda _: Path())
    for protocol in ("v1", "v2", "faithful", "corrected"):
        with pytest.raises(UserError, match="drawn"):
            species.run_few_shot(job("few_shot_1", None, protocol), subject, 1)
    assert asked == [True, False, False, False]
