"""The runtime's errors: the root of the project's tree and three of its branches."""

LONGEST = 299  # characters of a message; what strangers write into a bundle must not fill a screen, or steer a terminal


def one_line(text: str, longest: int = LONGEST) -> str:
    """`text` without line breaks and control characters, cut in its middle where it is too long."""
    line = "".join(c if c.isprintable() else " " for c in text[: 100 * longest])
    line = " ".join(line.split())
    return line if len(line) <= longest else f"{line[: longest * 2 // 3]}...{line[-(longest // 3 - 3) :]}"


class QSchedError(Exception):
    """Root of the tree; its text is one line: what failed, the offending value, what to do."""


class BundleError(QSchedError):
    """The bundle's files or its qsched.json cannot be used."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class RequestError(QSchedError, ValueError):
    """A prompt, seed, size, step count or guidance the bundle cannot serve."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class ProviderError(QSchedError):
    """An execution provider is missing or refuses a graph."""
