"""The terms that a loss may weigh; imports nothing of the project."""

from __future__ import annotations

TERMS = ("text_image", "quality", "reference")
LOSSES = ("jaq", "text-image", "quality", "reference")
