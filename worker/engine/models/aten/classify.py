"""Mark the drafts whose shapes depend on values, so that nothing after them is cached by shape."""

import torch

from worker.engine.models.aten.allowlist import split_names
from worker.engine.models.aten.draft import Draft, walk_drafts

INTEGER_RESULTS = split_names("arange argmax argmin argsort bucketize searchsorted randint randperm tril_indices")
"""Operators whose result is an integer tensor, so that indexing with it has a shape that values do not change."""

PASSING_ON = split_names("""
view reshape expand expand_as unsqueeze squeeze select slice transpose permute flatten contiguous clone clamp add sub mul neg
remainder stack cat repeat follow_device flip roll sort gather index index_select abs floor_divide to
""")
"""Operators whose result is an integer tensor if their input is one."""


class Classifier:
    """Goes over the drafts in order and remembers which names depend on shapes only and which are integer tensors."""

    def __init__(self, shape_names: set[str], integer_names: set[str]) -> None:
        self.shape_names = shape_names
        self.integer_names = integer_names

    def mark(self, drafts: list[Draft]) -> None:
        """Set `dynamic_shape` on every draft that needs it."""
        for draft in drafts:
            if draft.blocks:
                self._mark_flow(draft)
                continue
            from_shapes = draft.shape_only or self.shape_names.issuperset(draft.inputs)
            if draft.from_values and not from_shapes:
                draft.dynamic_shape = True
            if draft.operator == "aten::index":
                # A boolean index selects as many entries as it has true ones.
                draft.dynamic_shape = not self.integer_names.issuperset(draft.inputs[1:])
            if from_shapes and not draft.dynamic_shape:
                self.shape_names.update(draft.outputs)
            if self._makes_integers(draft):
                self.integer_names.update(draft.outputs)

    def _mark_flow(self, draft: Draft) -> None:
        if draft.operator == "prim::Loop":
            (body,) = draft.blocks
            fixed = self.shape_names.issuperset(draft.inputs[:2])
            given = ["", *draft.inputs[2:]]
            # What is handed on is taken to depend on shapes while the body keeps it so; the body is marked again if it does not.
            trusted = {
                inner for inner, name in zip(body.inputs, given, strict=True) if fixed and (not name or name in self.shape_names)
            }
            while True:
                self.shape_names |= trusted
                self.mark(body.drafts)
                kept = {name for name, result in zip(body.inputs, body.outputs, strict=True) if result in self.shape_names}
                broken = trusted - kept - {body.inputs[0]}
                if not broken:
                    break
                self._distrust(draft, trusted)
                trusted -= broken
            results = [body.outputs[1:]]
            fixed = fixed and body.outputs[0] in self.shape_names
        else:
            for block in draft.blocks:
                self.mark(block.drafts)
            results = [block.outputs for block in draft.blocks]
            fixed = draft.inputs[0] in self.shape_names
        draft.dynamic_shape = not fixed or any(step.dynamic_shape for block in draft.blocks for step in block.drafts)
        if fixed:
            derived = zip(draft.outputs, *results, strict=True)
            self.shape_names.update(names[0] for names in derived if self.shape_names.issuperset(names[1:]))

    def _distrust(self, draft: Draft, trusted: set[str]) -> None:
        self.shape_names -= trusted
        for inner in walk_drafts(block_draft for block in draft.blocks for block_draft in block.drafts):
            self.shape_names -= set(inner.outputs)

    def _makes_integers(self, draft: Draft) -> bool:
        name = draft.operator.partition("::")[2]
        if name in INTEGER_RESULTS:
            return True
        if name == "to" and isinstance(dtype := draft.attributes.get("dtype"), torch.dtype):
            return not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool
        if name == "ListConstruct":
            return self.integer_names.issuperset(draft.inputs)
        return name in PASSING_ON and bool(draft.inputs) and draft.inputs[0] in self.integer_names
