"""`inception-deploy predict`: classify images with a bundle."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import BUNDLE, with_terminal

__all__ = ["command"]


@click.command("predict")
@BUNDLE
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes shown.")
@click.option("--skip-bad-images", is_flag=True, help="Leave out images that cannot be read.")
@with_terminal
def command(
    bundle: Path, images: tuple[Path, ...], top: int, skip_bad_images: bool, terminal: Terminal
) -> None:
    """Classify IMAGES (files or directories) with BUNDLE, preprocessed as its manifest says."""
    from inception_deploy.bundle import Bundle
    from inception_deploy.predict import predict

    predictions = predict(
        Bundle.open(bundle), images, top=top, skip_bad=skip_bad_images, progress=terminal
    )
    if terminal.as_json:
        terminal.result([prediction.to_dict() for prediction in predictions])
        return
    # the part that all paths share says nothing, and an 80-column terminal has no room for it
    files = [Path(prediction.image) for prediction in predictions]
    shared = Path(os.path.commonpath([file.parent for file in files]))
    table = Table(
        title=f"images in {escape(str(shared))}", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for file, prediction in zip(files, predictions, strict=True):
        for rank, found in enumerate(prediction.classes):
            name = escape(str(file.relative_to(shared))) if rank == 0 else ""
            style = "bold" if rank == 0 else "dim"
            table.add_row(
                name, f"[{style}]{escape(found.name)}[/]", f"{100 * found.probability:.1f} %"
            )
        table.add_section()
    terminal.out.print(table)
