"""Objective: the loss L(w; D) and the labels it counts; method section 1."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.losses.program import LossProgram

LABEL_FREE = frozenset({"label_free", "kl_to_clean"})
"""Losses against the clean model itself."""
HIGHER_IS_BETTER = frozenset({"accuracy", "top_3", "top_5", "top_10", "f1"})
"""Metrics that corruption pushes down; it pushes all others up."""


@dataclass(frozen=True)
class Objective:
    """A loss over model outputs and targets, and the metrics reported beside it.

    cross_entropy: outputs [B, C] or [B, T, C], targets [B] or [B, T], in nats per counted label; nll: the same from outputs that
    are log-probabilities. class_axis: where the classes are; 1 for outputs [B, C, H, W] with targets [B, H, W].
    mse and bce_with_logits: outputs and targets of one shape, mean per element. model_output: the output is the loss, one per
    example [B], or one number, the mean over its examples; program: the same from a second model, of outputs and labels.
    per_example: the fields of the request that need the loss of every example. Without labels (method section 6):
    label_free is cross_entropy to the clean model's own answers; kl_to_clean is KL(clean || corrupted), its targets the clean
    model's log-probabilities, shaped like the outputs.
    """

    loss: str = "cross_entropy"
    output_kind: str = "logits"
    ignore_index: int = -100
    output: int | str = 0
    metrics: tuple[str, ...] = ("accuracy",)
    class_axis: int = -1
    program: LossProgram | None = field(default=None, compare=False)
    per_example: tuple[str, ...] = ()
    normalised: bool = False
    """Whether the logits of each label are divided by their standard deviation over the classes first."""

    @property
    def has_classes(self) -> bool:
        """Whether targets are class numbers and the output's last axis is the classes."""
        return self.reads_classes or (self.loss == "program" and bool(self.metrics))

    @property
    def reads_classes(self) -> bool:
        """Whether the loss itself reads the output as classes; a program may read it in its own way."""
        return self.loss in {"cross_entropy", "nll", *LABEL_FREE}

    @property
    def needs_labels(self) -> bool:
        """Whether the data must bring the targets."""
        if self.program is not None and not self.metrics:
            return self.program.labels is not None
        return self.loss not in {"model_output", *LABEL_FREE}

    @property
    def labels_by_model(self) -> bool:
        """Whether the clean model gives the targets: `make_target`."""
        return self.loss in LABEL_FREE

    @property
    def label_dtype(self) -> torch.dtype:
        """What labels become that the data give as numbers without a type."""
        spec = None if self.program is None else self.program.label_spec
        if spec is not None and spec.dtype is not None:
            return spec.dtype
        return torch.int64 if self.has_classes else torch.float32

    @property
    def own_loss(self) -> bool:
        """Whether a model computes the loss: one number per example, or their mean."""
        return self.loss in {"model_output", "program"}

    @property
    def is_known(self) -> bool:
        """Whether the loss can be computed: its file may have been refused."""
        return self.loss != "program" or self.program is not None

    def to(self, device: torch.device | str) -> "Objective":
        """Return the objective on `device`."""
        return self if self.program is None else replace(self, program=self.program.to(device))

    def cast(self, dtype: torch.dtype) -> "Objective":
        """Return the objective in another floating dtype."""
        return self if self.program is None else replace(self, program=self.program.cast(dtype))

    @property
    def is_flat(self) -> bool:
        """Whether the gradient at the clean weights is zero by construction; what is computed is rounding."""
        return self.loss == "kl_to_clean"

    def make_target(self, output: Tensor) -> Tensor:
        """Return what the clean model's output gives as the target."""
        return self.compute_logs(output) if self.loss == "kl_to_clean" else output.argmax(-1)

    def find_labels(self, target: Tensor) -> Tensor:
        """Return the class numbers that the metrics count against."""
        return target.argmax(-1) if self.loss == "kl_to_clean" else target

    def has_output(self, outputs: Sequence[str]) -> bool:
        """Tell whether the model has the output that is named."""
        return self.output in outputs if isinstance(self.output, str) else self.output < len(outputs)

    def name_outputs(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the outputs that the loss reads."""
        if self.program is not None:
            return self.program.outputs
        return (self.output if isinstance(self.output, str) else outputs[self.output],)

    def select_output(self, outputs: dict[str, Any]) -> Tensor:
        """Return the output that the loss reads, by position or name; several that a program reads come side by side."""
        if self.program is not None:
            return self.program.pack(outputs)
        value = outputs[self.output] if isinstance(self.output, str) else list(outputs.values())[self.output]
        if not isinstance(value, Tensor):
            message = f"output {self.output!r} is no tensor"
            raise TypeError(message)
        return value if self.class_axis == -1 or value.ndim <= self.class_axis else value.movedim(self.class_axis, -1)

    def find_counted(self, target: Tensor) -> Tensor:
        """Return which labels count, one for each loss."""
        if self.loss == "kl_to_clean":
            return torch.ones(target.shape[:-1], dtype=torch.bool, device=target.device)
        if self.own_loss:
            return torch.ones(len(target), dtype=torch.bool, device=target.device)
        return target != self.ignore_index if self.has_classes else torch.ones_like(target, dtype=torch.bool)

    def find_right(self, output: Tensor, target: Tensor, top: int = 1) -> Tensor:
        """Return which labels are among the `top` best answers; without classes, which answers are on the label's side."""
        if not self.has_classes:
            return (output > 0) == (target > 0.5)
        labels = self.find_labels(target)
        if top == 1:
            return output.argmax(-1) == labels
        best = output.topk(min(top, output.shape[-1]), -1).indices
        return (best == labels.unsqueeze(-1)).any(-1)

    def compute_losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every label; ignored labels give 0."""
        if self.own_loss:
            losses = self.compute_own_losses(output, target)
            return losses.expand(len(target)) if losses.ndim == 0 else losses
        if self.loss == "mse":
            return functional.mse_loss(output, target, reduction="none")
        if self.loss == "bce_with_logits":
            return functional.binary_cross_entropy_with_logits(output, target, reduction="none")
        if self.loss == "kl_to_clean":
            return functional.kl_div(self.compute_logs(output), target, reduction="none", log_target=True).sum(-1)
        logs = self.compute_logs(output.flatten(0, -2))
        return functional.nll_loss(logs, target.flatten(), reduction="none", ignore_index=self.ignore_index).view(target.shape)

    def compute_own_losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return what a model gives as the loss: one per example [B], or their mean."""
        return output if self.program is None else self.program.compute(output, target)

    def compute_logs(self, output: Tensor) -> Tensor:
        """Return the log-probabilities of the classes."""
        if self.normalised:
            return self._normalise(output).log_softmax(-1)
        if self.output_kind == "logits":
            return output.log_softmax(-1)
        return output.log() if self.output_kind == "probabilities" else output

    def _normalise(self, output: Tensor) -> Tensor:
        r"""Return (z - mean z) / std z over the classes; logits that are all equal stay so.

        Log-probabilities differ from logits by a number that is the same for all classes, so they give the same.
        """
        logits = output.log() if self.output_kind == "probabilities" else output
        centred = logits - logits.mean(-1, keepdim=True)
        spread = centred.square().mean(-1, keepdim=True).sqrt()
        return torch.where(spread > 0, centred / spread, centred)

    def normalise(self) -> "Objective":
        """Return the logit-normalised loss alone."""
        return replace(self, normalised=True, metrics=())

    def compute_margin_losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return minus the margin of each label's class, 0 once it is answered wrongly; its rise lowers the accuracy."""
        counted = self.find_counted(target)
        right = torch.where(counted, self.find_labels(target), 0).unsqueeze(-1)
        margin = output.gather(-1, right) - output.scatter(-1, right, -torch.inf).amax(-1, keepdim=True)
        return torch.where(counted, -margin.squeeze(-1).clamp(min=0), 0)
