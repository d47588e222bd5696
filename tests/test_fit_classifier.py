"""Training a classifier: loss, class weights, gradient descent by hand, what is kept; on a network of one layer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from digipath.errors import BadInput, Cancelled
from digipath.training.schedule import Schedule

pytestmark = pytest.mark.keras
SPEC = {"name": "linear", "config": {}}
CLASSES = 3
SIDE = 4
SCHEDULE = Schedule(
    epochs=4, steps_per_epoch=5, batch=4, frozen_epochs=0,
    optimiser="sgd", learning_rate=0.5, decay="none", patience=None,
)  # fmt: skip


def linear(*, classes=CLASSES):
    """Mean colour, one dense layer, softmax."""
    from keras import Input, Model, layers

    image = Input((None, None, 3), name="image")
    x = layers.GlobalAveragePooling2D(name="pool")(image)
    x = layers.Dense(classes, name="head")(x)
    return Model(image, layers.Activation("softmax", dtype="float32", name="probability")(x))


class Tiles:
    """Made-up tiles, whose class is that of their strongest channel; `shapes` and `sample` as a TileSource has them."""

    shapes = ((SIDE, SIDE, 3), (CLASSES,))

    def __init__(self, turned=False):
        self.turned = turned  # classes of which the network cannot know

    def sample(self, index):
        rng = np.random.default_rng([7, index])
        label = int(rng.integers(CLASSES))
        image = rng.normal(100, 20, (SIDE, SIDE, 3)).astype(np.float32)
        image[..., label] += 60
        return image, np.eye(CLASSES, dtype=np.float32)[(label + self.turned) % CLASSES]


def feed(source, **options):
    from digipath.training.data import batches

    return batches(source, batch=4, scale=1 / 127.5, offset=-1.0, **options)


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """Train the linear network on made-up tiles into a folder of this name."""
    from digipath import nn
    from digipath.training.fit import fit
    from digipath.training.objective import classification

    monkeypatch.setitem(nn.BUILDERS, "linear", linear)
    monkeypatch.setattr("digipath.training.fit.draw_curves", lambda path, history, **_: path.touch())

    def run(name, *, training=None, validation=None, validated=True, weights=None, options=None, **changes):
        held_out = validation or (lambda: feed(Tiles(), first=10_000, count=18))
        return fit(
            SPEC,
            training or (lambda first: feed(Tiles(), first=first)),
            held_out if validated else None,
            replace(SCHEDULE, **changes),
            tmp_path / name,
            seed=3,
            objective=classification(CLASSES, weights),
            **(options or {}),
        )

    return run


def numbers(fitted):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in fitted.history]


def weights_of(path):
    network = linear()
    network.load_weights(path)
    return network.get_weights()


def same(path, other):
    """Whether two files hold the same weights, to the last bit."""
    return all(np.array_equal(a, b) for a, b in zip(weights_of(path), weights_of(other), strict=True))


# ---- loss and weights ----


def test_loss_by_hand():
    from digipath.training.objective import classification

    truth = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    logits = np.array([[2, 0, 0], [0, 0, 0]], np.float32)
    # −log softmax: log(e² + 2) − 2 and log 3
    first, second = math.log(math.e**2 + 2) - 2, math.log(3)

    def loss(weights=None, **changes):
        return float(classification(3, weights).loss(replace(SCHEDULE, **changes))(truth, logits))

    assert loss() == pytest.approx((first + second) / 2, abs=1e-6)
    assert loss([0.5, 2, 1.5]) == pytest.approx((0.5 * first + 1.5 * second) / 2, abs=1e-6)
    # A smoothing of 0.3 leaves 0.8 for the class and 0.1 for each other; the others of the first cost log(e² + 2).
    smooth = 0.8 * first + 0.2 * math.log(math.e**2 + 2)
    assert loss(label_smoothing=0.3) == pytest.approx((smooth + second) / 2, abs=1e-6)


def test_loss_stays_finite_and_exact_where_a_softmax_would_round():
    from digipath.training.objective import classification

    truth, logits = np.array([[0, 1]], np.float32), np.array([[400, 0]], np.float32)
    assert float(classification(2).loss(SCHEDULE)(truth, logits)) == 400


def test_class_weights_by_literals():
    from digipath.training.objective import class_weights

    # 1/4, 1/2, 1 over their mean of 7/12
    np.testing.assert_allclose(class_weights([0] * 4 + [1] * 2 + [2], 3), [3 / 7, 6 / 7, 12 / 7])
    np.testing.assert_allclose(class_weights([1, 0], 2), [1, 1])
    with pytest.raises(BadInput, match="there is none of 1"):
        class_weights([0, 2], 3)
    with pytest.raises(BadInput, match="labels from 0 to 1, got 0 to 2"):
        class_weights([0, 2], 2)


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, -1], [1, 1, math.nan], [0, 0, 0]])
def test_weights_that_cannot_be_are_refused(weights):
    from digipath.training.objective import classification

    with pytest.raises(BadInput, match="expected 3 class weights"):
        classification(3, weights)


def test_macro_auroc_is_the_mean_of_one_against_the_rest():
    from sklearn.metrics import roc_auc_score

    from digipath.training.objective import MacroAuroc

    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 200), rng.normal(size=(200, 3)).astype(np.float32)
    logits[np.arange(200), labels] += 1
    metric = MacroAuroc()
    for part in np.array_split(np.arange(200), 3):
        metric.update_state(np.eye(3, dtype=np.float32)[labels[part]], logits[part])
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert float(metric.result()) == pytest.approx(roc_auc_score(labels, probability, multi_class="ovr"), abs=2e-3)
    metric.reset_state()
    metric.update_state(np.eye(3, dtype=np.float32)[[0, 1]], logits[:2])
    assert math.isnan(float(metric.result()))


# ---- training ----


def test_gradient_descent_by_hand(fitted):
    """One step: the gradient of mean cross-entropy is (p − y) x over the batch."""
    import keras

    found = fitted("run", validated=False, epochs=1, steps_per_epoch=1)
    keras.utils.set_random_seed(3)
    kernel, bias = linear().get_weights()
    images, truths = (np.stack(part) for part in zip(*(Tiles().sample(index) for index in range(4)), strict=True))
    x = (images / 127.5 - 1).mean(axis=(1, 2))
    scores = np.exp(x @ kernel + bias)
    error = (scores / scores.sum(axis=1, keepdims=True) - truths) / 4
    after = weights_of(found.weights)
    np.testing.assert_allclose(after[0], kernel - 0.5 * x.T @ error, atol=1e-6)
    np.testing.assert_allclose(after[1], bias - 0.5 * error.sum(axis=0), atol=1e-6)


def test_momentum_by_hand(fitted):
    """v₁ = −η g₁, v₂ = μ v₁ − η g₂; with the same batch twice and biases alone to look at."""
    same = {"training": lambda first: feed(Tiles(), first=0), "validated": False, "epochs": 1}
    one, two = (weights_of(fitted(f"{n}", steps_per_epoch=1, **(same | {"epochs": n})).weights) for n in (1, 2))
    thrown = weights_of(fitted("momentum", steps_per_epoch=1, momentum=0.5, **(same | {"epochs": 2})).weights)
    start = weights_of(fitted("start", steps_per_epoch=1, learning_rate=1e-30, **same).weights)
    for before, first, second, found in zip(start, one, two, thrown, strict=True):
        np.testing.assert_allclose(found, second + 0.5 * (first - before), atol=1e-6)


def test_it_learns_and_says_so(fitted, tmp_path):
    found = fitted("run", epochs=8)
    assert found.history[-1]["val_accuracy"] > 0.9
    assert found.history[-1]["val_auroc"] > 0.95
    assert found.history[-1]["val_loss"] < found.history[0]["val_loss"]
    header = (tmp_path / "run" / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,phase,learning_rate,loss,val_loss,val_accuracy,val_auroc,seconds"


def test_validation_scores_are_those_of_the_kept_weights(fitted):
    found = fitted("run", epochs=1, weights=[0.5, 1, 1.5])
    samples = [Tiles().sample(index) for index in range(10_000, 10_018)]
    network = linear()
    network.load_weights(found.weights)
    answer = np.asarray(network(np.stack([image for image, _ in samples]) / 127.5 - 1))
    truth = np.stack([truth for _, truth in samples])
    row, label = found.history[0], truth.argmax(axis=1)
    losses = -np.log(answer[np.arange(18), label]) * np.array([0.5, 1, 1.5])[label]
    assert row["val_loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert row["val_accuracy"] == pytest.approx((answer.argmax(axis=1) == label).mean(), abs=1e-6)


def test_class_weights_change_what_is_learned(fitted):
    plain = fitted("plain", epochs=1)
    heavy = fitted("heavy", epochs=1, weights=[2.9, 0.05, 0.05])
    bias = [weights_of(run.weights)[1] for run in (plain, heavy)]
    assert bias[1][0] > bias[0][0] + 0.05


def test_other_weights_are_another_training(fitted):
    from digipath.errors import CaseDiffers

    fitted("run", epochs=1)
    with pytest.raises(CaseDiffers, match="another objective"):
        fitted("run", epochs=1, weights=[2, 0.5, 0.5])


# ---- what is kept ----


class Shifting:
    """Validation whose classes are turned on from an epoch on: the loss goes up, by a plan of the test."""

    def __init__(self, *turned):
        self.turned, self.epoch = turned, 0

    def __call__(self):
        self.epoch += 1
        return feed(Tiles(turned=self.turned[self.epoch - 1]), first=10_000, count=18)


def test_cut_off_after_the_least_loss_keeps_the_best_accuracy_before_it(fitted, tmp_path):
    """Accuracies and losses get worse in epochs 2 and 3, where the classes are turned; patience ends it there."""
    found = fitted("run", validation=Shifting(0, 1, 1, 0), keep="accuracy", patience=2, epochs=6)
    losses = [row["val_loss"] for row in found.history]
    assert losses[0] == min(losses)
    assert (found.best_epoch, found.stopped, len(found.history)) == (1, "patience", 3)
    short = fitted("short", epochs=1)
    assert same(found.weights, short.weights)
    assert not list((tmp_path / "run").glob("*candidate*"))


def spread(monkeypatch, pairs):
    """Let validation find these losses and accuracies, one pair an epoch."""
    from digipath.training.fit import _Run

    def validate(self, samples, watch):
        loss, accuracy = pairs[self.epoch]
        return {"val_loss": loss, "val_accuracy": accuracy, "val_auroc": 0.5}

    monkeypatch.setattr(_Run, "_validate", validate)


# The best accuracy up to the least loss (epoch 5) is that of epoch 3, found while the least loss was still epoch 2's.
PAIRS = [(0.9, 0.5), (0.6, 0.6), (0.8, 0.9), (0.7, 0.8), (0.5, 0.7), (0.55, 0.95), (0.6, 0.6)]


def test_weights_of_a_candidate_wait_until_it_is_their_turn(fitted, tmp_path, monkeypatch):
    spread(monkeypatch, PAIRS)
    found = fitted("run", keep="accuracy", epochs=7)
    assert found.best_epoch == 3
    kept = fitted("three", keep="last", epochs=3)
    assert same(found.weights, kept.weights)
    files = {path.name for path in (tmp_path / "run").iterdir() if path.name.endswith(".h5")}
    assert files == {"network.weights.h5"}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [7, 12, 17, 22, 27, 32])
def test_interrupted_at_any_epoch_it_keeps_the_same(fitted, tmp_path, monkeypatch, batch):
    spread(monkeypatch, PAIRS)
    asked = iter(range(999))
    with pytest.raises(Cancelled):
        fitted("run", keep="accuracy", epochs=7, options={"cancel": lambda: next(asked) == batch})
    found, whole = fitted("run", keep="accuracy", epochs=7), fitted("whole", keep="accuracy", epochs=7)
    assert numbers(found) == numbers(whole)
    assert same(found.weights, whole.weights)


@pytest.mark.parametrize("point", ["copy_atomically", "save_checkpoint"])
def test_killed_while_weights_are_put_in_place_it_keeps_the_same(fitted, monkeypatch, point):
    """In epoch 5, in which the candidate of epoch 3 comes to be kept: before or after the copy."""
    import digipath.training.fit as module

    spread(monkeypatch, PAIRS)
    real, calls = getattr(module, point), []

    def dies(*words):
        calls.append(words)
        if len(calls) == {"copy_atomically": 1, "save_checkpoint": 5}[point]:
            raise KeyboardInterrupt
        return real(*words)

    with monkeypatch.context() as patch:
        patch.setattr(module, point, dies)
        with pytest.raises(KeyboardInterrupt):
            fitted("run", keep="accuracy", epochs=7)
    found, whole = fitted("run", keep="accuracy", epochs=7), fitted("whole", keep="accuracy", epochs=7)
    assert numbers(found) == numbers(whole)
    assert same(found.weights, whole.weights)


def test_snapshots_are_the_weights_of_their_epochs(fitted, tmp_path):
    found = fitted("run", snapshots=(0, 2), validated=False)
    assert found.snapshots == {before: tmp_path / "run" / f"network-minus{before}.weights.h5" for before in (0, 2)}
    two = fitted("two", epochs=2, validated=False)
    assert same(found.snapshots[2], two.weights)
    assert same(found.snapshots[0], found.weights)
    assert not same(found.snapshots[2], found.weights)
    again = fitted("run", snapshots=(0, 2), validated=False, training=lambda first: pytest.fail("trained again"))
    assert again == found


@pytest.mark.slow
def test_interrupted_with_snapshots_it_goes_on_to_the_same(fitted):
    asked = iter(range(999))
    settings = {"snapshots": (0, 2), "momentum": 0.9}
    with pytest.raises(Cancelled, match="after epoch 2"):
        fitted("parts", options={"cancel": lambda: next(asked) == 22}, **settings)
    parts, whole = fitted("parts", **settings), fitted("whole", **settings)
    assert numbers(parts) == numbers(whole)
    for before in (0, 2):
        assert same(parts.snapshots[before], whole.snapshots[before])


# ---- what goes wrong ----


def test_no_accuracy_to_keep_a_segmentation_by(tmp_path):
    from digipath.training.fit import fit

    with pytest.raises(BadInput, match="expected keep to be loss or last"):
        fit(SPEC, feed, None, replace(SCHEDULE, keep="accuracy"), tmp_path / "run", seed=0)


def test_a_network_without_a_softmax_of_its_own_is_refused(fitted, monkeypatch):
    from keras import Input, Model, layers

    from digipath import nn

    def fused():
        image = Input((None, None, 3))
        return Model(image, layers.Dense(3, activation="softmax", name="odd")(layers.GlobalAveragePooling2D()(image)))

    monkeypatch.setitem(nn.BUILDERS, "linear", fused)
    with pytest.raises(BadInput, match="expected a network that ends in a softmax activation of its own, got 'odd'"):
        fitted("run")


def test_nan_says_which_samples(fitted):
    class Spoilt(Tiles):
        def sample(self, index):
            image, truth = super().sample(index)
            return (image * np.nan if index == 9 else image), truth

    from digipath.errors import TrainingDiverged

    message = r"epoch 1 of 4: the loss became nan at batch 3 of 5 \(samples 8 to 11\); these samples themselves"
    with pytest.raises(TrainingDiverged, match=message):
        fitted("run", training=lambda first: feed(Spoilt(), first=first))
