"""The resistant gradient is (1 - alpha) grad L(w) + alpha grad L(w + a), and training leaves nothing else behind."""

import torch
from torch import Tensor, nn

from examples.digits import Examples, load_split
from examples.networks import DigitsCNN, fuse_batchnorm
from examples.training import Recipe, compute_gradient, compute_resistant_gradient, train

ALPHA, EPSILON = 0.3, 0.7


def make_batch() -> Examples:
    generator = torch.Generator().manual_seed(3)
    return Examples(torch.randn(6, 4, generator=generator, dtype=torch.float64), torch.randint(3, (6,), generator=generator))


def softmax_gradient(weight: Tensor, batch: Examples) -> Tensor:
    """The gradient of softmax regression by its formula: X^T (softmax(X W^T) - Y) / N, transposed."""
    chances = torch.softmax(batch.inputs @ weight.T, 1)
    return (chances - nn.functional.one_hot(batch.labels, 3)).T @ batch.inputs / len(batch.labels)


def test_the_resistant_gradient_is_the_formula_for_softmax_regression() -> None:
    torch.manual_seed(0)
    network, batch = nn.Linear(4, 3, bias=False).double(), make_batch()
    w = network.weight.detach().clone()
    compute_resistant_gradient(network, batch, ALPHA, EPSILON)
    clean = softmax_gradient(w, batch)
    corrupted = softmax_gradient(w + EPSILON * clean / clean.norm(), batch)
    torch.testing.assert_close(network.weight.grad, (1 - ALPHA) * clean + ALPHA * corrupted, rtol=1e-12, atol=1e-14)


def test_weights_and_statistics_end_bit_for_bit_where_one_clean_pass_leaves_them() -> None:
    torch.manual_seed(0)
    training, _ = load_split()
    batch = Examples(training.inputs[:32].float(), training.labels[:32])
    resistant, plain = DigitsCNN(), DigitsCNN()
    plain.load_state_dict(resistant.state_dict())
    compute_resistant_gradient(resistant, batch, ALPHA, EPSILON)
    compute_gradient(plain, batch)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(resistant.state_dict()[name], tensor), name
    assert resistant.stem.weight.grad is not None
    assert plain.stem.weight.grad is not None
    assert not torch.equal(resistant.stem.weight.grad, plain.stem.weight.grad)


def test_training_repeats_from_its_seed_and_follows_another_seed_elsewhere() -> None:
    recipe, batch = Recipe(epochs=3, batch=4, learning_rate=0.1, alpha=0.5, epsilon=0.1), make_batch()
    ends = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        network = nn.Linear(4, 3).double()
        train(network, batch, recipe, seed)
        ends.append(network.weight.detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_resistant_training_lowers_the_loss_it_is_about() -> None:
    batch = make_batch()
    torch.manual_seed(0)
    network = nn.Linear(4, 3, bias=False).double()

    def measure_corrupted_loss() -> float:
        w = network.weight.detach()
        g = softmax_gradient(w, batch)
        return nn.functional.cross_entropy(batch.inputs @ (w + EPSILON * g / g.norm()).T, batch.labels).item()

    before = measure_corrupted_loss()
    train(network, batch, Recipe(epochs=40, batch=6, learning_rate=0.05, alpha=0.5, epsilon=EPSILON), seed=1)
    assert measure_corrupted_loss() < before


def test_folding_keeps_the_function_in_float64() -> None:
    torch.manual_seed(0)
    network, (training, held_out) = DigitsCNN().double(), load_split()
    network.train()
    network(training.inputs[:64])  # moves the running statistics off their start
    network.eval()
    folded = fuse_batchnorm(network)
    torch.testing.assert_close(folded(held_out.inputs), network(held_out.inputs), rtol=1e-12, atol=1e-12)
    assert all(weight.requires_grad for weight in folded.parameters())
