"""Quality metrics of pyiqa. Range and direction are each metric's own; lower-is-better ones are negated."""
