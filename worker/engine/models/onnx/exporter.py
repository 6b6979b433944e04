"""Who wrote the file, and what it says of the stored tensors beside their values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import ModelProto

KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
PARAMETER = "PARAMETER"
TORCH = "pytorch"

GENERATED = re.compile(r"^(\d+|val_\d+|onnx::.*|.*_output_\d+|_.*|[a-z0-9_]+_default(_\d+)?|[A-Za-z]+_\d+|reorder(_token_\d+)?)$")
"""Plain names that PyTorch's legacy exporter and ONNX Runtime's optimiser make up; a module's own tensor has its
attribute's name."""


@dataclass(frozen=True)
class Exporter:
    """What is known of the exporter; `kinds` is what it declared each tensor to be (PARAMETER, BUFFER, ...), by name."""

    torch: bool = True
    kinds: Mapping[str, str] = field(default_factory=dict)

    def is_generated(self, name: str) -> bool:
        """Whether the exporter made a tensor's name up, rather than taking it from a module.

        A dotted name comes from a module. A plain one does when PyTorch's exporter declared the tensor, or, in files
        that declare nothing, when it does not look made up. Other exporters' plain names say nothing.

        Args:
            name: the stored name.

        Returns:
            True for made-up names.

        >>> [Exporter().is_generated(name) for name in ("onnx::MatMul_181", "val_12", "layer.weight", "scale")]
        [True, True, False, False]
        >>> Exporter(kinds={"layer.weight": "PARAMETER"}).is_generated("unsqueeze")
        True
        """
        if name in self.kinds or "." in name.rsplit("/", 1)[-1]:
            return False
        return bool(self.kinds) or not self.torch or GENERATED.match(name) is not None


def read_exporter(model: ModelProto) -> Exporter:
    """Return who wrote the model and what each tensor was declared to be."""
    kinds = {}
    for entry in model.graph.value_info:
        for note in entry.metadata_props:
            if note.key == KIND:
                kinds[entry.name] = note.value
    return Exporter(torch=model.producer_name == TORCH, kinds=kinds)
