"""Residual CNN, U-Net and small ResNet-18-, MobileNetV3-, EfficientNet- and ConvNeXt-like networks."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNorm(nn.Sequential):
    """Convolution (same padding), BatchNorm, activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, activation: nn.Module) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            activation,
        )


class BasicBlock(nn.Module):
    """ResNet's two-convolution residual block, with a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.downsample(x)
        output: Tensor = self.relu(y)
        return output


class ResidualCNN(nn.Module):
    """Stem, two residual blocks and a linear head for 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 8, 3, 1, 1, nn.ReLU())
        self.blocks = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 16, 2))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 8, 8] -> [B, 10]."""
        output: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return output


class ResNet18(nn.Module):
    """ResNet-18 with 8 instead of 64 base channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] -> [B, 10]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        output: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return output


class SqueezeExcite(nn.Module):
    """Channel attention: pool, reduce, expand, gate."""

    def __init__(self, channels: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.activation = activation
        self.expand = nn.Conv2d(channels // 4, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        pooled = functional.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.expand(self.activation(self.reduce(pooled))))


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, squeeze-excite, project; residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        hidden = 4 * inputs
        self.residual = stride == 1 and inputs == outputs
        self.expand = ConvNorm(inputs, hidden, 1, 1, 1, activation)
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, hidden, activation)
        self.squeeze = SqueezeExcite(hidden, nn.ReLU(), gate)
        self.project = ConvNorm(hidden, outputs, 1, 1, 1, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class MobileNetV3(nn.Module):
    """Hard-swish stem, inverted residuals with hard-sigmoid squeeze-excite, two-layer head."""

    def __init__(self) -> None:
        super().__init__()
        swish, gate = nn.Hardswish(inplace=True), nn.Hardsigmoid()
        self.stem = ConvNorm(3, 8, 3, 2, 1, swish)
        self.blocks = nn.Sequential(
            InvertedResidual(8, 8, 3, 1, nn.ReLU(inplace=True), gate),
            InvertedResidual(8, 12, 5, 2, swish, gate),
            InvertedResidual(12, 12, 5, 1, swish, gate),
        )
        self.last = ConvNorm(12, 32, 1, 1, 1, swish)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(32, 24), nn.Hardswish(), nn.Dropout(0.2, inplace=True), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] -> [B, 10]."""
        pooled = self.pool(self.last(self.blocks(self.stem(x))))
        output: Tensor = self.classifier(torch.flatten(pooled, 1))
        return output


class EfficientNet(nn.Module):
    """SiLU stem, depthwise inverted residuals with sigmoid squeeze-excite, dropout head."""

    def __init__(self) -> None:
        super().__init__()
        silu, gate = nn.SiLU(inplace=True), nn.Sigmoid()
        self.stem = ConvNorm(3, 8, 3, 2, 1, silu)
        self.blocks = nn.Sequential(
            InvertedResidual(8, 8, 3, 1, silu, gate),
            InvertedResidual(8, 12, 5, 2, silu, gate),
            InvertedResidual(12, 12, 3, 1, silu, gate),
        )
        self.last = ConvNorm(12, 32, 1, 1, 1, silu)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] -> [B, 10]."""
        output: Tensor = self.head(self.last(self.blocks(self.stem(x))))
        return output


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        y = functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return y.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, layer norm, two pointwise layers, layer scale, residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(0.5 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Patchify stem and two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), ChannelNorm(8))
        self.stages = nn.Sequential(ConvNeXtBlock(8), ChannelNorm(8), nn.Conv2d(8, 16, 2, 2), ConvNeXtBlock(16))
        self.norm = nn.LayerNorm(16, eps=1e-6)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] -> [B, 10]."""
        output: Tensor = self.head(self.norm(self.stages(self.stem(x)).mean([-2, -1])))
        return output


class UNet(nn.Module):
    """Encoder and decoder with group and instance norm, transposed convolution, bilinear and nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.LeakyReLU(0.1))
        self.down2 = nn.Sequential(
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.InstanceNorm2d(12, affine=True), nn.ELU(inplace=True)
        )
        self.middle = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(12, 16, 3, padding=1), nn.SiLU())
        self.up1 = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False), nn.Conv2d(16, 12, 3, padding=1)
        )
        self.up2 = nn.ConvTranspose2d(24, 8, 2, stride=2)
        self.mask = nn.Sequential(nn.Conv2d(16, 3, 1), nn.Upsample(scale_factor=2.0, mode="nearest"))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 16, 16] -> [B, 3, 32, 32]."""
        full = self.down1(x)
        half = self.down2(full)
        up = torch.cat([self.up1(self.middle(half)), half], 1)
        output: Tensor = self.mask(torch.cat([self.up2(up), full], 1))
        return output
