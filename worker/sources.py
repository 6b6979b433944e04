"""From the request to what the engine opens: files, how they are read, the objective."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from schemas.data import ArrayConversion, DataReference, Preprocess
from worker.engine.data.files import Conversion, DataFile
from worker.engine.data.pictures import Pictures
from worker.engine.losses.program import LossFile
from worker.engine.objective import Objective
from worker.engine.opening import Source
from worker.engine.population import Sample

if TYPE_CHECKING:
    from worker.audit import AuditInput


def build_source(job: "AuditInput") -> Source:
    """Return where the engine finds the model and the data, and what it is to compute."""
    request = job.request
    objective, held_out, examples = request.objective, request.evaluate_on, request.search_examples
    return Source(
        model_path=job.model_path,
        data=build_data_file(job.data_path, request.data, job.scratch),
        objective=Objective(
            objective.loss,
            objective.output_kind,
            objective.ignore_index,
            objective.output,
            objective.metric_names,
            objective.class_axis,
            per_example=tuple(request.list_limits()),
        ),
        model_format=request.model.format,
        device=job.device,
        threads=job.threads,
        held_out=None
        if held_out is None or job.held_out_path is None
        else build_data_file(job.held_out_path, held_out, job.scratch),
        running_statistics=request.running_statistics,
        loss=_build_loss(job),
        sample=None if examples is None else Sample(examples, request.search.seed),
    )


def _build_loss(job: "AuditInput") -> LossFile | None:
    asked = job.request.objective.program
    return None if asked is None or job.loss_path is None else LossFile(job.loss_path, asked.format)


def build_data_file(path: Path, given: DataReference, scratch: Path) -> DataFile:
    """Return how a data file is read, in the engine's terms."""
    return DataFile(
        path=path,
        columns=tuple(given.inputs.items()),
        target=given.target,
        format=given.format,
        classes=given.classes,
        conversions=tuple((name, _build_conversion(entry)) for name, entry in given.convert.items()),
        pictures=None if given.preprocess is None else _build_pictures(given.preprocess),
        scratch=scratch,
    )


def _build_pictures(given: Preprocess) -> Pictures:
    last = given.layout == "channels_last"
    return Pictures(given.resize, given.crop, given.interpolation, given.color, given.scale, given.mean, given.std, last)


def _build_conversion(given: ArrayConversion) -> Conversion:
    dtype = None if given.dtype is None else getattr(torch, given.dtype)
    return Conversion(dtype, given.shape, given.scale, given.mean, given.std, given.pad_to, given.pad_value)
