"""A recipe as the TOML that reads as it."""

from __future__ import annotations

from dataclasses import replace

from qsched_edge.checkpoint.overrides import as_table
from qsched_edge.checkpoint.recipe_file import Recipe, anchored

NOT_KEYS = ("name", "folder")


def as_toml(recipe: Recipe) -> str:
    """Every key that differs from its default, with paths that hold anywhere; it inherits nothing any more."""
    import tomli_w

    table = {key: value for key, value in as_table(replace(recipe, inherit=False)).items() if key not in NOT_KEYS}
    return f"# {recipe.name}: all that its export goes by\n" + tomli_w.dumps(anchored(table, recipe.folder))
