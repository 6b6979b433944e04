"""The options that say what to audit: those of `audit`, which `plan` takes too."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from client.commands.shared import READABLE

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

INPUTS = click.option(
    "--input", "inputs", multiple=True, metavar="INPUT=ARRAY", help="Array, columns (a,b,c) or glob for a model input."
)
DATA_FORMAT = click.option("--data-format", metavar="NAME", help="Format of the data, where its content does not show it.")
OPTIONS = (
    click.argument("model", required=False),
    click.option("--data", metavar="FILE|FOLDER", help="Labelled examples; docs/data.md lists the formats."),
    click.option(
        "--evaluate-on", metavar="FILE", help="Held-out examples: search on DATA, judge on these, with confidence limits."
    ),
    click.option("--policy", type=READABLE, help="Policy to judge the report by, YAML or JSON."),
    click.option("--request", type=READABLE, help="Request to start from, YAML or JSON; options replace what it says."),
    click.option(
        "--set", "sets", multiple=True, metavar="SET", help='Corruption set, such as "norm=2,epsilon=0.01/0.1,n=all/100".'
    ),
    click.option(
        "--scope",
        "scopes",
        multiple=True,
        metavar="SCOPE",
        help="model, per_module, per_tensor, per_component, per_depth, or NAME=PATTERN.",
    ),
    click.option(
        "--breaking-point",
        "breaking_points",
        multiple=True,
        metavar="POINT",
        help='Such as "metric=accuracy,drop=0.05,range=0.001/10".',
    ),
    INPUTS,
    click.option("--target", metavar="ARRAY", help="Array of the data file with the labels."),
    DATA_FORMAT,
    click.option("--classes", metavar="A,B,...", help="Names of the classes in the model's order, where labels are words."),
    click.option(
        "--loss", metavar="NAME", help="cross_entropy, nll, mse, bce_with_logits, label_free, kl_to_clean or model_output."
    ),
    click.option("--objective", metavar="FILE", help="A model that computes the loss of the output and the labels."),
    click.option("--output-kind", metavar="NAME", help="logits, probabilities or log_probabilities."),
    click.option(
        "--metric",
        "metrics",
        multiple=True,
        metavar="NAME",
        help="accuracy, error_rate, top_3, top_5, top_10 (and their _error_rate), f1, perplexity or mse.",
    ),
    click.option("--method", metavar="NAME", help="first_order, reapplied, ascent, second_order or auto."),
    click.option("--budget", "budget_passes", type=int, metavar="N", help="Passes over the data per cell."),
    click.option("--trials", "random_trials", type=int, metavar="N", help="Random corruptions per cell."),
    click.option("--seed", type=int, metavar="N", help="Seed of everything random."),
    click.option("--max-examples", type=int, metavar="N", help="Search on a sample of so many, measure on another, with limits."),
    click.option(
        "--precision",
        metavar="ERROR|gate",
        help="Measure until limits are within this relative error, such as 0.05, or clear of the policy's thresholds.",
    ),
    click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Label of the job, such as git_sha=1f3c."),
    click.option("--device", metavar="NAME", help="cpu or cuda: on which class of device; else the service's own."),
    click.option("--priority", type=int, metavar="N", help="0, served first, to 9; else 5."),
    click.option(
        "--deadline",
        "deadline_s",
        type=float,
        metavar="SECONDS",
        help="From acceptance; then the best answer so far is the report.",
    ),
    click.option("--fresh", is_flag=True, help="Measure again although an equal audit has a report."),
)


def take_request(command: CommandT) -> CommandT:
    """Add MODEL and every option of client.options.AuditOptions."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_wait(command: CommandT) -> CommandT:
    """Add --wait."""
    return click.option(
        "--wait",
        "wait_s",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        default=600,
        show_default=True,
        help="How long to wait for the end.",
    )(command)
