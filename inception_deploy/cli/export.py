"""`inception-deploy export`: the whole way from PyTorch to a verified bundle."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import click

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import (
    GroupedCommand,
    build_options,
    data_options,
    parse_build,
    parse_triple,
    with_terminal,
)
from inception_deploy.recipe import (
    BatchProfile,
    Head,
    InputKind,
    Layout,
    PrecisionName,
    Recipe,
    TargetName,
    WeightRounding,
)

__all__ = ["command"]


def _recipe(path: Path | None, options: dict[str, Any]) -> Recipe:
    """The recipe file's values, overridden by the options that were given."""
    base = Recipe.load(path) if path else Recipe()
    build = parse_build(base.build, options)
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("mean", "std"):
        if name in given:
            given[name] = parse_triple(given[name], f"--{name}")
    if "batch" in given:
        given["batch"] = BatchProfile.parse(given["batch"])
    return base.but(**given, build=build)


@click.command("export", cls=GroupedCommand)
@click.argument("network", required=False)
@click.option(
    "--weights",
    metavar="SOURCE",
    help="embedded, pretrained[:TAG], random[:SEED], a weights file (.pth, .safetensors, .npz, "
    ".h5, .keras, .caffemodel), or a folder with timm's config.json. Default: pretrained with a "
    "NETWORK, embedded without.",
)
@click.option(
    "--onnx",
    metavar="FILE",
    help="Start from an FP32 ONNX file; a NETWORK named beside it lends its preprocessing.",
)
@click.option("--num-classes", type=int, help="Expected classes of a fine-tuned checkpoint.")
@click.option("--image-size", type=int, help="Side of the square input, pixels.")
@click.option("--mean", metavar="R,G,B", help="For pixels in 0-1.")
@click.option("--std", metavar="R,G,B", help="For pixels in 0-1.")
@click.option("--crop-pct", type=float, help="resize = floor(size / crop_pct).")
@click.option("--interpolation", type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"]))
@click.option("--head", type=click.Choice(get_args(Head)), help="What the graph returns.")
@click.option(
    "--input",
    type=click.Choice(get_args(InputKind)),
    help="What the graph takes: normalised images, or raw pixels.  [float32]",
)
@click.option("--layout", type=click.Choice(get_args(Layout)), help="Of uint8 pixels.  [NCHW]")
@click.option("--fp32", "precision", flag_value="fp32", help="Keep FP32 (the default).")
@click.option("--fp16", "precision", flag_value="fp16", help="Lower to FP16 in the graph itself.")
@click.option("--bf16", "precision", flag_value="bf16", help="Lower to BF16 (TensorRT, Inductor).")
@click.option("--int8", "precision", flag_value="int8", help="Quantise with calibration images.")
@click.option("--fp8", "precision", flag_value="fp8", help="Quantise to FP8 (TensorRT, -RTX).")
@click.option("--precision", "precision", type=click.Choice(get_args(PrecisionName)), hidden=True)
@click.option("--target", type=click.Choice(get_args(TargetName)), help="Engine to make it for.")
@click.option("--batch", metavar="MIN:OPT:MAX", help="Batch sizes that will be served.")
@click.option("--calibration", metavar="PATH", help="Images for ranges; as --data, no labels.")
@click.option("--calibration-size", type=int, metavar="N", help="How many of them.  [256]")
@click.option(
    "--calibrator",
    metavar="NAME",
    help="min_max, percentile[:99.99], entropy, mse or auto (INT8).  [auto]",
)
@click.option(
    "--weight-rounding",
    type=click.Choice(get_args(WeightRounding)),
    help="INT8 weights: by what their layers read, or each to its nearest.  [gptq]",
)
@click.option(
    "--equalise/--no-equalise",
    default=None,
    help="INT8: make channels that share a grid more alike, exactly in float.  [no]",
)
@click.option(
    "--reduce-range/--full-range",
    default=None,
    help="7-bit weights, for x86 without VNNI.  [as this machine needs it]",
)
@data_options(None)
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="Fail above this loss of top-1; INT8 first keeps blocks in float until it holds.",
)
@click.option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="INT8: keep blocks in float until the outputs' SQNR is at least this.",
)
@click.option("--opset", type=int, help="ONNX opset of the graph.  [20]")
@click.option("--seed", type=int, help="Of every sampling.  [0]")
@click.option("--seconds", type=float, help="Measuring time per engine and batch; 0: none.  [2]")
@build_options
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path), help="Options as TOML.")
@click.option(
    "--save-recipe", type=click.Path(path_type=Path), help="Write the options as TOML, too."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle directory."
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@with_terminal
def command(
    recipe_file: Path | None,
    save_recipe: Path | None,
    output: Path,
    force: bool,
    terminal: Terminal,
    **options: Any,
) -> int:
    """Take NETWORK the whole way: PyTorch, ONNX, fusions, precision, engine, parity, bundle.

    Without NETWORK the embedded reference is taken: a small trained GoogLeNet that ships with the
    package, so that it works on a fresh machine without a network.
    """
    recipe = _recipe(recipe_file, options)
    from inception_deploy.bundle import require_free

    require_free(output, force=force)  # before the heavy imports: a typo should not cost seconds
    with terminal.stage("import torch and onnx"):
        from inception_deploy.pipeline import deploy
    from inception_deploy.cli.summary import print_summary, verdict_exit_code

    if recipe.network is None and recipe.weights is None and recipe.onnx is None:
        terminal.note("no NETWORK named: taking the embedded reference, a small trained GoogLeNet")
    bundle = deploy(
        recipe,
        output,
        force=force,
        progress=terminal,
        command=shlex.join(["inception-deploy", *sys.argv[1:]]),
    )
    if save_recipe:
        recipe.save(save_recipe)
    if terminal.as_json:
        terminal.result(dict(bundle.manifest))
    else:
        print_summary(bundle, terminal)
    return verdict_exit_code(bundle)
