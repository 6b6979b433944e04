"""The test networks: seeded, small, plain PyTorch, each with its inputs, as one registry."""

from functools import partial

import torch
from torch import Tensor

from tests.architectures.architecture import Architecture, OutputKind, make_distinct, randomise
from tests.architectures.convolutional import ConvNeXt, EfficientNet, MobileNetV3, ResidualCNN, ResNet18, UNet
from tests.architectures.language import GPT2, Bert, Llama, T5Encoder, TransformerClassifier
from tests.architectures.simple import GRULanguageModel, LSTMClassifier, Perceptron, TwoInTwoOut
from tests.architectures.vision_transformers import Swin, ViT

__all__ = ["ARCHITECTURES", "Architecture", "OutputKind", "make_distinct", "randomise"]


def _floats(batch: int, shape: tuple[int, ...]) -> dict[str, Tensor]:
    return {"x": torch.randn(batch, *shape)}


def _tokens(batch: int, length: int, vocabulary: int) -> dict[str, Tensor]:
    return {"tokens": torch.randint(vocabulary, (batch, length))}


def _features_and_tokens(batch: int) -> dict[str, Tensor]:
    return {"features": torch.randn(batch, 12), "tokens": torch.randint(50, (batch, 6))}


def _masked_tokens(batch: int) -> dict[str, Tensor]:
    lengths = torch.randint(4, 11, (batch, 1))
    return {"input_ids": torch.randint(60, (batch, 10)), "attention_mask": (torch.arange(10) < lengths).long()}


_IMAGE = partial(_floats, shape=(3, 32, 32))

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("mlp", Perceptron, partial(_floats, shape=(16,))),
        Architecture("residual_cnn", ResidualCNN, partial(_floats, shape=(1, 8, 8))),
        Architecture("two_in_two_out", TwoInTwoOut, _features_and_tokens, outputs=("output_0", "output_1"), kind="values"),
        Architecture("unet", UNet, partial(_floats, shape=(1, 16, 16)), kind="values"),
        Architecture("lstm", LSTMClassifier, partial(_tokens, length=7, vocabulary=40)),
        Architecture("gru", GRULanguageModel, partial(_tokens, length=7, vocabulary=40), kind="tokens"),
        Architecture("transformer_encoder", TransformerClassifier, partial(_floats, shape=(7, 8))),
        Architecture("resnet18", ResNet18, _IMAGE),
        Architecture("mobilenetv3", MobileNetV3, _IMAGE),
        Architecture("efficientnet", EfficientNet, _IMAGE),
        Architecture("vit", ViT, _IMAGE),
        Architecture("convnext", ConvNeXt, _IMAGE),
        Architecture("swin", Swin, _IMAGE),
        Architecture("bert", Bert, _masked_tokens),
        Architecture("gpt2", GPT2, partial(_tokens, length=9, vocabulary=60), kind="tokens"),
        Architecture("t5_encoder", T5Encoder, partial(_tokens, length=9, vocabulary=60)),
        Architecture("llama", Llama, partial(_tokens, length=9, vocabulary=60), kind="tokens"),
    )
}
