"""`inception-deploy predict`: classify images with a bundle."""

from __future__ import annotations

from pathlib import Path

import click
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
    table = Table(title_justify="left")
    table.add_column("image", overflow="fold")
    for rank in range(1, min(top, 3 if terminal.out.width < 110 else 5) + 1):
        table.add_column(f"top {rank}", overflow="fold")
    shown = len(table.columns) - 1
    for prediction in predictions:
        cells = (f"{c.name} [dim]{100 * c.probability:.1f} %[/]" for c in prediction.classes)
        table.add_row(prediction.image, *list(cells)[:shown])
    terminal.out.print(table)
